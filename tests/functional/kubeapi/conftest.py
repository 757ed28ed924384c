"""The embedded Kubernetes API as a process: one for a file of tests, or one for a test that kills it."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.private_kubeapi import KubeApi


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    """A server that the tests of a file share; each works in a Namespace of its own."""
    server = KubeApi(tmp_path_factory.mktemp("kubeapi"), "--bookmark-interval", "0.3")
    yield server
    server.close()


@pytest.fixture
def own_api(tmp_path: Path) -> Iterator[KubeApi]:
    """A server for one test, which may do to it what it likes."""
    server = KubeApi(tmp_path, "--bookmark-interval", "0.3")
    yield server
    server.close()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., KubeApi]]:
    """A function that starts servers with options; they end with the test."""
    servers: list[KubeApi] = []

    def start(*options: str, scheme: str = "http", inherit: bool = False) -> KubeApi:
        folder = tmp_path / f"api{len(servers)}"
        folder.mkdir()
        servers.append(KubeApi(folder, *options, scheme=scheme, inherit=inherit))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


_NUMBERS = itertools.count()


@pytest.fixture
def namespace(api: KubeApi) -> str:
    """A fresh Namespace on the shared server."""
    name = f"ns{next(_NUMBERS)}"
    api.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    return name

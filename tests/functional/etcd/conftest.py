"""Servers for the tests of the etcd source, private and removed again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.certificates import Certificates
from fakes.private_etcd import PrivateEtcd, private_etcd
from fakes.storeworld import CONFIG
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.records import Keys

KEYS = Keys(DEFAULT_PREFIX, CONFIG.name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.etcd)


@pytest.fixture
def etcd() -> Iterator[PrivateEtcd]:
    """A server with a network config."""
    with private_etcd() as server:
        server.put(f"{DEFAULT_PREFIX}/config", CONFIG.to_json())
        yield server


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def tls_etcd(certificates: Certificates) -> Iterator[PrivateEtcd]:
    """A server that wants client certificates, with a network config."""
    with private_etcd(tls=certificates) as server:
        server.put(f"{DEFAULT_PREFIX}/config", CONFIG.to_json())
        yield server


@pytest.fixture
def impatient() -> EtcdSettings:
    """Settings for a watch that notices trouble soon; a test replaces the endpoints."""
    return EtcdSettings(timeout=1.5, watchdog=0.3)

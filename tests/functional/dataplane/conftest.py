"""Real Open vSwitch, kernel and iptables, in namespaces that each test gets for itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.private_ovs import PrivateOvs, network_namespace, private_ovs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.ovs)


@pytest.fixture
def ovs() -> Iterator[PrivateOvs]:
    with private_ovs() as switch:
        yield switch


@pytest.fixture
def host() -> Iterator[str]:
    """The name of a namespace that plays the host."""
    with network_namespace("k8h") as name:
        yield name


@pytest.fixture
def pod() -> Iterator[str]:
    """The name of a namespace that plays a pod."""
    with network_namespace("k8p") as name:
        yield name

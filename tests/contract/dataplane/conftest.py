"""Each contract runs twice: against the fake, and against the real thing in namespaces of its own."""

import os
from collections.abc import Iterator

import pytest

from fakes.private_ovs import PrivateOvs, network_namespace, private_ovs


@pytest.fixture(params=["fake", pytest.param("real", marks=[pytest.mark.root, pytest.mark.ovs])])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two; the real one needs root, and says so instead of passing."""
    kind: str = request.param
    assert kind == "fake" or os.geteuid() == 0, "the tests against the real dataplane need root"
    return kind


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

"""The CNI executable, built in three ways."""

from pathlib import Path

import pytest

from fakes.cni_shim import Shim, build


@pytest.fixture(scope="session")
def static_shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """As the Makefile builds it."""
    return build(tmp_path_factory.mktemp("shim") / "k8s-ovs-cni", "-O2", "-static")


@pytest.fixture(scope="session")
def checked_shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """With the compiler's checks for memory and undefined behaviour; a finding goes to stderr, which tests refuse."""
    options = [
        "-g",
        "-O1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-Wconversion",
        "-Wshadow",
    ]
    return build(tmp_path_factory.mktemp("shim") / "k8s-ovs-cni-checked", *options)


@pytest.fixture(scope="session")
def hasty_shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """It waits one second instead of 110."""
    return build(tmp_path_factory.mktemp("shim") / "k8s-ovs-cni-hasty", "-O2", "-static", "-DWAIT_SECONDS=1")


@pytest.fixture(params=["static", "checked"])
def shim(request: pytest.FixtureRequest) -> Shim:
    found = request.getfixturevalue(f"{request.param}_shim")
    assert isinstance(found, Shim)
    return found


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "cni.sock"

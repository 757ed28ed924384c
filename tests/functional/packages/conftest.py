"""The packages, built once with the commands of `make deb` and `make rpm`, and a root to install them into."""

import fcntl
import os
from pathlib import Path

import pytest

from fakes import package_root

TREE = Path(__file__).parents[3]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)


def _built(script: str, factory: pytest.TempPathFactory) -> Path:
    """The package that a script builds; built by the first of this run's workers that wants it."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    dist = shared / script
    dist.mkdir(exist_ok=True)
    with (shared / f"{script}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = dist / "done"
        if not done.exists():
            printed = package_root.run(str(TREE / "tools" / script), str(dist), timeout=500).stdout
            done.write_text(printed.splitlines()[-1])
        return Path(done.read_text())


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _built("build-deb.sh", tmp_path_factory)


@pytest.fixture(scope="session")
def rpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _built("build-rpm.sh", tmp_path_factory)


@pytest.fixture(scope="session")
def root(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Debian package depends on, and systemd: nothing else. Each test removes what it installs."""
    depends = package_root.run("dpkg-deb", "-f", str(deb), "Depends").stdout
    names = package_root.names(depends)
    return package_root.make(tmp_path_factory.mktemp("root"), [*names, "dpkg", "systemd"])

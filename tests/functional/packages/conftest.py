"""The packages, built once with the commands of `make deb` and `make rpm`, and a root to install them into."""

from pathlib import Path

import pytest

from fakes import package_root

TREE = Path(__file__).parents[3]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)


def _built(script: str, dist: Path) -> Path:
    printed = package_root.run(str(TREE / "tools" / script), str(dist), timeout=500).stdout
    return Path(printed.splitlines()[-1])


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _built("build-deb.sh", tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="session")
def rpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _built("build-rpm.sh", tmp_path_factory.mktemp("rpm"))


@pytest.fixture(scope="session")
def root(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Debian package depends on, and systemd: nothing else. Each test removes what it installs."""
    depends = package_root.run("dpkg-deb", "-f", str(deb), "Depends").stdout
    names = package_root.names(depends)
    return package_root.make(tmp_path_factory.mktemp("root"), [*names, "dpkg", "systemd"])

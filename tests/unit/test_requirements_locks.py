"""What is installed is what is tested: the locks of the runtime and of the build agree with the one of the tests."""

import re
import tomllib
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
_ENTRY = re.compile(
    r"^(?P<name>[a-z0-9.-]+)==(?P<version>[^ ;\\]+)[^\\\n]*(?P<hashes>(?:\\\n +--hash=sha256:\w+ ?)+)", re.M
)


def lock(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Package names to versions and hashes."""
    text = (TREE / name).read_text()
    found = {
        entry["name"]: (entry["version"], frozenset(re.findall(r"sha256:(\w+)", entry["hashes"])))
        for entry in _ENTRY.finditer(text)
    }
    assert len(found) == len(re.findall(r"^[a-z]", text, re.M)), "every line is understood"
    return found


def declared() -> set[str]:
    """The names in pyproject.toml's dependencies."""
    project = tomllib.loads((TREE / "pyproject.toml").read_text())
    return {re.split(r"[<>=~ ;\[]", text)[0] for text in project["project"]["dependencies"]}


@pytest.mark.parametrize("name", ["requirements-runtime.lock", "requirements-build.lock"])
def test_versions_and_hashes_are_those_that_are_tested(name: str) -> None:
    tested, other = lock("requirements.lock"), lock(name)
    assert {package: what for package, what in other.items() if package in tested} == {
        package: tested[package] for package in other if package in tested
    }


def test_the_runtime_has_what_is_declared_and_no_tools() -> None:
    runtime = lock("requirements-runtime.lock")
    assert declared() <= set(runtime) <= set(lock("requirements.lock"))
    assert not set(runtime) & {"pytest", "mypy", "ruff", "setuptools", "hypothesis"}

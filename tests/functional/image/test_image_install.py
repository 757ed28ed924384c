"""tools/install.sh and what it is made of: what is installed and works is not harmed by a run that fails."""

import os
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TREE = Path(__file__).parents[3]
SWAP: Callable[[Path, Path], None] = runpy.run_path(str(TREE / "tools/swap.py"))["swap"]


def install(*argv: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [TREE / "tools/install.sh", *argv],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def everything(root: Path) -> dict[str, bytes | str]:
    """Files and links below a root with what they hold; folders too."""
    found: dict[str, bytes | str] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "folder" if path.is_dir() else path.read_bytes()
    return found


@pytest.mark.timeout(240)
def test_a_run_that_fails_changes_nothing(tmp_path: Path) -> None:
    """Here no package is to be had; whatever fails does so before the one rename that puts the new version in place."""
    launcher = tmp_path / "root/usr/lib/k8s-ovs/bin/k8s-ovs"
    launcher.parent.mkdir(parents=True)
    launcher.write_text("works")
    for name in ("sbin", "bin"):
        (tmp_path / "root/usr" / name).mkdir()
    (tmp_path / "root/usr/sbin/k8s-ovs").symlink_to("../lib/k8s-ovs/bin/k8s-ovs")
    (tmp_path / "none").mkdir()
    (tmp_path / "tmp").mkdir()
    before = everything(tmp_path / "root")
    done = install(f"--destdir={tmp_path}/root")
    assert done.returncode == 2, "usage"
    nothing = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "none"), "PIP_CONFIG_FILE": "/dev/null"}
    done = install("--destdir", f"{tmp_path}/root", TMPDIR=str(tmp_path / "tmp"), **nothing)
    assert done.returncode == 1
    assert "hatchling" in done.stderr
    assert everything(tmp_path / "root") == before
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("python3", "is no absolute path"),
        ("/nowhere/python3", "no interpreter at /nowhere/python3: install python3 or name another one"),
        ("/bin/false", "k8s-ovs needs 3.11 or newer, name one with --python"),
    ],
)
def test_an_interpreter_that_cannot_be_is_refused_at_once(tmp_path: Path, python: str, said: str) -> None:
    done = install("--destdir", str(tmp_path / "root"), "--python", python)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "root").exists()


def version(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "VERSION").write_text(text)
    return folder


def holds(folder: Path) -> str:
    return (folder / "VERSION").read_text()


def test_the_first_version_takes_its_place(tmp_path: Path) -> None:
    SWAP(version(tmp_path / "new", "1"), tmp_path / "place")
    assert holds(tmp_path / "place") == "1"
    assert not (tmp_path / "new").exists()


class NoExchange:
    """A kernel or file system that cannot exchange: some overlay file systems."""

    def renameat2(self, *_: Any) -> int:
        return -1


@pytest.mark.parametrize("exchange", [True, False])
def test_the_next_version_changes_places_with_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    new, place = version(tmp_path / "new", "2"), version(tmp_path / "place", "1")
    if not exchange:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: NoExchange())
        monkeypatch.setattr("ctypes.get_errno", lambda: 22)
    SWAP(new, place)
    assert (holds(place), holds(new)) == ("2", "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "place"]


def test_without_exchange_the_last_version_comes_back_if_the_next_cannot_be_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, place = version(tmp_path / "new", "2"), version(tmp_path / "place", "1")
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path == new:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: NoExchange())
    monkeypatch.setattr("ctypes.get_errno", lambda: 22)
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="No space left"):
        SWAP(new, place)
    assert (holds(place), holds(new)) == ("1", "2")


def test_a_refusal_that_is_none_of_the_file_systems_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, place = version(tmp_path / "new", "2"), version(tmp_path / "place", "1")
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: NoExchange())
    monkeypatch.setattr("ctypes.get_errno", lambda: 13)
    with pytest.raises(PermissionError):
        SWAP(new, place)
    assert (holds(place), holds(new)) == ("1", "2")

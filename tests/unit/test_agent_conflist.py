"""The file that makes the container runtime call us."""

import json
import os
from pathlib import Path

import pytest

from k8s_ovs.agent import conflist
from k8s_ovs.errors import ConfigError

SOCKET = Path("/run/k8s-ovs/cni.sock")
ALL = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
TEXT = conflist.render(SOCKET, ALL, portmap=True)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_text_is_a_configuration_list_of_the_cni_specification() -> None:
    assert json.loads(TEXT) == {
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": "k8s-ovs",
        "plugins": [
            {
                "type": "k8s-ovs",
                "socket": "/run/k8s-ovs/cni.sock",
                "capabilities": {"bandwidth": True},
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    assert [
        plugin["type"] for plugin in json.loads(conflist.render(SOCKET, ALL, portmap=False))["plugins"]
    ] == ["k8s-ovs"]


@pytest.mark.parametrize(
    ("spoken", "version", "versions"),
    [
        (["0.4.0", "1.0.0", "1.1.0"], "1.0.0", ["1.0.0", "1.1.0"]),
        (["0.1.0", "0.4.0", "1.0.0"], "1.0.0", ["1.0.0"]),  # Debian 12
        (["0.3.1", "0.4.0"], "0.4.0", ["0.4.0"]),  # the plugins before 1.0
        (["7.0.0"], "1.0.0", ["1.0.0"]),
    ],
)
def test_the_list_asks_for_no_more_than_portmap_knows(
    tmp_path: Path, spoken: list[str], version: str, versions: list[str]
) -> None:
    """It asked for 1.1.0 always: with Debian 12's portmap, or below containerd 1.7, every pod failed."""
    plugin(tmp_path / "portmap", json.dumps({"supportedVersions": spoken}))
    found = conflist.chain_versions(tmp_path, portmap=True)
    conf = json.loads(conflist.render(SOCKET, found, portmap=True))
    assert (conf["cniVersion"], conf["cniVersions"]) == (version, versions)


def test_a_portmap_that_cannot_be_asked_is_taken_for_an_old_one(tmp_path: Path) -> None:
    assert conflist.chain_versions(tmp_path / "not mounted", portmap=True)[-1] == "1.0.0"
    plugin(tmp_path / "portmap", "no JSON")
    assert conflist.chain_versions(tmp_path, portmap=True)[-1] == "1.0.0"
    assert conflist.chain_versions(tmp_path, portmap=False) == ALL


def test_a_portmap_that_is_not_there_refuses_nothing(tmp_path: Path) -> None:
    assert conflist.chain_versions(tmp_path, portmap=True) == ALL


def test_a_portmap_that_was_replaced_is_asked_again(tmp_path: Path) -> None:
    plugin(tmp_path / "portmap", '{"supportedVersions":["1.0.0"]}')
    assert conflist.chain_versions(tmp_path, portmap=True) == ("1.0.0",)
    plugin(tmp_path / "new", '{"supportedVersions":["1.0.0","1.1.0"]}').rename(tmp_path / "portmap")
    assert conflist.chain_versions(tmp_path, portmap=True) == ("1.0.0", "1.1.0")


def plugin(path: Path, answer: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return path


def test_it_is_written_into_a_folder_that_need_not_exist_and_nothing_else_stays_there(tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "cni"
    assert conflist.write(folder, TEXT)
    assert (folder / conflist.CONFLIST).read_text() == TEXT
    assert names(folder) == ["80-k8s-ovs.conflist"]


@pytest.mark.parametrize("before", [b"", b"{half", b"\xff\xfe", TEXT.encode() + b" "])
def test_anything_else_there_is_replaced_in_one_step(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / conflist.CONFLIST
    path.write_bytes(before)
    with path.open("rb") as reader:
        assert conflist.write(tmp_path, TEXT)
        assert reader.read() == before  # who has it open reads the whole old file
    assert path.read_text() == TEXT


def test_an_equal_file_is_left_alone(tmp_path: Path) -> None:
    conflist.write(tmp_path, TEXT)
    before = (tmp_path / conflist.CONFLIST).stat()
    assert not conflist.write(tmp_path, TEXT)
    after = (tmp_path / conflist.CONFLIST).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_failure_names_the_file_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conflist.write(tmp_path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / conflist.CONFLIST
    with pytest.raises(ConfigError) as refused:
        conflist.write(tmp_path, TEXT)
    assert str(refused.value) == (
        f"cannot write {path}: No space left on device: make the directory writable or choose --cni-conf-dir"
    )
    assert path.read_text() == "old"
    assert names(tmp_path) == [conflist.CONFLIST]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write .*/file/80-k8s-ovs\.conflist: "):
        conflist.write(tmp_path / "file", TEXT)


def test_removal_is_repeatable_and_says_what_it_cannot_remove(tmp_path: Path) -> None:
    conflist.write(tmp_path, TEXT)
    assert conflist.remove(tmp_path)
    assert names(tmp_path) == []
    assert not conflist.remove(tmp_path)
    assert not conflist.remove(tmp_path / "nowhere")
    (tmp_path / conflist.CONFLIST).mkdir()
    with pytest.raises(ConfigError, match=r"cannot remove .*80-k8s-ovs\.conflist: .*: remove it by hand"):
        conflist.remove(tmp_path)

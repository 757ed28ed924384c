"""CNI plugins are installed in one step each: killed anywhere, there is the old one, the new one, or none."""

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from fakes.cli import CommandLine
from k8s_ovs.cni import install as module
from k8s_ovs.cni.install import Outcome, install, remove, standard_in
from k8s_ovs.cni.plugins import supported_versions
from k8s_ovs.errors import ConfigError

SPEAKS = ("0.4.0", "1.0.0")


def plugin(path: Path, who: str, *, mode: int = 0o755) -> Path:
    """A plugin that answers VERSION; `who` makes its text differ from others'."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\n# {who}\necho \'{{"supportedVersions":["0.4.0","1.0.0"]}}\'\n')
    path.chmod(mode)
    return path


class Places:
    """`source` has all plugins, as the image has; `folder` is the host's."""

    def __init__(self, root: Path) -> None:
        self.source, self.folder = root / "image", root / "host"
        for name in ("k8s-ovs", "portmap", "loopback"):
            plugin(self.source / name, f"new {name}")
        self.folder.mkdir()

    def install(self) -> dict[str, Outcome]:
        return {placed.path.name: placed.outcome for placed in install(self.source, self.folder)}

    def holds(self, name: str) -> str:
        """`new`, `old`, or the empty text for none; anything else fails."""
        path = self.folder / name
        if not path.exists():
            return ""
        assert supported_versions(path) == SPEAKS
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        return path.read_text().splitlines()[1].split()[1]

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


ALL = ["k8s-ovs", "loopback", "portmap"]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def test_all_are_installed_where_none_is_and_nothing_else_stays(places: Places) -> None:
    assert places.install() == dict.fromkeys(ALL, Outcome.INSTALLED)
    assert places.names == ALL
    assert [places.holds(name) for name in ALL] == ["new"] * 3


def test_a_second_run_changes_nothing(places: Places) -> None:
    places.install()
    before = (places.folder / "k8s-ovs").stat()
    assert places.install() == {"k8s-ovs": Outcome.CURRENT, "portmap": Outcome.KEPT, "loopback": Outcome.KEPT}
    after = (places.folder / "k8s-ovs").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_ours_is_replaced_and_another_vendors_stay(places: Places) -> None:
    plugin(places.folder / "k8s-ovs", "old")
    plugin(places.folder / "portmap", "old")
    assert places.install() == {
        "k8s-ovs": Outcome.REPLACED,
        "portmap": Outcome.KEPT,
        "loopback": Outcome.INSTALLED,
    }
    assert [places.holds(name) for name in ALL] == ["new", "new", "old"]


def test_ours_that_cannot_be_executed_is_replaced(places: Places) -> None:
    plugin(places.folder / "k8s-ovs", "new k8s-ovs", mode=0o644)
    assert places.install()["k8s-ovs"] is Outcome.REPLACED
    assert places.holds("k8s-ovs") == "new"


def test_a_link_is_replaced_and_what_it_leads_to_stays(places: Places, tmp_path: Path) -> None:
    elsewhere = plugin(tmp_path / "elsewhere", "old")
    (places.folder / "k8s-ovs").symlink_to(elsewhere)
    assert places.install()["k8s-ovs"] is Outcome.REPLACED
    assert not (places.folder / "k8s-ovs").is_symlink()
    assert "old" in elsewhere.read_text()


def test_a_standard_plugin_behind_a_link_of_the_host_stays(places: Places, tmp_path: Path) -> None:
    """Debian's /usr/lib/cni/portmap, linked from /opt/cni/bin: a container that has only the latter sees no target."""
    (places.folder / "portmap").symlink_to(tmp_path / "nowhere")
    placed = install(places.source, places.folder)[1]
    assert placed.outcome is Outcome.KEPT
    assert (
        placed.trouble
        == f"{places.folder}/portmap leads to {tmp_path}/nowhere, which cannot be seen from here"
    )
    assert (places.folder / "portmap").readlink() == tmp_path / "nowhere"
    assert standard_in(places.folder) == ["portmap", "loopback"]


def test_all_of_them_are_whole_where_a_link_was(places: Places) -> None:
    places.install()
    assert [places.holds(name) for name in ALL] == ["new"] * 3


def test_who_executes_the_old_one_has_the_whole_of_it(places: Places) -> None:
    old = plugin(places.folder / "k8s-ovs", "old").read_bytes()
    with (places.folder / "k8s-ovs").open("rb") as reader:
        places.install()
        assert reader.read() == old


def test_standard_plugins_that_nobody_has_are_named(places: Places) -> None:
    (places.source / "portmap").unlink()
    assert places.install()["portmap"] is Outcome.MISSING
    assert standard_in(places.folder) == ["loopback"]


def test_a_standard_plugin_that_does_not_run_stays_and_is_named(places: Places) -> None:
    (places.folder / "portmap").write_text("half")
    placed = install(places.source, places.folder)[1]
    assert placed.outcome is Outcome.KEPT
    assert placed.trouble.startswith(f"the CNI plugin {places.folder}/portmap does not run here: ")
    assert (places.folder / "portmap").read_text() == "half"


def refusal(places: Places) -> str:
    with pytest.raises(ConfigError) as refused:
        places.install()
    assert [name for name in places.names if name.startswith(".")] == [], "no draft stays"
    return str(refused.value)


@pytest.mark.parametrize("old", [True, False])
def test_one_for_another_architecture_is_refused_and_changes_nothing(places: Places, old: bool) -> None:
    if old:
        plugin(places.folder / "k8s-ovs", "old")
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + (8).to_bytes(2, "little") + bytes(100)
    (places.source / "k8s-ovs").write_bytes(header)
    assert refusal(places) == (
        f"the CNI plugin {places.folder}/.k8s-ovs.new does not run here: it is built for ELF machine 8, "
        f"this host is {os.uname().machine}: take the image or package of this host's architecture"
    )
    assert places.holds("k8s-ovs") == ("old" if old else "")


@pytest.mark.parametrize(
    "text", ["", "#!/bin/sh\nexit 3\n", "#!/bin/sh\necho '{}'\n", "#!/bin/sh\necho '[1]'\n"]
)
def test_what_is_no_plugin_is_refused(places: Places, text: str) -> None:
    plugin(places.folder / "k8s-ovs", "old")
    (places.source / "k8s-ovs").write_text(text)
    assert "replace it" in refusal(places)
    assert places.holds("k8s-ovs") == "old"


def test_no_folder_is_made_up(places: Places) -> None:
    places.folder.rmdir()
    with pytest.raises(ConfigError) as refused:
        places.install()
    assert str(refused.value) == (
        f"cannot install CNI plugins into {places.folder}: No such file or directory: mount or make the folder where "
        "the container runtime looks for plugins, or choose --cni-bin-dir"
    )
    places.folder.touch()
    with pytest.raises(ConfigError, match="Not a directory: mount or make the folder"):
        places.install()


def test_without_our_executable_nothing_is_done(places: Places) -> None:
    (places.source / "k8s-ovs").unlink()
    assert refusal(places).startswith(f"no CNI plugin at {places.source}/k8s-ovs: name the folder")
    assert places.names == []


def test_a_directory_of_our_name_is_named(places: Places) -> None:
    (places.folder / "k8s-ovs").mkdir()
    assert refusal(places) == (
        f"cannot write the CNI plugin {places.folder}/k8s-ovs: Is a directory: remove the directory that has the plugin's name"
    )


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EROFS, "mount the folder writable"), (errno.ENOSPC, "make room")]
)
def test_what_the_file_system_refuses_is_named(
    places: Places, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    plugin(places.folder / "k8s-ovs", "old")

    def refuse(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    said = refusal(places)
    assert said.startswith(
        f"cannot write the CNI plugin {places.folder}/k8s-ovs: {os.strerror(number)}: {remedy}"
    )
    assert places.holds("k8s-ovs") == "old"


def test_two_at_once_do_not_mix(places: Places) -> None:
    descriptor = os.open(places.folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert refusal(places) == f"another installation into {places.folder} is under way: try again"
    os.close(descriptor)
    assert places.install()["k8s-ovs"] is Outcome.INSTALLED


def killed_at(line: int, work: Callable[[], object]) -> bool:
    """Do `work` in a child that is killed before the `line`th line of the module that it executes; False if it ended."""
    child = os.fork()
    if child == 0:
        left = line

        def trace(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal left
            if frame.f_code.co_filename != module.__file__:
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    os._exit(9)
            return trace

        sys.settrace(trace)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


@pytest.mark.parametrize("old", [True, False])
def test_killed_before_any_line_no_plugin_is_half_there(
    places: Places, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    monkeypatch.setattr(module, "CHUNK", 32)
    monkeypatch.setattr(module, "STANDARD", ("portmap",))
    seen: list[str] = []
    half = 0
    line = 1
    while True:
        (places.folder / "portmap").unlink(missing_ok=True)
        if old:
            plugin(places.folder / "k8s-ovs", "old")
        else:
            (places.folder / "k8s-ovs").unlink(missing_ok=True)
        if not killed_at(line, places.install):
            break
        half += (places.folder / ".k8s-ovs.new").exists()
        seen.append(places.holds("k8s-ovs"))
        assert places.holds("portmap") in ("", "new")
        line += 1
    before = "old" if old else ""
    assert seen == [before] * seen.count(before) + ["new"] * seen.count("new")
    assert min(seen.count(before), seen.count("new"), half) > 5, "kills before, during and after"
    assert places.names == ["k8s-ovs", "portmap"], "what kills have left is used up"


def test_ours_is_removed_with_what_a_kill_has_left_and_no_other(places: Places) -> None:
    places.install()
    plugin(places.folder / ".k8s-ovs.new", "half")
    assert remove(places.folder)
    assert places.names == ["loopback", "portmap"]
    assert not remove(places.folder)
    assert not remove(places.folder / "nowhere")
    (places.folder / "k8s-ovs").mkdir()
    with pytest.raises(ConfigError, match=r"cannot remove .*/k8s-ovs: .*: remove it by hand"):
        remove(places.folder)


def test_the_command_says_what_it_did(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    where = [f"--cni-bin-dir={places.folder}", f"--plugins-from={places.source}"]
    plugin(places.folder / "k8s-ovs", "old")
    (places.source / "loopback").unlink()
    command_line = CommandLine(capsys)
    ended = command_line("install-cni", *where)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        f"replaced {places.folder}/k8s-ovs",
        f"installed {places.folder}/portmap",
        "no loopback there, and none to install: the package containernetworking-plugins has it",
    ]
    (places.folder / "portmap").write_text("#!/bin/sh\n")
    ended = command_line("install-cni", *where)
    assert ended.out.splitlines()[:2] == [
        f"{places.folder}/k8s-ovs is this version already",
        f"kept {places.folder}/portmap, which was there",
    ]
    assert (ended.code, ended.err) == (
        0,
        f"k8s-ovs: the CNI plugin {places.folder}/portmap answered VERSION with exit status 0 and 'nothing': "
        "it is damaged or no CNI plugin: replace it\n",
    )


def test_the_command_says_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = CommandLine(capsys)("install-cni", f"--cni-bin-dir={tmp_path}/nowhere")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"k8s-ovs: cannot install CNI plugins into {tmp_path}/nowhere: ")

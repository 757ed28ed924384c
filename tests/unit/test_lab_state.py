import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from k8s_ovs.cli.main import cli
from k8s_ovs.errors import LabError
from k8s_ovs.lab import realkube
from k8s_ovs.lab.ovsnode import LinkState, has_conflist, link_states
from k8s_ovs.lab.processes import log_tail, restart_delay
from k8s_ovs.lab.processid import ProcessId
from k8s_ovs.lab.state import LabState, Phase, ProcessState, labs, load_cluster


def own() -> ProcessId:
    found = ProcessId.of(os.getpid())
    assert found is not None
    return found


def test_a_process_is_known_by_pid_and_start_time() -> None:
    me = own()
    assert me.alive
    assert not ProcessId(me.pid, me.start + 1).alive


def test_a_pid_that_was_given_to_another_process_is_not_signalled() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        stranger = ProcessId.of(child.pid)
        assert stranger is not None
        assert not ProcessId(child.pid, stranger.start + 1).signal(signal.SIGKILL)
        assert child.poll() is None
        assert stranger.signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert not stranger.alive
    assert not stranger.signal(signal.SIGKILL)


def test_the_first_restart_comes_at_once_and_later_ones_slower() -> None:
    delays = [restart_delay(failures) for failures in range(20)]
    assert delays[:2] == [0, 0]
    assert delays[2:] == sorted(delays[2:])
    assert delays[2] > 0
    assert delays[-1] == 5.0


def test_state_survives_the_way_through_the_file(tmp_path: Path) -> None:
    me = own()
    state = LabState(me, Phase.READY, {"etcd": ProcessState(me, 2), "apiserver": ProcessState(None, 0)})
    state.write(tmp_path)
    assert LabState.read(tmp_path) == state
    assert state.pid("etcd") == me.pid
    assert state.pid("apiserver") is None
    assert state.pid("nothing") is None


def test_a_lab_whose_supervisor_is_gone_is_dead(tmp_path: Path) -> None:
    me = own()
    LabState(ProcessId(me.pid, me.start + 1), Phase.READY).write(tmp_path)
    read = LabState.read(tmp_path)
    assert read is not None
    assert read.phase is Phase.DEAD


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"supervisor": 1}'])
def test_no_state_or_half_of_one_reads_as_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "state.json").write_text(text)
    assert LabState.read(tmp_path) is None


def test_an_unknown_lab_is_told_with_the_names_of_those_that_are_up(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="lab up"):
        load_cluster(tmp_path, "lab")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "lab.json").write_text("{}")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "lab.json").write_text("{}")
    listed = CliRunner().invoke(cli, ["lab", "list", "--state-dir", str(tmp_path)], catch_exceptions=False)
    assert listed.output.split() == labs(tmp_path) == ["one", "two"]
    with pytest.raises(LabError, match="two"):
        load_cluster(tmp_path, "lab")


def test_the_log_tail_is_the_last_lines(tmp_path: Path) -> None:
    file = tmp_path / "x.log"
    assert log_tail(file) == ""
    file.write_text("".join(f"{number}\n" for number in range(20)))
    assert log_tail(file, 2) == "18\n19"


def newlink(index: int, flags: int, name: bytes, kind: int = 16) -> bytes:
    attribute = struct.pack("=HH", 5 + len(name), 3) + name + b"\0"
    attribute += b"\0" * (-len(attribute) % 4)
    mtu = struct.pack("=HHI", 8, 4, 1500)
    body = struct.pack("=BxHiII", 0, 1, index, flags, 0) + mtu + attribute
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_link_messages_about_the_bridge_are_found() -> None:
    data = newlink(4, 0x1003, b"br-phy") + newlink(5, 1, b"tun0") + newlink(4, 1, b"br-phy", kind=17)
    assert link_states(data + newlink(6, 0x1002, b"br-phy"), "br-phy") == [
        LinkState(4, 0x1003),
        LinkState(6, 0x1002),
    ]
    assert link_states(b"", "br-phy") == []
    assert link_states(data[:20], "br-phy") == []


def test_a_conflist_makes_a_node_ready_and_a_draft_does_not(tmp_path: Path) -> None:
    assert not has_conflist(tmp_path / "missing")
    (tmp_path / ".80-k8s-ovs.conflist.new").write_text("")
    assert not has_conflist(tmp_path)
    (tmp_path / "80-k8s-ovs.conflist").write_text("")
    assert has_conflist(tmp_path)


def test_a_real_apiserver_is_found_by_option_then_assets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert realkube.find(None, {}) is None
    with pytest.raises(LabError, match="kube-apiserver"):
        realkube.find(tmp_path, {})
    for directory in ("given", "assets", "path"):
        (tmp_path / directory).mkdir()
        program = tmp_path / directory / "kube-apiserver"
        program.write_text("")
        program.chmod(0o755)
    environ = {"KUBEBUILDER_ASSETS": str(tmp_path / "assets")}
    assert realkube.find(tmp_path / "given", environ) == tmp_path / "given"
    assert realkube.find(None, environ) == tmp_path / "assets"
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert realkube.find(None, {}) == tmp_path / "path"

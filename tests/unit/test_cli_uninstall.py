"""`k8s-ovs uninstall` on a dataplane in memory: all of it, whatever refuses, and not under a running agent."""

import asyncio
import socket
from pathlib import Path

import pytest

from fakes.cli import CommandLine, Ended
from fakes.dataplane import FakeFirewall, FakeSwitch
from fakes.dataplane_examples import FIREWALL, attachment
from k8s_ovs.agent import conflist
from k8s_ovs.cli import uninstall
from k8s_ovs.dataplane.bridge import BridgeSpec
from k8s_ovs.errors import FirewallError, OvsdbError


class Host:
    """A host on which an agent has run."""

    def __init__(self, folder: Path, command_line: CommandLine) -> None:
        self.folder = folder
        self.firewall = FakeFirewall()
        self.switch = FakeSwitch()
        self.socket = folder / "cni.sock"
        self._command_line = command_line
        conflist.write(folder, "{}")
        self.bin_dir = folder / "bin"
        self.bin_dir.mkdir()
        for name in ("k8s-ovs", "portmap", "bridge"):
            (self.bin_dir / name).touch()
        asyncio.run(self._install())

    async def _install(self) -> None:
        await self.firewall.ensure(FIREWALL)
        await self.switch.ensure_bridge(BridgeSpec())
        await self.switch.add_port(attachment(1))

    @property
    def left(self) -> list[str]:
        found = ["conflist"] if (self.folder / conflist.CONFLIST).exists() else []
        found += ["rules"] if self.firewall.rules is not None else []
        found += ["bridge"] if self.switch.spec is not None or self.switch.rows else []
        return found + (["executable"] if (self.bin_dir / "k8s-ovs").exists() else [])

    def uninstall(self) -> Ended:
        where = [f"--cni-conf-dir={self.folder}", f"--cni-socket={self.socket}"]
        where += [f"--cni-bin-dir={self.bin_dir}", "--ovs-rundir=/run/nowhere"]
        return self._command_line("uninstall", *where)


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path, CommandLine(capsys))
    monkeypatch.setattr(uninstall, "IptablesFirewall", lambda: made.firewall)
    monkeypatch.setattr(uninstall, "OvsdbSwitch", lambda _rundir, *, deadline: made.switch)
    return made


def test_everything_goes_and_is_named(host: Host) -> None:
    assert host.left == ["conflist", "rules", "bridge", "executable"]
    ended = host.uninstall()
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        f"removed {host.folder}/80-k8s-ovs.conflist",
        "removed the NAT and filter rules",
        "removed the bridge br0",
        f"removed {host.bin_dir}/k8s-ovs",
        f"kept: {host.bin_dir}/portmap, which other networks may use",
        uninstall.KEPT_SETTINGS,
    ]
    assert host.left == []
    assert sorted(path.name for path in host.bin_dir.iterdir()) == ["bridge", "portmap"]


def test_it_may_be_repeated_and_claims_nothing(host: Host) -> None:
    """It said "removed the bridge br0" whether there was one or not, and the same of the rules."""
    host.uninstall()
    ended = host.uninstall()
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[:4] == [
        f"no 80-k8s-ovs.conflist in {host.folder}",
        "no NAT and filter rules",
        "no bridge br0",
        f"no CNI executable k8s-ovs in {host.bin_dir}",
    ]


def test_what_refuses_is_named_and_the_rest_goes(host: Host) -> None:
    host.firewall.fail_next("remove", FirewallError("iptables: No such file or directory"))
    ended = host.uninstall()
    assert ended.code == 1
    assert host.left == ["rules"]
    assert ended.err.splitlines() == [
        "k8s-ovs: iptables: No such file or directory",
        "k8s-ovs: 1 of 4 parts are still there: mend what is said above, and uninstall again",
    ]


def test_all_may_refuse(host: Host) -> None:
    host.firewall.fail_next("remove", FirewallError("no iptables"))
    host.switch.fail_next("remove_bridge", OvsdbError("ovsdb-server cannot be reached"))
    (host.folder / conflist.CONFLIST).unlink()
    (host.folder / conflist.CONFLIST).mkdir()
    (host.bin_dir / "k8s-ovs").unlink()
    (host.bin_dir / "k8s-ovs").mkdir()
    ended = host.uninstall()
    assert (ended.code, ended.out) == (1, "")
    for said in ("cannot remove", "no iptables", "ovsdb-server cannot be reached", "4 of 4 parts"):
        assert said in ended.err
    assert "Traceback" not in ended.err


def test_an_agent_that_runs_would_make_it_again(host: Host) -> None:
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(host.socket))
        agent.listen()
        ended = host.uninstall()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"k8s-ovs: an agent still serves {host.socket}: stop it before it is uninstalled\n"
    assert host.left == ["conflist", "rules", "bridge", "executable"]
    assert host.uninstall().code == 0  # the socket of an agent that was killed answers nobody

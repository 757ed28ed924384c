"""A bridge of a private Open vSwitch with the ports that the pipeline expects: 1 tunnel, 2 gateway, 3 to 6 pods."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest

from fakes.private_ovs import PrivateOvs, private_ovs, run
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.flows.diff import Item, Mod
from k8s_ovs.flows.names import StageId, cookie_of

PORTS = {"vxlan0": 1, "tun0": 2, "pod3": 3, "pod4": 4, "pod5": 5, "pod6": 6}
STEP = re.compile(r"^ *(\d+)\. (?:.*?,? ?)priority (\d+), cookie (0x[0-9a-f]+)$", re.MULTILINE)
OUTPUT = re.compile(r"-> output port is (\d+)|^ +(IN_PORT)$", re.MULTILINE)
KEPT = f"cookie={cookie_of(StageId.AFFINITY) >> 32:#x}"
DUMPED = re.compile(r"cookie=(0x[0-9a-f]+),(?: table=(\d+),)? priority=(\d+)(?:,(\S+))? actions=(\S+)$")


@dataclass(frozen=True)
class Trace:
    """What ofproto/trace says: table, priority and cookie of each flow met, and the ports it went out of."""

    path: list[tuple[int, int, int]]
    outputs: list[str]
    text: str


@dataclass(frozen=True)
class Bridge:
    """The bridge `br0` of a private switch, spoken to with OpenFlow 1.5 as the agent does."""

    ovs: PrivateOvs

    def send(self, mods: Iterable[Mod]) -> None:
        """One commit, as the agent makes it."""
        asyncio.run(OfctlFlowTable(self.ovs.mgmt()).commit(list(mods)))

    def replace(self, items: Iterable[Item]) -> None:
        """Make the bridge hold exactly these."""
        asyncio.run(OfctlFlowTable(self.ovs.mgmt()).replace(list(items)))

    def lines(self) -> set[str]:
        """Every flow and group, in the spelling of `to_ofctl`, but for what the switch keeps by itself."""
        flows = self._ofctl("--no-stats", "--no-names", "dump-flows", self.ovs.mgmt()).splitlines()
        groups = self._ofctl("dump-groups", self.ovs.mgmt()).splitlines()
        shown = {
            _as_we_spell(line) for line in flows if "cookie=" in line and not line.strip().startswith(KEPT)
        }
        return shown | {line.strip() for line in groups if "group_id=" in line}

    def set_fragments(self, mode: str) -> None:
        """How the switch shows fragments: `normal` or `nx-match`."""
        self._ofctl("set-frags", self.ovs.mgmt(), mode)

    def trace(self, packet: str) -> Trace:
        """Where the packet would go."""
        text = self.ovs.appctl("ofproto/trace", "br0", packet)
        path = [
            (int(table), int(priority), int(cookie, 16)) for table, priority, cookie in STEP.findall(text)
        ]
        return Trace(path, [port or reserved for port, reserved in OUTPUT.findall(text)], text)

    def _ofctl(self, *argv: str, stdin: str | None = None) -> str:
        return run("ovs-ofctl", "-O", "OpenFlow15", *argv, stdin=stdin)


def _as_we_spell(line: str) -> str:
    found = DUMPED.search(line)
    assert found is not None, line
    cookie, table, priority, match, actions = found.groups()
    selector = ",".join(filter(None, (f"table={table or 0}", f"priority={priority}", match)))
    return f"cookie={cookie},{selector},actions={actions}"


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with private_ovs() as ovs:
        ovs.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=secure")
        for name, number in PORTS.items():
            kind = (
                ["type=vxlan", "options:remote_ip=flow", "options:key=flow"]
                if number == 1
                else ["type=internal"]
            )
            ovs.vsctl(
                "add-port", "br0", name, "--", "set", "interface", name, f"ofport_request={number}", *kind
            )
            assert ovs.vsctl("get", "interface", name, "ofport") == str(number)
        yield Bridge(ovs)

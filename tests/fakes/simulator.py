"""The pipeline, executed: where does this packet go? At the speed of function calls, on one switch or across several.

For property tests of `k8s_ovs.flows`. It judges: two flows of one priority that both match, a field used without its
protocol, or a packet that ends nowhere is an error, as a reader of the tables would call it one. Its agreement with the
real switch is checked in tests/functional/flows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from k8s_ovs.flows import fields as f
from k8s_ovs.flows.fields import Field
from k8s_ovs.flows.flow import Flow, Goto, Move, Output, OutputInPort, SetField
from k8s_ovs.flows.names import Drop, describe
from k8s_ovs.model.types import GATEWAY_OFPORT, VXLAN_OFPORT, Mac, OfPort

Packet = dict[Field, int]
METADATA = (f.IN_PORT, f.REG0, f.REG1, f.REG2, f.REG3, f.TUN_SRC, f.TUN_DST, f.TUN_ID)

ICMP, TCP, UDP = 1, 6, 17
BROADCAST = Mac("ff:ff:ff:ff:ff:ff")


def ip_packet(
    port: int,
    mac: str,
    source: IPv4Address,
    destination: IPv4Address,
    protocol: int = TCP,
    udp_port: int = 0,
) -> Packet:
    """An IPv4 packet on its way into a switch."""
    return {
        f.IN_PORT: port,
        f.ETH_SRC: f.mac_value(mac),
        f.ETH_DST: f.mac_value("0a:58:00:00:00:00"),
        f.ETH_TYPE: f.IP_TYPE,
        f.IP_SRC: int(source),
        f.IP_DST: int(destination),
        f.IP_PROTO: protocol,
        f.UDP_DST: udp_port,
    }


def arp_packet(
    port: int, mac: str, sender: IPv4Address, target: IPv4Address, *, sha: str | None = None, op: int = 1
) -> Packet:
    """An ARP packet on its way into a switch."""
    return {
        f.IN_PORT: port,
        f.ETH_SRC: f.mac_value(mac),
        f.ETH_DST: f.mac_value(BROADCAST),
        f.ETH_TYPE: f.ARP_TYPE,
        f.ARP_OP: op,
        f.ARP_SPA: int(sender),
        f.ARP_TPA: int(target),
        f.ARP_SHA: f.mac_value(sha or mac),
        f.ARP_THA: 0,
    }


def from_tunnel(packet: Packet, outer: IPv4Address, key: int) -> Packet:
    """The packet as it comes out of the tunnel port."""
    return {**packet, f.IN_PORT: VXLAN_OFPORT, f.TUN_SRC: int(outer), f.TUN_ID: key}


@dataclass(frozen=True)
class Outcome:
    """What one switch did: packets sent (port, packet with its tunnel metadata), or why it dropped; and the way."""

    outputs: list[tuple[OfPort, Packet]]
    drop: Drop | None
    path: list[Flow]


class Switch:
    """One bridge with these flows. `nx_match` is its mode for fragments (ovs-ofctl(8), set-frags); False is `normal`."""

    def __init__(self, flows: Iterable[Flow], *, nx_match: bool = True) -> None:
        self.nx_match = nx_match
        self.tables: dict[int, list[Flow]] = {}
        for flow in flows:
            self.tables.setdefault(flow.table, []).append(flow)
        for table in self.tables.values():
            table.sort(key=lambda flow: -flow.priority)

    def run(self, packet: Packet) -> Outcome:
        """Send one packet through the tables."""
        state = dict(packet)
        fragment = packet.get(f.IP_FRAG, 0)
        if fragment and not (self.nx_match and fragment == f.FIRST_FRAGMENT):
            state[f.UDP_DST] = 0
        outputs: list[tuple[OfPort, Packet]] = []
        path: list[Flow] = []
        table: int | None = 0
        while table is not None:
            flow = self.look_up(table, state)
            path.append(flow)
            table = _execute(flow, state, outputs)
        meaning = describe(path[-1].cookie)
        drop = meaning.drop if meaning is not None else None
        assert bool(outputs) or drop is not None, f"packet ends nowhere: {path[-1]}"
        return Outcome(outputs, drop, path)

    def look_up(self, table: int, packet: Packet) -> Flow:
        """The flow that the packet meets in a table."""
        found: Flow | None = None
        for flow in self.tables.get(table, ()):
            if found is not None and flow.priority < found.priority:
                break
            if all(packet.get(test.field, 0) & test.mask == test.value for test in flow.match):
                assert found is None, f"two flows of one priority match: {found} and {flow}"
                found = flow
        assert found is not None, f"table {table} has no end"
        return found


def _execute(flow: Flow, packet: Packet, outputs: list[tuple[OfPort, Packet]]) -> int | None:
    for action in flow.actions:
        match action:
            case SetField(bits, value):
                packet[bits.field] = packet.get(bits.field, 0) & ~bits.mask | bits.place(value)
            case Move(source, target):
                value = (packet.get(source.field, 0) & source.mask) >> source.start
                packet[target.field] = packet.get(target.field, 0) & ~target.mask | target.place(value)
            case Output(bits):
                port = (packet.get(bits.field, 0) & bits.mask) >> bits.start
                if port != packet[f.IN_PORT]:  # as the switch does: never back by itself
                    outputs.append((OfPort(port), dict(packet)))
            case OutputInPort():
                outputs.append((OfPort(packet[f.IN_PORT]), dict(packet)))
            case Goto(table):
                return table
    return None


@dataclass(frozen=True)
class Delivery:
    """A packet that has left the last switch: at which host, by which port, and how it looks then."""

    host: IPv4Address
    port: OfPort
    packet: Mapping[Field, int]


@dataclass
class Fabric:
    """Several switches, joined by VXLAN. Hosts are known by their underlay address."""

    switches: dict[IPv4Address, Switch]
    drops: list[tuple[IPv4Address, Drop]] = field(default_factory=list)

    def send(self, host: IPv4Address, packet: Packet) -> list[Delivery]:
        """Where a packet that enters the switch of `host` comes out; drops on the way are noted in `drops`."""
        self.drops.clear()
        delivered: list[Delivery] = []
        waiting = [(host, packet)]
        for _ in range(8):
            if not waiting:
                return delivered
            here, current = waiting.pop()
            outcome = self.switches[here].run(current)
            if outcome.drop is not None:
                self.drops.append((here, outcome.drop))
            for port, sent in outcome.outputs:
                inner = {name: value for name, value in sent.items() if name not in METADATA}
                if port != VXLAN_OFPORT:
                    delivered.append(Delivery(here, port, inner))
                    continue
                assert sent[f.TUN_SRC] == int(here), "the outer source is another host's"
                there = IPv4Address(sent[f.TUN_DST])
                if there in self.switches:
                    waiting.append((there, from_tunnel(inner, here, sent[f.TUN_ID])))
        raise AssertionError("the packet goes in circles")

    def reaches_gateway(self, host: IPv4Address, packet: Packet, at: IPv4Address) -> bool:
        """The packet comes out at the gateway of host `at`, and only there."""
        ports = [(delivery.host, delivery.port) for delivery in self.send(host, packet)]
        return ports == [(at, GATEWAY_OFPORT)]

"""The pipeline, executed: where does this packet go? At the speed of function calls, on one switch or across several.

For property tests of `k8s_ovs.flows`. It judges: two flows of one priority that both match, a field used without its
protocol, or a packet that ends nowhere is an error, as a reader of the tables would call it one. Its agreement with the
real switch is checked in tests/functional/flows.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from fakes.conntrack import Conntrack
from k8s_ovs.flows import fields as f
from k8s_ovs.flows.diff import Item
from k8s_ovs.flows.fields import Bits, Field
from k8s_ovs.flows.flow import (
    Action,
    Ct,
    Flow,
    Goto,
    GroupAction,
    Learn,
    Move,
    Output,
    OutputInPort,
    Resubmit,
    SetField,
    match_of,
)
from k8s_ovs.flows.group import Bucket, Group
from k8s_ovs.flows.names import Drop, describe
from k8s_ovs.model.types import GATEWAY_OFPORT, VXLAN_OFPORT, Mac, OfPort

Packet = dict[Field, int]
REGISTERS = (f.REG0, f.REG1, f.REG2, f.REG3, f.REG4, f.REG5, f.REG6)
METADATA = (f.IN_PORT, *REGISTERS, f.CT_STATE, f.TUN_SRC, f.TUN_DST, f.TUN_ID)
MOST_STEPS = 64
"""A packet that meets more flows goes in circles."""

ICMP, TCP, UDP = 1, 6, 17
BROADCAST = Mac("ff:ff:ff:ff:ff:ff")


def ip_packet(
    port: int,
    mac: str,
    source: IPv4Address,
    destination: IPv4Address,
    protocol: int = TCP,
    port_to: int = 0,
    port_from: int = 0,
) -> Packet:
    """An IPv4 packet on its way into a switch."""
    ports = {}
    if protocol in f.DESTINATION_PORT:
        ports = {f.DESTINATION_PORT[protocol]: port_to, f.SOURCE_PORT[protocol]: port_from}
    return {
        f.IN_PORT: port,
        f.ETH_SRC: f.mac_value(mac),
        f.ETH_DST: f.mac_value("0a:58:00:00:00:00"),
        f.ETH_TYPE: f.IP_TYPE,
        f.IP_SRC: int(source),
        f.IP_DST: int(destination),
        f.IP_PROTO: protocol,
        **ports,
    }


def answer_to(packet: Mapping[Field, int], port: int, mac: str) -> Packet:
    """What a party with port and MAC at its switch says to a packet that it got."""
    protocol = packet[f.IP_PROTO]
    source, destination = IPv4Address(packet[f.IP_DST]), IPv4Address(packet[f.IP_SRC])
    ports = [
        packet.get(fields.get(protocol, f.IP_PROTO), 0) for fields in (f.SOURCE_PORT, f.DESTINATION_PORT)
    ]
    return ip_packet(port, mac, source, destination, protocol, *ports)


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


def first_bucket(group: Group, packet: Packet) -> Bucket:
    """Always the same choice."""
    del packet
    return group.buckets[0]


class Switch:
    """One bridge with these flows and groups, and connections. `nx_match` is its mode for fragments.

    (ovs-ofctl(8), set-frags; False is `normal`.) `choose` is how a group chooses its bucket.
    """

    def __init__(self, items: Iterable[Item], *, nx_match: bool = True) -> None:
        self.nx_match = nx_match
        self.tables: dict[int, list[Flow]] = {}
        self.groups: dict[int, Group] = {}
        self.conntrack = Conntrack()
        self.choose: Callable[[Group, Packet], Bucket] = first_bucket
        self.hold(items)

    def hold(self, items: Iterable[Item]) -> None:
        """These flows and groups from now on; connections stay."""
        self.tables.clear()
        self.groups.clear()
        for item in items:
            if isinstance(item, Flow):
                self.tables.setdefault(item.table, []).append(item)
            elif isinstance(item, Group):
                self.groups[item.id] = item
        for table in self.tables.values():
            table.sort(key=lambda flow: -flow.priority)

    def run(self, packet: Packet) -> Outcome:
        """Send one packet through the tables."""
        state = dict(packet)
        fragment = packet.get(f.IP_FRAG, 0)
        if fragment and not (self.nx_match and fragment == f.FIRST_FRAGMENT):
            state |= {port: 0 for port in f.DESTINATION_PORT.values() if port in state}
        outputs: list[tuple[OfPort, Packet]] = []
        path: list[Flow] = []
        self._go(0, state, outputs, path)
        meaning = describe(path[-1].cookie)
        drop = meaning.drop if meaning is not None else None
        assert bool(outputs) or drop is not None, f"packet ends nowhere: {path[-1]}"
        return Outcome(outputs, drop, path)

    def _go(
        self, table: int | None, packet: Packet, outputs: list[tuple[OfPort, Packet]], path: list[Flow]
    ) -> None:
        while table is not None:
            assert len(path) < MOST_STEPS, "the packet goes in circles"
            flow = self.look_up(table, packet)
            path.append(flow)
            table = self._apply(flow.actions, packet, outputs, path)

    def _apply(
        self,
        actions: Iterable[Action],
        packet: Packet,
        outputs: list[tuple[OfPort, Packet]],
        path: list[Flow],
    ) -> int | None:
        for action in actions:
            match action:
                case Goto(table):
                    return table
                case Ct():
                    self.conntrack.track(action, packet)
                    return action.table
                case GroupAction(number):
                    bucket = self.choose(self.groups[number], packet)
                    return self._apply(bucket.actions, packet, outputs, path)
                case Resubmit(table):
                    self._go(table, packet, outputs, path)
                case Learn():
                    self._learn(action, packet)
                case _:
                    _execute(action, packet, outputs)
        return None

    def _learn(self, learn: Learn, packet: Packet) -> None:
        """Add the flow that the switch would learn; an equal one is replaced."""
        match = [(f.ETH_TYPE.whole, f.IP_TYPE), (f.IP_PROTO.whole, learn.protocol)]
        match += [(bits, _read(bits, packet)) for bits in learn.matches]
        loads = tuple(SetField(bits, _read(bits, packet)) for bits in learn.loads)
        learned = Flow(learn.table, learn.priority, match_of(match), loads, learn.cookie)
        table = self.tables.setdefault(learn.table, [])
        table[:] = [flow for flow in table if flow.identity != learned.identity]
        table.append(learned)
        table.sort(key=lambda flow: -flow.priority)

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


def _read(bits: Bits, packet: Packet) -> int:
    return (packet.get(bits.field, 0) & bits.mask) >> bits.start


def _execute(action: Action, packet: Packet, outputs: list[tuple[OfPort, Packet]]) -> None:
    match action:
        case SetField(bits, value):
            packet[bits.field] = packet.get(bits.field, 0) & ~bits.mask | bits.place(value)
        case Move(source, target):
            value = _read(source, packet)
            packet[target.field] = packet.get(target.field, 0) & ~target.mask | target.place(value)
        case Output(bits):
            port = _read(bits, packet)
            if port != packet[f.IN_PORT]:  # as the switch does: never back by itself
                outputs.append((OfPort(port), dict(packet)))
        case OutputInPort():
            outputs.append((OfPort(packet[f.IN_PORT]), dict(packet)))


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

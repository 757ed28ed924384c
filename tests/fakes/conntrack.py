"""Conntrack as the simulator needs it: zones, connections, translation of source or destination, states.

It knows no time, no TCP flags and no ICMP errors; those are tested with real packets. As the real one does, it calls a
connection new until something was answered, though it translates its packets from the first one on.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from k8s_ovs.flows import fields as f
from k8s_ovs.flows.fields import Field
from k8s_ovs.flows.flow import Ct, Nat

NEW, ESTABLISHED, TRACKED, SNAT, DNAT = 0x01, 0x02, 0x20, 0x40, 0x80
EPHEMERAL = 32768


class Tuple5(NamedTuple):
    """Protocol, source, source port, destination, destination port."""

    protocol: int
    source: int
    source_port: int
    destination: int
    destination_port: int

    def reversed(self) -> "Tuple5":
        return Tuple5(self.protocol, self.destination, self.destination_port, self.source, self.source_port)


def tuple_of(packet: dict[Field, int]) -> Tuple5:
    protocol = packet[f.IP_PROTO]
    source, destination = (fields.get(protocol) for fields in (f.SOURCE_PORT, f.DESTINATION_PORT))
    ports = [packet.get(port, 0) if port is not None else 0 for port in (source, destination)]
    return Tuple5(protocol, packet[f.IP_SRC], ports[0], packet[f.IP_DST], ports[1])


def write(packet: dict[Field, int], to: Tuple5) -> None:
    packet[f.IP_SRC], packet[f.IP_DST] = to.source, to.destination
    if to.protocol in f.SOURCE_PORT:
        packet[f.SOURCE_PORT[to.protocol]] = to.source_port
        packet[f.DESTINATION_PORT[to.protocol]] = to.destination_port


@dataclass
class Connection:
    """`original` is what the client sends, `reply` what is sent to it, both before translation."""

    original: Tuple5
    reply: Tuple5
    kind: int
    answered: bool = False


@dataclass
class Conntrack:
    """The connections of one switch, by zone and by either tuple."""

    zones: dict[int, dict[Tuple5, Connection]] = field(default_factory=dict)

    def track(self, action: Ct, packet: dict[Field, int]) -> None:
        """Do to the packet what `action` would: set its state, translate it, commit a new connection."""
        zone = self.zones.setdefault(action.zone, {})
        seen = tuple_of(packet)
        known = zone.get(seen)
        if known is None and action.nat is not None:
            known = self._commit(zone, seen, action.nat)
        if known is None:
            packet[f.CT_STATE] = TRACKED | NEW
            return
        if seen == known.reply:
            known.answered = True
            write(packet, known.original.reversed())
        else:
            write(packet, known.reply.reversed())
        packet[f.CT_STATE] = TRACKED | (ESTABLISHED if known.answered else NEW) | known.kind

    def _commit(self, zone: dict[Tuple5, Connection], seen: Tuple5, nat: Nat) -> Connection:
        if nat.source:
            wanted = seen._replace(source=int(nat.address))
        else:
            wanted = seen._replace(destination=int(nat.address), destination_port=nat.port)
        while wanted.reversed() in zone:
            wanted = wanted._replace(source_port=max(wanted.source_port + 1, EPHEMERAL))
        made = Connection(seen, wanted.reversed(), SNAT if nat.source else DNAT)
        zone[made.original] = zone[made.reply] = made
        return made

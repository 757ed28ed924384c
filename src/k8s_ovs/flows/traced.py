"""What `ofproto/trace` says of a packet, in the pipeline's own words: the way that it takes, and why it ends.

For `k8s-ovs trace`. Pure: the switch was asked by others (ovs-vswitchd(8), "OFPROTO COMMANDS").
"""

import re
from dataclasses import dataclass

from k8s_ovs.flows.fields import DESTINATION_VNI, SOURCE_VNI
from k8s_ovs.flows.group import NO_GROUP, GroupId
from k8s_ovs.flows.names import Drop, StageId, describe
from k8s_ovs.flows.tables import SERVICE_NEW, table_name

_STEP = re.compile(r"^ *(\d+)\. (?:.*?,? ?)priority (\d+), cookie (0x[0-9a-f]+)$", re.MULTILINE)
_OUTPUT = re.compile(r"-> output port is (\d+)|^ +(IN_PORT)$", re.MULTILINE)
_TUNNEL = re.compile(
    r"\btnl_push\(.*?ipv4\(src=[0-9.]+,dst=([0-9.]+)|\bset\(tunnel\([^)]*?\bdst=([0-9.]+)", re.DOTALL
)
_TUN_DST = re.compile(r"(?:load|set_field):(\S+?)->(?:NXM_NX_TUN_IPV4_DST\[\]|tun_dst)")
_REGISTER = re.compile(r"\bset_field:(0x[0-9a-f]+|\d+)/(0x[0-9a-f]+)->(reg\d+)")


@dataclass(frozen=True, slots=True)
class Step:
    """One flow that the packet meets: its table's name, priority, and what the flow is about."""

    table: str
    priority: int
    about: str


@dataclass(frozen=True, slots=True)
class Traced:
    """The way of a packet. `drop` is why it ended, `ports` where it went out ("IN_PORT": back to whom it came from).

    `tunnel_to` is the host that it is sent to, `source_vni` and `destination_vni` are None where the way did not get there.
    `group` is the one where a Service chooses an endpoint: the way ends there, since the switch does not tell what comes of
    a choice. `refused`: the packet is to a Service that has no endpoint.
    """

    steps: tuple[Step, ...]
    drop: Drop | None
    ports: tuple[str, ...]
    tunnel_to: str
    source_vni: int | None
    destination_vni: int | None
    group: GroupId = NO_GROUP
    refused: bool = False


def read_trace(text: str) -> Traced:
    """The way in the output of `ofproto/trace`."""
    steps, drop, group, refused = [], None, NO_GROUP, False
    for found in _STEP.finditer(text):
        number, priority, cookie = found.groups()
        meaning = describe(int(cookie, 16))
        steps.append(
            Step(table_name(int(number)), int(priority), "not ours" if meaning is None else str(meaning))
        )
        drop = None if meaning is None else meaning.drop
        if meaning is None or drop is not None or meaning.stage is not StageId.SERVICE_NEW:
            continue
        if meaning.about:
            # Of a choice by dp_hash the switch tells nothing; of another one, how it would choose for this packet only.
            group, text = GroupId(meaning.about), text[: found.end()]
            break
        # The packet begins a connection, and is not translated yet: what goes on without a group has no endpoint.
        refused |= int(number) == SERVICE_NEW.number
    vnis: dict[str, int] = {}
    for value, mask, register in _REGISTER.findall(text):
        for bits in (SOURCE_VNI, DESTINATION_VNI):
            if register == bits.field.name and int(mask, 16) & bits.mask:
                vnis[bits.name] = int(value, 0) & bits.mask
    sent = _TUN_DST.findall(text)
    pushed = next((one or other for one, other in _TUNNEL.findall(text)), "")
    return Traced(
        tuple(steps),
        drop,
        tuple(port or reserved for port, reserved in _OUTPUT.findall(text)),
        pushed or (sent[-1] if sent else ""),
        vnis.get(SOURCE_VNI.name),
        vnis.get(DESTINATION_VNI.name),
        group,
        refused,
    )

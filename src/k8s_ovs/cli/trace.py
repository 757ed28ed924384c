"""`k8s-ovs trace FROM TO[:PORT]`: the way that a pod's packet takes through this host's bridge, and why it ends.

It has the switch tell what it would do (no packet is sent) and reads the leases in OVSDB; it changes nothing.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import AddressValueError, IPv4Address

import click

from k8s_ovs.agent.settings import SwitchSettings
from k8s_ovs.cli import options
from k8s_ovs.cli.agent_settings import switch_from
from k8s_ovs.cli.drop_advice import ALARMING, BLOCKING
from k8s_ovs.cli.flows import DEADLINE, read_leases
from k8s_ovs.cli.output import columns
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.dataplane.unixctl import connect
from k8s_ovs.errors import ConfigError, OpenFlowError
from k8s_ovs.flows.group import NO_GROUP, GroupId
from k8s_ovs.flows.groupids import endpoints_in_use, groups_in_use
from k8s_ovs.flows.names import OBJECT_MASK, Drop, StageId, cookie_of
from k8s_ovs.flows.traced import Traced, read_trace
from k8s_ovs.model.records import BackendKey
from k8s_ovs.model.types import GATEWAY_OFPORT, VXLAN_OFPORT, Attachment
from k8s_ovs.runtime.logs import SILENT_VERBOSITY, LogSettings, setup_logging

CLIENT_PORT = 40000
"""The port that the packet comes from: any would do."""
_SYN = "tcp_flags=0x002"
_WHOLE_COOKIE = (1 << 64) - 1
_NOWHERE = {
    Drop.NO_SERVICE: "see which addresses, ports and protocols Services have (kubectl get services -A); none "
    "answers pings",
    Drop.NO_SUCH_HOST: "see whether the address is still somebody's (kubectl get pods -A -o wide), and whether its node has "
    "a subnet (`k8s-ovs subnet list`)",
}
"""The next step where nobody has the address."""


MOST_ENDPOINTS = 100
"""Of a Service, to which the way is traced: each costs the switch a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What the switch has said: the way of the packet, and for a Service the ways to `endpoints`, and how many are `more`."""

    way: Traced
    leases: list[Attachment]
    endpoints: Mapping[str, Traced] = field(default_factory=dict)
    more: int = 0


@click.command(context_settings=options.CONTEXT)
@click.argument("sender", metavar="NAMESPACE/POD")
@click.argument("target", metavar="TO[:PORT]")
@options.switch_options
@click.option(
    "--protocol",
    type=click.Choice(["tcp", "udp", "icmp"]),
    default="tcp",
    show_default=True,
    help="Of the packet.",
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def trace(sender: str, target: str, protocol: str, output: str, **flags: object) -> None:
    """Tell the way of a packet from a pod of this host, and if it is dropped, at which stage and why.

    TO is an address (a pod's, a Service's, or any other) or NAMESPACE/POD of a pod of this host. Without a port it is 80. To a
    Service, the way to each of its endpoints is told. What a packet to another node meets there, its node tells. No packet is
    sent; it is as if a new connection began.
    """
    setup_logging(LogSettings(verbosity=SILENT_VERBOSITY))
    settings = switch_from(dict(flags))
    place, _, port = target.partition(":")
    found = asyncio.run(_ask(settings, sender, place, _port(port, protocol), protocol))
    said = verdict(found, sender, target)
    if output == "json":
        ways = [
            {"endpoint": where, **_as_object(way), "verdict": outcome(way, found.leases)}
            for where, way in found.endpoints.items()
        ]
        click.echo(json.dumps({**_as_object(found.way), "verdict": said, "endpoints": ways}, indent=2))
        return
    rows = [("TABLE", "PRIORITY", "FLOW"), *((s.table, str(s.priority), s.about) for s in found.way.steps)]
    click.echo(f"{columns(rows)}\n\n{said}")


def _as_object(way: Traced) -> dict[str, object]:
    return {**asdict(way), "drop": way.drop and way.drop.label}


async def _ask(settings: SwitchSettings, sender: str, place: str, port: int, protocol: str) -> Answered:
    leases = await read_leases(settings)
    source = _pod(leases, sender, settings.bridge, "run this on the node of the pod that sends")
    target = _target(leases, place, settings.bridge)
    way = await _trace(settings, packet_text(source, target, port, protocol))
    if way.group == NO_GROUP:
        return Answered(way, leases)
    behind = await _endpoints(settings, way.group)
    ways = {
        f"{one.address}:{one.port}": await _trace(
            settings, packet_text(source, one.address, one.port, protocol)
        )
        for one in behind[:MOST_ENDPOINTS]
    }
    return Answered(way, leases, ways, max(0, len(behind) - MOST_ENDPOINTS))


async def _trace(settings: SwitchSettings, packet: str) -> Traced:
    what = f"trace of {packet}"
    async with connect(settings.rundir, DEADLINE, what) as control:
        answer = await control.call("ofproto/trace", settings.bridge, packet)
    if answer.refused:
        raise OpenFlowError(f"{what}: {answer.text}", remedy="see that the bridge is there")
    return read_trace(answer.text)


async def _endpoints(settings: SwitchSettings, group: GroupId) -> list[BackendKey]:
    """To which endpoints the switch translates connections that meet this group, by address."""
    switch = OfctlFlowTable(settings.management)
    begin = await switch.dump(cookie_of(StageId.SERVICE_NEW, group), _WHOLE_COOKIE)
    chosen = await switch.dump(cookie_of(StageId.ENDPOINT), ~OBJECT_MASK & _WHOLE_COOKIE)
    frontends = groups_in_use((flow.cookie, flow.match) for flow in begin)
    behind = endpoints_in_use(
        frontends, await switch.dump_groups(), ((flow.match, flow.actions) for flow in chosen)
    )
    found = {backend for frontend in frontends for backend in behind.get(frontend, ())}
    return sorted(found, key=lambda one: (one.address, one.port))


def packet_text(source: Attachment, target: IPv4Address, port: int, protocol: str) -> str:
    """The packet as `ofproto/trace` wants it: the first of a connection. A pod sends everything to its gateway's MAC."""
    parts = [
        protocol,
        f"in_port={source.ofport}",
        f"dl_src={source.mac}",
        "dl_dst=0a:58:00:00:00:01",
        f"nw_src={source.address}",
        f"nw_dst={target}",
        "nw_ttl=64",
    ]
    if protocol == "icmp":
        parts += ["icmp_type=8", "icmp_code=0"]
    else:
        parts += [f"{protocol}_src={CLIENT_PORT}", f"{protocol}_dst={port}"]
    return ",".join([*parts, _SYN] if protocol == "tcp" else parts)


def verdict(found: Answered, sender: str, target: str) -> str:
    """Where the packet ends, with the next step: one sentence, and for a Service another one for each endpoint."""
    way = found.way
    theirs = "" if way.refused else _net_id(way.destination_vni)
    who = f"{sender}{_net_id(way.source_vni)} to {target}{theirs}"
    if way.group == NO_GROUP:
        return f"{who}: {outcome(way, found.leases)}"
    if not found.endpoints:
        # The group was there when the packet was traced, and gone when it was asked for.
        return f"{who}: a Service whose endpoints change just now. Next: ask again"
    listed = ", ".join([*found.endpoints, *([f"{found.more} more"] if found.more else [])])
    lines = [f"{who}: a Service; its connections go to {listed}"]
    lines += [
        f"  {where}{_net_id(one.destination_vni)}: {outcome(one, found.leases)}"
        for where, one in found.endpoints.items()
    ]
    return "\n".join(lines)


def outcome(way: Traced, leases: list[Attachment]) -> str:
    """What becomes of the packet, with the next step."""
    if way.drop is not None:
        stage = way.steps[-1].table
        advice = BLOCKING.get(way.drop) or ALARMING.get(way.drop) or _NOWHERE.get(way.drop, "")
        text = f"dropped at stage {stage} ({way.drop.label}): {way.drop.meaning}"
        return f"{text}. Next: {advice}" if advice else text
    if way.refused:
        return (
            "a Service without endpoints: this host refuses the connection. Next: `kubectl get endpointslices -A` (does a pod "
            "fit the Service's selector, and is it Ready? with the traffic policy Local, one of this node?)"
        )
    if not way.ports:
        return "the switch tells no end of the way; is it an agent's? See `k8s-ovs status --only node`"
    port = way.ports[-1]
    if port == str(VXLAN_OFPORT):
        where = f" {way.tunnel_to}" if way.tunnel_to else ""
        return (
            f"sent through the tunnel to host{where}, which compares the tenants. Next, if it does not arrive: "
            "`k8s-ovs flows --dropped` on that host"
        )
    if port == str(GATEWAY_OFPORT):
        advice = "`ip route get` and the host's own firewall"
        return f"handed to this host, which routes it. Next, if it does not arrive: {advice}"
    pod = next((f"{one.namespace}/{one.pod}" for one in leases if str(one.ofport) == port), f"port {port}")
    return f"delivered to {pod}. Next, if nobody answers: see that the pod listens there"


def _net_id(vni: int | None) -> str:
    return "" if vni is None else f" (NetID {vni})"


def _target(leases: list[Attachment], place: str, bridge: str) -> IPv4Address:
    if "/" not in place:
        return _address(place)
    namespace = place.partition("/")[0]
    remedy = (
        "give a Service, or a pod of another node, by its address "
        f"(kubectl -n {namespace} get services,pods -o wide)"
    )
    return _pod(leases, place, bridge, remedy).address


def _pod(leases: list[Attachment], name: str, bridge: str, remedy: str) -> Attachment:
    for lease in leases:
        if f"{lease.namespace}/{lease.pod}" == name:
            return lease
    raise ConfigError(
        f"no pod {name} has a port on this host's bridge {bridge}",
        remedy=remedy,
    )


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError as err:
        raise ConfigError(
            f"{text!r} is no IPv4 address", remedy="give an address, or NAMESPACE/POD of this host"
        ) from err


def _port(text: str, protocol: str) -> int:
    if not text:
        return 80
    if protocol == "icmp" or not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise ConfigError(
            f"port {text!r} cannot be", remedy="give a number from 1 to 65535, and none for icmp"
        )
    return int(text)

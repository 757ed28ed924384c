"""`k8s-ovs trace FROM TO[:PORT]`: the way that a pod's packet takes through this host's bridge, and why it ends.

It has the switch tell what it would do (no packet is sent) and reads the leases in OVSDB; it changes nothing.
"""

import asyncio
import json
from dataclasses import asdict
from ipaddress import AddressValueError, IPv4Address

import click

from k8s_ovs.agent.settings import SwitchSettings
from k8s_ovs.cli import options
from k8s_ovs.cli.agent_settings import switch_from
from k8s_ovs.cli.flows import DEADLINE, read_leases
from k8s_ovs.cli.output import columns
from k8s_ovs.cli.status_judge import ALARMING, BLOCKING
from k8s_ovs.dataplane.unixctl import connect
from k8s_ovs.errors import ConfigError, OpenFlowError
from k8s_ovs.flows.traced import Traced, read_trace
from k8s_ovs.model.types import GATEWAY_OFPORT, VXLAN_OFPORT, Attachment
from k8s_ovs.runtime.logs import QUIET_VERBOSITY, LogSettings, setup_logging

CLIENT_PORT = 40000
"""The port that the packet comes from: any would do."""
_SYN = "tcp_flags=0x002"


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

    TO is an address (a pod's, a Service's, or any other) or NAMESPACE/POD of a pod of this host. What a packet to another node
    meets there, its node tells. No packet is sent; it is as if a new connection began.
    """
    setup_logging(LogSettings(verbosity=QUIET_VERBOSITY))
    settings = switch_from(dict(flags))
    place, _, port = target.partition(":")
    found, leases = asyncio.run(_ask(settings, sender, place, _port(port, protocol), protocol))
    said = verdict(found, sender, target, leases)
    if output == "json":
        click.echo(
            json.dumps({**asdict(found), "drop": found.drop and found.drop.label, "verdict": said}, indent=2)
        )
        return
    rows = [("TABLE", "PRIORITY", "FLOW"), *((s.table, str(s.priority), s.about) for s in found.steps)]
    click.echo(f"{columns(rows)}\n\n{said}")


async def _ask(
    settings: SwitchSettings, sender: str, place: str, port: int, protocol: str
) -> tuple[Traced, list[Attachment]]:
    leases = await read_leases(settings)
    source = _pod(leases, sender, settings.bridge)
    target = _pod(leases, place, settings.bridge).address if "/" in place else _address(place)
    packet = packet_text(source, target, port, protocol)
    what = f"trace of {packet}"
    async with connect(settings.rundir, DEADLINE, what) as control:
        answer = await control.call("ofproto/trace", settings.bridge, packet)
    if answer.refused:
        raise OpenFlowError(f"{what}: {answer.text}", remedy="see that the bridge is there")
    return read_trace(answer.text), leases


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


def verdict(found: Traced, sender: str, target: str, leases: list[Attachment]) -> str:
    """One sentence on where the packet ends, with the next step."""
    who = f"{sender}{_net_id(found.source_vni)} to {target}{_net_id(found.destination_vni)}"
    if found.drop is not None:
        stage = found.steps[-1].table
        advice = BLOCKING.get(found.drop) or ALARMING.get(found.drop, "")
        text = f"{who}: dropped at stage {stage} ({found.drop.label}): {found.drop.meaning}"
        return f"{text}. Next: {advice}" if advice else text
    if not found.ports:
        return (
            f"{who}: the switch tells no end of the way; is it an agent's? See `k8s-ovs status --only node`"
        )
    port = found.ports[-1]
    if port == str(VXLAN_OFPORT):
        where = f" {found.tunnel_to}" if found.tunnel_to else ""
        return (
            f"{who}: sent through the tunnel to host{where}, which compares the tenants. Next, if it does not arrive: "
            "`k8s-ovs flows --dropped` on that host"
        )
    if port == str(GATEWAY_OFPORT):
        advice = "`ip route get` and the host's own firewall"
        return f"{who}: handed to this host, which routes it. Next, if it does not arrive: {advice}"
    pod = next((f"{one.namespace}/{one.pod}" for one in leases if str(one.ofport) == port), f"port {port}")
    return f"{who}: delivered to {pod}. Next, if nobody answers: see that the pod listens there"


def _net_id(vni: int | None) -> str:
    return "" if vni is None else f" (NetID {vni})"


def _pod(leases: list[Attachment], name: str, bridge: str) -> Attachment:
    for lease in leases:
        if f"{lease.namespace}/{lease.pod}" == name:
            return lease
    raise ConfigError(
        f"no pod {name} has a port on this host's bridge {bridge}",
        remedy="run this on the node of the pod that sends, and give the other one by its address (kubectl get pod -o wide)",
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

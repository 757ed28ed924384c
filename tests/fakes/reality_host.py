"""A node's kernel against the records: veths, the pods' own ends, the gateway, sysctls, rules, connections, processes.

For `fakes.reality`. It changes nothing.
"""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from fakes.reality_known import Known, run
from fakes.reality_switch import BRIDGE, GATEWAY, UPLINK, unequal
from k8s_ovs.agent.attaching import NodeNetwork, link_of
from k8s_ovs.config import VXLAN_OVERHEAD
from k8s_ovs.dataplane.bridge import FirewallSpec
from k8s_ovs.dataplane.firewall import wanted_chains
from k8s_ovs.dataplane.links import NetlinkPodLinks
from k8s_ovs.dataplane.netns import call_in
from k8s_ovs.dataplane.rtnetlink import Link, Route, Rtnetlink
from k8s_ovs.dataplane.unixctl import control_socket
from k8s_ovs.errors import LinkError
from k8s_ovs.lab.cluster import UNDERLAY_BRIDGE, Node
from k8s_ovs.lab.namespaces import inode_of
from k8s_ovs.lab.processid import ProcessId
from k8s_ovs.model.records import LocalHost
from k8s_ovs.model.types import HAIRPIN_IP, Attachment, mac_of

FIXED_LINKS = ("lo", UPLINK, UNDERLAY_BRIDGE, BRIDGE, GATEWAY, "ovs-netdev")
UNDERLAY_MTU = 1500
_RULE = re.compile(r"-A (\S+) (.*)")
_ENDS = re.compile(r"\b(?:src|dst)=([0-9.]+)")


def differences(known: Known, member: Node) -> Iterator[str]:
    """What is wrong with the kernel of one node or external host, in words."""
    leases = known.leases[member.name]
    links = call_in(str(member.netns), _links)
    wanted = [*FIXED_LINKS, *(lease.host_ifname for lease in leases)]
    yield from unequal("interfaces", wanted, [link.name for link in links])
    yield from _shaped(member, leases)
    local = known.view(member).local
    if local is None:
        return
    gateway = next((link for link in links if link.name == GATEWAY), None)
    if gateway is not None:
        yield from call_in(str(member.netns), lambda: list(_gateway(local, gateway)))
    yield from _rules(known, member)
    yield from asyncio.run(_pods(member, leases, local))


def _links() -> list[Link]:
    with Rtnetlink() as kernel:
        return kernel.links()


def _shaped(member: Node, leases: tuple[Attachment, ...]) -> Iterator[str]:
    """What ovs-vswitchd has made of the QoS rows."""
    told = json.loads(run("nsenter", f"--net={member.netns}", "tc", "-j", "qdisc", "show"))
    shaped = [each["dev"] for each in told if each.get("root") and each["kind"] == "htb"]
    limited = [lease.host_ifname for lease in leases if lease.limits.ingress is not None]
    yield from unequal("interfaces with a queue (tc)", limited, shaped)


def _gateway(local: LocalHost, link: Link) -> Iterator[str]:
    """Called in the node's namespace."""
    mtu = UNDERLAY_MTU - VXLAN_OVERHEAD
    if (link.mac, link.mtu, link.up) != (mac_of(local.gateway), mtu, True):
        yield f"{GATEWAY}: {link.mac}, MTU {link.mtu}, up: {link.up}"
    with Rtnetlink() as kernel:
        addresses = [address for _, address in kernel.addresses(link)]
        routes = set(kernel.routes(link))
    if addresses != [IPv4Interface((local.gateway, local.subnet.prefixlen))]:
        yield f"{GATEWAY}: addresses are {[str(each) for each in addresses]}, not {local.gateway}"
    networks = {local.config.network, local.config.service_network, IPv4Network(HAIRPIN_IP), local.subnet}
    expected = {Route(network, source=local.gateway) for network in networks}
    if routes != expected:
        yield f"{GATEWAY}: routes are {[str(each) for each in routes]}"
    for name, value in {
        "ip_forward": "1",
        "conf/all/send_redirects": "0",
        f"conf/{GATEWAY}/send_redirects": "0",
    }.items():
        if (told := Path("/proc/sys/net/ipv4", name).read_text().strip()) != value:
            yield f"sysctl {name} is {told}"


def _rules(known: Known, member: Node) -> Iterator[str]:
    """Our chains and the jumps to them, exactly once each."""
    table, held = "", list[tuple[str, str, str]]()
    for line in run("nsenter", f"--net={member.netns}", "iptables-save").splitlines():
        table = line[1:] if line.startswith("*") else table
        if rule := _RULE.fullmatch(line):
            held.append((table, rule[1], rule[2]))
    config = known.config
    for chain in wanted_chains(FirewallSpec(config.network, config.service_network, GATEWAY)):
        rules = [text for where, name, text in held if (where, name) == (chain.table, chain.name)]
        if rules != list(chain.rules):
            yield f"chain {chain.name} of table {chain.table}: {rules}"
        jumps = [text for where, name, text in held if where == chain.table and text == f"-j {chain.name}"]
        if len(jumps) != 1:
            yield f"{len(jumps)} jumps to chain {chain.name} of table {chain.table}"


async def _pods(member: Node, leases: tuple[Attachment, ...], local: LocalHost) -> list[str]:
    """The veths, and the pods' own ends of them: address, MAC, MTU, routes, shaper."""
    network = NodeNetwork(
        local.subnet,
        local.gateway,
        local.config.network,
        UNDERLAY_MTU - VXLAN_OVERHEAD,
        checksum_offload=False,
    )
    links, found = NetlinkPodLinks(netns=str(member.netns)), []
    for lease in leases:
        who = f"pod {lease.namespace}/{lease.pod}"
        try:
            await links.check(link_of(lease, network))
            found += call_in(lease.netns, lambda who=who, lease=lease: _strays(who, lease))
        except (LinkError, OSError) as err:
            found.append(f"{who}: {err}")
    return found


def _strays(who: str, lease: Attachment) -> list[str]:
    """What a pod's namespace has too many of; called there."""
    with Rtnetlink() as kernel:
        links = {link.name: link for link in kernel.links()}
        if links.keys() != {"lo", lease.key.ifname}:
            return [f"{who}: interfaces are {sorted(links)}"]
        addresses = [address for _, address in kernel.addresses(links[lease.key.ifname])]
    if len(addresses) != 1:
        return [f"{who}: addresses are {[str(each) for each in addresses]}"]
    return []


def connections(known: Known, member: Node) -> Iterator[str]:
    """Connections that the switch tracks of addresses of the pod network which nobody has."""
    told = run("ovs-appctl", "-t", str(control_socket(member.ovs_rundir)), "dpctl/dump-conntrack")
    holders = {str(lease.address) for leases in known.leases.values() for lease in leases}
    holders |= {
        str(record.subnet.network_address + 1)
        for record in known.records.host_subnets.values()
        if record.subnet
    }
    seen = {address for line in told.splitlines() for address in _ENDS.findall(line)}
    ghosts = {text for text in seen - holders if IPv4Interface(text).ip in known.config.network}
    if ghosts:
        yield f"connections of {', '.join(sorted(ghosts))}, which nobody has"


def processes(known: Known) -> Iterator[str]:
    """Processes in the lab's namespaces that nobody of the lab has started, or that the test has not."""
    inside = {inode_of(path): path.name for path in sorted((known.cluster.directory / "netns").iterdir())}
    supervised = {state.process_id.pid for state in known.state.processes.values() if state.process_id}
    supervised |= {known.state.supervisor.pid, os.getpid()}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            where = inside.get((entry / "ns" / "net").stat().st_ino)
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            # Not one that ends just now: it must be seen twice.
            if where is None or ProcessId.of(int(entry.name)) is None or _descends(entry, supervised):
                continue
        except OSError:
            continue
        yield f"process {entry.name} in {where}: {words.strip()}"


def _descends(entry: Path, ancestors: set[int]) -> bool:
    pid = int(entry.name)
    while pid > 1:
        if pid in ancestors:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False

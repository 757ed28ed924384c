"""A node's switch against the records: flows, groups, meters, and the rows of its OVSDB.

For `fakes.reality`. What should be there is computed anew by the product's pure code, from nothing that an agent knows.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from fakes.reality_known import Known, Row, Tables, run, several
from k8s_ovs.dataplane.openflow_compare import LEARNED, Repair, Wanted
from k8s_ovs.dataplane.openflow_text import parse_flow
from k8s_ovs.flows.groupids import groups_in_use
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.lab.cluster import UNDERLAY_BRIDGE, Node
from k8s_ovs.model.types import Attachment

BRIDGE, TUNNEL, GATEWAY = "br0", "vxlan0", "tun0"
UPLINK = "eth0"
QUEUE_OF = "k8s-ovs/port"
MOST = 6
"""Differences of one kind that are told one by one."""


def differences(known: Known, member: Node) -> Iterator[str]:
    """What is wrong with the switch of one node or external host, in words."""
    yield from _openflow(known, member)
    yield from _rows(known.rows[member.name], known.leases[member.name])
    yield from _queues(known.rows[member.name], known.leases[member.name])


def _ofctl(member: Node, command: str, *more: str, stdin: str = "", fine: tuple[int, ...] = (0,)) -> str:
    target = f"unix:{member.ovs_rundir / BRIDGE}.mgmt"
    argv = ("ovs-ofctl", "-O", "OpenFlow15", "--no-names", "--timeout=15", command, target, *more)
    return run(*argv, stdin=stdin, fine=fine)


def _openflow(known: Known, member: Node) -> Iterator[str]:
    view = known.view(member)
    external = member.name in {host.name for host in known.cluster.external}
    if view.local is None and not external:
        return  # a node that has lost its host subnet keeps the flows that it had
    lines = [line for line in _ofctl(member, "dump-flows").splitlines() if " actions=" in line]
    cookie, mask = LEARNED  # those flows come and go by themselves
    dumped = [flow for flow in map(parse_flow, lines) if flow.cookie & mask != cookie]
    if view.local is None:
        if dumped:
            yield f"{len(dumped)} flows, and the host has no subnet: {dumped[:MOST]}"
        return
    groups = groups_in_use((flow.cookie, flow.match) for flow in dumped)
    shared = [number for number, times in Counter(groups.values()).items() if times > 1]
    if shared:
        yield f"groups {shared} belong to several frontends"
    desired = DesiredFlows()
    desired.adopt(groups)
    desired.update(view)
    wanted = Wanted.of(desired.all())
    text = "".join(f"{line}\n" for line in wanted.flows)
    found = _ofctl(member, "diff-flows", "/dev/stdin", stdin=text, fine=(0, 2))
    repair = Repair.of(wanted, found, _ofctl(member, "dump-groups"), _ofctl(member, "dump-meters"), LEARNED)
    for kind in ("group add", "flow delete", "flow add", "group delete"):
        due = [line for line in repair.lines if line.startswith(kind)]
        for what in due[:MOST]:
            yield f"the bridge lacks: {what}"
        if len(due) > MOST:
            yield f"the bridge lacks {len(due) - MOST} more: {kind}"
    for meter in repair.meters:
        yield f"the meter is missing or another: {meter.to_ofctl()}"
    if repair.stale_meters:
        yield f"meters {repair.stale_meters} belong to nothing"
    if "nx-match" not in _ofctl(member, "get-frags"):
        yield "fragments are not handled by nx-match"


def _rows(tables: Tables, leases: tuple[Attachment, ...]) -> Iterator[str]:
    """Bridges, ports and interfaces: one of each for what there has to be, and nothing else."""
    names = {row["_uuid"]: row["name"] for row in tables["Port"]}
    bridges = {row["name"]: row for row in tables["Bridge"]}
    if set(bridges) != {BRIDGE, UNDERLAY_BRIDGE}:
        yield f"bridges are {sorted(bridges)}"
        return
    bridge = bridges[BRIDGE]
    if several(bridge["fail_mode"]) != ["secure"] or bridge["datapath_type"] != "netdev":
        yield f"bridge {BRIDGE}: {bridge['fail_mode']}, {bridge['datapath_type']}"
    wanted = [BRIDGE, TUNNEL, GATEWAY, *(lease.host_ifname for lease in leases)]
    held = [names.get(uuid, f"? {uuid}") for uuid in several(bridge["ports"])]
    yield from unequal("ports of the bridge", wanted, held)
    everything = [*wanted, UNDERLAY_BRIDGE, UPLINK]
    yield from unequal("Port rows", everything, [row["name"] for row in tables["Port"]])
    yield from unequal("Interface rows", everything, [row["name"] for row in tables["Interface"]])
    for row in tables["Interface"]:
        number, error = row["ofport"], several(row["error"])
        fixed = {TUNNEL: 1, GATEWAY: 2}.get(row["name"])
        if not isinstance(number, int) or number <= 0 or error or fixed not in (None, number):
            yield f"interface {row['name']}: OpenFlow port {number}, error {error}"
    numbers = Counter(lease.ofport for lease in leases)
    twice = [number for number, times in numbers.items() if times > 1]
    if twice:
        yield f"OpenFlow ports {twice} belong to several pods"


def _queues(tables: Tables, leases: tuple[Attachment, ...]) -> Iterator[str]:
    """QoS and Queue rows: exactly those of the pods that have a limit towards them, with that limit."""
    limits = {lease.host_ifname: lease.limits.ingress for lease in leases if lease.limits.ingress is not None}
    qos = {row["_uuid"]: row for row in tables["QoS"]}
    queues = {row["_uuid"]: row for row in tables["Queue"]}
    used: set[str] = set()
    for port in tables["Port"]:
        for uuid in several(port["qos"]):
            used.add(uuid)
            used |= set(_references(qos[uuid]))
            if port["name"] not in limits:
                yield f"port {port['name']}: a queue without a limit"
        limit = limits.get(port["name"])
        if limit is not None and (fault := _fault(port, limit, qos, queues)):
            yield f"port {port['name']}: {fault}"
    stray = (qos.keys() | queues.keys()) - used
    if stray:
        yield f"QoS or Queue rows that nobody uses: {sorted(stray)}"


def _fault(port: Row, limit: int, qos: dict[str, Row], queues: dict[str, Row]) -> str:
    rows = [qos[uuid] for uuid in several(port["qos"])]
    if len(rows) != 1:
        return f"{len(rows)} QoS rows for a limit of {limit}"
    mine = [queues[uuid] for uuid in _references(rows[0])]
    for row in (rows[0], *mine):
        if row["other_config"].get("max-rate") != str(limit) or row["external_ids"] != {
            QUEUE_OF: port["name"]
        }:
            return f"{row['other_config']} of {row['external_ids']} for a limit of {limit}"
    return "" if len(mine) == 1 and rows[0]["type"] == "linux-htb" else f"{rows[0]} with {len(mine)} queues"


def _references(row: Row) -> list[Any]:
    return list(row["queues"].values())


def unequal(what: str, wanted: Iterable[str], held: Iterable[str]) -> Iterator[str]:
    """In words, what of `wanted` is not held, and what is held and not wanted; how often counts."""
    there, due = Counter(list(held)), Counter(list(wanted))
    if missing := sorted((due - there).elements()):
        yield f"{what}: {', '.join(missing)} missing"
    if stray := sorted((there - due).elements()):
        yield f"{what}: {', '.join(stray)} too many"

"""Writes docs/pipeline.md from the declarations: `python -m k8s_ovs.flows.docs > docs/pipeline.md`.

Run by `make docs`; a test says when the committed page is stale. It reads tables, fields, cookies and the flows of an
example node, and adds only the stories.
"""

import sys
from collections.abc import Iterable, Iterator

from k8s_ovs.flows.example import STORY, example_flows, example_groups, service_costs
from k8s_ovs.flows.fields import CT_ZONES, METADATA, Bits
from k8s_ovs.flows.group import MAX_BUCKETS
from k8s_ovs.flows.names import DROP_BIT, MAGIC, Drop, StageId, describe
from k8s_ovs.flows.stages.frontends import DP_HASH_MOST
from k8s_ovs.flows.tables import TABLES, Table, table_name

_INTRO = """\
# The pipeline

Generated from `src/k8s_ovs/flows` by `make docs`; do not edit. What each table may do is declared in `flows/tables.py`
and enforced when a flow is made; who makes the flows is in `flows/stages/`, one module per stage.

    port 1 (vxlan0) ─> tunnel ─> tunnel-in ─┐                                      ┌─ for this node ─> tenant ─┐
    port 2 (tun0) ───> gateway-in ──────────┼─> service ─> service-reply ─> route ─┤                           ├─> deliver
    a pod's port ────> pod-in ──────────────┘                                ^     └─ for another host ────────┘
                       pod-in, gateway-in: ARP ─> arp ─> back out of the     │
                       port it came from                                     │
                                                                             │
    to a Service:      service ─ct─> service-new ─> group ─ct─> hairpin ─────┤
                            with affinity: affinity, endpoint ─ct─> hairpin  │
    from an endpoint:  service-reply ─ct─────────────────────────────────────┤
    who reached itself: service-reply ─ct─> hairpin-reply ─ct────────────────┘
    a node's address:  route ─> node-port ─ct─> service-new, or on to tenant or deliver

classify comes first and sends each packet to its way in. Every table ends in a drop with a cookie of its own.
Where a packet's **tenant is decided**: tunnel-in, pod-in and gateway-in write the source VNI, route writes the
destination VNI, tenant compares. Numbers leave gaps: 50 is kept for policy on the way out, 90 for policy on the way in.
"""

_STORIES = """\
## What happens to a packet

**Pod to pod, same node.** classify: an IPv4 packet from neither tunnel nor gateway. pod-in: port, MAC and IP are those of one
pod; source VNI := the pod's. service, service-reply: no Service. route: destination VNI, port and MAC := those of the other
pod. tenant: equal, or one of them 0. deliver: out of the port.

**Pod to pod, another node.** As before up to route, which finds the other host's subnet: tunnel destination := that host,
tunnel key := source VNI, port := 1. deliver sends it into the tunnel. At the other host: tunnel knows the outer source,
tunnel-in knows that this host may send from this inner source and takes the key as source VNI; then service and service-reply
(what comes by a tunnel is for no Service), route (a local pod), tenant, deliver. So the tenants are compared once, where the
destination lives. What came by a tunnel leaves by none.

**Host to pod.** gateway-in: source VNI := 0. The rest is as for a pod. A host's own address, or a client's that a load
balancer passes through, crosses the tunnel with key 0, the only key that an inner source outside the cluster network may have.

**Pod to a Service.** service: the destination is a Service's address and port, and the source VNI one of those that may reach
it (the Service's own tenant's, or 0; two while that tenant changes; no test for a global Service and `default/kubernetes`).
conntrack, zone 1, knows the connection, translates, and the packet goes on in service-new; or it is new, and a select group
picks an endpoint, to which conntrack commits the connection. hairpin: nothing to do. From route on it is a packet to a pod
like any other, with the client's own address and the client's own VNI: at the endpoint's host tenant judges it. So
endpoints that somebody wrote by hand into another tenant stay closed, and a tenant that changes closes connections that exist.
As long as nothing is answered conntrack calls a connection new; that it is translated already shows in its state.

**The endpoint's answer.** It comes to the client's node as a pod's packet or through the tunnel, and is checked as such.
service-reply: from the address and port of an endpoint, to an address of this node: conntrack gives it the Service's address
back, if it belongs to a connection that was translated here. Only the client's node translates, both ways. ICMP errors to
this node's addresses pass conntrack as well: one that speaks of a translated connection is translated with the packet inside.
Of what conntrack takes for invalid (a segment outside the window, say), data is dropped: it is untranslated, and
the reset with which the client would answer would end the real connection.

**Affinity.** service-new asks the table affinity, which the switch fills by itself: client, Service and port name an
endpoint. The table endpoint has a flow for each endpoint of the Service: it translates, and has the switch learn (or learn
again) the choice, for as long as the affinity lasts, 65,535 s at most. Nothing learned, or no such endpoint any more: the
group chooses, by a hash of the client's address alone, so that connections that begin at once agree. The agent never removes
what was learned.

**A pod that reaches itself through its Service.** Nobody answers his own address. hairpin: source and destination are the same:
the source becomes 169.254.169.253, in conntrack zone 2, because a connection has one translation in a zone. The answer to that
address: service-reply, zone 2, the pod's own address as destination; hairpin-reply, zone 1, the Service's address as source.

**Host to a Service.** The host has a route for the Service network to the gateway. As for a pod, with VNI 0. Where the endpoint
is the host itself, another host, or outside, the packet has to go back to the host: again as 169.254.169.253, which the host
sends back to the gateway, and translates itself if the packet leaves it.

**A Service without endpoints.** The new connection goes to the host as it is (a host's own as 169.254.169.253). The host's
rules refuse what comes from the gateway to a Service's address: TCP with a reset, all else with ICMP port unreachable. So it is
refused at once, also while the agent is down.

**Node port.** A pod's packet to a node's address: route finds the way, node-port asks whether it is a Service's node port. If
so it is translated here, like one to the Service's address, with the pod's own identity; else it goes to that node, through
the tunnel if it is another, with the pod's own address. So a pod reaches no node port as a host, and nodes see pods as pods.

**An endpoint that leaves.** From the commit on it is in no group. Its TCP connections may go on: the flow that has its answers
translated back stays, until there was no answer for 600 s. Its UDP connections are forgotten.

**External addresses.** As the Service's own, but only for pods of the Service's tenant (for all, if that is global): for all
others, the global ones too, the address stays what it is. Who may make a Service must not be able to take over what the
rest of the cluster finds outside of it. One inside the cluster network is refused: no Service can take over a pod's address.

**Fragments to and from Services.** Conntrack puts a datagram together, so all its fragments have to pass there: those to the
Service network, and those from the address of a UDP endpoint. On the userspace datapath the first datagram of a connection
must not be fragmented: its later fragments show no port, and find no group. Those after it may be.

**What remains.** A client that talks to a pod directly and, at the same time, from the same port of its own, to a Service whose
endpoint is the same port of that pod: conntrack has seen only one of the two, and takes the answers of both for that.

**Pod to the outside.** route: neither local nor in the cluster network; port := 2 and MAC := the gateway's. The host routes
it and gives it the node's address. The answer comes back through gateway-in.

**A pod's packet that comes back through the host**: gateway-in finds the pod's address and gives it
the pod's own VNI again. Passing through the host wins nothing.

**ARP.** pod-in has checked sender IP and MAC; arp turns the question into the answer (0a:58 and the address asked for)
and sends it back. A question for the pod's own address gets no answer, so that duplicate detection works. Nothing crosses
a tunnel. The host is answered for pods and Services alike, also when it asks with another address of its own than the
gateway's.

**VXLAN made by a pod.** UDP port 4789 is dropped in pod-in. A translation could make such a packet later; so deliver drops it
once more on its way to the host, where nothing of ours translates it any further. (What the *host* translates after that,
for a node port say, the host's own rules have to stop.) Fragments: in the switch's mode `nx-match` the first one shows
its port and is dropped, and the others never become a datagram; in the mode `normal` it shows port 0, and deliver
drops it as `hidden-port-to-host`, whatever its port.

**VLAN tags, IPv6, other protocols.** Dropped in classify, each with its own counter.
"""


def page() -> str:
    """The whole page."""
    facts = [_tables(), _stages_in_detail(), _bits(), _cookies(), _drops(), _costs()]
    parts = [_INTRO, *facts, _STORIES, _example()]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _rows(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(header)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _tables() -> str:
    rows = ([str(table.number), table.name, table.decides, table.filled] for table in TABLES.values())
    return "## Tables\n\n" + _rows(["number", "name", "decides", "filled per"], rows)


def _stages_in_detail() -> str:
    return "## What each table may do\n\n" + "\n\n".join(map(_table, TABLES.values()))


def _table(table: Table) -> str:
    lines = [
        f"### {table.number} {table.name}",
        "",
        f"- matches: {_names(table.matches)}",
        f"- sets: {_names(table.sets)}",
        f"- goes on in: {', '.join(map(table_name, table.next)) or 'nothing, it is the end'}",
        *_connections(table),
        f"- outputs: {'yes' if table.outputs else 'no'}",
        *(["- meters"] if table.meters else []),
        f"- drops what is left as `{table.miss.label}`: {table.miss.meaning}",
    ]
    return "\n".join(lines)


def _connections(table: Table) -> Iterator[str]:
    zones = {number: name for name, number in CT_ZONES.items()}
    if table.tracked:
        through = ", ".join(zones[zone] for zone in table.zones)
        yield f"- goes on through conntrack (zone {through}) in: {', '.join(map(table_name, table.tracked))}"
    if table.calls:
        yield f"- asks: {', '.join(map(table_name, table.calls))}"
    if table.learns:
        yield f"- has the switch learn flows of: {', '.join(map(table_name, table.learns))}"
    if table.groups:
        yield "- uses groups: yes"


def _names(bits: Iterable[Bits]) -> str:
    return ", ".join(f"{item.name}" for item in bits) or "nothing"


def _bits() -> str:
    rows = ([item.name, item.nxm, str(item.width), item.meaning] for item in METADATA)
    text = "## Registers and marks\n\n" + _rows(["name", "where", "bits", "meaning"], rows)
    zones = ", ".join(f"{number} ({name})" for name, number in CT_ZONES.items())
    return f"{text}\n\nConntrack zones: {zones}. Only packets of Services pass through them."


def _cookies() -> str:
    stages = ", ".join(f"{int(stage)} {stage.label}" for stage in StageId)
    return "\n".join(
        [
            "## Cookies",
            "",
            _rows(
                ["bits", "meaning"],
                [
                    ["63..48", f"{MAGIC:#x}: the flow is ours"],
                    ["47", f"the flow drops ({DROP_BIT:#x})"],
                    ["46..32", f"stage: {stages}"],
                    [
                        "31..0",
                        "reason of the drop; else an IPv4 address of a pod, host, Service or endpoint, a tenant's VNI, "
                        "a group's id (service-new), or 0",
                    ],
                ],
            ),
        ]
    )


def _drops() -> str:
    rows = ([str(int(reason)), f"`{reason.label}`", reason.meaning] for reason in Drop)
    return "## Why packets are dropped\n\n" + _rows(["number", "name", "a packet"], rows)


def _costs() -> str:
    rows = ([cost.what, str(cost.flows), str(cost.groups)] for cost in service_costs())
    more = (
        f"A group has at most {MAX_BUCKETS} endpoints; one with more chooses among further groups, one for each\n"
        f"{MAX_BUCKETS} begun. They choose by dp_hash up to {DP_HASH_MOST} endpoints, by hash above and\nwith affinity."
    )
    table = _rows(["what", "flows", "groups"], rows)
    return f"## What a Service costs\n\nOn each node, whoever its clients are:\n\n{table}\n\n{more}"


def _example() -> str:
    groups = [f"    {group.to_ofctl()}" for group in example_groups()]
    flows = ["## The flows of an example node", "", STORY, "", *_example_tables()]
    return "\n".join([*flows, "groups:", "", *groups])


def _example_tables() -> Iterator[str]:
    flows = example_flows()
    for number, table in TABLES.items():
        yield f"{table.name}:\n"
        for flow in flows:
            if flow.table == number:
                meaning = describe(flow.cookie)
                reason = (
                    f"   # {meaning.drop.label}" if meaning is not None and meaning.drop is not None else ""
                )
                yield f"    {flow.selector()} actions={flow.actions_text()}{reason}"
        yield ""


if __name__ == "__main__":
    sys.stdout.write(page())

"""Writes docs/pipeline.md from the declarations: `python -m k8s_ovs.flows.docs > docs/pipeline.md`.

Run by `make docs`; a test says when the committed page is stale. It reads tables, fields, cookies and the flows of an
example node, and adds only the stories.
"""

import sys
from collections.abc import Iterable, Iterator

from k8s_ovs.flows.example import STORY, example_flows
from k8s_ovs.flows.fields import CT_ZONES, METADATA, Bits
from k8s_ovs.flows.names import DROP_BIT, MAGIC, Drop, StageId, describe
from k8s_ovs.flows.tables import TABLES, Table, table_name

_INTRO = """\
# The pipeline

Generated from `src/k8s_ovs/flows` by `make docs`; do not edit. What each table may do is declared in `flows/tables.py`
and enforced when a flow is made; who makes the flows is in `flows/stages/`, one module per stage.

    port 1 (vxlan0) ─> tunnel ─> tunnel-in ─┐                     ┌─ for this node ─> tenant ─┐
    port 2 (tun0) ───> gateway-in ──────────┼─> service ─> route ─┤                           ├─> deliver ─> a port
    a pod's port ────> pod-in ──────────────┘                     └─ for another host ────────┘
                       pod-in, gateway-in: ARP ─> arp ─> back out of the port it came from

classify comes first and sends each packet to its way in. Every table ends in a drop with a cookie of its own.
Where a packet's **tenant is decided**: tunnel-in, pod-in and gateway-in write the source VNI, route writes the
destination VNI, tenant compares. Numbers leave gaps: 50 is kept for policy on the way out, 90 for policy on the way in.
"""

_STORIES = """\
## What happens to a packet

**Pod to pod, same node.** classify: an IPv4 packet from neither tunnel nor gateway. pod-in: port, MAC and IP are those of
one pod; source VNI := the pod's. service: no Service. route: destination VNI, port and MAC := those of the other pod.
tenant: equal, or one of them 0. deliver: out of the port.

**Pod to pod, another node.** As before up to route, which finds the other host's subnet: tunnel destination := that host,
tunnel key := source VNI, port := 1. deliver sends it into the tunnel. At the other host: tunnel knows the outer source,
tunnel-in knows that this host may send from this inner source and takes the key as source VNI; then service, route (a
local pod), tenant, deliver. So the tenants are compared once, where the destination lives. What came by a tunnel leaves
by none.

**Host to pod.** gateway-in: source VNI := 0. The rest is as for a pod. A host's own address, or a client's that a load
balancer passes through, crosses the tunnel with key 0, the only key that an inner source outside the cluster network may have.

**Pod to the outside.** route: neither local nor in the cluster network; port := 2 and MAC := the gateway's. The host routes
it and gives it the node's address. The answer comes back through gateway-in.

**A pod's packet that comes back through the host** (it went to a node port): gateway-in finds the pod's address and gives it
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
    parts = [_INTRO, _tables(), _stages_in_detail(), _bits(), _cookies(), _drops(), _STORIES, _example()]
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
        f"- outputs: {'yes' if table.outputs else 'no'}",
        *(["- meters"] if table.meters else []),
        f"- drops what is left as `{table.miss.label}`: {table.miss.meaning}",
    ]
    return "\n".join(lines)


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
                        "reason of the drop; else a pod's or host's IPv4 address, a tenant's VNI, or 0",
                    ],
                ],
            ),
        ]
    )


def _drops() -> str:
    rows = ([str(int(reason)), f"`{reason.label}`", reason.meaning] for reason in Drop)
    return "## Why packets are dropped\n\n" + _rows(["number", "name", "a packet"], rows)


def _example() -> str:
    return "\n".join(["## The flows of an example node", "", STORY, "", *_example_tables()])


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

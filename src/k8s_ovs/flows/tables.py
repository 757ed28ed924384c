"""The tables of the bridge: each declared once, and the declaration enforced.

The stages (`flows.stages`) make every flow through `Table.flow` or `Table.drop`, which refuse what the table does not
declare: a match, a field written, a next table, an output. So this file can be trusted as the map of the pipeline.
A new stage is a Table here and a module in `flows.stages`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from k8s_ovs.errors import PipelineError
from k8s_ovs.flows import fields as f
from k8s_ovs.flows.fields import Bits, Field
from k8s_ovs.flows.flow import (
    Action,
    Ct,
    Flow,
    Goto,
    GroupAction,
    Learn,
    MeterAction,
    Move,
    Output,
    OutputInPort,
    Resubmit,
    SetField,
    match_of,
)
from k8s_ovs.flows.group import Bucket, Group, GroupId
from k8s_ovs.flows.names import Drop, StageId, cookie_of, drop_cookie

Wanted = Iterable[tuple[Bits, int]]
"""A match as the stages write it: bits and the value they have to have."""

TOP_PRIORITY = 0xFFFF


@dataclass(frozen=True, slots=True)
class Table:
    """One table. `next` holds table numbers; `miss` names the drop at its end; `filled` says what its flows grow with.

    `tracked` are the tables where packets go on that conntrack, in one of `zones`, has looked at; they may be earlier
    ones. `calls` are the tables that it uses by resubmit, `learns` those that get flows which the switch learns.
    """

    number: int
    name: str
    stage: StageId
    decides: str
    filled: str
    miss: Drop
    matches: tuple[Bits, ...] = ()
    sets: tuple[Bits, ...] = ()
    next: tuple[int, ...] = ()
    outputs: bool = False
    tracked: tuple[int, ...] = ()
    zones: tuple[int, ...] = ()
    calls: tuple[int, ...] = ()
    learns: tuple[int, ...] = ()
    groups: bool = False
    meters: bool = False
    _matchable: Mapping[Field, int] = field(init=False, repr=False, compare=False)
    _settable: Mapping[Field, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """What may be matched and set, as one mask for each field: each flow is checked against that."""
        object.__setattr__(self, "_matchable", _masks(self.matches))
        object.__setattr__(self, "_settable", _masks(self.sets))

    def flow(self, priority: int, match: Wanted, actions: Sequence[Action], *, about: int = 0) -> Flow:
        """A flow that lets packets go on; `about` is the object's number for the cookie. Raises PipelineError."""
        cookie = cookie_of(self.stage, about)
        flow = Flow(self.number, priority, match_of(match), tuple(actions), cookie)
        if not flow.actions:
            raise self._error(flow, "has no actions: use drop() and name the reason")
        return self._checked(flow)

    def drop(self, priority: int, match: Wanted, reason: Drop) -> Flow:
        """A flow that drops for a reason with a name. Raises PipelineError."""
        return self._checked(
            Flow(self.number, priority, match_of(match), (), drop_cookie(self.stage, reason))
        )

    def group(self, number: GroupId, method: str, buckets: Iterable[Bucket]) -> Group:
        """A group for flows of this table; its buckets may do what those may. Raises PipelineError."""
        group = Group(number, method, tuple(buckets))
        for bucket in group.buckets:
            self._checked(Flow(self.number, TOP_PRIORITY, (), bucket.actions))
        return group

    def end(self) -> Flow:
        """The drop at the end of the table."""
        return Flow(self.number, 0, (), (), drop_cookie(self.stage, self.miss))

    def _checked(self, flow: Flow) -> Flow:
        if not 0 < flow.priority <= TOP_PRIORITY:
            raise self._error(flow, f"has priority {flow.priority}; 0 is the table's end")
        self._check_match(flow)
        for action in flow.actions:
            self._check_action(flow, action)
        return flow

    def _check_match(self, flow: Flow) -> None:
        for tested, _, mask in flow.match:
            if undeclared := mask & ~self._matchable.get(tested, 0):
                raise self._error(flow, f"may not match {tested.name} (bits {undeclared:#x})")
            if tested.ethertype:
                _check_protocol(self, flow, tested)

    def _check_action(self, flow: Flow, action: Action) -> None:
        match action:
            case SetField(bits, value):
                bits.place(value)
                self._check_set(flow, bits)
            case Move(source, target):
                if source.width != target.width:
                    raise self._error(flow, f"copies {source.width} bits of {source.name} to {target.width}")
                self._check_set(flow, target)
            case Goto(number):
                if number not in self.next or number <= self.number:
                    raise self._error(flow, f"may not go to table {number}")
                if action is not flow.actions[-1]:
                    raise self._error(flow, f"goes to table {number} before its last action")
            case Output() | OutputInPort():
                if not self.outputs:
                    raise self._error(flow, "may not output")
            case MeterAction():
                if not self.meters or action is not flow.actions[0]:
                    raise self._error(flow, "may not meter" if not self.meters else "meters too late")
            case _:
                self._check_connection(flow, action)

    def _check_connection(self, flow: Flow, action: Ct | GroupAction | Resubmit | Learn) -> None:
        """What translates connections and chooses endpoints."""
        if isinstance(action, Ct | GroupAction) and action is not flow.actions[-1]:
            raise self._error(flow, f"goes on behind {action}")
        match action:
            case Ct(zone, table):
                if table not in self.tracked or zone not in self.zones:
                    raise self._error(flow, f"may not go to table {table} through conntrack zone {zone}")
            case GroupAction():
                if not self.groups:
                    raise self._error(flow, "may not use a group")
            case Resubmit(table):
                if table not in self.calls:
                    raise self._error(flow, f"may not use table {table}")
            case Learn(table):
                if table not in self.learns:
                    raise self._error(flow, f"may not learn into table {table}")

    def _check_set(self, flow: Flow, bits: Bits) -> None:
        if bits.mask & ~self._settable.get(bits.field, 0):
            raise self._error(flow, f"may not set {bits.name} ({bits.field.name})")
        if bits.field.ethertype:
            _check_protocol(self, flow, bits.field)

    def _error(self, flow: Flow, what: str) -> PipelineError:
        return PipelineError(f"table {self.name}: flow {what}: {flow}")


def _masks(declared: Iterable[Bits]) -> dict[Field, int]:
    masks: dict[Field, int] = {}
    for bits in declared:
        masks[bits.field] = masks.get(bits.field, 0) | bits.mask
    return masks


def _check_protocol(table: Table, flow: Flow, field: Field) -> None:
    """Open vSwitch ignores or refuses a test of a field that the packet need not have; here it is always an error."""
    needed = [(f.ETH_TYPE, field.ethertype), (f.IP_PROTO, field.protocol)]
    if any(value and (kind, value, kind.full) not in flow.match for kind, value in needed):
        raise PipelineError(f"table {table.name}: flow uses {field.name} without its protocol: {flow}")


_DELIVER = 100
_TENANT = 80
_NODE_PORT = 75
_ROUTE = 70
_HAIRPIN = 68
_HAIRPIN_REPLY = 66
_ENDPOINT = 64
_AFFINITY = 63
_SERVICE_NEW = 62
_SERVICE_REPLY = 61
_SERVICE = 60
_ARP = 40
_GATEWAY_IN = 30
_POD_IN = 20
_TUNNEL_IN = 15
_TUNNEL = 10

CLASSIFY = Table(
    number=0,
    name="classify",
    stage=StageId.CLASSIFY,
    decides="where the packet came from: tunnel, gateway or pod; only untagged IPv4 and ARP go on",
    filled="fixed",
    miss=Drop.UNKNOWN_PROTOCOL,
    matches=(f.IN_PORT.whole, f.TAGGED, f.ETH_TYPE.whole),
    next=(_TUNNEL, _POD_IN, _GATEWAY_IN),
)
TUNNEL = Table(
    number=_TUNNEL,
    name="tunnel",
    stage=StageId.TUNNEL,
    decides="whether the outer source is a host of the cluster",
    filled="remote host",
    miss=Drop.TUNNEL_UNKNOWN_HOST,
    matches=(f.ETH_TYPE.whole, f.TUN_SRC.whole),
    next=(_TUNNEL_IN,),
)
TUNNEL_IN = Table(
    number=_TUNNEL_IN,
    name="tunnel-in",
    stage=StageId.TUNNEL,
    decides="whether that host may send with this inner source and key; the tenant is the key",
    filled="remote host",
    miss=Drop.TUNNEL_FOREIGN_KEY,
    matches=(f.ETH_TYPE.whole, f.TUN_SRC.whole, f.TUN_ID.whole, f.IP_SRC.whole),
    sets=(f.SOURCE_VNI, f.ORIGIN),
    next=(_SERVICE,),
)
POD_IN = Table(
    number=_POD_IN,
    name="pod-in",
    stage=StageId.POD_IN,
    decides="whether port, MAC and IP belong to one pod and it keeps to its bandwidth; the tenant is the pod's",
    filled="local pod",
    miss=Drop.POD_OTHER,
    matches=(
        *(
            f.IN_PORT.whole,
            f.ETH_SRC.whole,
            f.ETH_TYPE.whole,
            f.IP_SRC.whole,
            f.IP_PROTO.whole,
            f.UDP_DST.whole,
        ),
        *(f.ARP_SPA.whole, f.ARP_TPA.whole, f.ARP_SHA.whole),
    ),
    sets=(f.SOURCE_VNI, f.ORIGIN),
    next=(_ARP, _SERVICE),
    meters=True,
)
GATEWAY_IN = Table(
    number=_GATEWAY_IN,
    name="gateway-in",
    stage=StageId.GATEWAY_IN,
    decides="the tenant: 0 for the host, the pod's own for a local pod's packet that comes back through the host",
    filled="local pod",
    miss=Drop.GATEWAY_OTHER,
    matches=(f.ETH_TYPE.whole, f.IP_SRC.whole, f.ARP_SPA.whole, f.ARP_TPA.whole),
    sets=(f.SOURCE_VNI, f.ORIGIN),
    next=(_ARP, _SERVICE),
)
ARP = Table(
    number=_ARP,
    name="arp",
    stage=StageId.ARP,
    decides="the answer to ARP: every address of the cluster has the MAC 0a:58 followed by the address",
    filled="fixed",
    miss=Drop.ARP_OUTSIDE_NETWORK,
    matches=(f.ETH_TYPE.whole, f.ARP_OP.whole, f.ARP_TPA.whole, f.ORIGIN),
    sets=(
        *(f.ETH_SRC.whole, f.ETH_DST.whole, f.ARP_OP.whole, f.ARP_SPA.whole, f.ARP_TPA.whole),
        *(f.ARP_SHA.whole, f.ARP_THA.whole, f.ARP_SWAP),
    ),
    outputs=True,
)
_PORTS = tuple(field.whole for field in f.DESTINATION_PORT.values())
_FRONTEND = (f.ETH_TYPE.whole, f.IP_PROTO.whole, f.IP_DST.whole, *_PORTS)
SERVICE = Table(
    number=_SERVICE,
    name="service",
    stage=StageId.SERVICE,
    decides="whether the destination is a Service, and whether the packet's tenant may reach it",
    filled="address and port of a Service",
    miss=Drop.SERVICE_OTHER,
    matches=(*_FRONTEND, f.IP_FRAG.whole, f.SOURCE_VNI, f.ORIGIN),
    next=(_SERVICE_REPLY,),
    tracked=(_SERVICE_NEW,),
    zones=(f.SERVICE_ZONE,),
)
SERVICE_REPLY = Table(
    number=_SERVICE_REPLY,
    name="service-reply",
    stage=StageId.SERVICE_REPLY,
    decides="whether it may be an endpoint's answer to a client of this node: then conntrack translates it back",
    filled="endpoint",
    miss=Drop.SERVICE_OTHER,
    matches=(
        *(
            f.ETH_TYPE.whole,
            f.IP_PROTO.whole,
            f.IP_SRC.whole,
            f.IP_DST.whole,
            f.IP_FRAG.whole,
            f.ICMP_TYPE.whole,
        ),
        *(field.whole for field in f.SOURCE_PORT.values()),
    ),
    next=(_ROUTE,),
    tracked=(_ROUTE, _HAIRPIN_REPLY),
    zones=(f.SERVICE_ZONE, f.HAIRPIN_ZONE),
)
SERVICE_NEW = Table(
    number=_SERVICE_NEW,
    name="service-new",
    stage=StageId.SERVICE_NEW,
    decides="whether the connection is known and translated already; a new one gets an endpoint, if there is one",
    filled="address and port of a Service",
    miss=Drop.NO_SERVICE,
    matches=(*_FRONTEND, f.CT_NEW, f.CT_INVALID, f.CT_TRACKED, f.CT_DNAT),
    sets=(f.ENDPOINT, f.CHOICE),
    next=(_ENDPOINT, _HAIRPIN),
    tracked=(_HAIRPIN,),
    zones=(f.SERVICE_ZONE,),
    calls=(_AFFINITY, _ENDPOINT),
    groups=True,
)
AFFINITY = Table(
    number=_AFFINITY,
    name="affinity",
    stage=StageId.SERVICE_NEW,
    decides="which endpoint the client had last; the switch learns that by itself",
    filled="fixed; client of a Service with affinity, for as long as that lasts",
    miss=Drop.SERVICE_ENDPOINT,
    matches=(f.ETH_TYPE.whole,),
    sets=(f.CHOICE,),
)
ENDPOINT = Table(
    number=_ENDPOINT,
    name="endpoint",
    stage=StageId.ENDPOINT,
    decides="whether the client's endpoint is still there; else it gets another one",
    filled="address and port of a Service with affinity, and its endpoints",
    miss=Drop.SERVICE_ENDPOINT,
    matches=(*_FRONTEND, f.ENDPOINT, f.CHOICE),
    tracked=(_HAIRPIN,),
    zones=(f.SERVICE_ZONE,),
    learns=(_AFFINITY,),
    groups=True,
)
HAIRPIN_REPLY = Table(
    number=_HAIRPIN_REPLY,
    name="hairpin-reply",
    stage=StageId.HAIRPIN,
    decides="whether it answers somebody who reached itself; then conntrack translates it back once more",
    filled="fixed",
    miss=Drop.HAIRPIN_UNKNOWN,
    matches=(f.ETH_TYPE.whole, f.IP_PROTO.whole, f.IP_SRC.whole, f.CT_NEW, f.CT_INVALID, f.CT_TRACKED),
    sets=(f.IP_SRC.whole,),
    tracked=(_ROUTE,),
    zones=(f.SERVICE_ZONE,),
)
HAIRPIN = Table(
    number=_HAIRPIN,
    name="hairpin",
    stage=StageId.HAIRPIN,
    decides="whether the client has reached itself: it would not answer its own address, and gets another one",
    filled="endpoint on this host",
    miss=Drop.HAIRPIN_OTHER,
    matches=(f.ETH_TYPE.whole, f.IP_SRC.whole, f.IP_DST.whole, f.ORIGIN),
    next=(_ROUTE,),
    tracked=(_ROUTE,),
    zones=(f.HAIRPIN_ZONE,),
)
ROUTE = Table(
    number=_ROUTE,
    name="route",
    stage=StageId.ROUTE,
    decides="the way: local pod, gateway, tunnel to another host, or outside through the gateway",
    filled="local pod, remote host",
    miss=Drop.OUTSIDE_NOT_FROM_POD,
    matches=(
        *(f.ETH_TYPE.whole, f.IP_SRC.whole, f.IP_DST.whole, f.ORIGIN),
        *(f.IP_PROTO.whole, f.TCP_DATA, f.CT_INVALID, f.CT_TRACKED),
    ),
    sets=(
        *(f.DESTINATION_VNI, f.SECOND_VNI, f.HAS_SECOND_VNI, f.OUTPUT_PORT),
        *(f.ETH_DST.whole, f.TUN_SRC.whole, f.TUN_DST.whole, f.TUNNEL_KEY),
    ),
    next=(_NODE_PORT, _TENANT, _DELIVER),
)
NODE_PORT = Table(
    number=_NODE_PORT,
    name="node-port",
    stage=StageId.NODE_PORT,
    decides="whether a pod's packet to a node is for a Service's node port; else it goes to that node",
    filled="node port of a Service",
    miss=Drop.NODE_PORT_OTHER,
    matches=(f.ETH_TYPE.whole, f.IP_PROTO.whole, *_PORTS, f.SOURCE_VNI, f.OUTPUT_PORT, f.CT_TRACKED),
    next=(_TENANT, _DELIVER),
    tracked=(_SERVICE_NEW,),
    zones=(f.SERVICE_ZONE,),
)
TENANT = Table(
    number=_TENANT,
    name="tenant",
    stage=StageId.TENANT,
    decides="at the destination's host: whether source and destination are one tenant, or one of them is global",
    filled="tenant present on this host",
    miss=Drop.TENANT_MISMATCH,
    matches=(f.SOURCE_VNI, f.DESTINATION_VNI, f.SECOND_VNI, f.HAS_SECOND_VNI),
    next=(_DELIVER,),
)
DELIVER = Table(
    number=_DELIVER,
    name="deliver",
    stage=StageId.DELIVER,
    decides="nothing: the packet goes out (VXLAN to the host excepted, also after translation)",
    filled="fixed",
    miss=Drop.DELIVER_OTHER,
    matches=(f.ETH_TYPE.whole, f.IP_PROTO.whole, f.IP_FRAG.whole, f.UDP_DST.whole, f.OUTPUT_PORT),
    sets=(f.IN_PORT.whole,),
    outputs=True,
)

TABLES: dict[int, Table] = {
    table.number: table
    for table in (
        *(
            CLASSIFY,
            TUNNEL,
            TUNNEL_IN,
            POD_IN,
            GATEWAY_IN,
            ARP,
            SERVICE,
            SERVICE_REPLY,
            SERVICE_NEW,
            AFFINITY,
        ),
        *(ENDPOINT, HAIRPIN_REPLY, HAIRPIN, ROUTE, NODE_PORT, TENANT, DELIVER),
    )
}
"""Every table by number. 50 stays free for policy on the way out, 90 for policy on the way in."""


def goto(table: Table) -> Goto:
    """The action that goes on in `table`."""
    return Goto(table.number)


def table_name(number: int) -> str:
    """The name of a table that people see; the number itself for one that is not ours."""
    table = TABLES.get(number)
    return table.name if table is not None else str(number)

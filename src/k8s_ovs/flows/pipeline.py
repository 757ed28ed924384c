"""From records to flows: what the bridge should hold, and what has to change for that.

Used by the agent's reconciler: a NodeView says what changed, `DesiredFlows.update` answers with the modifications
for one commit. The flows themselves come from `flows.stages`. Nothing here talks to a switch.
"""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from itertools import chain
from types import MappingProxyType

from k8s_ovs.flows.diff import Item, ItemIdentity, Mod, add, delete, in_order
from k8s_ovs.flows.group import NO_GROUP, GroupId
from k8s_ovs.flows.groupids import GroupIds
from k8s_ovs.flows.leaving import Forgotten, farewell
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.stages.arp import Arp
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.stages.classify import Classify
from k8s_ovs.flows.stages.deliver import Deliver
from k8s_ovs.flows.stages.gateway_in import GatewayIn
from k8s_ovs.flows.stages.hairpin import Hairpin
from k8s_ovs.flows.stages.node_port import NodePort
from k8s_ovs.flows.stages.pod_in import PodIn
from k8s_ovs.flows.stages.route import Route
from k8s_ovs.flows.stages.service import Service
from k8s_ovs.flows.stages.service_new import ServiceNew
from k8s_ovs.flows.stages.service_reply import ServiceReply
from k8s_ovs.flows.stages.tenant import Tenant
from k8s_ovs.flows.stages.tunnel import Tunnel
from k8s_ovs.flows.tables import CLASSIFY, TABLES
from k8s_ovs.model.records import (
    LOCAL_HOST,
    Backend,
    BackendKey,
    Frontend,
    FrontendKey,
    LocalHost,
    LocalPod,
    RemoteHost,
    TenantPresent,
    ViewKey,
    ViewRecord,
    key_order,
)
from k8s_ovs.model.view import NodeView

STAGES: tuple[Stage, ...] = (
    Classify(),
    Tunnel(),
    PodIn(),
    GatewayIn(),
    Arp(),
    Service(),
    ServiceReply(),
    ServiceNew(),
    Hairpin(),
    Route(),
    NodePort(),
    Tenant(),
    Deliver(),
)
"""Every stage, in the order in which a packet meets them."""


def flows_of(
    key: ViewKey, record: ViewRecord | None, local: LocalHost | None, group: GroupId = NO_GROUP
) -> tuple[Item, ...]:
    """The flows, groups and meters of one object; `group` is a frontend's.

    The node itself has some even before it has a subnet: they drop, and say why.
    """
    if key == LOCAL_HOST:
        return tuple(_node_flows(local))
    if local is None or record is None:
        return ()
    return tuple(chain.from_iterable(_by_stage(record, local, group)))


def _by_stage(record: ViewRecord, local: LocalHost, group: GroupId) -> Iterator[Iterable[Item]]:
    match record:
        case LocalHost():
            return (stage.node(record) for stage in STAGES)
        case LocalPod():
            return (stage.pod(local, record) for stage in STAGES)
        case RemoteHost():
            return (stage.remote_host(local, record) for stage in STAGES)
        case TenantPresent():
            return (stage.tenant(local, record) for stage in STAGES)
        case Frontend():
            return (stage.frontend(local, record, group) for stage in STAGES)
        case Backend():
            return (stage.backend(local, record) for stage in STAGES)


def _node_flows(local: LocalHost | None) -> Iterator[Item]:
    for table in TABLES.values():
        yield table.end()
    if local is None:
        yield CLASSIFY.drop(1, (), Drop.NOT_READY)
        return
    for stage in STAGES:
        yield from stage.node(local)


class DesiredFlows:
    """What the bridge should hold, by the object that wants it: flows, and the groups and meters that they use.

    Should two objects want one of the same identity, the one whose key comes first (`key_order`) gets it, whoever
    came first in time.
    """

    def __init__(self) -> None:
        self._local: LocalHost | None = None
        self._by_key: dict[ViewKey, dict[ItemIdentity, Item]] = {}
        self._claims: dict[ItemIdentity, dict[ViewKey, Item]] = {}
        self._groups = GroupIds()
        self._forgotten = Forgotten()

    def __len__(self) -> int:
        return len(self._claims)

    def update(self, view: NodeView, dirty: Iterable[ViewKey] | None = None) -> list[Mod]:
        """Compute the flows of the dirty keys again (None: of all); return the differences in order, each identity once.

        A change of the node itself makes every key dirty without being told.
        """
        keys = set(dirty) if dirty is not None else set(view.keys())
        if dirty is None or view.local != self._local or not self._by_key:
            keys |= view.keys() | set(self._by_key) | self._forgotten.frontends
            self._local = view.local
        before: dict[ItemIdentity, Item | None] = {}
        for key in sorted(keys, key=key_order):
            wanted = {item.identity: item for item in self._items(key, view)}
            self._replace(key, wanted, before)
        return self._mods(before)

    def adopt(
        self,
        groups: Mapping[FrontendKey, GroupId],
        endpoints: Mapping[FrontendKey, frozenset[BackendKey]] = MappingProxyType({}),
    ) -> None:
        """What the switch holds (see `flows.groupids`): frontends keep their groups. Before the first update.

        Of their `endpoints`, those that are none any more are forgotten.
        """
        self._groups.adopt(groups)
        self._forgotten.adopt(endpoints)

    def groups(self) -> dict[FrontendKey, GroupId]:
        """The group of every frontend."""
        return self._groups.given()

    def take_forgotten(self) -> frozenset[tuple[IPv4Address, int, int]]:
        """UDP endpoints that left their Service since this was asked last: (address, IP protocol, port).

        Once the modifications are committed, what conntrack knows of them is to be forgotten (`FlowTable.forget`): a
        client that goes on from one port would stay with them for ever.
        """
        return self._forgotten.take()

    def all(self) -> Iterator[Item]:
        """Everything, each identity once."""
        return (_winner(claims) for claims in self._claims.values())

    def of(self, key: ViewKey) -> tuple[Item, ...]:
        """What one object wants."""
        return tuple(self._by_key.get(key, {}).values())

    def _items(self, key: ViewKey, view: NodeView) -> tuple[Item, ...]:
        record = view.record(key)
        if not isinstance(key, FrontendKey):
            return flows_of(key, record, view.local)
        frontend = record if isinstance(record, Frontend) else None
        self._forgotten.note(key, frontend)
        if frontend is None:
            self._groups.release(key)
            return ()
        return flows_of(key, frontend, view.local, self._groups.of(key))

    def _replace(
        self, key: ViewKey, wanted: dict[ItemIdentity, Item], before: dict[ItemIdentity, Item | None]
    ) -> None:
        had = self._by_key.setdefault(key, {})
        changed = [identity for identity, item in wanted.items() if had.get(identity) != item]
        gone = [identity for identity in had if identity not in wanted]
        for identity in (*gone, *changed):
            claims = self._claims.setdefault(identity, {})
            if identity not in before:
                before[identity] = _winner(claims) if claims else None
            if identity in wanted:
                had[identity] = claims[key] = wanted[identity]
            else:
                del had[identity], claims[key]
                if not claims:
                    del self._claims[identity]
        if not had:
            del self._by_key[key]

    def _mods(self, before: dict[ItemIdentity, Item | None]) -> list[Mod]:
        mods: list[Mod] = []
        for identity, old in before.items():
            claims = self._claims.get(identity)
            new = _winner(claims) if claims else None
            if new is None and old is not None:
                mods.append(delete(old))
                mods += map(add, farewell(old))
            elif new is not None and new != old:
                mods.append(add(new))
        return in_order(mods)


def _winner(claims: dict[ViewKey, Item]) -> Item:
    if len(claims) == 1:
        return next(iter(claims.values()))
    return claims[min(claims, key=key_order)]

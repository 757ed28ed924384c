"""What happens to the connections of an endpoint that leaves its Services.

Used by `flows.pipeline`. TCP: the endpoint gets no new connection, but those it has may go on; the flow that has its
answers translated back stays until the answers end. UDP: a connection has no end that one could wait for, so conntrack is
to forget it (as kube-proxy has it), and the client gets another endpoint.
"""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from k8s_ovs.flows.diff import Item
from k8s_ovs.flows.fields import IP_PROTO, UDP_PROTO
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.names import OBJECT_MASK, StageId, cookie_of
from k8s_ovs.flows.tables import HAIRPIN, SERVICE_REPLY
from k8s_ovs.model.records import BackendKey, Frontend, FrontendKey
from k8s_ovs.model.services import Protocol

LINGER = 600
"""Seconds without an answer after which a connection of an endpoint that left is not waited for any more."""
_BELOW = 20


def farewell(flow: Item) -> tuple[Flow, ...]:
    """What takes the place of a flow that goes: nothing, or the same flow until nobody meets it any more.

    It has a lower priority, so that the endpoint may come back, and the cookie of what nobody takes from the switch.
    """
    if not isinstance(flow, Flow) or flow.table not in (SERVICE_REPLY.number, HAIRPIN.number):
        return ()
    about = flow.cookie & OBJECT_MASK
    udp = any(test.field == IP_PROTO and test.value == UDP_PROTO for test in flow.match)
    if not about or not flow.actions or udp:
        return ()
    cookie = cookie_of(StageId.AFFINITY, about)
    return (replace(flow, priority=flow.priority - _BELOW, cookie=cookie, idle=LINGER),)


class Forgotten:
    """The UDP endpoints that have left a frontend."""

    def __init__(self) -> None:
        self._had: dict[FrontendKey, frozenset[BackendKey]] = {}
        self._gone: set[BackendKey] = set()

    @property
    def frontends(self) -> frozenset[FrontendKey]:
        """Those that had UDP endpoints when they were last heard of."""
        return frozenset(self._had)

    def adopt(self, held: Mapping[FrontendKey, frozenset[BackendKey]]) -> None:
        """What the switch holds: who has left since the agent before this one wrote it, is forgotten too."""
        self._had = {key: backends for key, backends in held.items() if key.protocol is Protocol.UDP}

    def note(self, key: FrontendKey, frontend: Frontend | None) -> None:
        """The frontend is now this; None: it has gone."""
        if key.protocol is not Protocol.UDP:
            return
        now = frozenset(frontend.backends) if frontend is not None else frozenset()
        self._gone |= self._had.pop(key, frozenset()) - now
        if now:
            self._had[key] = now

    def take(self) -> frozenset[tuple[IPv4Address, int, int]]:
        """Those that left since the last call."""
        gone = frozenset((key.address, int(key.protocol), key.port) for key in self._gone)
        self._gone.clear()
        return gone

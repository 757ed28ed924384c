"""Service new: known connections go on, translated as they began; a new one gets an endpoint.

Without affinity a select group translates to one of the endpoints. With affinity the group only names an endpoint, the
endpoint's own flow translates, and has the switch learn which one the client got (table affinity). What was learned comes
first, as long as its endpoint is still one: a learned endpoint without a flow falls back to the group.

Without any endpoint the packet goes to the host as it is, whose rules refuse it: at once, and also while the agent is
down.
"""

from collections.abc import Iterator

from k8s_ovs.flows.diff import Item
from k8s_ovs.flows.fields import (
    CHOICE,
    CHOSEN,
    CT_DNAT,
    CT_INVALID,
    CT_NEW,
    CT_TRACKED,
    DESTINATION_PORT,
    ENDPOINT_PORT,
    ETH_TYPE,
    IP_DST,
    IP_SRC,
    IP_TYPE,
    address,
)
from k8s_ovs.flows.fields import ENDPOINT as CHOSEN_ENDPOINT
from k8s_ovs.flows.flow import Action, Flow, GroupAction, Learn, Resubmit, SetField
from k8s_ovs.flows.group import GroupId
from k8s_ovs.flows.names import Drop, StageId, cookie_of
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.stages.frontends import groups, to_frontend, translate
from k8s_ovs.flows.tables import AFFINITY, ENDPOINT, HAIRPIN, SERVICE_NEW, goto
from k8s_ovs.model.records import BackendKey, Frontend, LocalHost

_IP = (ETH_TYPE.whole, IP_TYPE)
_TRACKED = (CT_TRACKED, 1)
_LEARNED = 200
LONGEST_AFFINITY = 0xFFFF
"""Seconds that a flow can last (OpenFlow 1.5.1, hard_timeout has 16 bits): a longer affinity ends after 18.2 hours."""


class ServiceNew(Stage):
    """New connections to Services."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """Known connections; and a client of whom nothing is learned.

        As long as nothing was answered conntrack calls a connection new, though it has translated the packet already.
        """
        del local
        yield SERVICE_NEW.drop(400, [_IP, _TRACKED, (CT_INVALID, 1)], Drop.SERVICE_INVALID)
        yield SERVICE_NEW.flow(300, [_IP, _TRACKED, (CT_NEW, 0)], [goto(HAIRPIN)])
        yield SERVICE_NEW.flow(300, [_IP, _TRACKED, (CT_NEW, 1), (CT_DNAT, 1)], [goto(HAIRPIN)])
        yield AFFINITY.flow(100, [_IP], [SetField(CHOICE, 0)])

    def frontend(self, local: LocalHost, frontend: Frontend, group: GroupId) -> Iterator[Item]:
        """Its group, the flow that begins connections, and with affinity one for each endpoint."""
        del local
        # A node port's match has no address: it comes after those that have one.
        later = 50 if frontend.key.address is None else 0
        match = to_frontend(frontend)
        new = [*match, _TRACKED, (CT_NEW, 1)]
        if not frontend.backends:
            yield SERVICE_NEW.flow(200 - later, new, [goto(HAIRPIN)])
            return
        yield from groups(frontend, group)
        if frontend.affinity is None:
            yield SERVICE_NEW.flow(200 - later, new, [GroupAction(group)], about=group)
            return
        ask: list[Action] = [Resubmit(AFFINITY.number), goto(ENDPOINT)]
        yield SERVICE_NEW.flow(200 - later, new, ask, about=group)
        yield ENDPOINT.flow(100 - later, match, [GroupAction(group)])
        for backend in frontend.backends:
            yield _endpoint(300 - later, frontend, frontend.affinity, backend)


def _endpoint(priority: int, frontend: Frontend, affinity: int, backend: BackendKey) -> Flow:
    """To the endpoint that was chosen or learned. Each new connection prolongs what was learned."""
    protocol = frontend.key.protocol
    chosen = (CHOICE, CHOSEN.place(1) | ENDPOINT_PORT.place(backend.port))
    learn = Learn(
        table=AFFINITY.number,
        seconds=min(affinity, LONGEST_AFFINITY),
        priority=_LEARNED,
        cookie=cookie_of(StageId.AFFINITY),
        protocol=int(protocol),
        matches=(IP_SRC.whole, IP_DST.whole, DESTINATION_PORT[protocol].whole),
        loads=(CHOSEN_ENDPOINT, CHOICE),
    )
    match = [*to_frontend(frontend), address(CHOSEN_ENDPOINT.field, backend.address), chosen]
    return ENDPOINT.flow(priority, match, [learn, translate(backend)], about=int(backend.address))

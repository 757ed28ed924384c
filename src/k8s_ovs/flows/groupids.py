"""Which group of the bridge is whose: every frontend of a Service has one, and keeps it also across a restart.

Used by `flows.pipeline`. The cookie of the flow that begins a frontend's connections holds the id, so that a restarted
agent finds on the switch what it had given out, and to whom its predecessor translated. An id is never made from a
hash: two Services could share it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from ipaddress import IPv4Address

from k8s_ovs.flows.group import NO_GROUP, GroupId
from k8s_ovs.flows.names import StageId, describe
from k8s_ovs.model.records import BackendKey, FrontendKey
from k8s_ovs.model.services import Protocol

LAST_TOP = (1 << 24) - 1
"""The highest id of a frontend's own group."""
_CHILDREN_BITS = 6
MAX_CHILDREN = 1 << _CHILDREN_BITS
_CHILD_BASE = 1 << 30

_PROTOCOL = re.compile(r"\b(tcp|udp|sctp)\b")
_ADDRESS = re.compile(r"\bnw_dst=([0-9.]+)")
_PORT = re.compile(r"\btp_dst=(\d+)")
_CHILD = re.compile(r"\bgroup:(\d+)")
_TRANSLATION = re.compile(r"\bnat\(dst=([0-9.]+):(\d+)\)")


def child_of(top: GroupId, number: int) -> GroupId:
    """The id of a group's child `number`, from 0: higher than every frontend's own."""
    return GroupId(_CHILD_BASE + (top << _CHILDREN_BITS) + number)


def groups_in_use(flows: Iterable[tuple[int, str]]) -> dict[FrontendKey, GroupId]:
    """Which frontend has which group, by the flows that a switch holds: pairs of cookie and match as ovs-ofctl prints it."""
    found: dict[FrontendKey, GroupId] = {}
    for cookie, match in flows:
        meaning, frontend = describe(cookie), _frontend(match)
        if frontend is None or meaning is None or meaning.stage is not StageId.SERVICE_NEW:
            continue
        if meaning.drop is None and 0 < meaning.about <= LAST_TOP:
            found[frontend] = GroupId(meaning.about)
    return found


def _frontend(match: str) -> FrontendKey | None:
    """The frontend that a match is about, in whatever order its fields are."""
    protocol, address, port = (pattern.search(match) for pattern in (_PROTOCOL, _ADDRESS, _PORT))
    if protocol is None or port is None:
        return None
    where = IPv4Address(address[1]) if address is not None else None
    return FrontendKey(where, Protocol[protocol[1].upper()], int(port[1]))


def endpoints_in_use(
    in_use: Mapping[FrontendKey, GroupId], groups: Mapping[int, str], chosen: Iterable[tuple[str, str]]
) -> dict[FrontendKey, frozenset[BackendKey]]:
    """To which endpoints a switch translates for each frontend.

    `in_use` is the answer of `groups_in_use`; `groups` are the switch's, by id, and `chosen` the flows of its table endpoint
    (match and actions), all as ovs-ofctl prints them.
    """
    found: defaultdict[FrontendKey, set[BackendKey]] = defaultdict(set)
    for frontend, top in in_use.items():
        above = groups.get(top, "")
        for text in (above, *(groups.get(int(child), "") for child in _CHILD.findall(above))):
            found[frontend] |= _translations(frontend, text)
    for match, actions in chosen:
        frontend_of = _frontend(match)
        if frontend_of is not None:
            found[frontend_of] |= _translations(frontend_of, actions)
    return {frontend: frozenset(backends) for frontend, backends in found.items()}


def _translations(frontend: FrontendKey, actions: str) -> set[BackendKey]:
    return {
        BackendKey(IPv4Address(address), frontend.protocol, int(port))
        for address, port in _TRANSLATION.findall(actions)
    }


class GroupIds:
    """The ids that are given out; the lowest free one comes next."""

    def __init__(self) -> None:
        self._given: dict[FrontendKey, GroupId] = {}
        self._known: dict[FrontendKey, GroupId] = {}
        self._reserved: set[GroupId] = set()
        self._freed: list[GroupId] = []
        self._next = GroupId(1)

    def adopt(self, known: Mapping[FrontendKey, GroupId]) -> None:
        """These frontends shall have these ids, when they come; nobody else gets them. Before the first `of`."""
        self._known = dict(known)
        self._reserved = set(known.values())

    def of(self, key: FrontendKey) -> GroupId:
        """The id of a frontend, given to it now if it had none."""
        if key not in self._given:
            known = self._known.pop(key, NO_GROUP)
            self._given[key] = known if known != NO_GROUP else self._lowest()
        return self._given[key]

    def release(self, key: FrontendKey) -> None:
        """The frontend needs no group any more."""
        if (number := self._given.pop(key, None)) is not None:
            heappush(self._freed, number)

    def given(self) -> dict[FrontendKey, GroupId]:
        """Every frontend that has an id."""
        return dict(self._given)

    def _lowest(self) -> GroupId:
        if self._freed:
            return heappop(self._freed)
        while self._next in self._reserved:
            self._next = GroupId(self._next + 1)
        number = self._next
        self._next = GroupId(number + 1)
        return number

"""What the stages of a Service have in common: how a frontend is matched, who may pass, which endpoint is chosen how.

Used by `service`, `service_new` and `node_port`. Makes no flow by itself.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from k8s_ovs.flows.fields import (
    CHOICE,
    CHOSEN,
    DESTINATION_PORT,
    ENDPOINT,
    ENDPOINT_PORT,
    ETH_TYPE,
    IP_DST,
    IP_PROTO,
    IP_TYPE,
    SERVICE_ZONE,
    SOURCE_VNI,
    Bits,
    address,
)
from k8s_ovs.flows.flow import Action, Ct, GroupAction, Nat, Resubmit, SetField
from k8s_ovs.flows.group import MAX_BUCKETS, Bucket, Group, GroupId
from k8s_ovs.flows.groupids import MAX_CHILDREN, child_of
from k8s_ovs.flows.tables import ENDPOINT as ENDPOINT_TABLE
from k8s_ovs.flows.tables import HAIRPIN, SERVICE_NEW
from k8s_ovs.model.records import BackendKey, Frontend
from k8s_ovs.model.types import GLOBAL_VNI

DP_HASH, HASH, HASH_CLIENT = "dp_hash", "hash", "hash,fields=ip_src"
"""How a group chooses (ovs-ofctl(8), "selection_method").

dp_hash: the datapath hashes, and one cached flow serves all connections whose hash is equal. There are few different
hashes, at least 16 and the next power of two, of which some endpoints get one more than others. hash: each new connection
goes to ovs-vswitchd, which hashes addresses and ports; as even as chance allows. With affinity it hashes the client's
address alone, so that a client's connections that begin at once agree before anything is learned.
"""
METHOD = DP_HASH
"""Where both are possible."""
DP_HASH_MOST = 128
"""With more endpoints than that, dp_hash knows at most 256 hashes, and spreads them unevenly."""
_DP_HASH_LEAST = 16
_LEAST_SHARE = 0.6

_HIGHEST_BUCKET = 0xFFFFFF00


def to_frontend(frontend: Frontend) -> list[tuple[Bits, int]]:
    """The match of a packet to the frontend; the address of a node port is not among it."""
    key = frontend.key
    match = [(ETH_TYPE.whole, IP_TYPE), (IP_PROTO.whole, int(key.protocol))]
    match.append((DESTINATION_PORT[key.protocol].whole, key.port))
    return match if key.address is None else [*match, address(IP_DST, key.address)]


def clients(frontend: Frontend, *, own: bool = False) -> Iterator[list[tuple[Bits, int]]]:
    """Who may reach it, as matches of which one has to hold: everybody, or who is of its tenant or, unless `own`, global."""
    if frontend.everybody:
        yield []
        return
    for vni in frontend.accepts if own else (GLOBAL_VNI, *frontend.accepts):
        yield [(SOURCE_VNI, vni)]


def method(frontend: Frontend) -> str:
    """How the frontend's group chooses."""
    if frontend.affinity is not None:
        return HASH_CLIENT
    return DP_HASH if METHOD == DP_HASH and _is_even(len(frontend.backends)) else HASH


def _is_even(endpoints: int) -> bool:
    """With dp_hash, no endpoint gets much less than its share."""
    if not 0 < endpoints <= DP_HASH_MOST:
        return False
    hashes = max(_DP_HASH_LEAST, 1 << (endpoints - 1).bit_length())
    return hashes // endpoints * endpoints / hashes >= _LEAST_SHARE


def groups(frontend: Frontend, top: GroupId) -> Iterator[Group]:
    """The frontend's group `top`; with very many endpoints it chooses among further groups, which have them."""
    if not frontend.backends:
        return
    choices = list(_buckets(frontend))
    if len(choices) <= MAX_BUCKETS:
        yield SERVICE_NEW.group(top, method(frontend), choices)
        return
    # The endpoints' buckets have addresses as ids, the groups' own have small numbers: what decides in one group says
    # nothing about the next, though both hash the same packet.
    parts = _parts(choices)
    for number, part in enumerate(parts):
        yield SERVICE_NEW.group(child_of(top, number), method(frontend), part)
    above = [Bucket(number + 1, (GroupAction(child_of(top, number)),)) for number in range(len(parts))]
    yield SERVICE_NEW.group(top, method(frontend), above)


def _parts(choices: Sequence[Bucket]) -> list[Sequence[Bucket]]:
    """Equal parts, but for one bucket, each small enough for a group. What exceeds the last group gets no connection."""
    count = min(-(-len(choices) // MAX_BUCKETS), MAX_CHILDREN)
    size, more = divmod(min(len(choices), count * MAX_BUCKETS), count)
    ends = [number * size + min(number, more) for number in range(count + 1)]
    return [choices[start:end] for start, end in pairwise(ends)]


def _buckets(frontend: Frontend) -> Iterator[Bucket]:
    """One choice for each endpoint. Its id is the endpoint's address, as long as no other port of it has that."""
    taken: set[int] = set()
    for backend in frontend.backends:
        number = int(backend.address) % _HIGHEST_BUCKET
        while number in taken:
            number = (number + 0x10001) % _HIGHEST_BUCKET
        taken.add(number)
        yield Bucket(number, tuple(_choose(frontend, backend)))


def _choose(frontend: Frontend, backend: BackendKey) -> list[Action]:
    if frontend.affinity is None:
        return [translate(backend)]
    return [
        SetField(ENDPOINT, int(backend.address)),
        SetField(CHOICE, CHOSEN.place(1) | ENDPOINT_PORT.place(backend.port)),
        Resubmit(ENDPOINT_TABLE.number),
    ]


def translate(backend: BackendKey) -> Ct:
    """Begin a connection to this endpoint."""
    return Ct(SERVICE_ZONE, HAIRPIN.number, Nat(backend.address, backend.port))

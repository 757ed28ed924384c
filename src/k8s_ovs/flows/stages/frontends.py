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
from k8s_ovs.model.services import Protocol
from k8s_ovs.model.types import GLOBAL_VNI

DP_HASH, HASH_CLIENT = "dp_hash", "hash,fields=ip_src"
HASH = {protocol: f"hash,fields(ip_src,{protocol.name.lower()}_src)" for protocol in Protocol}
"""How a group chooses (ovs-ofctl(8), "selection_method").

dp_hash: the datapath hashes, and one cached flow serves all connections whose hash is equal; there are few different
hashes, and some endpoints get one more than others, see `hashes`. hash: each new connection goes to ovs-vswitchd, which
hashes the client's address and port; as even as chance allows. The fields have to be named: what it hashes by default
leaves out the ports of UDP, and a client would have one endpoint for ever. With affinity it hashes the client's address
alone, so that a client's connections that begin at once agree before anything is learned. Measured in docs/services.md.
"""
DP_HASH_MOST = 128
"""With more endpoints than that, the 256 hashes that dp_hash has at most are too few."""
_FEWEST_HASHES, _MOST_HASHES = 16, 256
"""Of a group with dp_hash. The switch takes the power of two that is not below the sum of the weights by the least weight."""
_LEAST_SHARE, _GREATEST_SHARE = 0.75, 1.5
_WEIGHT = 100

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
    return DP_HASH if len(frontend.backends) <= DP_HASH_MOST else HASH[frontend.key.protocol]


def hashes(endpoints: int) -> int:
    """How many different hashes a group with dp_hash should have, for 1 to `DP_HASH_MOST` endpoints.

    Each costs a cached flow per client, so as few as are needed for shares of 0.75 to 1.5 times the mean; where even the
    most are not enough (86 to 95 endpoints), two endpoints or more get 0.67 times the mean.
    """
    number = _FEWEST_HASHES
    while number < _MOST_HASHES:
        mean = number / endpoints
        if number // endpoints >= _LEAST_SHARE * mean and -(-number // endpoints) <= _GREATEST_SHARE * mean:
            break
        number *= 2
    return number


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
    """One choice for each endpoint. Its id is the endpoint's address, as long as no other port of it has that.

    The switch has as many hashes as the least weight demands. Where that is too coarse, the first endpoint gets two
    choices, one of them with a weight so small that there are enough.
    """
    taken: set[int] = set()
    small = _small_weight(frontend)
    for number, backend in enumerate(frontend.backends):
        weights = (_WEIGHT - small, small) if small and not number else (_WEIGHT,)
        for weight in weights:
            choice = int(backend.address) % _HIGHEST_BUCKET
            while choice in taken:
                choice = (choice + 0x10001) % _HIGHEST_BUCKET
            taken.add(choice)
            yield Bucket(choice, tuple(_choose(frontend, backend)), weight)


def _small_weight(frontend: Frontend) -> int:
    """The weight of the first endpoint's second choice; 0 if there is no need for one."""
    endpoints = len(frontend.backends)
    wanted = hashes(endpoints) if method(frontend) == DP_HASH else 0
    if wanted <= max(_FEWEST_HASHES, 1 << (endpoints - 1).bit_length()):
        return 0
    return -(-endpoints * _WEIGHT // wanted)


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

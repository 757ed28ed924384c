"""Former subnets as etcd keeps them: what a Node had when its record was deleted. To and from the type of the model.

Pure functions; the etcd store and its fake call them. They belong to `records`, which has the keys.
"""

from k8s_ovs.model.types import FormerSubnet
from k8s_ovs.sources.jsonrecord import dump, is_word, parse_object, parse_subnet, unknown_keys, wrong

EXAMPLE = '{"Host":"node1","Subnet":"172.11.4.0/22"}'

_KEYS = frozenset({"Host", "Subnet"})
_REMEDY = "the controller writes it: delete it, and the Node gets any free subnet when it returns"


def decode_former(key: str, value: bytes, *, in_key: str | None = None) -> FormerSubnet:
    """The former subnet under `key` (…/former/NAME/HOST); `in_key` is what counts as HOST there.

    Raises RecordError that names the key, the reason and the remedy.
    """
    host = key.rpartition("/")[2] if in_key is None else in_key
    if not is_word(host):
        wrong(key, f"{host!r} cannot be a host", _REMEDY)
    data = parse_object(key, value, EXAMPLE)
    if data.get("Host") != host:
        wrong(key, f"Host is {data.get('Host')!r}", _REMEDY)
    subnet = parse_subnet(key, data.get("Subnet"))
    if subnet is None:
        wrong(key, "Subnet is missing", _REMEDY)
    return FormerSubnet(host, subnet, unknown_keys(data, _KEYS))


def encode_former(key: str, former: FormerSubnet) -> bytes:
    """The JSON of a former subnet. Raises RecordError if it is one that `decode_former` would refuse."""
    value = dump({"Host": former.host, "Subnet": str(former.subnet)}, former.extra)
    decode_former(key, value)
    return value

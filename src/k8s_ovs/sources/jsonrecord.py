"""JSON objects as records are kept in: read strictly, written compactly. Pure; called by `records` and `former` only.

Every refusal is a RecordError that names the key, the reason and the remedy.
"""

import json
import math
from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import NoReturn

from k8s_ovs.config import MIN_HOST_BITS, MIN_PREFIX
from k8s_ovs.errors import RecordError

MAX_RECORD = 64 * 1024
"""Octets. Ours are about 150; anything larger is somebody else's and is not worth parsing."""


def wrong(key: str, reason: str, remedy: str) -> NoReturn:
    """Refuse what is under `key`."""
    raise RecordError(key, reason, remedy=remedy)


def parse_object(key: str, value: bytes, example: str, limit: int = MAX_RECORD) -> dict[str, object]:
    """The JSON object that `value` is; a refusal shows `example`. More than `limit` octets are not looked at."""
    if len(value) > limit:
        wrong(key, f"{len(value)} octets long", f"write an object like {example}")
    try:
        data = json.loads(value.decode(), parse_constant=_not_json, parse_float=_finite)
    except (ValueError, RecursionError) as err:
        raise RecordError(key, f"not JSON ({err})", remedy=f"write an object like {example}") from err
    if not isinstance(data, dict):
        wrong(key, "not a JSON object", f"write an object like {example}")
    return data


def _not_json(word: str) -> NoReturn:
    # json reads NaN and Infinity, which no other program would understand when we write them back
    raise ValueError(f"{word} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large")
    return number


def dump(body: Mapping[str, object], extra: Mapping[str, object]) -> bytes:
    """Our keys first, then those of others, which never replace ours."""
    return json.dumps(
        {**body, **{k: v for k, v in extra.items() if k not in body}}, separators=(",", ":")
    ).encode()


def unknown_keys(data: Mapping[str, object], ours: frozenset[str]) -> dict[str, object]:
    """What of `data` is none of `ours`."""
    return {key: value for key, value in data.items() if key not in ours}


def is_word(text: str) -> bool:
    """Whether it can be a host's name."""
    return 0 < len(text) <= 253 and text.isprintable() and " " not in text and "/" not in text


def parse_subnet(key: str, value: object) -> IPv4Network | None:
    """The host subnet that `value` names, None if it is empty or missing."""
    if value in ("", None):
        return None
    try:
        if not isinstance(value, str):
            raise ValueError("not a string")  # noqa: TRY004, TRY301 - one message for both ways to be wrong
        subnet = IPv4Network(value)
    except ValueError as err:
        raise RecordError(
            key, f"Subnet is {value!r} ({err})", remedy="give a CIDR like 172.11.4.0/22, or empty"
        ) from err
    if str(subnet) != value or not MIN_PREFIX <= subnet.prefixlen <= 32 - MIN_HOST_BITS:
        wrong(
            key, f"Subnet is {value!r}", f"give a CIDR from /{MIN_PREFIX} to /{32 - MIN_HOST_BITS}, or empty"
        )
    return subnet

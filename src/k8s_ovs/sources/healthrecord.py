"""An agent's health as JSON: the part `Health` of its report, for people and monitoring.

For `records` only. Nothing is decided by it, so nothing of it is ever an error: what cannot be read is left out.
"""

from collections.abc import Mapping
from dataclasses import asdict

from k8s_ovs.model.types import AgentHealth

MAX_TEXT = 500
"""Characters of a reason that are told; the log of the agent has all."""


def encode_health(health: AgentHealth | None) -> dict[str, object]:
    """What a report has of it: `last_error` is LastError and so on; what is empty is left out."""
    if health is None:
        return {}
    return {"Health": {_key(name): _cut(value) for name, value in asdict(health).items() if value}}


def decode_health(report: Mapping[str, object]) -> AgentHealth | None:
    """The health in a report's JSON object; None if there is none."""
    body = report.get("Health")
    if not isinstance(body, Mapping):
        return None
    return AgentHealth(
        version=_text(body.get("Version")),
        since=_text(body.get("Since")),
        revision=_number(body.get("Revision")),
        trouble=_text(body.get("Trouble")),
        notes=_text(body.get("Notes")),
        pods=_number(body.get("Pods")),
        mtu=_number(body.get("MTU")),
        drops=_counts(body.get("Drops")),
        dropping=_counts(body.get("Dropping")),
        repairs=_counts(body.get("Repairs")),
        last_error=_text(body.get("LastError")),
        last_error_at=_text(body.get("LastErrorAt")),
    )


def _text(value: object) -> str:
    return value[:MAX_TEXT] if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _counts(value: object) -> dict[str, int]:
    found = value if isinstance(value, Mapping) else {}
    return {str(name): count for name, one in found.items() if (count := _number(one))}


def _key(name: str) -> str:
    return "MTU" if name == "mtu" else "".join(word.capitalize() for word in name.split("_"))


def _cut(value: object) -> object:
    return value[:MAX_TEXT] if isinstance(value, str) else value

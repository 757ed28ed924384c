"""What was found otherwise than it should be, and has been put right: names for people, counts for metrics.

Returned by the parts of the dataplane that compare (see `bridge`); the agent decides whether that was somebody else's
doing. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

NAMED = 3
"""How many things of a kind are named; the others are counted."""


class Kind(StrEnum):
    """What sort of thing; the label `kind` of the metric k8s_ovs_repairs_total."""

    FLOW = "flow"
    GROUP = "group"
    METER = "meter"
    BRIDGE = "bridge"
    PORT = "port"
    QOS = "qos"
    LINK = "link"
    ADDRESS = "address"
    ROUTE = "route"
    SYSCTL = "sysctl"
    FIREWALL = "firewall"


@dataclass(frozen=True, slots=True)
class Finding:
    """`count` things of one kind that have been put right. `names` tells of a few of them, with what was wrong."""

    kind: Kind
    count: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        things = f"{self.count} {self.kind}{'s' if self.count > 1 else ''}"
        more = self.count - len(self.names)
        rest = f"; and {more} more" if more > 0 and self.names else ""
        return f"{things}: {'; '.join(self.names)}{rest}" if self.names else things

    def with_more(self, other: "Finding") -> "Finding":
        """The two of one kind as one."""
        return Finding(self.kind, self.count + other.count, (self.names + other.names)[:NAMED])


def found(kind: Kind, names: Iterable[str], count: int | None = None) -> tuple[Finding, ...]:
    """One finding about all these things, none if there are none. With `count`, only as many `names` are read as needed."""
    few: list[str] = []
    seen = 0
    for name in names:
        seen += 1
        if len(few) < NAMED:
            few.append(name)
        elif count is not None:
            break
    total = seen if count is None else count
    return (Finding(kind, total, tuple(few)),) if total else ()


def joined(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """At most one of each kind, in the order in which the kinds were found."""
    by_kind: dict[Kind, Finding] = {}
    for finding in findings:
        earlier = by_kind.get(finding.kind)
        by_kind[finding.kind] = finding if earlier is None else earlier.with_more(finding)
    return tuple(by_kind.values())

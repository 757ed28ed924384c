"""Select groups and meters as values: what Services and bandwidth limits need beside flows.

Made by the stages like flows, compared by `flows.diff`, sent by the dataplane. Never talks to a switch. Spelling: "Group
Syntax" and "Meter Syntax" of ovs-ofctl(8), in the form in which `dump-groups` and `dump-meters` print them.
"""

from dataclasses import dataclass
from typing import NewType

from k8s_ovs.flows.flow import Action

GroupId = NewType("GroupId", int)
"""A group of the bridge, 0 to 0xffffff00."""
NO_GROUP = GroupId(0)
"""No group of ours: they begin at 1."""
MeterId = NewType("MeterId", int)
"""A meter of the bridge, from 1."""

MAX_BUCKETS = 500
"""In one group. A message holds 64 KiB, and a bucket with a translation takes about 80 octets, also when it is dumped."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One choice of a group. `id` stays the same while the choice does."""

    id: int
    actions: tuple[Action, ...]
    weight: int = 100

    def to_ofctl(self) -> str:
        """The bucket for ovs-ofctl."""
        actions = ",".join(map(str, self.actions))
        return f"bucket=bucket_id:{self.id},weight:{self.weight},actions={actions}"


@dataclass(frozen=True, slots=True)
class Group:
    """A group of type select. `method` is `dp_hash` or `hash`, or `hash,fields=FIELD` as ovs-ofctl prints it."""

    id: GroupId
    method: str
    buckets: tuple[Bucket, ...]

    @property
    def identity(self) -> tuple[str, int]:
        """What makes two groups the same group."""
        return ("group", self.id)

    def to_ofctl(self) -> str:
        """The group for `ovs-ofctl add-group`."""
        buckets = "".join(f",{bucket.to_ofctl()}" for bucket in self.buckets)
        return f"group_id={self.id},type=select,selection_method={self.method}{buckets}"


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter that drops what exceeds `rate` (kilobits per second); `burst` in kilobits."""

    id: MeterId
    rate: int
    burst: int

    @property
    def identity(self) -> tuple[str, int]:
        """What makes two meters the same meter."""
        return ("meter", self.id)

    def to_ofctl(self) -> str:
        """The meter for `ovs-ofctl add-meter`."""
        return f"meter={self.id},kbps,burst,stats,bands=type=drop,rate={self.rate},burst_size={self.burst}"

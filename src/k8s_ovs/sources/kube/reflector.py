"""List and watch one kind of object, for as long as the process lives. (Skeleton: signatures are final.)"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from k8s_ovs.errors import KubeError, RecordError
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.objects import Resource, T


@dataclass(frozen=True, slots=True)
class Upserted(Generic[T]):
    """The object is this now (new or changed)."""

    object: T


@dataclass(frozen=True, slots=True)
class Deleted:
    """No such object exists; the namespace is empty for cluster-wide kinds."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class InSync:
    """Everything that existed has been told; told once."""


class Reflector(Generic[T]):
    """Tells what objects exist and how they change."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource[T],
        *,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
    ) -> None:
        self.problems: Mapping[tuple[str, str], RecordError] = {}
        self.error: KubeError | None = None

    def watch(self) -> AsyncGenerator[Sequence[Upserted[T] | Deleted | InSync], None]:
        """Batches without end: everything, InSync once, then changes. Close it with contextlib.aclosing."""
        raise NotImplementedError

"""The Kubernetes API over HTTP. (Skeleton: signatures are final.)"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from k8s_ovs.sources.kube.clock import SYSTEM_CLOCK, Clock
from k8s_ovs.sources.kube.credentials import Credentials
from k8s_ovs.sources.kube.objects import ObjectReference, Resource, T

DEFAULT_TIMEOUT = 30.0


class KubeClient:
    """`async with KubeClient(credentials) as client`. Methods raise KubeError's kinds."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        component: str = "k8s-ovs",
        timeout: float = DEFAULT_TIMEOUT,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def get(self, resource: Resource[T], name: str, namespace: str = "") -> T:
        raise NotImplementedError

    async def list(
        self,
        resource: Resource[T],
        namespace: str = "",
        *,
        field_selector: str = "",
        label_selector: str = "",
    ) -> list[T]:
        raise NotImplementedError

    async def create(self, resource: Resource[T], obj: T) -> T:
        raise NotImplementedError

    async def update(self, resource: Resource[T], obj: T) -> T:
        raise NotImplementedError

    async def patch(
        self,
        resource: Resource[T],
        name: str,
        body: Mapping[str, Any],
        namespace: str = "",
        *,
        subresource: str = "",
    ) -> T:
        raise NotImplementedError

    async def delete(self, resource: Resource[T], name: str, namespace: str = "", *, uid: str = "") -> None:
        raise NotImplementedError

    async def create_event(
        self, about: ObjectReference, reason: str, message: str, *, warning: bool = False
    ) -> None:
        raise NotImplementedError

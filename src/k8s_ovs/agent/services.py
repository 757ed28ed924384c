"""Hands the cluster's Services and EndpointSlices to the reconciler, as events.

One task of the agent's, where there is a Kubernetes API. Each object becomes one level: what it is now, or that it is
gone (also what is not ours any more, a slice that lost its Service, say). It decides nothing about who serves whom.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from k8s_ovs.errors import RecordError
from k8s_ovs.model.events import (
    EndpointSliceGone,
    EndpointSliceSet,
    Event,
    ServiceGone,
    ServiceSet,
    Source,
    Synced,
)
from k8s_ovs.sources.kube import services as convert
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.objects import ENDPOINT_SLICES, SERVICES, EndpointSlice, Service
from k8s_ovs.sources.kube.reflector import Deleted, InSync, Pace, Reflector, Upserted

log = logging.getLogger(__name__)

ServiceBatches = AsyncGenerator[Sequence[Upserted[Service] | Deleted | InSync], None]
SliceBatches = AsyncGenerator[Sequence[Upserted[EndpointSlice] | Deleted | InSync], None]


@dataclass(frozen=True, slots=True)
class ServiceSources:
    """Where Services and slices are read; each call begins to watch anew. `trouble` says why nothing is heard now, or ""."""

    services: Callable[[], ServiceBatches]
    slices: Callable[[], SliceBatches]
    trouble: Callable[[], str] = lambda: ""

    @classmethod
    def of(cls, kube: KubeClient, pace: Pace | None = None) -> "ServiceSources":
        """Those of an API server."""
        services = Reflector(kube, SERVICES, pace=pace)
        slices = Reflector(kube, ENDPOINT_SLICES, pace=pace)

        def trouble() -> str:
            error = services.error or slices.error
            return "" if error is None else str(error)

        return cls(services.watch, slices.watch, trouble)


class ServiceFeed:
    """Watches both kinds, and tells `post` of them; `sources` None: there are none, and that is told too."""

    def __init__(self, sources: ServiceSources | None, post: Callable[..., object]) -> None:
        self._sources = sources
        self._post = post
        self._problems: dict[str, tuple[RecordError, ...]] = {}

    @property
    def problems(self) -> Mapping[str, tuple[RecordError, ...]]:
        """What cannot be used of the objects that are there now, by kind and name."""
        return self._problems

    def trouble(self) -> str:
        """Why nothing is heard from the API server at the moment, or ""."""
        return self._sources.trouble() if self._sources is not None else ""

    async def run(self) -> None:
        """Until cancelled; outages of the API are waited out by the reflectors."""
        if self._sources is None:
            self._post(Synced(Source.SERVICES), Synced(Source.ENDPOINT_SLICES))
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._services(self._sources.services()), name="services")
            tasks.create_task(self._slices(self._sources.slices()), name="endpoint-slices")

    async def _services(self, watch: ServiceBatches) -> None:
        async with aclosing(watch) as batches:
            async for batch in batches:
                self._post(*(self._service(change) for change in batch))

    async def _slices(self, watch: SliceBatches) -> None:
        async with aclosing(watch) as batches:
            async for batch in batches:
                self._post(*(self._slice(change) for change in batch))

    def _service(self, change: Upserted[Service] | Deleted | InSync) -> Event:
        match change:
            case InSync():
                return Synced(Source.SERVICES)
            case Deleted(namespace, name):
                self._take_down(f"Service {namespace}/{name}", ())
                return ServiceGone(namespace, name)
            case Upserted(found):
                namespace, name = found.key
                made = convert.service(found)
                self._take_down(f"Service {namespace}/{name}", made.problems)
                return ServiceGone(namespace, name) if made.value is None else ServiceSet(made.value)

    def _slice(self, change: Upserted[EndpointSlice] | Deleted | InSync) -> Event:
        match change:
            case InSync():
                return Synced(Source.ENDPOINT_SLICES)
            case Deleted(namespace, name):
                self._take_down(f"EndpointSlice {namespace}/{name}", ())
                return EndpointSliceGone(namespace, name)
            case Upserted(found):
                namespace, name = found.key
                made = convert.endpoint_slice(found)
                self._take_down(f"EndpointSlice {namespace}/{name}", made.problems)
                if made.value is None:
                    return EndpointSliceGone(namespace, name)
                return EndpointSliceSet(made.value)

    def _take_down(self, name: str, problems: tuple[RecordError, ...]) -> None:
        """Log what is wrong with an object once, until that changes."""
        known = self._problems.get(name, ())
        for problem in {str(problem) for problem in problems} - {str(problem) for problem in known}:
            log.warning("left out: %s", problem)
        if problems:
            self._problems[name] = problems
        else:
            self._problems.pop(name, None)

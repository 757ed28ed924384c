"""The feed of Services: one level for each object, Synced once, and nothing is forgotten of what an outage hid."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from ipaddress import IPv4Address

import pytest

from k8s_ovs.agent.services import ServiceFeed, ServiceSources
from k8s_ovs.model.events import (
    EndpointSliceGone,
    EndpointSliceSet,
    Event,
    ServiceGone,
    ServiceSet,
    Source,
    Synced,
)
from k8s_ovs.sources.kube.objects import (
    EndpointSlice,
    ObjectMeta,
    Service,
    ServicePortSpec,
    ServiceSpec,
    SliceEndpoint,
)
from k8s_ovs.sources.kube.reflector import Deleted, InSync, Upserted
from k8s_ovs.sources.kube.services import SERVICE_NAME

ServiceBatch = Sequence[Upserted[Service] | Deleted | InSync]
SliceBatch = Sequence[Upserted[EndpointSlice] | Deleted | InSync]


def service(name: str = "web", *ports: int) -> Service:
    spec = ServiceSpec(cluster_ip="10.96.0.7", ports=tuple(ServicePortSpec(port=port) for port in ports))
    return Service(metadata=ObjectMeta(namespace="red", name=name), spec=spec)


def piece(owner: str, *addresses: str, family: str = "IPv4") -> EndpointSlice:
    labels = {SERVICE_NAME: owner} if owner else None
    return EndpointSlice(
        metadata=ObjectMeta(namespace="red", name="web-x", labels=labels),
        address_type=family,
        endpoints=tuple(SliceEndpoint(addresses=(address,)) for address in addresses),
    )


async def fed(
    services: Sequence[ServiceBatch] = (), slices: Sequence[SliceBatch] = ()
) -> tuple[ServiceFeed, list[Event]]:
    told: list[Event] = []

    async def tell_services() -> AsyncGenerator[ServiceBatch, None]:
        for batch in services:
            yield batch

    async def tell_slices() -> AsyncGenerator[SliceBatch, None]:
        for batch in slices:
            yield batch

    feed = ServiceFeed(ServiceSources(tell_services, tell_slices), lambda *events: told.extend(events))
    await feed.run()
    return feed, told


async def test_without_kubernetes_there_is_nothing_to_wait_for() -> None:
    told: list[Event] = []
    await asyncio.wait_for(ServiceFeed(None, lambda *events: told.extend(events)).run(), 5)
    assert told == [Synced(Source.SERVICES), Synced(Source.ENDPOINT_SLICES)]


async def test_services_and_slices_become_levels_and_each_source_syncs_on_its_own() -> None:
    _, told = await fed(
        [[Upserted(service("web", 80))], [InSync()], [Deleted("red", "web")]],
        [[Upserted(piece("web", "172.11.0.2")), InSync()], [Deleted("red", "web-x")]],
    )
    of_services = [event for event in told if isinstance(event, ServiceSet | ServiceGone)]
    assert isinstance(of_services[0], ServiceSet)
    assert of_services[0].service.addresses == (IPv4Address("10.96.0.7"),)
    assert of_services[1:] == [ServiceGone("red", "web")]
    of_slices = [event for event in told if isinstance(event, EndpointSliceSet | EndpointSliceGone)]
    assert isinstance(of_slices[0], EndpointSliceSet)
    assert of_slices[1:] == [EndpointSliceGone("red", "web-x")]
    assert {event.source for event in told if isinstance(event, Synced)} == {
        Source.SERVICES,
        Source.ENDPOINT_SLICES,
    }


@pytest.mark.parametrize("now", [piece("", "172.11.0.2"), piece("web", "fd00::1", family="IPv6")])
async def test_a_slice_that_is_not_ours_any_more_is_gone(now: EndpointSlice) -> None:
    _, told = await fed(slices=[[Upserted(piece("web", "172.11.0.2"))], [Upserted(now)]])
    assert told[-1] == EndpointSliceGone("red", "web-x")


async def test_problems_last_as_long_as_what_causes_them_and_are_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    feed, told = await fed([[Upserted(service("web", 80, 0))], [Upserted(service("web", 80, 0))]])
    assert [problem.key for problem in feed.problems["Service red/web"]] == ["Service red/web"]
    assert len([record for record in caplog.records if "left out" in record.message]) == 1
    assert [len(event.service.ports) for event in told if isinstance(event, ServiceSet)] == [1, 1]
    for last in (Upserted(service("web", 80)), Deleted("red", "web")):
        feed, _ = await fed([[Upserted(service("web", 0))], [last]])
        assert feed.problems == {}

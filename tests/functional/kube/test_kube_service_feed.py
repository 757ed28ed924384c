"""The agent's feed of Services on a real API server: what exists, what changes, and what vanished while it was away."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from fakes.private_kubeapi import KubeApi, until
from k8s_ovs.agent.services import ServiceFeed, ServiceSources
from k8s_ovs.model.events import Event, Source
from k8s_ovs.model.services import EndpointPort, Protocol
from k8s_ovs.model.state import ClusterState
from k8s_ovs.sources.kube.backoff import Backoff
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.kube.reflector import Pace

SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
ADVERTISED = "192.0.2.2:6443"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubeApi]:
    server = KubeApi(tmp_path, "--service-cidr", "10.96.0.0/16", "--advertise", ADVERTISED)
    try:
        yield server
    finally:
        server.close()


@asynccontextmanager
async def fed(api: KubeApi) -> AsyncIterator[ClusterState]:
    """What an agent knows of the server, as long as the block lasts."""
    state = ClusterState()

    def post(*events: Event) -> None:
        for event in events:
            state.apply(event)

    settings = KubeSettings(environ={"KUBERNETES_MASTER": api.url})
    pace = Pace(backoff=Backoff(base=0.05, cap=0.2, random=random.Random(1)))
    async with KubeClient(load_credentials(settings)) as kube, asyncio.TaskGroup() as tasks:
        task = tasks.create_task(ServiceFeed(ServiceSources.of(kube, pace), post).run(), name="feed")
        await until(lambda: {Source.SERVICES, Source.ENDPOINT_SLICES} <= state.synced)
        try:
            yield state
        finally:
            task.cancel()


def web(name: str) -> dict[str, object]:
    ports = [
        {"name": "http", "port": 80, "targetPort": "http"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports}}


def handmade(name: str, service: str, *addresses: str) -> dict[str, object]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]} for address in addresses],
        "ports": [{"name": "http", "port": 8080}],
    }


async def off_the_loop(work: Callable[[], object]) -> None:
    await asyncio.to_thread(work)


async def test_the_kubernetes_service_leads_to_where_the_api_is(api: KubeApi) -> None:
    async with fed(api) as state:
        service = state.services["default", "kubernetes"]
        assert service.addresses == (IPv4Address("10.96.0.1"),)
        piece = state.endpoint_slices["default", "kubernetes"]
        assert [endpoint.address for endpoint in piece.endpoints] == [IPv4Address("192.0.2.2")]
        assert piece.ports == (EndpointPort("https", Protocol.TCP, 6443),)
        assert [port.name for port in service.ports] == ["https"]


async def test_changes_are_told(api: KubeApi) -> None:
    async with fed(api) as state:
        await off_the_loop(lambda: api.call("POST", SERVICES, web("web")))
        await off_the_loop(lambda: api.call("POST", SLICES, handmade("web-1", "web", "172.11.0.2")))
        await until(lambda: ("default", "web") in state.services)
        await until(lambda: ("default", "web-1") in state.endpoint_slices)
        ports = [(port.name, port.protocol, port.port) for port in state.services["default", "web"].ports]
        assert ports == [("http", Protocol.TCP, 80), ("dns", Protocol.UDP, 53)]
        await off_the_loop(lambda: api.call("DELETE", f"{SLICES}/web-1"))
        await off_the_loop(lambda: api.call("DELETE", f"{SERVICES}/web"))
        await until(lambda: ("default", "web") not in state.services)
        await until(lambda: ("default", "web-1") not in state.endpoint_slices)


async def test_what_vanished_while_the_api_was_away_is_gone(api: KubeApi) -> None:
    for name in ("stays", "goes"):
        api.call("POST", SERVICES, web(name))
        api.call("POST", SLICES, handmade(f"{name}-1", name, "172.11.0.2"))
    async with fed(api) as state:
        assert {("default", "stays"), ("default", "goes")} <= state.services.keys()
        await off_the_loop(api.stop)
        await off_the_loop(lambda: delete_behind_its_back(api))
        assert ("default", "goes") in state.services, "an outage is no deletion"
        await off_the_loop(api.start)
        await until(lambda: ("default", "goes") not in state.services)
        await until(lambda: ("default", "goes-1") not in state.endpoint_slices)
        assert ("default", "stays") in state.services
        assert ("default", "stays-1") in state.endpoint_slices


def delete_behind_its_back(api: KubeApi) -> None:
    """By another server on the same store."""
    other = KubeApi(api.folder, *api.options)
    try:
        other.call("DELETE", f"{SERVICES}/goes")
        other.call("DELETE", f"{SLICES}/goes-1")
    finally:
        other.stop()

"""One contract for Leases: the fake that the election's tests use, and the real client over HTTP, must agree.

The HTTP side is the same store behind the scripted server, so what is compared is the client: paths, bodies, errors.
"""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from fakes.kube_script import LeaseStore, Reply, ScriptServer, Seen, status
from k8s_ovs.errors import KubeConflict, KubeError, KubeNotFound
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.kube.election import LeaseElection, LeaseTiming
from k8s_ovs.sources.kube.lease import LeaseApi
from k8s_ovs.sources.kube.objects import LEASES, Lease, LeaseSpec, ObjectMeta

DEADLINE = 20.0
PREFIX = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


def serve(store: LeaseStore, seen: Seen) -> Reply:
    """The Lease part of the Kubernetes API on top of a LeaseStore."""
    name = seen.path.removeprefix(PREFIX).lstrip("/")
    try:
        if seen.method == "GET":
            found = store.read("kube-system", name)
        else:
            assert seen.json["kind"] == "Lease"
            assert seen.json["apiVersion"] == "coordination.k8s.io/v1"
            lease = msgspec.convert(seen.json, Lease)
            found = store.add(lease) if seen.method == "POST" else store.replace(lease)
    except KubeError as err:
        return Reply(status(err.status, err.reason, err.message), status=err.status)
    return Reply({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", **msgspec.to_builtins(found)})


@pytest.fixture(params=["memory", "http"])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[LeaseApi]:
    store = LeaseStore()
    if request.param == "memory":
        yield store
        return
    server = ScriptServer()
    server.route(PREFIX, lambda seen: serve(store, seen))
    await server.start()
    try:
        async with KubeClient(
            load_credentials(KubeSettings(environ={"KUBERNETES_MASTER": server.url}))
        ) as client:
            yield client
    finally:
        await server.stop()


def fresh(holder: str = "a") -> Lease:
    return Lease(
        metadata=ObjectMeta(name="l", namespace="kube-system", labels={"kept": "yes"}),
        spec=LeaseSpec(
            holder_identity=holder, lease_duration_seconds=15, renew_time="2024-05-06T07:08:09.000001Z"
        ),
    )


async def test_what_was_created_is_read_back(api: LeaseApi) -> None:
    made = await api.create(LEASES, fresh())
    assert made.metadata.resource_version
    assert made.spec == fresh().spec
    assert await api.get(LEASES, "l", "kube-system") == made
    assert made.metadata.labels == {"kept": "yes"}


async def test_an_empty_holder_is_kept_as_empty(api: LeaseApi) -> None:
    made = await api.create(LEASES, fresh(""))
    assert made.spec.holder_identity == ""


async def test_no_such_lease(api: LeaseApi) -> None:
    with pytest.raises(KubeNotFound):
        await api.get(LEASES, "l", "kube-system")
    lost = msgspec.structs.replace(
        fresh(), metadata=ObjectMeta(name="l", namespace="kube-system", resource_version="7")
    )
    with pytest.raises(KubeNotFound):
        await api.update(LEASES, lost)


async def test_create_twice(api: LeaseApi) -> None:
    await api.create(LEASES, fresh())
    with pytest.raises(KubeConflict):
        await api.create(LEASES, fresh("b"))


async def test_update_of_an_old_version(api: LeaseApi) -> None:
    made = await api.create(LEASES, fresh())
    newer = await api.update(LEASES, msgspec.structs.replace(made, spec=LeaseSpec(holder_identity="b")))
    assert newer.metadata.resource_version != made.metadata.resource_version
    with pytest.raises(KubeConflict):
        await api.update(LEASES, made)
    assert (await api.get(LEASES, "l", "kube-system")).spec.holder_identity == "b"


async def test_leadership_passes_from_one_to_the_other(api: LeaseApi) -> None:
    """The whole election in real time, with quick retries: no clock is faked here."""
    timing = LeaseTiming(lease_duration=10, renew_deadline=5, retry_period=0.01)
    order: asyncio.Queue[str] = asyncio.Queue()
    tasks: dict[str, asyncio.Task[None]] = {}
    now_leading: list[str] = []

    def candidate(name: str) -> asyncio.Task[None]:
        election = LeaseElection(api, "kube-system", "l", name, timing)

        async def lead() -> None:
            now_leading.append(name)
            assert now_leading == [name]
            assert election.is_leader
            order.put_nowait(name)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                now_leading.remove(name)

        return asyncio.create_task(election.run(lead), name=name)

    try:
        tasks = {name: candidate(name) for name in ("a", "b")}
        async with asyncio.timeout(DEADLINE):
            first = await order.get()
            tasks[first].cancel()
            second = await order.get()
        assert {first, second} == {"a", "b"}
    finally:
        for task in tasks.values():
            task.cancel()
        results = await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert (await api.get(LEASES, "l", "kube-system")).spec.holder_identity == ""

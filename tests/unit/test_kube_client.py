"""The client against a scripted API server: what is sent, what errors become, what is retried."""

import json
from contextlib import aclosing

import aiohttp
import pytest

from fakes.kube_script import AutoClock, Reply, Stream, line, listing, obj, scripted, status
from k8s_ovs.errors import (
    KubeConflict,
    KubeDenied,
    KubeError,
    KubeGone,
    KubeNotFound,
    KubeUnavailable,
    RecordError,
)
from k8s_ovs.sources.kube.client import KubeClient, Selection, WatchTimes
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.kube.objects import (
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    Lease,
    LeaseSpec,
    ObjectMeta,
    ObjectReference,
)
from k8s_ovs.sources.kube.status import body_of

NODE = "/api/v1/nodes/n1"
LEASE_PATH = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


async def test_get_reads_what_we_need() -> None:
    async with scripted() as (server, client):
        addresses = [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.0.0.1"}]
        conditions = [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2024-01-01T00:00:00Z"}]
        server.on("GET", NODE, Reply(obj("n1", 5, status={"addresses": addresses, "conditions": conditions})))
        node = await client.get(NODES, "n1")
        assert node.key == ("", "n1")
        assert list(node.addresses()) == ["10.0.0.1"]
        assert node.ready
        headers = server.seen[0].headers
        assert headers["User-Agent"] == "k8s-ovs"
        assert "Authorization" not in headers


async def test_create_update_patch_delete_send_what_the_api_wants() -> None:
    async with scripted() as (server, client):
        lease = Lease(
            metadata=ObjectMeta(name="l", namespace="kube-system"),
            spec=LeaseSpec(holder_identity="", lease_transitions=0),
        )
        answer = obj("l", 7, "kube-system", spec={"holderIdentity": ""})
        server.on("POST", LEASE_PATH, Reply(answer, status=201))
        server.on("PUT", f"{LEASE_PATH}/l", Reply(answer))
        server.on("PATCH", "/api/v1/nodes/n1/status", Reply(obj("n1", 6)))
        server.on("DELETE", "/api/v1/namespaces/red/pods/p", Reply(status(200, "")))
        made = await client.create(LEASES, lease)
        assert made.metadata.resource_version == "7"
        await client.update(LEASES, made)
        await client.patch(NODES, "n1", {"status": {"x": None}}, subresource="status")
        await client.delete(PODS, "p", "red", uid="u-1")
        created, updated, patched, deleted = server.seen
        assert created.json == {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "l", "namespace": "kube-system"},
            "spec": {"holderIdentity": "", "leaseTransitions": 0},
        }
        assert updated.json["metadata"]["resourceVersion"] == "7"
        assert created.headers["Content-Type"] == "application/json"
        assert patched.headers["Content-Type"] == "application/merge-patch+json"
        assert patched.json == {"status": {"x": None}}
        assert deleted.json["preconditions"] == {"uid": "u-1"}


async def test_events_are_written_beside_what_they_are_about() -> None:
    async with scripted(AutoClock()) as (server, client):
        path = "/api/v1/namespaces/red/events"
        server.on("POST", path, Reply(obj("web.17", 9, "red", involvedObject={"name": "web"}), status=201))
        about = ObjectReference(kind="Pod", namespace="red", name="web", uid="u", api_version="v1")
        await client.create_event(about, "BadBandwidth", "egress-bandwidth is 'x'", warning=True)
        sent = server.seen[0].json
        assert sent["metadata"] == {"generateName": "web.", "namespace": "red"}
        assert sent["involvedObject"] == {
            "kind": "Pod",
            "namespace": "red",
            "name": "web",
            "uid": "u",
            "apiVersion": "v1",
        }
        assert (sent["type"], sent["reason"], sent["count"]) == ("Warning", "BadBandwidth", 1)
        assert sent["firstTimestamp"] == "2024-05-06T07:08:09Z"
        assert sent["source"] == {"component": "k8s-ovs"}


async def test_list_reads_pages_and_leaves_out_the_malformed(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted() as (server, client):
        path = "/api/v1/namespaces"
        server.on(
            "GET", path, listing(9, obj("a", 1), obj("b", 2, metadata=7), token="t"), listing(9, obj("c", 3))
        )
        found = await client.list(NAMESPACES, field_selector="status.phase=Active")
        assert [item.metadata.name for item in found] == ["a", "c"]
        assert "skipped" in caplog.text
        assert server.seen[1].query == {
            "fieldSelector": "status.phase=Active",
            "limit": "500",
            "continue": "t",
        }


async def test_list_begins_anew_when_its_token_expires() -> None:
    async with scripted() as (server, client):
        expired = Reply(status(410, "Expired"), status=410)
        server.on(
            "GET", "/api/v1/nodes", listing(9, obj("a", 1), token="t"), expired, listing(20, obj("b", 12))
        )
        assert [item.metadata.name for item in await client.list(NODES)] == ["b"]


async def test_a_list_that_is_gone_from_the_start_is_an_error() -> None:
    async with scripted() as (server, client):
        server.on("GET", "/api/v1/nodes", Reply(status(410, "Gone"), status=410))
        with pytest.raises(KubeGone):
            await client.list(NODES)


@pytest.mark.parametrize(
    ("code", "reason", "kind", "text"),
    [
        (401, "Unauthorized", KubeDenied, "renew the credentials in KUBERNETES_MASTER"),
        (403, "Forbidden", KubeDenied, "grant this right"),
        (404, "NotFound", KubeNotFound, "404 NotFound: what happened"),
        (409, "Conflict", KubeConflict, "409 Conflict"),
        (410, "Expired", KubeGone, "410 Expired"),
        (422, "Invalid", KubeError, "422 Invalid"),
        (500, "InternalError", KubeUnavailable, "500"),
        (503, "ServiceUnavailable", KubeUnavailable, "503"),
        (504, "Timeout", KubeUnavailable, "504"),
        (302, "", KubeError, "302 Found"),
        (599, "", KubeError, "599 unknown status"),
    ],
)
async def test_statuses_become_errors_that_say_what_was_tried(
    code: int, reason: str, kind: type[KubeError], text: str
) -> None:
    async with scripted() as (server, client):
        answer = Reply(status(code, reason, "what happened"), status=code)
        server.on("GET", NODE, answer, answer)
        with pytest.raises(kind) as caught:
            await client.get(NODES, "n1")
        assert type(caught.value) is kind
        assert caught.value.status == code
        assert f"GET {server.url}{NODE}: " in str(caught.value)
        assert text in str(caught.value)


async def test_an_answer_that_is_no_status_is_quoted() -> None:
    async with scripted() as (server, client):
        server.on("GET", NODE, Reply(b"<html>Bad Gateway</html>", status=502))
        with pytest.raises(KubeUnavailable, match="502 Bad Gateway: <html>Bad Gateway"):
            await client.get(NODES, "n1")


async def test_a_malformed_object_is_a_record_error() -> None:
    async with scripted() as (server, client):
        server.on("GET", NODE, Reply({"metadata": {"name": "n1"}, "spec": []}))
        with pytest.raises(RecordError, match=r"Node n1: Expected `object`, got `array`"):
            await client.get(NODES, "n1")


@pytest.mark.parametrize(
    ("header", "waited"), [({"Retry-After": "3"}, 3.0), ({}, 1.0), ({"Retry-After": "soon"}, 1.0)]
)
async def test_429_is_waited_out(header: dict[str, str], waited: float) -> None:
    clock = AutoClock()
    async with scripted(clock) as (server, client):
        busy = Reply(status(429, "TooManyRequests"), status=429, headers=header)
        server.on("POST", LEASE_PATH, busy, busy, Reply(obj("l", 7, "kube-system"), status=201))
        await client.create(LEASES, Lease(metadata=ObjectMeta(name="l", namespace="kube-system")))
        assert clock.sleeps == [waited, waited]


async def test_429_is_not_waited_out_past_the_deadline() -> None:
    clock = AutoClock()
    async with scripted(clock) as (server, client):
        busy = Reply(status(429, "TooManyRequests"), status=429, headers={"Retry-After": "12"})
        server.on("GET", NODE, *[busy] * 3)
        with pytest.raises(KubeUnavailable, match="429"):
            await client.get(NODES, "n1")
        assert clock.sleeps == [12.0, 12.0]


async def test_503_with_retry_after_is_repeated_only_for_reads() -> None:
    clock = AutoClock()
    async with scripted(clock) as (server, client):
        starting = Reply(b"starting", status=503, headers={"Retry-After": "2"})
        server.on("GET", NODE, starting, Reply(obj("n1", 1)))
        server.on("POST", LEASE_PATH, starting)
        await client.get(NODES, "n1")
        with pytest.raises(KubeUnavailable):
            await client.create(LEASES, Lease(metadata=ObjectMeta(name="l", namespace="kube-system")))
        assert clock.sleeps == [2.0]


async def test_429_on_a_watch_is_waited_out_too() -> None:
    clock = AutoClock()
    async with scripted(clock) as (server, client):
        busy = Reply(status(429, "TooManyRequests"), status=429, headers={"Retry-After": "4"})
        server.on("GET", "/api/v1/nodes", busy, Stream([line("ADDED", obj("a", 2))]), watch=True)
        stream = client.watch(NODES, Selection(), "1")
        async with aclosing(stream):
            batches = [list(batch) async for batch in stream]
        assert [entry.type for batch in batches for entry in batch] == ["ADDED"]
        assert clock.sleeps == [4.0]


async def test_a_server_that_is_away_is_unavailable() -> None:
    async with scripted() as (server, client):
        await server.stop()
        with pytest.raises(KubeUnavailable, match=r"no answer \(.*check that the API server runs"):
            await client.get(NODES, "n1")


async def test_a_server_that_does_not_answer_is_given_up_at_the_deadline() -> None:
    async with scripted() as (server, _):
        server.on("GET", NODE, Stream(end="hang"))
        credentials = load_credentials(KubeSettings(environ={"KUBERNETES_MASTER": server.url}))
        async with KubeClient(credentials, timeout=0.05) as client:
            with pytest.raises(KubeUnavailable, match="no answer in time: check that the API server answers"):
                await client.get(NODES, "n1")


async def test_a_body_that_breaks_off_is_unavailable() -> None:
    async with scripted() as (server, client):
        server.on("GET", NODE, Stream([b'{"metadata"'], end="abort"))
        with pytest.raises(KubeUnavailable, match="no answer"):
            await client.get(NODES, "n1")


async def test_the_path_of_the_server_is_kept() -> None:
    async with scripted() as (server, _):
        server.on("GET", "/k8s/clusters/c1" + NODE, Reply(obj("n1", 1)))
        credentials = load_credentials(
            KubeSettings(environ={"KUBERNETES_MASTER": server.url + "/k8s/clusters/c1/"})
        )
        async with KubeClient(credentials) as client:
            assert (await client.get(NODES, "n1")).metadata.name == "n1"


async def test_the_client_belongs_into_async_with() -> None:
    client = KubeClient(load_credentials(KubeSettings(environ={"KUBERNETES_MASTER": "127.0.0.1:1"})))
    with pytest.raises(RuntimeError, match="async with"):
        await client.get(NODES, "n1")


async def test_leaving_a_watch_closes_its_connection() -> None:
    async with scripted() as (server, client):
        stream = client.watch(NODES, Selection(), "1", WatchTimes())
        async with aclosing(stream):
            assert await anext(stream) == ()
            await server.watching.wait()
        pool = client._transport._session
        assert isinstance(pool, aiohttp.ClientSession)
        assert pool.connector is not None
        assert not pool.connector._acquired


def test_what_is_sent_has_no_empty_fields() -> None:
    """The body is built from defaults that are not sent: an empty resourceVersion would be a precondition."""
    sent = json.loads(body_of("v1", "Node", Lease(metadata=ObjectMeta(name="x"))))
    assert sent == {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "x"}}

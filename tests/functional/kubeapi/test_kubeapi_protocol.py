"""The API's protocol over HTTP: watches, bookmarks, 410, pages, conflicts, and the faults that tests order."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from fakes.private_kubeapi import KubeApi

MERGE = {"Content-Type": "application/merge-patch+json"}
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


class Client:
    """A few lines around aiohttp: JSON in and out, watches as iterators of events."""

    def __init__(self, session: aiohttp.ClientSession, url: str, namespace: str) -> None:
        self._session = session
        self._url = url
        self.maps = f"/api/v1/namespaces/{namespace}/configmaps"

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        async with self._session.request(method, self._url + path, json=body, **more) as answer:
            return answer.status, await answer.json()

    async def make(self, name: str, **labels: str) -> int:
        status, obj = await self.call("POST", self.maps, {"metadata": {"name": name, "labels": labels}})
        assert status == 201, obj
        return int(obj["metadata"]["resourceVersion"])

    async def fault(self, **fault: Any) -> None:
        status, answer = await self.call("POST", "/lab/faults", fault)
        assert status == 200, answer

    @asynccontextmanager
    async def watch(self, query: str = "", **more: Any) -> AsyncIterator["Watch"]:
        url = f"{self._url}{self.maps}?watch=true&{query}"
        async with self._session.get(url, **more) as answer:
            yield Watch(answer)


class Watch:
    """The events of one watch."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def next(self, *, bookmarks: bool = False) -> dict[str, Any] | None:
        """The next event; None when the stream has ended well."""
        while True:
            line = await asyncio.wait_for(self.answer.content.readline(), 10)
            if not line:
                return None
            event: dict[str, Any] = json.loads(line)
            if bookmarks or event["type"] != "BOOKMARK":
                return event

    async def brief(self, count: int) -> list[tuple[str, str]]:
        """Type and name of the next events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"]["name"]) for event in events if event]


@pytest.fixture
async def client(api: KubeApi, namespace: str) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        made = Client(session, api.url, namespace)
        yield made
        await made.call("DELETE", "/lab/faults")


async def test_a_watch_from_nothing_begins_with_everything(client: Client) -> None:
    await client.make("a")
    async with client.watch() as watch:
        assert await watch.brief(1) == [("ADDED", "a")]
        await client.make("b")
        await client.call("PATCH", f"{client.maps}/b", {"data": {"x": "1"}}, headers=MERGE)
        await client.call("DELETE", f"{client.maps}/b")
        assert await watch.brief(3) == [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "b")]


async def test_list_and_watch_lose_nothing_in_between(client: Client) -> None:
    await client.make("a")
    _, listed = await client.call("GET", client.maps)
    assert "kind" not in listed["items"][0]
    await client.make("b")
    await client.call("DELETE", f"{client.maps}/a")
    async with client.watch(f"resourceVersion={listed['metadata']['resourceVersion']}") as watch:
        assert await watch.brief(2) == [("ADDED", "b"), ("DELETED", "a")]
        await client.make("c")
        assert await watch.brief(1) == [("ADDED", "c")]


async def test_watches_see_through_their_selectors(client: Client) -> None:
    async with client.watch("labelSelector=app=web") as watch:
        await client.make("a", app="web")
        await client.make("b")
        await client.call(
            "PATCH", f"{client.maps}/b", {"metadata": {"labels": {"app": "web"}}}, headers=MERGE
        )
        await client.call("PATCH", f"{client.maps}/a", {"metadata": {"labels": None}}, headers=MERGE)
        assert await watch.brief(3) == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")]


async def test_bookmarks_carry_the_revision_on(client: Client) -> None:
    revision = await client.make("a")
    async with client.watch(f"resourceVersion={revision}&allowWatchBookmarks=true&labelSelector=no") as watch:
        later = await client.make("b")
        while True:
            event = await watch.next(bookmarks=True)
            assert event is not None
            assert event["type"] == "BOOKMARK"
            assert event["object"]["kind"] == "ConfigMap"
            if int(event["object"]["metadata"]["resourceVersion"]) >= later:
                break
    async with client.watch(f"resourceVersion={revision}&timeoutSeconds=1") as watch:
        assert await watch.brief(1) == [("ADDED", "b")]
        assert await watch.next(bookmarks=True) is None, "no bookmark was asked for; the time is over"


async def test_a_watch_list_says_where_the_present_ends(client: Client) -> None:
    await client.make("a")
    query = "sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    async with client.watch(query) as watch:
        assert await watch.brief(1) == [("ADDED", "a")]
        end = await watch.next(bookmarks=True)
        assert end is not None
        assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await client.make("b")
        assert await watch.brief(1) == [("ADDED", "b")]
    status, answer = await client.call("GET", f"{client.maps}?watch=true&sendInitialEvents=true")
    assert (status, answer["reason"]) == (422, "Invalid")


async def test_a_watch_of_tables_has_its_columns_once(client: Client) -> None:
    await client.make("a")
    await client.make("b")
    async with client.watch(headers=TABLE) as watch:
        first, second = await watch.next(), await watch.next()
    assert first is not None
    assert second is not None
    assert [c["name"] for c in first["object"]["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert second["object"]["columnDefinitions"] is None
    assert second["object"]["rows"][0]["cells"][:2] == ["b", 0]


@pytest.mark.parametrize("revision", ["1", "99999999"])
async def test_a_watch_from_an_unknown_revision_gets_410_in_the_stream(client: Client, revision: str) -> None:
    await client.make("a")
    await client.fault(action="drop-history")
    async with client.watch(f"resourceVersion={revision}") as watch:
        assert watch.answer.status == 200
        event = await watch.next()
        assert event is not None
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == (
            "ERROR",
            410,
            "Expired",
        )
        assert await watch.next() is None


async def test_pages(client: Client) -> None:
    for number in range(5):
        await client.make(f"m{number}")
    _, first = await client.call("GET", f"{client.maps}?limit=2")
    assert (len(first["items"]), first["metadata"]["remainingItemCount"]) == (2, 3)
    await client.call("DELETE", f"{client.maps}/m3")
    token = first["metadata"]["continue"]
    _, second = await client.call("GET", f"{client.maps}?limit=10&continue={token}")
    assert [item["metadata"]["name"] for item in second["items"]] == ["m2", "m3", "m4"], "as it was at first"
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    await client.fault(action="drop-history")
    status, answer = await client.call("GET", f"{client.maps}?limit=10&continue={token}")
    assert (status, answer["reason"]) == (410, "Expired")


async def test_lists_of_the_past_and_the_future(client: Client) -> None:
    status, answer = await client.call("GET", f"{client.maps}?resourceVersion=99999999")
    assert (status, answer["details"]["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")
    status, _ = await client.call("GET", f"{client.maps}?resourceVersion=1&resourceVersionMatch=Exact")
    assert status == 410
    status, _ = await client.call("GET", f"{client.maps}?resourceVersion=0")
    assert status == 200


async def test_of_many_writers_of_one_revision_one_wins(client: Client) -> None:
    await client.make("a")
    _, obj = await client.call("GET", f"{client.maps}/a")
    puts = [client.call("PUT", f"{client.maps}/a", obj | {"data": {"who": str(n)}}) for n in range(20)]
    answers = await asyncio.gather(*puts)
    assert sorted(status for status, _ in answers) == [200] + [409] * 19
    assert {answer["reason"] for status, answer in answers if status == 409} == {"Conflict"}


async def test_collections_can_be_deleted(client: Client) -> None:
    for name, app in (("a", "x"), ("b", "x"), ("c", "y")):
        await client.make(name, app=app)
    status, answer = await client.call("DELETE", f"{client.maps}?labelSelector=app=x")
    assert (status, answer["kind"], len(answer["items"])) == (200, "ConfigMapList", 2)
    _, left = await client.call("GET", client.maps)
    assert [item["metadata"]["name"] for item in left["items"]] == ["c"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "code"),
    [
        ("GET", "/apis/apps/v1/replicasets", {}, 404),
        ("GET", "/nothing", {}, 404),
        ("POST", "/api/v1/namespaces/default/pods/web", {}, 405),
        ("POST", "/api/v1/configmaps", {}, 400),
        ("GET", "/api/v1/pods", {"Accept": "application/vnd.kubernetes.protobuf"}, 406),
        ("GET", "/api/v1/pods?limit=x", {}, 400),
        ("GET", "/api/v1/pods?watch=1&resourceVersion=x", {}, 400),
        ("GET", "/api/v1/pods?watch=1&timeoutSeconds=x", {}, 400),
        ("POST", "/api/v1/namespaces?fieldValidation=Maybe", {}, 400),
        ("POST", "/api/v1/namespaces?dryRun=Some", {}, 400),
        ("PATCH", "/api/v1/namespaces/default", {"Content-Type": "application/json"}, 415),
    ],
)
async def test_wrong_requests_get_a_status(
    client: Client, method: str, path: str, headers: dict[str, str], code: int
) -> None:
    status, answer = await client.call(
        method, path, {} if method in ("POST", "PATCH") else None, headers=headers
    )
    assert (status, answer["kind"], answer["status"], answer["code"]) == (code, "Status", "Failure", code)


async def test_a_body_that_is_no_json_or_too_long(api: KubeApi) -> None:
    url = f"{api.url}/api/v1/namespaces"
    async with aiohttp.ClientSession() as session:
        for data, code in ((b"{", 400), (b"[]", 400), (b"x" * (4 << 20), 413)):
            async with session.post(url, data=data, headers={"Content-Type": "application/json"}) as answer:
                assert (answer.status, (await answer.json())["kind"]) == (code, "Status")
        yaml = b"metadata:\n  name: from-yaml\n"
        async with session.post(url, data=yaml, headers={"Content-Type": "application/yaml"}) as answer:
            assert answer.status == 201


async def test_faults_answer_with_a_status(client: Client) -> None:
    await client.fault(action="status", status=429, retryAfter=7, times=1, path=client.maps, method="GET")
    status, answer = await client.call("GET", client.maps)
    assert (status, answer["reason"], answer["details"]) == (429, "TooManyRequests", {"retryAfterSeconds": 7})
    assert (await client.call("GET", client.maps))[0] == 200
    await client.fault(action="status", status=500, times=0, path=client.maps)
    assert [(await client.call("GET", client.maps))[0] for _ in range(3)] == [500] * 3
    await client.call("DELETE", "/lab/faults")
    assert (await client.call("GET", client.maps))[0] == 200


async def test_faults_delay_and_close(client: Client) -> None:
    loop = asyncio.get_running_loop()
    await client.fault(action="delay", seconds=0.3, path=client.maps)
    began = loop.time()
    assert (await client.call("GET", client.maps))[0] == 200
    assert loop.time() - began >= 0.3
    await client.fault(action="close", path=client.maps, times=0)
    with pytest.raises(aiohttp.ClientError):
        await client.call("GET", client.maps)


async def test_faults_hang_until_they_are_cleared(client: Client) -> None:
    await client.fault(action="hang", path=client.maps)
    hanging = asyncio.ensure_future(client.call("GET", client.maps))
    done, _ = await asyncio.wait([hanging], timeout=0.3)
    assert not done
    await client.call("DELETE", "/lab/faults")
    assert (await asyncio.wait_for(hanging, 10))[0] == 200


async def test_open_watches_can_be_reset(client: Client) -> None:
    async with client.watch() as watch:
        await client.make("a")
        assert await watch.brief(1) == [("ADDED", "a")]
        await client.fault(action="close-watches", path=client.maps)
        with pytest.raises(aiohttp.ClientError):
            await watch.next()


async def test_open_watches_can_be_told_that_they_are_too_old(client: Client) -> None:
    async with client.watch() as watch:
        await client.make("a")
        assert await watch.brief(1) == [("ADDED", "a")]
        await client.fault(action="expire-watches", path=client.maps)
        event = await watch.next()
        assert event is not None
        assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
        assert await watch.next() is None


async def test_open_watches_can_fall_silent(client: Client) -> None:
    async with client.watch("allowWatchBookmarks=true") as watch:
        await client.make("a")
        assert await watch.brief(1) == [("ADDED", "a")]
        await client.fault(action="hang-watches", path=client.maps)
        await client.make("b")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.answer.content.readline(), 1)
        await client.call("DELETE", "/lab/faults")
        assert await watch.brief(1) == [("ADDED", "b")]


async def test_a_watch_is_forgotten_when_its_client_goes(client: Client) -> None:
    async def open_watches() -> list[str]:
        _, answer = await client.call("GET", "/lab/faults")
        return list(answer["watches"])

    async with client.watch():
        assert client.maps in await open_watches()
    deadline = asyncio.get_running_loop().time() + 10
    while client.maps in await open_watches():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)

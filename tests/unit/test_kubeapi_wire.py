"""What the embedded API reads and says on the wire: paths, protobuf, pages, discovery, OpenAPI, faults, watchers."""

import asyncio
from typing import Any

import pytest

from k8s_ovs.lab.kubeapi import discovery, openapi, protobuf, routing
from k8s_ovs.lab.kubeapi.answers import ApiError
from k8s_ovs.lab.kubeapi.faults import Faults
from k8s_ovs.lab.kubeapi.paging import Pages
from k8s_ovs.lab.kubeapi.resources import CONFIG_MAPS, RESOURCES
from k8s_ovs.lab.kubeapi.selectors import Selector
from k8s_ovs.lab.kubeapi.store import Entry, Store, Verb
from k8s_ovs.lab.kubeapi.watch import Fate, Watcher


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/api/v1/pods", ("pods", "", "", "")),
        ("/api/v1/namespaces/red/pods", ("pods", "red", "", "")),
        ("/api/v1/namespaces/red/pods/web", ("pods", "red", "web", "")),
        ("/api/v1/namespaces/red/pods/web/status", ("pods", "red", "web", "status")),
        ("/api/v1/namespaces/red/pods/web/binding", ("pods", "red", "web", "binding")),
        ("/api/v1/namespaces", ("namespaces", "", "", "")),
        ("/api/v1/namespaces/red", ("namespaces", "", "red", "")),
        ("/api/v1/namespaces/red/finalize", ("namespaces", "", "red", "finalize")),
        ("/api/v1/nodes/node1/status", ("nodes", "", "node1", "status")),
        ("/apis/coordination.k8s.io/v1/namespaces/red/leases/a", ("leases", "red", "a", "")),
        ("/apis/discovery.k8s.io/v1/endpointslices", ("endpointslices", "", "", "")),
    ],
)
def test_paths(path: str, found: tuple[str, str, str, str]) -> None:
    target = routing.parse(path)
    assert target is not None
    assert (target.resource.plural, target.namespace, target.name, target.subresource) == found


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1",
        "/api/v2/pods",
        "/api/v1/unknown",
        "/api/v1/pods/web",
        "/api/v1/namespaces/red/nodes",
        "/api/v1/namespaces/red/pods/web/log",
        "/api/v1/namespaces/red/pods/web/status/more",
        "/apis/apps/v1/replicasets",
        "/apis/coordination.k8s.io/v1",
        "/else",
    ],
)
def test_paths_where_nothing_is(path: str) -> None:
    assert routing.parse(path) is None


def test_every_resource_is_found_under_its_own_path() -> None:
    for resource in RESOURCES:
        namespace = "red" if resource.namespaced else ""
        assert routing.parse(resource.path(namespace, "x")) == routing.Target(resource, namespace, "x")


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return bytes([number << 3]) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    octets = b""
    while value > 0x7F:
        octets += bytes([value & 0x7F | 0x80])
        value >>= 7
    return octets + bytes([value])


def enveloped(version: bytes, kind: bytes, raw: bytes) -> bytes:
    return b"k8s\x00" + field(1, field(1, version) + field(2, kind)) + field(2, raw) + field(3, b"")


def test_protobuf_service() -> None:
    meta = field(1, b"web") + field(2, b"") + field(8, b"") + field(11, field(1, b"app") + field(2, b"x"))
    named = (
        field(1, b"http")
        + field(3, 80)
        + field(4, field(1, 1) + field(2, 0) + field(3, b"web"))
        + field(5, 0)
    )
    plain = field(3, 443) + field(4, field(1, 0) + field(2, 8443) + field(3, b""))
    spec = field(1, named) + field(1, plain) + field(3, b"") + field(13, 1)
    affinity = field(14, field(1, field(1, 300)))
    body = enveloped(b"v1", b"Service", field(1, meta) + field(2, spec + affinity) + field(3, b""))
    assert protobuf.decode(body) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "labels": {"app": "x"}},
        "spec": {
            "ports": [{"name": "http", "port": 80, "targetPort": "web"}, {"port": 443, "targetPort": 8443}],
            "publishNotReadyAddresses": True,
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 300}},
        },
    }


def test_protobuf_octets_are_base64_and_a_grace_of_zero_counts() -> None:
    secret = enveloped(
        b"v1", b"Secret", field(2, field(1, b"k") + field(2, b"\xff\x00")) + field(3, b"Opaque")
    )
    assert protobuf.decode(secret)["data"] == {"k": "/wA="}
    options = enveloped(b"v1", b"DeleteOptions", field(1, 0) + field(2, field(1, b"u")) + field(5, b"All"))
    found = protobuf.decode(options)
    assert (found["gracePeriodSeconds"], found["preconditions"], found["dryRun"]) == (
        0,
        {"uid": "u"},
        ["All"],
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{}", 400),
        (enveloped(b"v1", b"Pod", b""), 415),
        (enveloped(b"v1", b"Namespace", field(1, b"abc"))[:-4], 400),
        (enveloped(b"v1", b"Namespace", b"\x0f\x01"), 400),
        (enveloped(b"v1", b"Namespace", b"\xff\xff"), 400),
    ],
)
def test_protobuf_that_is_not_taken(body: bytes, code: int) -> None:
    with pytest.raises(ApiError) as caught:
        protobuf.decode(body)
    assert caught.value.code == code


def entries(count: int) -> list[Entry]:
    return [Entry.build(CONFIG_MAPS, {"metadata": {"name": f"m{n}"}}, n + 1) for n in range(count)]


def test_pages_show_the_state_of_the_first() -> None:
    pages, whole = Pages(), entries(7)
    page = pages.first(whole, 42, 3)
    assert page.metadata() == {"resourceVersion": "42", "continue": page.token, "remainingItemCount": 4}
    second = pages.following(page.token, 3)
    third = pages.following(second.token, 3)
    assert page.entries + second.entries + third.entries == whole
    assert (third.revision, third.token, third.remaining) == (42, "", 0)
    assert pages.following(page.token, 0).entries == whole[3:]
    assert pages.first(whole, 42, 0).token == pages.first(whole, 42, 7).token == ""


def test_page_tokens_expire() -> None:
    pages = Pages()
    token = pages.first(entries(3), 1, 1).token
    for number in range(100):
        newest = pages.first(entries(3), number, 1).token
    assert len(pages.following(newest, 1).entries) == 1
    for old in (token, newest):
        if old is newest:
            pages.forget()
        with pytest.raises(ApiError, match="continue parameter is too old") as caught:
            pages.following(old, 1)
        assert caught.value.code == 410
    with pytest.raises(ApiError, match="continue key is not valid"):
        pages.following("%%%", 1)


def test_both_forms_of_discovery_name_the_same_resources() -> None:
    plain: set[tuple[str, str]] = set()
    for group, version in {(r.group, r.version) for r in RESOURCES}:
        listed = discovery.resource_list(group, version)
        assert listed is not None
        plain |= {(group, r["name"]) for r in listed["resources"]}
    merged: set[tuple[str, str]] = set()
    for core in (True, False):
        for item in discovery.aggregated(core=core)["items"]:
            for resource in item["versions"][0]["resources"]:
                name = (item["metadata"]["name"], resource["resource"])
                subs = resource.get("subresources", [])
                merged |= {name} | {(name[0], f"{name[1]}/{sub['subresource']}") for sub in subs}
    assert plain == merged
    assert discovery.resource_list("batch", "v1") is None
    assert discovery.group("batch") is None


def test_openapi_says_of_every_kind_that_the_server_validates() -> None:
    for root in openapi.v3_index()["paths"]:
        document = openapi.v3(root)
        assert document is not None
        patches = [path["patch"] for path in document["paths"].values() if "patch" in path]
        assert patches
        for operation in patches:
            assert "fieldValidation" in [parameter["name"] for parameter in operation["parameters"]]
    assert openapi.v3("apis/batch/v1") is None
    assert openapi.v2_protobuf().startswith(b"\x0a\x032.0")


async def test_fault_rules_are_for_the_requests_that_they_name() -> None:
    faults = Faults(lambda: None)
    faults.add(
        {"action": "status", "status": 429, "retryAfter": 3, "times": 2, "method": "GET", "path": "pods$"}
    )
    assert faults.take("POST", "/api/v1/pods", watch=False) is None
    assert faults.take("GET", "/api/v1/nodes", watch=False) is None
    rule = faults.take("GET", "/api/v1/pods", watch=False)
    assert rule is not None
    error = rule.error()
    assert (error.code, error.reason, error.details) == (429, "TooManyRequests", {"retryAfterSeconds": 3})
    assert faults.take("GET", "/api/v1/pods", watch=True) is rule
    assert faults.take("GET", "/api/v1/pods", watch=False) is None, "twice was asked for"
    faults.add({"action": "close", "times": 0, "watch": True})
    assert faults.take("GET", "/x", watch=False) is None
    assert all(faults.take("GET", "/x", watch=True) for _ in range(5))
    assert [(r["action"], r["hits"]) for r in faults.report()["rules"]] == [("status", 2), ("close", 5)]
    faults.clear()
    assert faults.take("GET", "/x", watch=True) is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"action": "explode"}, "unknown action 'explode'; known are status, delay"),
        ({"action": "close", "path": "("}, "is no regular expression"),
        ({"action": "status", "status": "x"}, "status must be int"),
        ({"action": "close", "times": True}, "times must be int"),
    ],
)
async def test_faults_that_make_no_sense(body: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError, match=message):
        Faults(lambda: None).add(body)


async def test_hanging_ends_when_the_faults_are_cleared() -> None:
    faults = Faults(lambda: None)
    hanging = asyncio.ensure_future(faults.hang())
    await asyncio.sleep(0)
    assert not hanging.done()
    faults.clear()
    await asyncio.wait_for(hanging, 5)


def put(store: Store, name: str, **labels: str) -> None:
    store.put(CONFIG_MAPS, {"metadata": {"name": name, "namespace": "red", "labels": labels}})


async def test_a_watcher_sees_objects_enter_and_leave_its_selection() -> None:
    store = Store()
    put(store, "a", app="web")
    watcher = Watcher(store, CONFIG_MAPS, "red", Selector.parse(CONFIG_MAPS, "app=web", ""))
    assert [c.entry.key[1] for c in watcher.existing()] == ["a"]
    put(store, "a", app="db")
    put(store, "a", app="db", more="1")
    put(store, "b", app="web")
    put(store, "b", app="web", more="1")
    store.put(CONFIG_MAPS, {"metadata": {"name": "b", "namespace": "blue", "labels": {"app": "web"}}})
    put(store, "a", app="web")
    store.remove(CONFIG_MAPS, ("red", "a"))
    seen = [(c.verb, c.entry.key[1], c.entry.revision) for c in await watcher.next(5)]
    assert seen == [
        (Verb.DELETED, "a", 3),
        (Verb.ADDED, "b", 5),
        (Verb.MODIFIED, "b", 6),
        (Verb.ADDED, "a", 8),
        (Verb.DELETED, "a", 9),
    ]
    assert [(c.verb, c.entry.key[1], c.entry.revision) for c in watcher.since(2)] == seen
    assert await watcher.next(0) == []
    watcher.close()
    put(store, "c", app="web")
    assert await watcher.next(0) == []


async def test_an_object_that_leaves_a_selection_is_told_as_it_was() -> None:
    store = Store()
    put(store, "a", app="web")
    watcher = Watcher(store, CONFIG_MAPS, "", Selector.parse(CONFIG_MAPS, "app=web", ""))
    put(store, "a")
    (change,) = await watcher.next(5)
    assert change.entry.obj["metadata"]["labels"] == {"app": "web"}
    assert change.entry.obj["metadata"]["resourceVersion"] == "3"
    watcher.close()


async def test_a_watcher_that_does_not_keep_up_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k8s_ovs.lab.kubeapi.watch.BACKLOG", 3)
    store = Store()
    watcher = Watcher(store, CONFIG_MAPS, "", Selector())
    for number in range(3):
        put(store, f"m{number}")
    assert watcher.fate is None
    put(store, "more")
    assert watcher.fate is Fate.CLOSE
    watcher.close()

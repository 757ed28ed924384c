"""Deleting in the embedded API: grace of pods, finalizers, preconditions, Namespaces with all that is in them."""

import asyncio
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

import pytest

from k8s_ovs.lab.kubeapi.answers import ApiError
from k8s_ovs.lab.kubeapi.deletion import DeleteOptions, NamespacePurge, Remover
from k8s_ovs.lab.kubeapi.registry import Registry
from k8s_ovs.lab.kubeapi.resources import CONFIG_MAPS, NAMESPACES, NODES, PODS, Key
from k8s_ovs.lab.kubeapi.seed import seed
from k8s_ovs.lab.kubeapi.store import Store

WEB = ("red", "web")
NOW = DeleteOptions(grace=0)


@pytest.fixture
def registry() -> Registry:
    registry = Registry(Store(), IPv4Network("10.96.0.0/24"))
    seed(registry, None)
    registry.create(NAMESPACES, "", {"metadata": {"name": "red"}})
    return registry


@pytest.fixture
def remover(registry: Registry) -> Remover:
    return Remover(registry)


@pytest.fixture
async def purge(registry: Registry, remover: Remover) -> Any:
    purge = NamespacePurge(registry, remover)
    yield purge
    purge.close()


def make_pod(registry: Registry, key: Key = WEB, **parts: Any) -> dict[str, Any]:
    pod = {"metadata": {"name": key[1], **parts}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    return registry.create(PODS, key[0], pod).obj


def names(registry: Registry) -> Iterator[str]:
    return (entry.key[1] for entry in registry.store.entries(PODS, "red"))


def test_a_pod_without_a_node_goes_at_once(registry: Registry, remover: Remover) -> None:
    make_pod(registry)
    assert remover.delete(PODS, WEB, DeleteOptions()).gone
    assert not list(names(registry))


def test_a_pod_on_a_node_waits_for_its_kubelet(registry: Registry, remover: Remover) -> None:
    make_pod(registry)
    registry.bind(WEB, {"target": {"name": "node1"}})
    deleted = remover.delete(PODS, WEB, DeleteOptions())
    meta = deleted.entry.obj["metadata"]
    assert (deleted.gone, meta["deletionGracePeriodSeconds"]) == (False, 30)
    assert meta["deletionTimestamp"] > meta["creationTimestamp"]
    again = remover.delete(PODS, WEB, DeleteOptions(grace=60))
    assert again.entry is deleted.entry, "the grace can be made shorter only"
    shorter = remover.delete(PODS, WEB, DeleteOptions(grace=5))
    assert shorter.entry.obj["metadata"]["deletionGracePeriodSeconds"] == 5
    assert remover.delete(PODS, WEB, NOW).gone
    with pytest.raises(ApiError) as caught:
        remover.delete(PODS, WEB, NOW)
    assert (caught.value.code, caught.value.message) == (404, 'pods "web" not found')


def test_a_pod_that_has_ended_goes_at_once(registry: Registry, remover: Remover) -> None:
    make_pod(registry)
    registry.bind(WEB, {"target": {"name": "node1"}})
    pod = registry.get(PODS, WEB).copy()
    pod["status"]["phase"] = "Succeeded"
    registry.store.put(PODS, pod)
    assert remover.delete(PODS, WEB, DeleteOptions()).gone


def test_finalizers_hold_until_they_are_taken_off(registry: Registry, remover: Remover) -> None:
    make_pod(registry, finalizers=["example.com/a"])
    deleted = remover.delete(PODS, WEB, DeleteOptions())
    assert not deleted.gone
    held = registry.get(PODS, WEB).copy()
    held["metadata"]["finalizers"] = []
    registry.update(PODS, WEB, held)
    assert registry.store.get(PODS, WEB) is None


def test_preconditions(registry: Registry, remover: Remover) -> None:
    uid = make_pod(registry)["metadata"]["uid"]
    for options in (DeleteOptions(uid="another"), DeleteOptions(uid=uid, revision="1")):
        with pytest.raises(ApiError, match="Precondition failed") as caught:
            remover.delete(PODS, WEB, options)
        assert caught.value.code == 409
    assert remover.delete(PODS, WEB, DeleteOptions(uid=uid, dry_run=True)).gone
    assert list(names(registry)) == ["web"]
    assert remover.delete(PODS, WEB, DeleteOptions(uid=uid)).gone


@pytest.mark.parametrize("name", ["default", "kube-system"])
def test_the_systems_namespaces_stay(remover: Remover, name: str) -> None:
    with pytest.raises(ApiError, match="this namespace may not be deleted") as caught:
        remover.delete(NAMESPACES, ("", name), DeleteOptions())
    assert caught.value.code == 403


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_namespace_takes_its_objects_with_it(
    registry: Registry, remover: Remover, purge: NamespacePurge
) -> None:
    make_pod(registry)
    make_pod(registry, ("default", "other"))
    registry.create(CONFIG_MAPS, "red", {"metadata": {"name": "c"}})
    registry.create(NODES, "", {"metadata": {"name": "n"}})
    deleted = remover.delete(NAMESPACES, ("", "red"), DeleteOptions())
    assert deleted.entry.obj["status"]["phase"] == "Terminating"
    await settled()
    assert registry.store.get(NAMESPACES, ("", "red")) is None
    assert registry.store.get(CONFIG_MAPS, ("red", "c")) is None
    assert registry.store.get(PODS, ("default", "other")) is not None
    assert registry.store.get(NODES, ("", "n")) is not None


async def test_a_namespace_waits_for_its_pods_and_its_finalizers(
    registry: Registry, remover: Remover, purge: NamespacePurge
) -> None:
    registry.patch(
        NAMESPACES, ("", "red"), lambda ns: ns | {"metadata": ns["metadata"] | {"finalizers": ["a/b"]}}
    )
    make_pod(registry)
    registry.bind(WEB, {"target": {"name": "node1"}})
    remover.delete(NAMESPACES, ("", "red"), DeleteOptions())
    await settled()
    assert registry.get(PODS, WEB).obj["metadata"]["deletionTimestamp"]
    remover.delete(PODS, WEB, NOW)
    await settled()
    assert registry.store.get(NAMESPACES, ("", "red")) is not None, "its own finalizer holds it"
    registry.patch(
        NAMESPACES, ("", "red"), lambda ns: ns | {"metadata": ns["metadata"] | {"finalizers": None}}
    )
    await settled()
    assert registry.store.get(NAMESPACES, ("", "red")) is None


async def test_a_purge_goes_on_after_a_restart(registry: Registry, remover: Remover) -> None:
    make_pod(registry)
    remover.delete(NAMESPACES, ("", "red"), DeleteOptions())
    purge = NamespacePurge(registry, remover)
    await settled()
    purge.close()
    assert registry.store.get(NAMESPACES, ("", "red")) is None

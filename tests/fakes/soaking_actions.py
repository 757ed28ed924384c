"""What may happen to a cluster, one function each: draws what it does, does it, says so in words; "" if it cannot now.

For `fakes.soaking`. The model is changed once it is certain what came of it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from fakes.soaking_api import Api, Object, Records
from fakes.soaking_harm import Harm
from fakes.soaking_model import Model, SoakPod, SoakService, Tenancy

APPS = ("web", "db")
NAMES = tuple(f"team{number}" for number in range(1, 7))
MOST_PODS = 20
SERVED = 80
PORTS = (("t", "TCP", 80), ("u", "UDP", 80), ("x", "TCP", 8000), ("y", "UDP", 53))
RATES = (5, 10, 50)
SWITCH = ("vswitchd", "ovsdb")
KILLED = ("agent", "agent", *SWITCH, "etcd", "apiserver", "controller")


@dataclass
class World:
    """A lab with what is known of it, and the ways to change it."""

    model: Model
    api: Api
    records: Records
    harm: Harm


Action = Callable[[World, random.Random], str]


def pods(namespace: str, name: str = "") -> str:
    """The path of Pods."""
    return f"/api/v1/namespaces/{namespace}/pods" + (f"/{name}" if name else "")


def services(namespace: str, name: str = "") -> str:
    """The path of Services."""
    return f"/api/v1/namespaces/{namespace}/services" + (f"/{name}" if name else "")


def _limits(rng: random.Random) -> dict[str, int]:
    return {name: rng.choice(RATES) for name in ("ingress", "egress") if rng.random() < 0.3}


def make_pod(world: World, namespace: str, name: str, pod: SoakPod) -> None:
    """Have a pod made; it counts from now on, Ready or not."""
    annotations = {key: value for key, value in pod.annotations.items() if value is not None}
    body: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": {"app": pod.app},
            "annotations": annotations,
        },
        "spec": {"nodeName": pod.node, "containers": [{"name": "server", "image": "lab"}]},
    }
    world.api.create(pods(namespace), body)
    world.model.pods[namespace, name] = pod


def create_pods(world: World, rng: random.Random) -> str:
    model = world.model
    room = MOST_PODS - len(model.pods)
    namespaces, nodes = model.movable(), sorted(model.nodes.keys() - model.away)
    if room <= 0 or not namespaces:
        return ""
    made = []
    for _ in range(min(room, rng.choice((1, 2, 6)))):
        namespace, name = rng.choice(namespaces), f"p{model.number()}"
        pod = SoakPod(rng.choice(nodes), rng.choice(APPS), _limits(rng))
        make_pod(world, namespace, name, pod)
        made.append(f"{namespace}/{name} on {pod.node} {pod.limits or ''}".strip())
    return f"create pods {', '.join(made)}"


def delete_pods(world: World, rng: random.Random) -> str:
    """Some with time to end, some at once, some whose DEL gets lost."""
    known = list(world.model.pods_of(*world.model.movable()))
    if not known:
        return ""
    told = []
    for key in rng.sample(known, min(len(known), rng.choice((1, 1, 3)))):
        how = rng.choice(("gracefully", "by force", "with its DEL lost"))
        if how == "with its DEL lost":
            found = world.api.get(pods(*key))
            how = how if found and world.harm.forget_del(found["metadata"]["uid"]) else "by force"
        world.api.delete(pods(*key), grace=None if how == "gracefully" else 0)
        del world.model.pods[key]
        told.append(f"{'/'.join(key)} {how}")
    return f"delete pods {', '.join(told)}"


def replace_pod(world: World, rng: random.Random) -> str:
    """Of the same name, at once: the one before is still being removed."""
    model = world.model
    known = [key for key in model.pods_of(*model.movable()) if model.pods[key].node not in model.away]
    if not known:
        return ""
    key = rng.choice(known)
    before = model.pods[key]
    world.api.delete(pods(*key), grace=0)
    del model.pods[key]
    while world.api.get(pods(*key)) is not None:  # it was being deleted gracefully
        world.api.meanwhile()
    make_pod(world, *key, SoakPod(before.node, rng.choice(APPS), _limits(rng)))
    return f"replace pod {'/'.join(key)} on {before.node}"


def change_limits(world: World, rng: random.Random) -> str:
    known = list(world.model.pods_of(*world.model.movable()))
    if not known:
        return ""
    key = rng.choice(known)
    pod = world.model.pods[key]
    pod.limits = _limits(rng)
    world.api.patch(pods(*key), {"metadata": {"annotations": pod.annotations}})
    return f"limits of {'/'.join(key)} are {pod.limits or 'none'}"


def make_namespace(world: World, rng: random.Random) -> str:
    free = sorted(set(NAMES) - world.model.groups.keys())
    if not free:
        return ""
    name = rng.choice(free)
    if world.api.get(f"/api/v1/namespaces/{name}") is not None:
        return ""  # the one before is still going
    world.api.create(
        "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    )
    world.model.groups[name] = f"alone-{world.model.number()}"
    return f"create Namespace {name}"


def remove_namespace(world: World, rng: random.Random) -> str:
    known = world.model.movable()
    if len(known) < 3:
        return ""
    name = rng.choice(known)
    world.api.delete(f"/api/v1/namespaces/{name}")
    world.model.remove_namespace(name)
    return f"delete Namespace {name}"


def change_tenant(world: World, rng: random.Random) -> str:
    """One request at a time; `look` says when it is answered."""
    model = world.model
    known = model.movable()
    if model.asked is not None or len(known) < 2:
        return ""
    name, other = rng.sample(known, 2)
    action = rng.choice(("join", "join", "isolate", "global"))
    record = world.records.get(f"netnamespaces/{name}")
    if record is None or world.records.get(f"netnamespaces/{other}") is None:
        return ""  # no controller has seen it yet
    asked = Tenancy(name, action, other if action == "join" else "")
    record |= {"Action": asked.action, "Namespace": asked.other}
    model.asked = asked
    world.records.put(f"netnamespaces/{name}", record)
    return f"{action} {name} {asked.other}".strip()


def look(world: World) -> bool:
    """Whether nothing is asked for any more. A request that was refused has changed nothing."""
    asked = world.model.asked
    if asked is None:
        return True
    record = world.records.get(f"netnamespaces/{asked.namespace}")
    assert record is not None, f"the record of {asked.namespace} is gone, with a request in it"
    if record["Action"]:
        return False
    assert not record.get("Error"), f"{asked}: {record}"
    world.model.answered()
    return True


def make_service(world: World, rng: random.Random) -> str:
    namespaces = world.model.movable()
    if not namespaces or len(world.model.services) >= 8:
        return ""
    namespace, name = rng.choice(namespaces), f"s{world.model.number()}"
    service = _service(rng)
    kind = rng.choice(("ClusterIP", "ClusterIP", "NodePort"))
    spec = {"type": kind, "selector": {"app": service.app}, **_spec(service)}
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }
    world.api.create(services(namespace), body)
    world.model.services[namespace, name] = service
    return f"create {kind} Service {namespace}/{name}: {service}"


def change_service(world: World, rng: random.Random) -> str:
    known = [key for key in sorted(world.model.services) if key[0] in world.model.movable()]
    if not known:
        return ""
    key = rng.choice(known)
    service = _service(rng)
    spec = {"selector": {"app": service.app}, **_spec(service)}
    world.api.patch(services(*key), {"spec": spec})
    world.model.services[key] = service
    return f"change Service {'/'.join(key)}: {service}"


def remove_service(world: World, rng: random.Random) -> str:
    known = [key for key in sorted(world.model.services) if key[0] in world.model.movable()]
    if not known:
        return ""
    key = rng.choice(known)
    world.api.delete(services(*key))
    del world.model.services[key]
    return f"delete Service {'/'.join(key)}"


def _service(rng: random.Random) -> SoakService:
    ports = tuple(sorted(rng.sample(PORTS, rng.choice((1, 2)))))
    return SoakService(rng.choice(APPS), ports, rng.choice((None, None, 30, 600)))


def _spec(service: SoakService) -> Object:
    affinity = service.affinity
    return {
        "ports": [
            {"name": name, "protocol": protocol, "port": port, "targetPort": SERVED}
            for name, protocol, port in service.ports
        ],
        "sessionAffinity": "None" if affinity is None else "ClientIP",
        "sessionAffinityConfig": None if affinity is None else {"clientIP": {"timeoutSeconds": affinity}},
    }


def take_node(world: World, rng: random.Random) -> str:
    """A Node is deleted; its host goes on."""
    model = world.model
    free = sorted(model.nodes.keys() - model.away - {"node1", "node2"})
    if not free:
        return ""
    name = rng.choice(free)
    world.api.delete(f"/api/v1/nodes/{name}")
    model.away.add(name)
    return f"delete Node {name}"


def return_node(world: World, rng: random.Random) -> str:
    """A Node that was deleted comes back, as its kubelet registers it."""
    model = world.model
    if not model.away:
        return ""
    name = rng.choice(sorted(model.away))
    give_back(world, name)
    return f"create Node {name}"


def give_back(world: World, name: str) -> None:
    """Register a Node again."""
    address = {"type": "InternalIP", "address": str(world.model.nodes[name])}
    ready = {"type": "Ready", "status": "True"}
    body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"addresses": [address], "conditions": [ready]},
    }
    world.api.create("/api/v1/nodes", body)
    world.model.away.discard(name)


def release_host(world: World, rng: random.Random) -> str:
    model = world.model
    held = sorted(model.hosts.keys() - model.released)
    if not held:
        return ""
    name = rng.choice(held)
    world.records.delete(f"subnets/{model.hosts[name]}")
    model.released.add(name)
    return f"release external host {name}"


def assign_host(world: World, rng: random.Random) -> str:
    model = world.model
    if not model.released:
        return ""
    name = rng.choice(sorted(model.released))
    record = {"Host": name, "HostIP": str(model.hosts[name]), "Subnet": "", "Assign": True}
    world.records.put(f"subnets/{model.hosts[name]}", record)
    model.released.discard(name)
    return f"assign external host {name}"


def _harmed(world: World, rng: random.Random) -> list[str]:
    """What may be harmed."""
    chosen = [rng.choice(KILLED), *([rng.choice(KILLED)] if rng.random() < 0.3 else [])]
    return world.harm.running(*chosen)


def kill(world: World, rng: random.Random) -> str:
    """One process; sometimes two at once."""
    running = _harmed(world, rng)
    if not running:
        return ""
    chosen = rng.sample(running, min(len(running), rng.choice((1, 1, 2))))
    world.harm.kill(*chosen)
    return f"kill -9 {' '.join(chosen)}"


def stop(world: World, rng: random.Random) -> str:
    """An outage of some seconds."""
    running = _harmed(world, rng)
    if not running or len(world.harm.away) > 1:
        return ""
    chosen, seconds = rng.sample(running, 1), rng.uniform(0.3, 4)
    world.harm.stop(seconds, *chosen)
    return f"stop {' '.join(chosen)} for {seconds:.1f} s"


ACTIONS: dict[Action, int] = {
    create_pods: 8,
    delete_pods: 5,
    replace_pod: 2,
    change_limits: 3,
    make_namespace: 2,
    remove_namespace: 1,
    change_tenant: 4,
    make_service: 3,
    change_service: 3,
    remove_service: 1,
    take_node: 1,
    return_node: 2,
    release_host: 1,
    assign_host: 2,
    kill: 6,
    stop: 2,
}
"""How often each, about."""

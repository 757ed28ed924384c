"""The demo's parts about Services, bandwidth, external hosts, the way out, and hostile pods.

Called by the demo, each on the lab as the parts before have left it: red and blue are isolated, green is global.
"""

import json
from collections import Counter
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from k8s_ovs.lab import forge, matrix, probes
from k8s_ovs.lab.demo_stage import Shell
from k8s_ovs.lab.demo_tenants import Story, pod, show_reach
from k8s_ovs.lab.demo_traffic import stream
from k8s_ovs.lab.probes import Answer, Protocol, Target
from k8s_ovs.lab.wait import until

SERVER_LABEL = {"app": "web"}
_HOST = "lb"
_CONNECTIONS = 20
_PROBE_SECONDS = 4.0
_PATIENCE = 15.0
_COUNTER_SECONDS = 10.0
"""The switch adds a datapath flow's packets to its counters with some delay."""
_SETTLE = 2.0
"""Seconds after which a changed limit has to be in force."""
_OPENING = 1.0
"""Seconds that the connection has to grow again."""
_LIMIT = 10.0
_LOWEST, _HIGHEST = 0.8, 1.1
"""What of a limit TCP's payload may be: headers take some of it, and a busy machine some more."""


async def service(shell: Shell, story: Story) -> None:
    """A Service within a tenant."""
    cluster, stage = shell.cluster, shell.stage
    stage.title(
        "a Service belongs to its Namespace's tenant; the switch of the client's node balances, no kube-proxy"
    )
    await shell.run("kubectl", "create", "service", "clusterip", "web", "--tcp=80", "-n", "red")
    await shell.run("kubectl", "get", "service", "web", "-n", "red")
    address = await shell.run(
        "kubectl", "get", "service", "web", "-n", "red", "-o", "jsonpath={.spec.clusterIP}", quiet=True
    )
    client, stranger = pod(cluster, "red/shop"), pod(cluster, "blue/web1")

    async def served() -> bool:
        return (await _ask(client.netns, address, 80, 1.0)).reached

    await until(served, _PATIENCE)
    answers = [await _ask(client.netns, address, 80) for _ in range(_CONNECTIONS)]
    by_server = Counter(answer.server for answer in answers)
    shares = ", ".join(f"{name} {count}" for name, count in sorted(by_server.items()))
    stage.found(
        f"{_CONNECTIONS} connections of {client.title} are answered by",
        shares,
        right=set(by_server) == {"red/web1", "red/web2"},
    )
    seen = sorted({answer.seen for answer in answers})
    stage.found("the address that they see", ", ".join(seen), right=seen == [client.address])
    before = await forge.drops(cluster.node(stranger.node))
    refused = not (await _ask(stranger.netns, address, 80, 1.0)).reached
    stage.found(f"{stranger.title}, another tenant", "no answer" if refused else "answered", right=refused)
    await _show_drops(shell, stranger.node, before, ("service-tenant-mismatch",))
    await show_reach(shell, story)


async def bandwidth(shell: Shell) -> None:
    """A limit that is put on a pod, and taken off it, under a running connection."""
    cluster, stage = shell.cluster, shell.stage
    stage.title("bandwidth: an annotation limits a pod while it runs, and an open connection with it")
    source, limited = pod(cluster, "red/web1"), pod(cluster, "red/web2")
    annotate = ("kubectl", "annotate", "pod", limited.name, "-n", limited.namespace)
    where = f"{source.title} to {limited.title}"
    async with stream(source.netns, limited.netns, limited.address) as flowing:
        free = await flowing.rate(1.0)
        stage.found(where, f"{free:.0f} Mbit/s", right=free > _LIMIT * 2)
        await shell.run(*annotate, "kubernetes.io/ingress-bandwidth=10M")
        await flowing.rate(_SETTLE)
        held = await flowing.rate(3.0)
        stage.found(
            f"{where}, over 3 s", f"{held:.1f} Mbit/s", right=_LIMIT * _LOWEST <= held <= _LIMIT * _HIGHEST
        )
        await shell.run(*annotate, "kubernetes.io/ingress-bandwidth-")
        await flowing.rate(_OPENING)
        again = await flowing.rate(1.0)
        stage.found(where, f"{again:.0f} Mbit/s", right=again > _LIMIT * 2)


async def external_host(shell: Shell) -> None:
    """A load balancer outside Kubernetes comes and goes."""
    stage = shell.stage
    stage.title(
        "a load balancer outside Kubernetes: with a host subnet and an agent it reaches the pods of all tenants"
    )
    await shell.run("k8s-ovs", "lab", "add-host", _HOST)
    await shell.run("k8s-ovs", "subnet", "list")
    rows = json.loads(await shell.run("k8s-ovs", "subnet", "list", "-o", "json", quiet=True))
    subnet = next(IPv4Network(row["subnet"]) for row in rows if row["host"] == _HOST)
    gateway, netns = str(subnet.network_address + 1), shell.cluster.netns(_HOST)
    for title in ("red/web1", "blue/web2"):
        answer = await _ask(netns, pod(shell.cluster, title).address, 80)
        stage.found(
            f"{_HOST} to {title}",
            f"answered, seen as {answer.seen}" if answer.reached else "no answer",
            right=(answer.server, answer.seen) == (title, gateway),
        )
    await shell.run("k8s-ovs", "subnet", "release", _HOST)

    async def closed() -> bool:
        return not (await _ask(netns, pod(shell.cluster, "red/web1").address, 80, 1.0)).reached

    shut = await until(closed, _PATIENCE)
    stage.found(f"{_HOST} to red/web1, released", "no answer" if shut else "answered", right=shut)


async def egress(shell: Shell) -> None:
    """The way out of the cluster."""
    cluster, stage = shell.cluster, shell.stage
    stage.title("out of the cluster: a pod is seen with its node's address")
    client = pod(cluster, "red/web1")
    there = str(cluster.networks.outside_host.ip)
    answer = await _ask(client.netns, there, matrix.OUTSIDE_PORT)
    stage.found(
        f"{client.title} ({client.address}) asks {there}, which sees",
        answer.seen or "nothing",
        right=answer.seen == str(cluster.node(client.node).ip),
    )


async def forgery(shell: Shell) -> None:
    """What a pod can forge, and how far it comes."""
    cluster, stage = shell.cluster, shell.stage
    stage.title("a hostile pod: forged source address, hand-made VXLAN")
    red, friend, victim = (pod(cluster, name) for name in ("red/web1", "red/web2", "blue/web2"))
    before = await forge.drops(cluster.node(red.node))
    own, forged = IPv4Address(red.address), IPv4Address(pod(cluster, "blue/web1").address)
    there = IPv4Address(friend.address)
    honest = await forge.arrives(red.netns, own, friend.netns, there)
    as_other = await forge.arrives(red.netns, forged, friend.netns, there)
    tunnel = await forge.vxlan_arrives(
        red.netns, cluster.node(victim.node).ip, 0, victim.netns, IPv4Address(victim.address)
    )
    for text, outcome, wanted in (
        (f"to {friend.title} from its own address {own}", honest, True),
        (f"to {friend.title} as {forged}, which is blue/web1", as_other, False),
        (f"VXLAN to {victim.node} with VNI 0, {victim.title} inside", tunnel, False),
    ):
        verdict = "arrives" if outcome else "does not arrive"
        stage.found(f"{red.title} sends {text}", verdict, right=outcome == wanted)
    await _show_drops(shell, red.node, before, ("pod-spoofed-ip", "pod-vxlan"))


async def _ask(netns: Path, address: str, port: int, seconds: float = _PROBE_SECONDS) -> Answer:
    """One HTTP request from this namespace."""
    target = Target(address, port)
    return (await probes.probe_from(netns, [(target, Protocol.TCP)], seconds=seconds))[target, Protocol.TCP]


async def _show_drops(shell: Shell, node: str, before: dict[str, int], names: tuple[str, ...]) -> None:
    """Each of these reasons has to have counted something since `before`."""
    counted = dict.fromkeys(names, 0)

    async def all_counted() -> bool:
        now = await forge.drops(shell.cluster.node(node))
        counted.update({name: now.get(name, 0) - before.get(name, 0) for name in names})
        return all(counted.values())

    right = await until(all_counted, _COUNTER_SECONDS)
    figures = ", ".join(f"{name} +{count}" for name, count in counted.items())
    shell.stage.found(f"counted by {node} (k8s-ovs drops)", figures, right=right)

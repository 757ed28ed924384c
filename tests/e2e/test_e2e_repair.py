"""What somebody deletes by hand on a node comes back, is counted, logged and told in an Event, and nobody else notices.

One lab with a comparison every PERIOD seconds. Traffic of pods that have nothing to do with it goes on meanwhile.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import pytest

from fakes.labs import Lab, eventually, running_lab
from fakes.traffic import TCP_PORT, Probe, probe_service, traffic
from k8s_ovs.dataplane.findings import Kind

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(240)]

PERIOD = 10
BY_EVENT = 2.0
"""Seconds that a repair may take where the system tells; else one period and what the comparison takes."""
PODS = {("red", "a"): "node1", ("red", "b"): "node1", ("red", "c"): "node2", ("red", "victim"): "node1"}
LOCAL = [Probe("red/a", "red/b"), Probe("red/a", "red/b", tcp=True, echo=True)]
ACROSS = [Probe("red/a", "red/c"), Probe("red/c", "red/b"), Probe("red/c", "red/a", tcp=True, echo=True)]
OFCTL = "ovs-ofctl -O OpenFlow15"


@dataclass(frozen=True)
class Harm:
    """`done` by hand on node1; `whole` succeeds when it is repaired. The Event of this kind contains `told`."""

    name: str
    kind: str
    done: str
    whole: str
    told: str


@dataclass(frozen=True)
class Node:
    """node1, its subnet's first address, and the pod that is harmed."""

    lab: Lab
    gateway: str
    pod: str
    port: str

    def harm(self, done: str, whole: str) -> float:
        """Do it; seconds until it was repaired, by the clock of a shell that looks every few milliseconds."""
        script = (
            f"{whole} || {{ echo 'it was not whole before' >&2; exit 1; }}\n{done} || exit 2\n"
            f"begin=$(date +%s%N)\nwhile ! {{ {whole}; }}; do sleep 0.02; done\n"
            "echo $((($(date +%s%N) - begin) / 1000000))"
        )
        return int(self.lab.exec("node1", "timeout", "60", "sh", "-c", script).stdout) / 1000

    def repairs(self) -> dict[str, float]:
        """What has been repaired so far, by kind."""
        metrics = self.lab.metrics("node1")
        return {kind: metrics[f'k8s_ovs_repairs_total{{kind="{kind}"}}'] for kind in Kind}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_lab(nodes=2, environment={"K8S_OVS_RESYNC_PERIOD": str(PERIOD)}) as lab:
        lab.create_pods({pod: where for pod, where in PODS.items() if pod[1] != "victim"})
        limited = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": "red",
                "name": "victim",
                "annotations": {
                    "kubernetes.io/ingress-bandwidth": "50M",
                    "kubernetes.io/egress-bandwidth": "50M",
                },
            },
            "spec": {"nodeName": "node1", "containers": [{"name": "server", "image": "lab"}]},
        }
        lab.kubectl("apply", "-f", "-", stdin=json.dumps(limited))
        lab.kubectl("wait", "-n", "red", "--for=condition=Ready", "--timeout=60s", "pod/victim")
        probe_service(lab, "red", "victim")
        pod = lab.pod_ip("red", "victim")
        find = ("ovs-vsctl", "--bare", "--columns=name", "find", "interface")
        port = lab.exec("node1", *find, f'external_ids:"k8s-ovs/address"="{pod}"').stdout.strip()
        assert port
        subnet = lab.node("node1")["subnet"]
        yield Node(lab, subnet.replace(".0/", ".1/"), pod, port)


def by_comparison(node: Node) -> list[Harm]:
    flows = f"{OFCTL} dump-flows br0"
    route = f"table=70,ip,nw_dst={node.pod}"
    group = f"{OFCTL} dump-groups br0 | grep -q 'nat(dst={node.pod}:{TCP_PORT})'"
    meter = f"{OFCTL} dump-meters br0 | grep -q meter="
    return [
        Harm(
            "a pod's flow",
            "flow",
            f"{OFCTL} del-flows br0 {route}",
            f"{flows} {route} | grep -q actions",
            node.pod,
        ),
        Harm("a group", "group", f"{OFCTL} del-groups br0", group, "group 1"),
        Harm("a meter", "meter", f"{OFCTL} del-meters br0", meter, "meter "),
        Harm(
            "a foreign flow",
            "flow",
            f"{OFCTL} add-flow br0 table=70,priority=999,udp,tp_dst=9,actions=drop",
            f"! {flows} table=70 | grep -q priority=999",
            "tp_dst=9: is not ours",
        ),
        Harm(
            "a pod's veth",
            "link",
            f"ip link set {node.port} down",
            f"ip -o link show dev {node.port} | grep -q '[<,]UP[,>]'",
            f"{node.port}: was down",
        ),
        Harm(
            "a rule",
            "firewall",
            "iptables -t nat -F K8S-OVS-POSTROUTING",
            "iptables -t nat -S K8S-OVS-POSTROUTING | grep -q MASQUERADE",
            "chain K8S-OVS-POSTROUTING of table nat: was empty",
        ),
    ]


def by_event(node: Node) -> list[Harm]:
    network = "$(ip -o route show dev tun0 proto 107 | head -n 1 | cut -d' ' -f1)"
    flows = f"{OFCTL} dump-flows br0 table=30 | grep -q nw_src={node.pod}"
    return [
        Harm(
            "the gateway's address",
            "address",
            f"ip address del {node.gateway} dev tun0",
            f"ip -o address show dev tun0 | grep -q {node.gateway} && [ $(ip -o route show dev tun0 | wc -l) -ge 4 ]",
            f"{node.gateway} of tun0: was missing",
        ),
        Harm(
            "a route",
            "route",
            f"ip route del {network}",
            "[ $(ip -o route show dev tun0 | wc -l) -ge 4 ]",
            "through tun0: was missing",
        ),
        Harm(
            "the gateway set down",
            "link",
            "ip link set tun0 down",
            "ip -o link show dev tun0 | grep -q '[<,]UP[,>]' && [ $(ip -o route show dev tun0 | wc -l) -ge 4 ]",
            "tun0: was down",
        ),
        Harm(
            "a pod's queue",
            "qos",
            f"ovs-vsctl clear port {node.port} qos",
            f"[ $(ovs-vsctl get port {node.port} qos) != '[]' ]",
            f"queue of {node.port} towards pod red/victim",
        ),
        Harm(
            "a pod's lease",
            "port",
            f"ovs-vsctl clear interface {node.port} external_ids",
            f"ovs-vsctl get interface {node.port} external_ids | grep -q {node.pod} && {flows}",
            f"port {node.port} of pod red/victim ({node.pod}): was missing",
        ),
        Harm(
            "a pod's port",
            "port",
            f"ovs-vsctl del-port {node.port}",
            f"ovs-vsctl list-ports br0 | grep -q {node.port} && {flows}",
            f"port {node.port} of pod red/victim ({node.pod}): was missing",
        ),
    ]


def of_the_bridge() -> list[Harm]:
    tunnel = "[ $(ovs-vsctl --if-exists get interface vxlan0 ofport)_ = 1_ ] && ovs-vsctl get interface vxlan0 options"
    gateway = "[ $(ip -o route show dev tun0 | wc -l) -ge 4 ]"
    return [
        Harm(
            "the tunnel's options",
            "port",
            "ovs-vsctl set interface vxlan0 options:key=7",
            f"{tunnel} | grep -q key=flow",
            "port vxlan0: options was",
        ),
        Harm(
            "the tunnel",
            "port",
            "ovs-vsctl del-port vxlan0",
            f"{tunnel} | grep -q key=flow",
            "port vxlan0: was missing",
        ),
        Harm("the gateway", "port", "ovs-vsctl del-port tun0", gateway, "port tun0: was missing"),
        Harm(
            "the gateway's device",
            "link",
            "ip link delete tun0",
            gateway,
            "tun0: did not exist",
        ),
        Harm(
            "the gateway's name",
            "link",
            "ip link set tun0 down && ip link set tun0 name other0",
            gateway,
            "tun0: did not exist",
        ),
    ]


def suffer(node: Node, probes: list[Probe], harms: list[list[Harm]], bound: float) -> None:
    """Do this harm while these probes go on, and check all that is promised. What is in one list is done at once."""
    took: dict[str, float] = {}
    with traffic(node.lab, probes) as flow:
        flow.start()
        begun = flow.now()
        for together in harms:
            kinds = {harm.kind for harm in together}
            before = node.repairs()
            took[together[0].name] = node.harm(
                " && ".join(harm.done for harm in together), " && ".join(harm.whole for harm in together)
            )
            eventually(
                lambda kinds=kinds, before=before: all(node.repairs()[kind] > before[kind] for kind in kinds),
                f"{', '.join(harm.name for harm in together)} to be counted",
            )
        ended = flow.now()
        logs = flow.finish()
    print("\n".join(f"{name}: {seconds:.2f} s" for name, seconds in took.items()))
    lost = {
        name: [f"{gap.count} after {(gap.begun - begun) / 1e9:.2f} s" for gap in log.gaps(begun, ended)]
        for name, log in logs.items()
    }
    assert all(len(log.numbers(begun, ended)) > 100 for log in logs.values())
    assert lost == {name: [] for name in logs}
    assert not any(log.failures for log in logs.values())
    assert {name: seconds for name, seconds in took.items() if seconds > bound} == {}
    for harm in chain.from_iterable(harms):
        eventually(lambda harm=harm: harm.told in events(node.lab, harm.kind), f"an Event: {harm.told}")
        assert harm.told in node.lab.log("node1/agent")


def events(lab: Lab, kind: str) -> str:
    """What Events of node1 say of repaired things of this kind."""
    lines = told_of_node(lab).splitlines()
    return "\n".join(
        line for line in lines if f" {kind}" in line.partition("our back: ")[2].partition(": ")[0]
    )


def told_of_node(lab: Lab) -> str:
    """The Events of node1, a line each."""
    told = json.loads(lab.kubectl("get", "events", "-n", "default", "-o", "json"))["items"]
    return "\n".join(event["message"] for event in told if event["involvedObject"]["name"] == "node1")


def test_what_the_comparison_finds(node: Node) -> None:
    suffer(node, [*LOCAL, *ACROSS], [by_comparison(node)], PERIOD + BY_EVENT)


def test_what_the_system_tells(node: Node) -> None:
    suffer(node, [*LOCAL, *ACROSS], [[harm] for harm in by_event(node)], BY_EVENT)


def test_what_others_need_too(node: Node) -> None:
    """Between nodes, or to and from the host, traffic stops until then; on the node it does not."""
    suffer(node, LOCAL, [[harm] for harm in of_the_bridge()], BY_EVENT)
    pings(node, "red/c", node.pod)


def test_the_whole_bridge(node: Node) -> None:
    """Every pod's port and lease go with it."""
    before = node.repairs()
    ports = sorted(node.lab.exec("node1", "ovs-vsctl", "list-ports", "br0").stdout.split())
    whole = " && ".join(f"ovs-vsctl list-ports br0 | grep -q {port}" for port in ports)
    took = node.harm("ovs-vsctl del-br br0", whole)
    print(f"the bridge: {took:.2f} s")
    assert took < BY_EVENT
    for source, target in (("red/a", "b"), ("red/c", "a"), ("red/a", "victim")):
        pings(node, source, node.lab.pod_ip("red", target))
    after = node.repairs()
    counted = {kind: after[kind] - before[kind] for kind in after if after[kind] != before[kind]}
    assert counted == {Kind.BRIDGE: 1, Kind.PORT: 3}, "what follows from it is not counted"


def test_a_lease_that_was_removed_while_no_agent_ran(node: Node) -> None:
    """Its pod keeps its veth, nobody gets its address, and deleting the pod heals it."""
    node.lab.lab("stop", "--kill", "node1/agent")
    node.lab.exec("node1", "ovs-vsctl", "del-port", node.port)
    node.lab.lab("start", "node1/agent")
    told = f"port {node.port} of a pod with the address {node.pod} was removed while no agent ran"
    eventually(lambda: told in node.lab.log("node1/agent"), "the agent to say so")
    node.lab.exec("node1", "ip", "link", "show", node.port)
    node.lab.create_pods({("red", "next"): "node1"})
    assert node.lab.pod_ip("red", "next") != node.pod
    eventually(lambda: told in told_of_node(node.lab), "an Event")
    node.lab.delete_pods("red", "victim")
    assert node.lab.exec("node1", "ip", "link", "show", node.port, check=False).returncode != 0


def pings(node: Node, source: str, address: str) -> None:
    def answered() -> bool:
        return node.lab.exec(source, "ping", "-c1", "-W1", address, check=False).returncode == 0

    eventually(answered, f"{source} to reach {address}", seconds=10)

"""The pods of a lab whose daemons are killed: who reaches whom is asked with single datagrams, and some never stop talking.

For `fakes.crashing`. The pods are sandboxes made by the real CNI executable; their sockets belong to this process, so that
a probe costs no process. One pod is the lab's own kubelet's, as only those of the API have annotations.
"""

import asyncio
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fakes.bandwidth import EGRESS, INGRESS, create_pods
from fakes.labs import Lab
from fakes.runtime import Runtime, address
from fakes.soaking_api import Api
from k8s_ovs.dataplane.netns import call_in
from k8s_ovs.lab.cluster import DEFAULT_BASE
from k8s_ovs.lab.state import load_cluster
from k8s_ovs.model.types import UNLIMITED, PodLimits

PORT = 7900
PERIOD = 0.005
"""Seconds between two datagrams of a stream."""
LIMITS = {
    "bandwidth": {"ingressRate": 50_000_000, "ingressBurst": 1, "egressRate": 50_000_000, "egressBurst": 1}
}
LIMITED = PodLimits(50_000_000, 50_000_000, from_runtime=True)
"""What the product has to make of LIMITS."""


@dataclass
class Pod:
    """An attached sandbox with a socket on PORT."""

    runtime: Runtime
    node: str
    namespace: str
    sandbox: str
    address: str
    socket: socket.socket

    def heard(self) -> set[bytes]:
        """What has arrived since it was asked last."""
        found = set()
        while select.select([self.socket], [], [], 0)[0]:
            found.add(self.socket.recvfrom(100)[0])
        return found

    def close(self) -> None:
        self.socket.close()


@dataclass
class ApiPod:
    """A pod that the API has and the lab's kubelet attached; `limits` are what its annotations ask for."""

    api: Api
    path: str
    sandbox: str
    address: str
    limits: PodLimits = UNLIMITED

    def limit(self, limits: PodLimits) -> None:
        """Change the annotations; return once the API has them."""
        rates = {INGRESS: limits.ingress, EGRESS: limits.egress}
        annotations = {name: rate and str(rate) for name, rate in rates.items()}
        self.api.patch(self.path, {"metadata": {"annotations": annotations}})
        self.limits = limits


def listen(runtime: Runtime, sandbox: str) -> socket.socket:
    """A socket in the sandbox."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("", PORT))
        return made

    return call_in(f"/run/netns/{runtime.sandboxes[sandbox]}", make)


async def reaches(sender: Pod, receiver: Pod, seconds: float = 5.0) -> bool:
    """Whether a datagram arrives; the underlay may lose some, the first to a host in particular."""
    deadline = time.monotonic() + seconds
    number = 0
    receiver.heard()
    while time.monotonic() < deadline:
        number += 1
        sender.socket.sendto(b"%d" % number, (receiver.address, PORT))
        if await asyncio.to_thread(select.select, [receiver.socket], [], [], 0.05) != ([], [], []):
            return bool(receiver.heard())
    return False


async def reached_by(sender: Pod, allowed: list[Pod], forbidden: list[Pod]) -> list[str]:
    """Whom the sender does not reach although it may, and reaches although it may not."""
    for pod in forbidden:
        pod.heard()
        for _ in range(3):
            sender.socket.sendto(b"forbidden", (pod.address, PORT))
    wrong = [
        f"{sender.namespace} on {sender.node} does not reach {pod.namespace} on {pod.node}"
        for pod in allowed
        if not await reaches(sender, pod)
    ]
    return wrong + [
        f"{sender.namespace} on {sender.node} reaches {pod.namespace} on {pod.node}"
        for pod in forbidden
        if pod.heard()
    ]


@dataclass
class Stream:
    """Datagrams from one pod to another without end."""

    sender: Pod
    receiver: Pod
    sent: list[float] = field(default_factory=list)
    """When each was sent (time.monotonic)."""
    got: set[int] = field(default_factory=set)

    @property
    def lost(self) -> list[float]:
        """When those were sent that never arrived."""
        return [instant for number, instant in enumerate(self.sent) if number not in self.got]


@contextmanager
def streaming(*streams: Stream) -> Iterator[None]:
    """Let them run in a thread; what is on its way at the end is waited for."""
    stop = threading.Event()
    by_socket = {stream.receiver.socket: stream for stream in streams}

    def receive(wait: float) -> bool:
        ready = select.select(list(by_socket), [], [], wait)[0]
        for one in ready:
            by_socket[one].got.add(int(one.recv(100)))
        return bool(ready)

    def run() -> None:
        due = time.monotonic()
        while not stop.is_set():
            for stream in streams:
                stream.sender.socket.sendto(b"%d" % len(stream.sent), (stream.receiver.address, PORT))
                stream.sent.append(time.monotonic())
            due = max(due + PERIOD, time.monotonic())  # a thread that had to wait does not make up for it
            while (left := due - time.monotonic()) > 0:
                receive(left)
            while receive(0):
                pass
        while receive(0.5):
            pass

    thread = threading.Thread(target=run, name="streams")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def attach(runtime: Runtime, node: str, namespace: str, *, limited: bool = False) -> Pod:
    """A new pod, made without a crash."""
    sandbox = runtime.sandbox()
    conf = {"runtimeConfig": LIMITS} if limited else {}
    answer = await runtime.ask("ADD", sandbox, namespace, **conf)
    assert answer.status == 0, answer
    return pod_of(runtime, node, namespace, sandbox, address(answer.object))


def pod_of(runtime: Runtime, node: str, namespace: str, sandbox: str, found: str) -> Pod:
    return Pod(runtime, node, namespace, sandbox, found.partition("/")[0], listen(runtime, sandbox))


def create(lab: Lab, node: str, namespace: str, name: str) -> ApiPod:
    """A new pod of the API, attached and without limits."""
    create_pods(lab, {f"{namespace}/{name}": (node, {})})
    api = Api(load_cluster(DEFAULT_BASE, lab.name).loopback_api)
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    found = api.get(path)
    assert found is not None
    container = found["status"]["containerStatuses"][0]["containerID"]
    return ApiPod(api, path, container.removeprefix("netns://"), found["status"]["podIP"])

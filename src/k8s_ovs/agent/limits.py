"""Bandwidth of pods: what their annotations say, and the changes while they run.

    own pods (watch) ──> LimitKeeper ──> LimitChanger ──> shaper in the pod, lease and queue, meter
    ADD ──> LimitKeeper.wanted: what is known, else the API is asked

Made by the composition root; `PodNetwork` asks it at ADD. An annotation that cannot be obeyed is told in an Event of the
pod: at ADD the pod is refused, later the limit that it had stays. Limits live in the lease, so a restart changes nothing.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from k8s_ovs.agent.attaching import NodeNetwork, PodParts, host_ifname_of, link_of
from k8s_ovs.agent.steps import whole
from k8s_ovs.cni.codes import Code
from k8s_ovs.cni.locks import KeyedLocks
from k8s_ovs.cni.protocol import PodArgs, Request
from k8s_ovs.errors import CniError, K8sOvsError, KubeNotFound, RecordError, SourceError
from k8s_ovs.model.quantity import parse_limit
from k8s_ovs.model.types import UNLIMITED, Attachment, AttachmentKey, PodLimits
from k8s_ovs.runtime.backoff import Backoff
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.objects import PODS, ObjectReference, Pod
from k8s_ovs.sources.kube.reflector import Deleted, InSync, Upserted

log = logging.getLogger(__name__)

INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
EVENT_REASON = "InvalidBandwidth"
REMEDY = "write a quantity of bits per second from 1k to 1P, such as 10M, or remove the annotation"
API_WAIT = 5.0
"""Seconds that an ADD waits for the API server; the container runtime asks again."""
SIDE_BY_SIDE = 20
"""Pods whose limits are changed at the same time: they share transactions and bundles."""

PodName = tuple[str, str]
"""Namespace and name."""
PodBatch = Iterable[Upserted[Pod] | Deleted | InSync]


def limits_of(pod: str, annotations: Mapping[str, str]) -> PodLimits:
    """The limits that annotations ask for; `pod` names whose they are. Raises RecordError."""
    found: dict[str, int] = {}
    for name in (INGRESS, EGRESS):
        if (text := annotations.get(name)) is not None:
            try:
                found[name] = parse_limit(text)
            except ValueError as err:
                raise RecordError(f"pod {pod}", f"annotation {name}: {err}", remedy=REMEDY) from err
    return PodLimits(found.get(INGRESS), found.get(EGRESS))


class PodApi(Protocol):
    """What is needed of the Kubernetes API."""

    async def pod(self, namespace: str, name: str) -> Pod:
        """The Pod now. Raises KubeNotFound, another SourceError, or RecordError."""

    async def warn(self, namespace: str, name: str, uid: str, message: str) -> None:
        """Make an Event of the Pod. Raises SourceError."""


class KubePodApi:
    """`PodApi` on the real API."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def pod(self, namespace: str, name: str) -> Pod:
        """See PodApi."""
        return await self._client.get(PODS, name, namespace)

    async def warn(self, namespace: str, name: str, uid: str, message: str) -> None:
        """See PodApi."""
        about = ObjectReference(kind=PODS.kind, namespace=namespace, name=name, uid=uid, api_version="v1")
        await self._client.create_event(about, EVENT_REASON, message, warning=True)


@dataclass(frozen=True, slots=True)
class SeenPod:
    """What is kept of a Pod: its uid and the two annotations."""

    uid: str
    annotations: Mapping[str, str]

    @classmethod
    def of(cls, pod: Pod) -> "SeenPod":
        """What `pod` says."""
        given = pod.metadata.annotations or {}
        return cls(pod.metadata.uid, {name: given[name] for name in (INGRESS, EGRESS) if name in given})


class LimitKeeper:
    """Knows the annotations of this node's pods, and has changes carried out. `api` is None where there is none.

    `take` is told what the watch of the own pods says; `run` is a task.
    """

    def __init__(self, api: PodApi | None) -> None:
        self._api = api
        self._pods: dict[PodName, SeenPod] = {}
        self._in_sync = False
        self._dirty: set[PodName] = set()
        self._told: dict[PodName, str] = {}
        self._untold: dict[PodName, tuple[str, str]] = {}
        self._changed = asyncio.Event()
        self._complained = asyncio.Event()

    def take(self, batch: PodBatch) -> None:
        """What the API says now of the pods of this node."""
        for event in batch:
            match event:
                case Upserted(pod):
                    seen = SeenPod.of(pod)
                    if self._pods.get(pod.key) != seen:
                        self._pods[pod.key] = seen
                        self._dirty.add(pod.key)
                case Deleted(namespace, name):
                    self._pods.pop((namespace, name), None)
                    self._told.pop((namespace, name), None)
                case InSync():
                    self._in_sync = True
        if self._dirty:
            self._changed.set()

    async def wanted(self, request: Request) -> PodLimits:
        """See attaching.LimitSource."""
        asked = request.limits
        if asked != UNLIMITED:
            asked = replace(asked, from_runtime=True)
        pod = await self._pod(request.pod, certain=asked == UNLIMITED)
        if pod is None:
            return asked
        try:
            limits = limits_of(f"{request.pod.namespace}/{request.pod.name}", pod.annotations)
        except RecordError as err:
            self._complain(
                (request.pod.namespace, request.pod.name), pod.uid, f"{err}; the pod is not attached"
            )
            raise CniError(Code.BAD_LIMIT, err.reason, remedy=err.remedy) from err
        return limits if limits != UNLIMITED else asked

    def attached(self, namespace: str, name: str) -> None:
        """See attaching.LimitSource."""
        if (namespace, name) in self._pods:
            self._dirty.add((namespace, name))
            self._changed.set()

    def pod_lives(self, lease: Attachment) -> bool:
        """Whether the API has the pod that the lease was made for, or may have it: it has not told yet."""
        if self._api is None or not self._in_sync:
            return self._api is not None
        seen = self._pods.get((lease.namespace, lease.pod))
        return seen is not None and lease.uid in ("", seen.uid)

    async def run(self, changer: "LimitChanger") -> None:
        """Have what changes carried out by `changer`, and tell what cannot be: until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(changer), name="limits-changes")
            tasks.create_task(self._tell(), name="limits-events")

    async def _pod(self, args: PodArgs, *, certain: bool) -> SeenPod | None:
        """What is known of a pod, or None. Raises CniError 11 if that cannot be found out now and has to be `certain`."""
        seen = self._pods.get((args.namespace, args.name))
        if self._api is None or (seen is not None and args.uid in ("", seen.uid)):
            return seen
        try:
            async with asyncio.timeout(API_WAIT):
                return SeenPod.of(await self._api.pod(args.namespace, args.name))
        except KubeNotFound:
            return None
        except (SourceError, RecordError, TimeoutError) as err:
            if not certain:
                return None
            reason = str(err) or f"the API server has not answered in {API_WAIT:g} s"
            message = f"the pod's bandwidth cannot be read from the API: {reason}"
            raise CniError(Code.TRY_AGAIN, message, remedy="it is tried again at the next ADD") from err

    async def _follow(self, changer: "LimitChanger") -> None:
        backoff = Backoff(cap=5.0, floor=0.05)
        while True:
            await self._changed.wait()
            self._changed.clear()
            dirty, self._dirty = self._dirty, set()
            room = asyncio.Semaphore(SIDE_BY_SIDE)
            done = await asyncio.gather(*(self._carry_out(name, changer, room) for name in dirty))
            if all(done):
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next())
                self._changed.set()

    async def _carry_out(self, name: PodName, changer: "LimitChanger", room: asyncio.Semaphore) -> bool:
        """Whether the limits of this pod are as they should be, or as they can be."""
        if (pod := self._pods.get(name)) is None:
            return True
        try:
            if not changer.knows(*name):
                return True
            limits = limits_of("/".join(name), pod.annotations)
            self._told.pop(name, None)
            async with room:
                await changer.change(*name, limits)
        except RecordError as err:
            self._complain(name, pod.uid, f"{err}; the limits that the pod has stay")
        except K8sOvsError as err:
            log.warning("limits of pod %s/%s: %s", *name, err)
            self._dirty.add(name)
            return False
        return True

    def _complain(self, name: PodName, uid: str, message: str) -> None:
        """Have this told once."""
        if self._told.get(name) != message:
            log.warning("%s", message)
            self._told[name] = message
            self._untold[name] = (uid, message)
            self._complained.set()

    async def _tell(self) -> None:
        while True:
            await self._complained.wait()
            self._complained.clear()
            while self._untold and self._api is not None:
                name = next(iter(self._untold))
                uid, message = self._untold.pop(name)
                try:
                    await self._api.warn(*name, uid, message)
                except (SourceError, RecordError) as err:
                    log.warning("no Event of pod %s/%s: %s", *name, err)
                    self._told.pop(name, None)


class LimitChanger:
    """Changes the limits of attachments that exist. Calls may overlap; `locks` are those of ADD and DEL.

    The lease says what an attachment's limits are, but its shaper follows only afterwards: an agent that was killed in between
    leaves the former one. So the shaper of each attachment is seen to once by each agent, and again after a failure.
    """

    def __init__(self, parts: PodParts, locks: KeyedLocks[str]) -> None:
        self._parts = parts
        self._locks = locks
        self._shaped: set[AttachmentKey] = set()

    def knows(self, namespace: str, pod: str) -> bool:
        """Whether the pod has an attachment. Raises OvsdbError."""
        return any(
            (lease.namespace, lease.pod) == (namespace, pod) for lease in self._parts.switch.attachments()
        )

    async def change(self, namespace: str, pod: str, limits: PodLimits) -> None:
        """Give every attachment of a pod these limits, which its annotations ask for. Raises K8sOvsError.

        Limits that only the container runtime has asked for stay while there are no annotations.
        """
        leases = list(self._parts.switch.attachments())
        self._shaped &= {lease.key for lease in leases}
        for lease in leases:
            if (lease.namespace, lease.pod) == (namespace, pod) and not self._is_settled(lease, limits):
                async with self._locks.hold(host_ifname_of(lease.key)):
                    await self._change(lease, limits)

    async def put(self, wanted: Attachment, node: NodeNetwork) -> None:
        """Bring shaper, lease and queue to what `wanted` says; the lock is held. The meter follows from `install`."""
        await whole(self._parts.links.shape(link_of(wanted, node)))
        self._shaped.add(wanted.key)
        lease = self._lease(wanted.key)
        if lease is not None and lease.limits != wanted.limits:
            await whole(self._parts.switch.set_limits(wanted.key, wanted.limits))

    async def _change(self, seen: Attachment, limits: PodLimits) -> None:
        lease, node = self._lease(seen.key), self._parts.installer.node()
        if lease is None or self._is_settled(lease, limits):
            return
        wanted = _successor(lease, limits)
        self._shaped.discard(wanted.key)
        if wanted != lease:
            await whole(self._parts.switch.set_limits(wanted.key, wanted.limits))
            await self._parts.installer.install(wanted)
        # Last, because it enforces nothing: what a pod that is going, or full of other queues, makes of it stops nobody.
        if self._parts.netns_exists(wanted.netns):
            await whole(self._parts.links.shape(link_of(wanted, node)))
        self._shaped.add(wanted.key)
        if wanted != lease:
            name = f"{wanted.namespace}/{wanted.pod}"
            log.info("pod %s: limits are %s, were %s", name, wanted.limits, lease.limits)

    def _is_settled(self, lease: Attachment, limits: PodLimits) -> bool:
        return lease.key in self._shaped and _successor(lease, limits) == lease

    def _lease(self, key: AttachmentKey) -> Attachment | None:
        return next((row for row in self._parts.switch.attachments() if row.key == key), None)


def _successor(lease: Attachment, limits: PodLimits) -> Attachment:
    """`lease` with what the annotations say."""
    if limits == UNLIMITED and lease.limits.from_runtime:
        return lease
    return replace(lease, limits=limits)

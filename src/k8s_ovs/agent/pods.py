"""The network of this node's pods: what the agent does for CNI ADD, DEL, CHECK, GC and STATUS.

The CNI server calls `PodNetwork`; the composition root makes it. Flows are the reconciler's: this module only asks
for them, through `Installer`. It never keeps a database of its own: the Interface row in OVSDB is the lease.

ADD: validate, lease of the same sandbox? give the same answer; else wait for the tenant, take an address, make the
veth, add the port with its lease, have the flows installed, answer. What fails is undone in reverse order. An agent
that is killed leaves at most a veth without a lease, which `recover` deletes, or a whole attachment, which the
runtime's DEL removes.

DEL: the same backwards, every step whether or not there is something to remove. The first step that fails ends it,
so that the lease stays until all that it stands for is gone, and a repeated DEL has it to go by.
"""

import logging
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface

from k8s_ovs.agent.addresses import AddressBook
from k8s_ovs.agent.attaching import Installer, NodeNetwork, PodParts, held, host_ifname_of, link_of
from k8s_ovs.agent.limits import LimitChanger
from k8s_ovs.agent.orphans import Orphans
from k8s_ovs.agent.ports import PortKeeper
from k8s_ovs.agent.steps import Steps, whole
from k8s_ovs.agent.traces import AddressCleaner
from k8s_ovs.cni.codes import Code, as_cni_error
from k8s_ovs.cni.locks import KeyedLocks
from k8s_ovs.cni.protocol import AddResult, Request
from k8s_ovs.errors import CniError, K8sOvsError, LinkError, OvsdbError
from k8s_ovs.model.types import Attachment, AttachmentKey, PodLimits

__all__ = ["Installer", "NodeNetwork", "PodNetwork", "PodParts", "host_ifname_of"]

log = logging.getLogger(__name__)

ANEW = "delete the pod, so that it is made anew"


class PodNetwork:
    """Attaches and detaches pods. Calls may overlap; those for one attachment are done one after another.

    The lock of an attachment is known by the name of its veth, because a veth without a lease has nothing else.
    """

    def __init__(self, parts: PodParts) -> None:
        self._parts = parts
        self._switch = parts.switch
        self._links = parts.links
        self._installer = parts.installer
        self._netns_exists = parts.netns_exists
        self._pod_lives = parts.pod_lives
        self._tenant_wait = parts.tenant_wait
        self._locks: KeyedLocks[str] = KeyedLocks()
        self._limits = parts.limits
        self.limits = LimitChanger(parts, self._locks)
        self.cleaner = AddressCleaner(parts.forget)
        self.ports = PortKeeper(parts, self._locks)
        self._lost = parts.lost
        self.orphans = Orphans(parts.links, parts.complain)
        self._addresses = AddressBook(self._taken, self.cleaner)

    async def add(self, request: Request) -> AddResult:
        """Attach a pod, or give the same answer as before. Raises CniError, and leaves nothing new then."""
        pod = f"pod {request.pod.namespace}/{request.pod.name}"
        with _about(pod):
            self._need_netns(request)
            async with self._locks.hold(host_ifname_of(request.key)):
                self._installer.node()  # a node that is not ready says so at once, not after the wait
                deadline = get_running_loop().time() + self._tenant_wait
                await self._installer.wait_tenant(request.pod.namespace, deadline)
                node = self._installer.node()
                limits = await self._limits.wanted(request)
                try:
                    attachment = await self._attach(request, node, limits)
                except LinkError:
                    self._need_netns(request)  # if that is the reason, say it in CNI's own words
                    raise
            self._limits.attached(request.pod.namespace, request.pod.name)
        log.info("%s has %s (sandbox %s)", pod, attachment.address, request.sandbox)
        return AddResult(
            host_ifname=attachment.host_ifname,
            ifname=attachment.key.ifname,
            netns=attachment.netns,
            mac=attachment.mac,
            address=IPv4Interface((attachment.address, node.subnet.prefixlen)),
            gateway=node.gateway,
            mtu=node.mtu,
        )

    async def delete(self, request: Request) -> None:
        """Detach a pod; whatever is gone already is no error. Raises CniError; repeating it finishes it then."""
        with _about(f"sandbox {request.sandbox}"):
            async with self._locks.hold(host_ifname_of(request.key)):
                await self._detach(request.key)

    async def check(self, request: Request) -> None:
        """Compare lease and veth with the result of ADD. Raises CniError 3 (no lease) or 103 (what differs)."""
        with _about(f"sandbox {request.sandbox}"):
            async with self._locks.hold(host_ifname_of(request.key)):
                node = self._installer.node()
                lease = self._lease(request.key)
                if lease is None:
                    raise CniError(Code.UNKNOWN_CONTAINER, f"{request.ifname} is not attached", remedy=ANEW)
                _compare(lease, node, request)
                try:
                    await self._links.check(link_of(lease, node))
                    await self._switch.check_limits(lease.key)
                except (LinkError, OvsdbError) as err:
                    raise CniError(Code.CHECK_FAILED, err.message, remedy=ANEW) from err

    async def gc(self, request: Request) -> None:
        """Remove every attachment that the runtime does not know, and what `recover` removes.

        An attachment that is being made or removed meanwhile is left alone, and so is one in use: its veth exists, and so
        its sandbox does, and Kubernetes has its pod. A list that misses such a one is wrong (CNI 1.1, "GC": plugins may
        remove what it misses). Raises CniError 104 naming those that could not be removed, after all were tried.
        """
        keep = request.valid_attachments
        failed: list[str] = []
        with _about("garbage collection"):
            links = set(await self._links.leftovers())
        for lease in self._switch.attachments():
            if lease.key in keep:
                continue
            if lease.host_ifname in links and self._pod_lives(lease):
                pod = f"{lease.namespace}/{lease.pod}"
                log.warning(
                    "GC: the runtime misses sandbox %s of pod %s, which lives: kept", lease.key.sandbox, pod
                )
                continue
            try:
                await self._collect(lease)
            except K8sOvsError as err:
                failed.append(f"{lease.key.sandbox}/{lease.key.ifname} ({lease.address}): {err}")
        try:
            await self.recover()
            kept = {host_ifname_of(key) for key in keep}
            for name in sorted(set(self.orphans.names) - kept):
                await self._sweep(name)
        except K8sOvsError as err:
            failed.append(str(err))
        if failed:
            raise CniError(
                Code.GC_INCOMPLETE,
                f"{len(failed)} removals failed: " + "; ".join(failed),
                remedy="ask again once the cause is gone",
            )

    async def status(self, request: Request) -> None:
        """Raise CniError 50 with the reason if no pod can be attached now."""
        if trouble := self._installer.trouble():
            raise CniError(Code.UNAVAILABLE, trouble)

    async def recover(self) -> int:
        """Remove what a killed agent or a reboot left behind; returns how many attachments that were.

        These are veths of ours that no lease names, and leases of which neither veth nor network namespace exists:
        nothing else, and nothing of an ADD or DEL that is under way. The veth of a pod that was attached once and lives
        stays, though somebody has removed its lease. Raises the first DataplaneError, after all were tried.
        """
        links = set(await self._links.leftovers())
        before = held(self._parts)
        await self.orphans.look(before)
        # A row that somebody removed since then is no orphan yet: the next look finds one.
        attachments = (*before, *self._lost.held())
        lost = {*(lease.host_ifname for lease in attachments), *self.orphans.names}
        leases = {lease.host_ifname: lease for lease in self._switch.attachments()}
        work: list[Callable[[], Awaitable[bool]]] = []
        work += [partial(self._sweep, name) for name in sorted(links - leases.keys() - lost)]
        for name in sorted(leases.keys() - links):
            if not self._netns_exists(leases[name].netns):
                work.append(partial(self._collect, leases[name]))
        removed = 0
        failures: list[K8sOvsError] = []
        for step in work:
            try:
                removed += await step()
            except K8sOvsError as err:
                log.warning("cannot clean up: %s", err)
                failures.append(err)
        if not self._installer.trouble():
            node = self._installer.node()
            self._addresses.look(node.subnet, node.gateway)
        if failures:
            raise failures[0]
        return removed

    # -- the steps; each is called with the attachment's lock held ---------------------------------------------------

    async def _attach(self, request: Request, node: NodeNetwork, limits: PodLimits) -> Attachment:
        lease = self._lease(request.key)
        if lease is not None and _is_for(lease, request) and lease.address in node.subnet:
            return await self._renew(replace(lease, limits=limits), node)
        if lease is not None:
            await self._detach(lease.key)
        await self.orphans.once(held(self._parts))
        await self._addresses.prepare(node.subnet, node.gateway)
        with self._addresses.take(node.subnet, node.gateway) as address:
            attachment = Attachment(
                key=request.key,
                address=address,
                namespace=request.pod.namespace,
                pod=request.pod.name,
                uid=request.pod.uid,
                netns=request.netns,
                host_ifname=host_ifname_of(request.key),
                limits=limits,
            )
            return await self._make(attachment, node)

    async def _make(self, attachment: Attachment, node: NodeNetwork) -> Attachment:
        key, name = attachment.key, attachment.host_ifname
        async with Steps(f"ADD {key.sandbox}/{key.ifname}") as steps:
            steps.on_failure(f"delete {name}", lambda: self._links.delete(name))
            await whole(self._links.create(link_of(attachment, node)))
            steps.on_failure("remove the port and its lease", lambda: self._switch.remove_port(key))
            # The lease alone may bring flows: a comparison that runs meanwhile reads it.
            steps.on_failure("withdraw the flows", lambda: self._installer.withdraw(key))
            attachment = await whole(self._switch.add_port(attachment))
            await self._installer.install(attachment)
            await whole(self._links.vouch(name, attachment.address))
        return attachment

    async def _renew(self, lease: Attachment, node: NodeNetwork) -> Attachment:
        """See that an attachment which exists works; one that does not is made anew with the address it had.

        `lease` has the limits that the pod should have now.
        """
        try:
            await self.limits.put(lease, node)
            await self._links.check(link_of(lease, node))
            trouble = "" if lease.ofport is not None else "the switch has not taken its port"
        except LinkError as err:
            trouble = err.message
        if not trouble:
            await self._installer.install(lease)
            return lease
        log.warning("sandbox %s: making its attachment anew: %s", lease.key.sandbox, trouble)
        with self._addresses.keep(lease.address):
            await self._detach(lease.key)
            return await self._make(replace(lease, ofport=None), node)

    async def _detach(self, key: AttachmentKey) -> None:
        await self._installer.withdraw(key)
        await whole(self._remove(key))

    async def _remove(self, key: AttachmentKey) -> None:
        name = host_ifname_of(key)
        await self._links.vouch(name, None)
        await self._switch.remove_port(key)
        self._addresses.freed()
        await self._links.delete(name)
        self.orphans.drop(name)

    # -- cleaning up; these take the lock themselves -----------------------------------------------------------------

    async def _collect(self, lease: Attachment) -> bool:
        """Detach `lease` unless a request is at it or has changed it."""
        name = host_ifname_of(lease.key)
        if name in self._locks:
            return False
        async with self._locks.hold(name):
            now = self._lease(lease.key)
            if now is None or now.address != lease.address or now.netns != lease.netns:
                return False
            log.info("removing what is left of sandbox %s (%s)", lease.key.sandbox, lease.address)
            await self._detach(lease.key)
            return True

    async def _sweep(self, name: str) -> bool:
        """Delete the veth `name` unless a request is at it or a lease names it."""
        if name in self._locks:
            return False
        async with self._locks.hold(name):
            if any(lease.host_ifname == name for lease in held(self._parts)):
                return False
            log.info("deleting %s, which belongs to no lease", name)
            await whole(self._links.delete(name))
            self.orphans.drop(name)
            return True

    def _taken(self) -> tuple[IPv4Address, ...]:
        """Every address that is somebody's, whether or not there is a row that says so."""
        return (*(lease.address for lease in held(self._parts)), *self.orphans.addresses)

    def _lease(self, key: AttachmentKey) -> Attachment | None:
        return next((lease for lease in self._switch.attachments() if lease.key == key), None)

    def _need_netns(self, request: Request) -> None:
        if not self._netns_exists(request.netns):
            raise CniError(
                Code.UNKNOWN_CONTAINER,
                f"network namespace {request.netns} of sandbox {request.sandbox} does not exist",
                remedy="the sandbox is gone; make the pod anew",
            )


@contextmanager
def _about(what: str) -> Iterator[None]:
    """Turn any error of ours into an answer to the runtime that begins with `what`."""
    try:
        yield
    except K8sOvsError as err:
        raise as_cni_error(err, what) from err


def _is_for(lease: Attachment, request: Request) -> bool:
    """Whether the lease was made for a request like this one; another network namespace or pod needs another."""
    pod = request.pod
    asked = (request.netns, pod.namespace, pod.name, pod.uid)
    return (lease.netns, lease.namespace, lease.pod, lease.uid) == asked


def _compare(lease: Attachment, node: NodeNetwork, request: Request) -> None:
    """Raise CniError 103 naming the first thing in which lease, request and `prevResult` differ."""
    if lease.netns != request.netns:
        raise _differs("CNI_NETNS", request.netns, lease.netns)
    result = request.prev_result
    if result is None:
        return
    address = f"{lease.address}/{node.subnet.prefixlen}"
    given = [ip.address for ip in result.ips or ()]
    if address not in given:
        raise _differs("the address in prevResult", ", ".join(given) or "missing", address)
    inside = [link for link in result.interfaces or () if link.name == request.ifname and link.sandbox]
    for link in inside:
        if (link.sandbox, link.mac or lease.mac) != (lease.netns, lease.mac):
            asked = f"{link.name} {link.mac} in {link.sandbox}"
            raise _differs("the interface in prevResult", asked, f"{link.name} {lease.mac} in {lease.netns}")


def _differs(what: str, asked: str, held: str) -> CniError:
    return CniError(Code.CHECK_FAILED, f"{what} is {asked}, the lease says {held}", remedy=ANEW)

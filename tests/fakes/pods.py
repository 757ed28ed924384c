"""Switch, links and installer of one node in memory, with a hook at every moment where the real ones wait.

For the unit tests of the agent's pods. Each call passes the hook before it has an effect and after it, so that a test
can fail, cancel, hold or kill the agent at exactly one of those moments. `Killed` stands for kill -9: from then on no
call has an effect, and no `except` of the agent gets a word in.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.agent.pods import NodeNetwork, PodNetwork, PodParts
from k8s_ovs.cni.protocol import (
    AddResult,
    Command,
    NetConf,
    PodArgs,
    PrevAddress,
    PrevResult,
    Request,
    ValidAttachment,
)
from k8s_ovs.dataplane.bridge import BridgeSpec, Datapath, PodLink
from k8s_ovs.dataplane.findings import Finding
from k8s_ovs.errors import CniError, LinkError, OvsdbError
from k8s_ovs.model.types import (
    UNLIMITED,
    Attachment,
    AttachmentKey,
    OfPort,
    PodLimits,
    SandboxId,
    gateway_of,
)

Hook = Callable[[str], Awaitable[None]]


SUBNET = IPv4Network("172.11.4.0/22")


class Killed(BaseException):
    """The agent's process is gone."""


async def _pass(_moment: str) -> None:
    await asyncio.sleep(0)


@dataclass
class PodWorld:
    """What the kernel and OVSDB hold. `moments` lists the moments passed so far, by name."""

    subnet: IPv4Network = SUBNET
    netns: set[str] = field(default_factory=set)
    lost_queues: set[AttachmentKey] = field(default_factory=set)
    links: dict[str, PodLink] = field(default_factory=dict)
    notes: dict[str, IPv4Address] = field(default_factory=dict)
    rows: dict[AttachmentKey, Attachment] = field(default_factory=dict)
    flows: dict[AttachmentKey, Attachment] = field(default_factory=dict)
    tenants: set[str] = field(default_factory=lambda: {"web", "db"})
    unmounted: set[str] = field(default_factory=set)
    """Network namespaces whose file is gone, but which live: a process is in them."""
    pods: set[str] = field(default_factory=set)
    """Names of the pods that the API has."""
    traces: dict[IPv4Address, AttachmentKey] = field(default_factory=dict)
    """Whose connections conntrack knows of an address."""
    carried_over: list[str] = field(default_factory=list)
    hook: Hook = _pass
    moments: list[str] = field(default_factory=list)
    limits: PodLimits | CniError = UNLIMITED
    """What the API says of every pod at ADD."""
    attached: list[tuple[str, str]] = field(default_factory=list)
    dead: bool = False
    trouble: str = ""
    complaints: list[str] = field(default_factory=list)
    next_ofport: int = 10

    async def moment(self, name: str) -> None:
        """Let the test do what it wants here."""
        if self.dead:
            raise Killed
        self.moments.append(name)
        try:
            await self.hook(name)
        except Killed:
            self.dead = True
            raise
        if self.dead:
            raise Killed

    def agent(self, *, tenant_wait: float = 5.0) -> PodNetwork:
        """A newly started agent on what there is."""
        self.dead = False
        self.hook = _pass
        return PodNetwork(
            PodParts(
                FakeSwitch(self),
                FakeLinks(self),
                FakeInstaller(self),
                FakeLimits(self),
                self.netns.__contains__,
                tenant_wait=tenant_wait,
                forget=self.forget,
                pod_lives=lambda lease: lease.pod in self.pods,
                complain=self.complaints.append,
            )
        )

    async def forget(self, addresses: Set[IPv4Address]) -> None:
        """Nothing is known of these any more."""
        await asyncio.sleep(0)
        self.traces = {each: key for each, key in self.traces.items() if each not in addresses}

    def remove_netns(self, path: str) -> None:
        """As the kernel does: with the namespace go the veths that have an end in it."""
        self.netns.discard(path)
        self.unmounted.discard(path)
        self.links = {name: link for name, link in self.links.items() if link.netns != path}

    def faults(self) -> list[str]:
        """What must never be: a shared address, or a link, row or flow without the others."""
        found = []
        addresses = [row.address for row in self.rows.values()]
        if len(set(addresses)) != len(addresses):
            found.append("an address is given twice")
        found += [
            f"{a} is not for pods" for a in addresses if a not in self.subnet or a == gateway_of(self.subnet)
        ]
        alive = self.netns | self.unmounted
        names = {row.host_ifname for row in self.rows.values() if row.netns in alive}
        found += self.carried_over
        if set(self.links) != names:
            found.append(f"links {set(self.links) ^ names} and rows differ")
        if self.flows.keys() != self.rows.keys():
            found.append(f"flows and rows differ: {self.flows.keys() ^ self.rows.keys()}")
        shapers = {name: link.egress for name, link in self.links.items()}
        found += [
            f"shaper of {row.pod} is {shapers[row.host_ifname]}, the lease says {row.limits}"
            for row in self.rows.values()
            if row.host_ifname in shapers and shapers[row.host_ifname] != row.limits.egress
        ]
        found += [f"flows of {k} are not of its row" for k, a in self.flows.items() if self.rows.get(k) != a]
        return found

    @property
    def empty(self) -> bool:
        """Nothing of any pod exists."""
        return not (self.links or self.rows or self.flows)


class FakeSwitch:
    """The `Switch` protocol. It judges: a port for a link that does not exist gets no number."""

    def __init__(self, world: PodWorld) -> None:
        self._world = world

    @property
    def datapath(self) -> Datapath:
        return "system"

    @property
    def restarts(self) -> int:
        return 0

    async def ensure_bridge(self, spec: BridgeSpec) -> tuple[Finding, ...]:
        raise AssertionError("pods do not make bridges")

    async def remake_gateway(self, spec: BridgeSpec) -> None:
        raise AssertionError("pods do not make gateways")

    async def remove_bridge(self, name: str) -> bool:
        raise AssertionError("pods do not remove bridges")

    async def add_port(self, attachment: Attachment) -> Attachment:
        await self._world.moment("add_port")
        if attachment.host_ifname not in self._world.links:
            raise AssertionError(f"no link {attachment.host_ifname} for the port")
        taken = [row for row in self._world.rows.values() if row.address == attachment.address]
        if any(row.key != attachment.key for row in taken):
            raise AssertionError(f"{attachment.address} is given twice")
        address, key = attachment.address, attachment.key
        if self._world.traces.setdefault(address, key) != key:
            self._world.carried_over.append(
                f"{key} gets {address} with what {self._world.traces[address]} left"
            )
        old = self._world.rows.get(attachment.key)
        if old is None or old.ofport is None:
            self._world.next_ofport += 1
            attachment = replace(attachment, ofport=OfPort(self._world.next_ofport))
        else:
            attachment = replace(attachment, ofport=old.ofport)
        self._world.rows[attachment.key] = attachment
        await self._world.moment("added_port")
        return attachment

    async def remove_port(self, key: AttachmentKey) -> None:
        await self._world.moment("remove_port")
        self._world.rows.pop(key, None)
        await self._world.moment("removed_port")

    async def set_limits(self, key: AttachmentKey, limits: PodLimits) -> None:
        await self._world.moment("set_limits")
        if key in self._world.rows:
            self._world.rows[key] = replace(self._world.rows[key], limits=limits)
        await self._world.moment("have_limits")

    async def check_limits(self, key: AttachmentKey) -> None:
        await self._world.moment("check_limits")
        if key in self._world.lost_queues:
            raise OvsdbError(f"queue towards sandbox {key.sandbox}/{key.ifname}: no limit")

    def attachments(self) -> list[Attachment]:
        return list(self._world.rows.values())

    async def changes(self) -> AsyncIterator[None]:
        raise AssertionError("pods do not watch the switch")
        yield


class FakeLinks:
    """The `PodLinks` protocol."""

    def __init__(self, world: PodWorld) -> None:
        self._world = world

    async def create(self, link: PodLink) -> None:
        await self._world.moment("create_link")
        if link.netns not in self._world.netns:
            raise LinkError(f"{link.host_ifname}: no network namespace {link.netns}", errno=errno.ENOENT)
        old = self._world.links.get(link.host_ifname)
        if old is not None and old.netns != link.netns:
            raise LinkError(f"{link.host_ifname} exists with another peer", errno=errno.EEXIST)
        self._world.links[link.host_ifname] = link
        await self._world.moment("created_link")

    async def shape(self, link: PodLink) -> None:
        await self._world.moment("shape")
        held = self._world.links.get(link.host_ifname)
        if held is None:
            raise LinkError(f"{link.host_ifname} does not exist", errno=errno.ENODEV)
        self._world.links[link.host_ifname] = replace(held, egress=link.egress)
        await self._world.moment("shaped")

    async def check(self, link: PodLink) -> None:
        await self._world.moment("check_link")
        held = self._world.links.get(link.host_ifname)
        if held != link:
            raise LinkError(f"{link.host_ifname} is {held}, not {link}")

    async def delete(self, host_ifname: str) -> None:
        await self._world.moment("delete_link")
        self._world.links.pop(host_ifname, None)
        self._world.notes.pop(host_ifname, None)
        await self._world.moment("deleted_link")

    async def vouch(self, host_ifname: str, address: IPv4Address | None) -> None:
        no = "un" if address is None else ""
        await self._world.moment(f"{no}vouch")
        self._world.notes.pop(host_ifname, None)
        if host_ifname in self._world.links and address is not None:
            self._world.notes[host_ifname] = address
        await self._world.moment(f"{no}noted")

    async def vouched(self) -> dict[str, IPv4Address]:
        await asyncio.sleep(0)
        return {name: address for name, address in self._world.notes.items() if name in self._world.links}

    async def keep_up(self) -> tuple[Finding, ...]:
        return ()

    async def leftovers(self) -> list[str]:
        await self._world.moment("leftovers")
        return list(self._world.links)


class FakeLimits:
    """The `LimitSource` protocol."""

    def __init__(self, world: PodWorld) -> None:
        self._world = world

    async def wanted(self, request: Request) -> PodLimits:
        await self._world.moment("limits")
        if isinstance(self._world.limits, CniError):
            raise self._world.limits
        return self._world.limits

    def attached(self, namespace: str, name: str) -> None:
        self._world.attached.append((namespace, name))


class FakeInstaller:
    """The `Installer` protocol."""

    def __init__(self, world: PodWorld) -> None:
        self._world = world

    def trouble(self) -> str:
        return self._world.trouble

    def node(self) -> NodeNetwork:
        if self._world.trouble:
            raise CniError(11, self._world.trouble)
        subnet = self._world.subnet
        return NodeNetwork(
            subnet, gateway_of(subnet), IPv4Network("172.11.0.0/16"), 1450, checksum_offload=True
        )

    async def wait_tenant(self, namespace: str, deadline: float) -> None:
        await self._world.moment("wait_tenant")
        loop = asyncio.get_running_loop()
        while namespace not in self._world.tenants:
            if loop.time() >= deadline:
                raise CniError(11, f"Namespace {namespace} has no NetID yet")
            await asyncio.sleep(0.001)

    async def install(self, attachment: Attachment) -> None:
        await self._world.moment("install")
        if self._world.rows.get(attachment.key) != attachment:
            raise AssertionError("flows for what is not in OVSDB")
        self._world.flows[attachment.key] = attachment
        await self._world.moment("installed")

    async def withdraw(self, key: AttachmentKey) -> None:
        await self._world.moment("withdraw")
        self._world.flows.pop(key, None)
        await self._world.moment("withdrawn")


def request_for(command: Command, sandbox: str, *, netns: str = "", namespace: str = "web") -> Request:
    """A valid request; the network namespace of sandbox "a" is at /netns/a unless given."""
    return Request(
        command=command,
        sandbox=SandboxId(sandbox),
        netns=netns or f"/netns/{sandbox}",
        ifname="eth0",
        pod=PodArgs(namespace=namespace, name=sandbox, uid=f"uid-{sandbox}"),
        path="",
        conf=NetConf(cni_version="1.1.0", name="k8s-ovs"),
    )


def add_request(sandbox: str, *, netns: str = "", namespace: str = "web") -> Request:
    """An ADD."""
    return request_for(Command.ADD, sandbox, netns=netns, namespace=namespace)


def delete_request(sandbox: str) -> Request:
    """A DEL."""
    return request_for(Command.DEL, sandbox)


def check_request(sandbox: str, result: AddResult) -> Request:
    """A CHECK with what ADD answered."""
    prev = PrevResult(ips=[PrevAddress(str(result.address))])
    return replace(request_for(Command.CHECK, sandbox), prev_result=prev)


def gc_request(*sandboxes: str) -> Request:
    """A GC that keeps these sandboxes."""
    kept = [ValidAttachment(sandbox, "eth0") for sandbox in sandboxes]
    conf = NetConf(cni_version="1.1.0", name="k8s-ovs", valid_attachments=kept)
    return replace(request_for(Command.GC, ""), conf=conf)

"""What a node of a lab holds, compared with what it should hold according to the records, the leases and the runtime.

For `fakes.crashing`, after each crash: `Audit.faults` computes from etcd, the API and the leases what should be there, with
code of its own composition (the product's pure parts, but no agent), and names everything that differs. It changes
nothing. It reads sockets and namespaces itself, because a look with `lab status` or `kubectl` costs half a second.
"""

import asyncio
import contextlib
import itertools
import json
import os
import struct
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from fakes.labs import Lab
from k8s_ovs.agent.attaching import NodeNetwork, link_of
from k8s_ovs.agent.services import ServiceFeed, ServiceSources
from k8s_ovs.agent.writer import BridgeWriter, Plant, ReconcileOptions
from k8s_ovs.dataplane import netlink as nl
from k8s_ovs.dataplane.bridge import LINK_PREFIX
from k8s_ovs.dataplane.hostnet import NetlinkHostNetwork
from k8s_ovs.dataplane.links import NetlinkPodLinks
from k8s_ovs.dataplane.netns import call_in
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch
from k8s_ovs.dataplane.rtnetlink import Link, Route, Rtnetlink
from k8s_ovs.dataplane.shaper import TCA_OPTIONS, TCMSG
from k8s_ovs.errors import K8sOvsError
from k8s_ovs.flows.group import Meter, MeterId
from k8s_ovs.lab.cluster import ETCD_PREFIX, Node
from k8s_ovs.model.events import (
    AttachmentSet,
    ConfigSet,
    Event,
    HostSubnetSet,
    Source,
    Synced,
    TenantSet,
)
from k8s_ovs.model.types import Attachment, PodLimits
from k8s_ovs.model.view import NodeView
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.store import Snapshot

Held = Mapping[str, tuple[str, PodLimits]]
"""Of each sandbox, the address that the runtime was told, and the limits that were asked for."""

GETTCLASS = 42
"""rtnetlink(7): RTM_GETTCLASS."""
TCA_HTB_PARMS, CEILING = 1, 20
"""struct tc_htb_opt (linux/pkt_sched.h), and where it has the octets per second that may not be exceeded."""
FIRST_QUEUE = 0x10001
"""The class 1:1 that ovs-vswitchd makes of a QoS row's queue 0."""


class _Comparison(OfctlFlowTable):
    """Says what a full synchronisation would send, and sends nothing."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.differences: list[str] = []

    async def _send(self, meters: list[Meter], lines: list[str], stale: list[MeterId]) -> None:
        self.differences = [f"missing meter {meter.to_ofctl()}" for meter in meters]
        self.differences += [f"to be sent: {line}" for line in lines]
        self.differences += [f"meter {number} is too many" for number in stale]

    async def _run(
        self,
        command: str,
        arguments: Sequence[str] = (),
        lines: Sequence[str] = (),
        what: str = "",
        fine: Sequence[int] = (0,),
    ) -> str:
        if command == "set-frags":
            return ""
        return await super()._run(command, arguments, lines, what, fine)


@dataclass(frozen=True)
class HostState:
    """What a node has beside its pods: nothing of it may change."""

    links: frozenset[str]
    gateway: tuple[str, int, bool]
    addresses: frozenset[IPv4Interface]
    routes: frozenset[Route]
    rules: tuple[str, ...]
    ports: frozenset[str]
    queues: tuple[int, int]
    ceilings: Mapping[str, int]
    """By interface, the bits per second that the kernel lets through towards it."""


class NodeAudit:
    """One node. Call `begin` once the cluster is as it should be."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.switch = OvsdbSwitch(node.ovs_rundir)
        self._links = NetlinkPodLinks(netns=str(node.netns))
        self._target = f"unix:{node.ovs_rundir}/br0.mgmt"
        self._begun: HostState | None = None

    async def begin(self) -> None:
        """What is there now beside pods is what should be there."""
        await self.switch.connected()
        self._begun = await self._host()

    async def faults(self, events: list[Event], held: Held, agent: int | None) -> list[str]:
        """Everything that is not as `events` (config, records, Services) and the runtime's sandboxes want it."""
        leases = self.switch.attachments()
        found = {lease.key.sandbox: (str(lease.address), lease.limits) for lease in leases}
        faults = [] if found == held else [f"leases are {found}, should be {dict(held)}"]
        pods = next(event.config.network for event in events if isinstance(event, ConfigSet))
        faults += await self._bridge(events, leases)
        faults += await self._kernel(leases, pods)
        faults += [f"process {pid} is left: {line}" for pid, line in self._strays(agent)]
        return [f"{self.node.name}: {fault}" for fault in faults]

    async def _bridge(self, events: list[Event], leases: list[Attachment]) -> list[str]:
        """Flows, groups and meters; and whether each pod has all of its own."""
        view, flows = NodeView(self.node.name, self.node.ip), _Comparison(self._target)
        for event in [*events, *map(AttachmentSet, leases), *(Synced(source) for source in Source)]:
            view.apply(event)
        dirty = view.set_sctp(False)
        writer = BridgeWriter(Plant(self.switch, flows, NetlinkHostNetwork()), ReconcileOptions())
        writer.plan(view, dirty)
        await writer.replace("audit")
        without = [f"sandbox {lease.key.sandbox} has no ofport" for lease in leases if lease.ofport is None]
        return without + flows.differences

    async def _kernel(self, leases: list[Attachment], pods: IPv4Network) -> list[str]:
        now, begun = await self._host(), self._begun
        assert begun is not None
        ours = {lease.host_ifname for lease in leases}
        faults = [
            f"{name} is {getattr(now, name)}, was {getattr(begun, name)}"
            for name in ("gateway", "addresses", "routes", "rules")
            if getattr(now, name) != getattr(begun, name)
        ]
        for what, names, before in (("links", now.links, begun.links), ("ports", now.ports, begun.ports)):
            others = {name for name in before if not name.startswith(LINK_PREFIX)}
            if names != others | ours:
                faults.append(f"{what}: {sorted(names ^ (others | ours))} are missing or too many")
        limits = {
            lease.host_ifname: lease.limits.ingress for lease in leases if lease.limits.ingress is not None
        }
        if now.queues != tuple(count + len(limits) for count in begun.queues):
            faults.append(f"{now.queues} QoS and Queue rows for {len(limits)} limited pods")
        if now.ceilings != {**begun.ceilings, **limits}:
            faults.append(f"the kernel's queues have {now.ceilings} bit/s, the leases {limits}")
        for lease in leases:
            faults += await self._link(lease, pods, begun)
        return faults

    async def _link(self, lease: Attachment, pods: IPv4Network, host: HostState) -> list[str]:
        gateway, mtu = next(iter(host.addresses)), host.gateway[1]
        network = NodeNetwork(gateway.network, gateway.ip, pods, mtu, checksum_offload=False)
        try:
            await self._links.check(link_of(lease, network))
            await self.switch.check_limits(lease.key)
        except K8sOvsError as err:
            return [str(err)]
        return []

    async def _host(self) -> HostState:
        rows = await self._rows()
        rules = await _output("nsenter", f"--net={self.node.netns}", "iptables-save")
        return await asyncio.to_thread(call_in, str(self.node.netns), lambda: _host_state(rows, rules))

    async def _rows(self) -> dict[str, list[dict[str, Any]]]:
        """The rows that pods may leave behind, asked from the server itself (RFC 7047, 4.1.3)."""
        tables = ("Port", "QoS", "Queue")
        asked = [{"op": "select", "table": name, "where": [], "columns": ["_uuid"]} for name in tables]
        asked[0]["columns"] = ["name"]
        reader, writer = await asyncio.open_unix_connection(str(self.node.ovs_rundir / "db.sock"))
        try:
            writer.write(
                json.dumps({"method": "transact", "params": ["Open_vSwitch", *asked], "id": 1}).encode()
            )
            text = b""
            while chunk := await reader.read(1 << 16):
                text += chunk
                with contextlib.suppress(ValueError):
                    answer = json.loads(text)
                    return {name: part["rows"] for name, part in zip(tables, answer["result"], strict=True)}
        finally:
            writer.close()
        raise AssertionError(f"ovsdb-server of {self.node.name} closed the connection")

    def _strays(self, agent: int | None) -> list[tuple[int, str]]:
        """Commands of agents that are no more."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if self._target not in line:
                    continue
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent not in (agent, os.getpid()):
                    found.append((int(entry.name), line))
        return found


def _host_state(rows: dict[str, list[dict[str, Any]]], rules: str) -> HostState:
    """Called in the node's namespace."""
    with Rtnetlink() as kernel:
        every = kernel.links()
        tun0 = next((link for link in every if link.name == "tun0"), None)
        addresses = [found for _, found in kernel.addresses(tun0)] if tun0 else []
        routes = kernel.routes(tun0) if tun0 else []
    return HostState(
        links=frozenset(_named(link) for link in every),
        gateway=(tun0.mac, tun0.mtu, tun0.up) if tun0 else ("", 0, False),
        addresses=frozenset(addresses),
        routes=frozenset(routes),
        rules=tuple(line.partition(" [")[0] for line in rules.splitlines() if line[:1] not in "#"),
        ports=frozenset(row["name"] for row in rows["Port"]),
        queues=(len(rows["QoS"]), len(rows["Queue"])),
        ceilings={link.name: ceiling for link in every if (ceiling := _ceiling(link)) is not None},
    )


def _ceiling(link: Link) -> int | None:
    """What ovs-vswitchd has made of the link's queue, in bits per second; None without one."""
    with nl.Netlink() as netlink:
        payload = TCMSG.pack(0, link.index, 0, 0, 0)
        classes = netlink.request(GETTCLASS, payload, nl.F_DUMP, what=f"classes of {link.name}")
    for answer in classes:
        if TCMSG.unpack_from(answer)[2] == FIRST_QUEUE:
            options = nl.attributes(nl.attributes(answer[TCMSG.size :])[TCA_OPTIONS])
            octets: int = struct.unpack_from("=I", options[TCA_HTB_PARMS], CEILING)[0]
            return octets * 8
    return None


def _named(link: Link) -> str:
    return f"{link.name} (unfinished)" if link.unfinished else link.name


async def _output(*argv: str) -> str:
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0, argv
    return out.decode()


class Audit:
    """All nodes, and the records. Made by `audit`."""

    def __init__(self, lab: Lab, nodes: Iterable[Node], store: EtcdStore) -> None:
        self.lab = lab
        self.nodes = {node.name: NodeAudit(node) for node in nodes}
        self._store = store
        self.services: list[Event] = []
        self.synced = asyncio.Event()

    def take(self, *events: Event) -> None:
        """What the API says of Services."""
        self.services += events
        if {Synced(Source.SERVICES), Synced(Source.ENDPOINT_SLICES)} <= {
            event for event in self.services if isinstance(event, Synced)
        }:
            self.synced.set()

    async def snapshot(self) -> Snapshot:
        return await self._store.snapshot()

    async def faults(self, held: Mapping[str, Held], vnis: Mapping[str, frozenset[str]]) -> list[str]:
        """Everything that is wrong. `held` by node; `vnis` has for each Namespace with whom it shares its VNI."""
        records = await self.snapshot()
        assert records.config is not None
        events: list[Event] = [ConfigSet(records.config)]
        events += map(HostSubnetSet, records.host_subnets.values())
        events += map(TenantSet, records.tenants.values())
        pids = self.lab.pids()
        found = _record_faults(records, vnis)
        for name, node in self.nodes.items():
            found += await node.faults([*events, *self.services], held[name], pids.get(f"{name}/agent"))
        return found


def _record_faults(records: Snapshot, together: Mapping[str, frozenset[str]]) -> list[str]:
    """Tenants and host subnets as they should be when nothing is under way."""
    faults = [str(problem) for problem in records.problems.values()]
    for name, tenant in records.tenants.items():
        if tenant.change is not None:
            faults.append(f"tenant {name} is still changing: {tenant.change}")
        asked = records.net_namespaces.get(name)
        if asked is None or asked.action or asked.net_id != tenant.vni:
            faults.append(f"net namespace {name} is {asked}, tenant {tenant}")
    for name, others in together.items():
        vni = records.tenants[name].vni if name in records.tenants else None
        same = {other for other, tenant in records.tenants.items() if tenant.vni == vni}
        if same != set(others) | {name}:
            faults.append(f"the VNI of {name}, {vni}, is that of {sorted(same)}, not of {sorted(others)}")
    subnets = sorted(record.subnet for record in records.host_subnets.values() if record.subnet is not None)
    if any(one.overlaps(other) for one, other in itertools.pairwise(subnets)):
        faults.append(f"host subnets overlap: {subnets}")
    return faults


@contextlib.asynccontextmanager
async def audit(lab: Lab, nodes: Iterable[Node]) -> AsyncIterator[Audit]:
    """Look at this lab from now on."""
    settings = EtcdSettings(endpoints=(lab.environment["ETCDCTL_ENDPOINTS"],), prefix=ETCD_PREFIX)
    credentials = load_credentials(KubeSettings(kubeconfig=Path(lab.environment["KUBECONFIG"])))
    async with EtcdStore(settings) as store, KubeClient(credentials) as kube, asyncio.TaskGroup() as tasks:
        one = Audit(lab, nodes, store)
        running = [tasks.create_task(node.switch.run()) for node in one.nodes.values()]
        running.append(tasks.create_task(ServiceFeed(ServiceSources.of(kube), one.take).run()))
        try:
            await one.synced.wait()
            yield one
        finally:
            for task in running:
                task.cancel()

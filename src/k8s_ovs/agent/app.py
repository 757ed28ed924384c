"""The agent's composition root: makes the parts, names the tasks, and says when the node is ready.

    store.watch ──> reconciler <── CNI server (PodNetwork) <── executable <── container runtime
                       │
                       ├──> OVSDB, OpenFlow, netlink; FirewallKeeper beside it
                       └──> store.presence: what this node has applied of the tenants that change

Called by the CLI. It decides nothing about networks itself.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from k8s_ovs.agent import conflist
from k8s_ovs.agent.drops import DropWatcher
from k8s_ovs.agent.firewall import FirewallKeeper
from k8s_ovs.agent.health import Condition, HealthKeeper, named
from k8s_ovs.agent.lag import SourceLag
from k8s_ovs.agent.limits import LimitKeeper
from k8s_ovs.agent.metrics import AgentMetrics, NodeCollector, ReconcileCollector, StoreCollector
from k8s_ovs.agent.parts import AgentParts, PodBatches
from k8s_ovs.agent.pods import PodNetwork, PodParts
from k8s_ovs.agent.reconcile import Plant, ReconcileOptions, Reconciler, Surroundings
from k8s_ovs.agent.repairs import Repairs
from k8s_ovs.agent.services import ServiceFeed
from k8s_ovs.agent.settings import AgentSettings
from k8s_ovs.agent.traces import Traces
from k8s_ovs.cni.server import CniServer
from k8s_ovs.config import NetworkConfig
from k8s_ovs.errors import ConfigError, K8sOvsError, SourceError
from k8s_ovs.model.events import ConfigSet, Source, Synced
from k8s_ovs.runtime.backoff import Backoff
from k8s_ovs.runtime.http import HealthChecks
from k8s_ovs.runtime.logs import log_context
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.reflector import Deleted, Upserted
from k8s_ovs.sources.store import Store

log = logging.getLogger(__name__)

LOOK_SOON, LOOK_AGAIN = 0.05, 5.0
"""Seconds between two looks at whether this node can serve: until it has been announced, and afterwards."""


@dataclass(frozen=True, slots=True)
class AgentServices:
    """What the process gives to the agent. `kube` is None on hosts without Kubernetes credentials."""

    store: Store
    kube: KubeClient | None
    health: HealthChecks
    registry: CollectorRegistry
    on_ready: Callable[[], None]


class Agent:
    """One node's agent; `run` until cancelled. `parts` are the real ones unless given."""

    def __init__(
        self, settings: AgentSettings, services: AgentServices, parts: AgentParts | None = None
    ) -> None:
        self._settings = settings
        self._services = services
        self._parts = parts = parts or AgentParts.real(settings, services.kube)
        spec = settings.switch.spec
        self._repairs = Repairs(parts.tell_node)
        self._firewall = FirewallKeeper(
            parts.firewall, spec.gateway, settings.resync_period, self._repairs.note
        )
        self._presence = services.store.presence()
        self._health = HealthKeeper(self._presence.tell)
        self._reconciler = Reconciler(
            settings.hostname,
            Plant(parts.switch, parts.flows, parts.host),
            ReconcileOptions(
                spec, settings.node_ip, settings.mtu, settings.resync_period, external=settings.external
            ),
            Surroundings(
                source_trouble=self._source_trouble,
                host_trouble=self._firewall.trouble,
                report=self._health.report,
                on_repair=self._repairs.note,
                lost_records=lambda: tuple(services.store.lost.values()),
            ),
        )
        self._limits = LimitKeeper(parts.pod_api)
        self._pods = PodNetwork(
            PodParts(
                parts.switch,
                parts.links,
                self._reconciler,
                self._limits,
                parts.netns_exists,
                tenant_wait=settings.tenant_wait,
                forget=Traces(parts.flows, parts.host).forget,
                pod_lives=self._limits.pod_lives,
                lost=self._reconciler.lost,
                on_repair=self._repairs.note,
                complain=self._repairs.complain,
            )
        )
        self._service_feed = ServiceFeed(parts.services, self._reconciler.post)
        self._drops = DropWatcher(parts.flows)
        self._config_trouble = "the network config has not been read yet"
        self._watch_trouble = ""
        self._conflist_trouble = "the conflist has not been written yet"
        self._collect_due = True
        self._collected = 0.0
        self._deleted: set[tuple[str, str]] = set()
        self._attention = asyncio.Event()
        self._metrics = AgentMetrics(services.registry)
        self._observe()

    def _observe(self) -> None:
        """Let metrics and health checks see the parts."""
        registry, health = self._services.registry, self._services.health
        self._reconciler.stats.observe_commit = self._metrics.commit_seconds.observe
        self._reconciler.reporter.observe_settle = self._metrics.settle_seconds.observe
        self._metrics.ready.set_function(lambda: float(not self._reconciler.trouble()))
        self._lag = SourceLag({"etcd": self._store_trouble, "kubernetes": self._service_feed.trouble})
        registry.register(ReconcileCollector(self._reconciler, self._repairs))
        registry.register(NodeCollector(self._reconciler, self._lag, self._health))
        registry.register(StoreCollector(self._services.store))
        registry.register(self._drops)
        health.add_live("ovs-rundir", self._settings.switch.rundir_trouble)
        health.add_ready("network-config", lambda: self._config_trouble)
        health.add_ready("bridge", self._reconciler.bridge_trouble)
        health.add_ready("nat", self._firewall.trouble)
        if not self._settings.external:
            health.add_ready("conflist", lambda: self._conflist_trouble)
            health.add_note("pod-ports", self._pods.orphans.trouble)
        health.add_note("etcd", lambda: "" if self._config_trouble else self._store_trouble())
        health.add_note("lost-records", self._lost_records)
        health.add_note("kubernetes", self._service_feed.trouble)
        self._metrics.kube_outage.set_function(lambda: float(bool(self._service_feed.trouble())))

    async def run(self) -> None:
        """Serve this node. Raises ConfigError for settings that cannot work.

        The owners of switch and bridge end last: CNI requests that run when the agent is stopped are finished or undone
        first, and that takes them.
        """
        server = CniServer(
            self._settings.cni.socket,
            self._pods,
            observer=self._metrics.observe_cni,
            uid=self._parts.cni_uid,
            log_context=log_context,
        )
        async with asyncio.TaskGroup() as owners, asyncio.TaskGroup() as tasks:
            owners.create_task(self._parts.switch.run(), name="ovsdb")
            owners.create_task(self._reconciler.run(), name="reconciler")
            if self._parts.stand_by is not None:
                owners.create_task(self._parts.stand_by(), name="stand-by")
            tasks.create_task(self._feed(tasks), name="store")
            if not self._settings.external:
                tasks.create_task(server.run(), name="cni")
                tasks.create_task(self._limits.run(self._pods.limits), name="limits")
                tasks.create_task(self._pods.cleaner.run(), name="addresses")
                tasks.create_task(self._pods.ports.run(), name="ports")
                tasks.create_task(self._pods.ports.keep_up(self._settings.resync_period), name="veths")
            tasks.create_task(self._drops.run(), name="drops")
            tasks.create_task(self._repairs.run(), name="repairs")
            tasks.create_task(self._health.run(self._condition), name="health")
            tasks.create_task(self._announce(), name="announce")

    async def _feed(self, tasks: asyncio.TaskGroup) -> None:
        """Hand the cluster's records to the reconciler, from the network config on."""
        config = await self._network_config()
        self._reconciler.post(ConfigSet(config), Synced(Source.CONFIG))
        tasks.create_task(self._service_feed.run(), name="services")
        tasks.create_task(self._firewall.run(config), name="firewall")
        tasks.create_task(self._presence.run(), name="presence")
        if self._parts.own_pods is not None and not self._settings.external:
            tasks.create_task(self._watch_own_pods(self._parts.own_pods()), name="own-pods")
        backoff = Backoff(cap=5.0, floor=0.05)
        while True:
            try:
                async for batch in self._services.store.watch():
                    backoff.reset()
                    self._watch_trouble = ""
                    self._health.follow(self._services.store.told, self._reconciler.post(*batch))
            except (ConfigError, SourceError) as err:
                # Forwarding and DEL go on meanwhile. A watch fails like this before it has told anything.
                self._watch_trouble = str(err)
                log.warning("the network's records cannot be read: %s", err)
            await asyncio.sleep(backoff.next())

    def _condition(self) -> Condition:
        """How this node fares, for others."""
        health, stats = self._services.health, self._reconciler.stats
        self._lag.look()
        return Condition(
            trouble="; ".join(filter(None, health.readiness().values())),
            notes="; ".join(health.notes().values()),
            pods=len(self._reconciler.view.state.attachments),
            mtu=stats.mtu,
            drops=named(self._drops.packets),
            repairs={str(kind): count for kind, count in self._repairs.counts.items()},
        )

    def _store_trouble(self) -> str:
        """Why nothing is heard of the cluster's records now, or ""."""
        outage = self._services.store.outage
        return self._config_trouble or self._watch_trouble or ("" if outage is None else str(outage))

    def _source_trouble(self) -> str:
        return "; ".join(filter(None, (self._store_trouble(), self._service_feed.trouble())))

    def _lost_records(self) -> str:
        lost = len(self._services.store.lost)
        return f"etcd has no more {lost} records that nobody has deleted; they stay in force" if lost else ""

    async def _network_config(self) -> NetworkConfig:
        backoff = Backoff(cap=5.0, floor=0.05)
        while True:
            try:
                config = await self._services.store.network_config()
            except (ConfigError, SourceError) as err:
                trouble = str(err)
            else:
                if config is not None:
                    self._config_trouble = ""
                    return config
                trouble = "no network config in etcd: write one with `k8s-ovs init-config`"
            if trouble != self._config_trouble:
                log.warning("network config: %s", trouble)
            self._config_trouble = trouble
            await asyncio.sleep(backoff.next())

    async def _watch_own_pods(self, watch: PodBatches) -> None:
        """A pod that vanished without a CNI DEL leaves a lease: look for sandboxes that are gone. Limits may change."""
        async with aclosing(watch) as batches:
            async for batch in batches:
                self._limits.take(batch)
                for event in batch:
                    match event:
                        case Upserted(pod):
                            self._deleted.discard(pod.key)
                        case Deleted(namespace, name):
                            self._deleted.add((namespace, name))
                            self._collect_due = True
                            self._attention.set()

    async def _announce(self) -> None:
        """Keep the conflist written and gone sandboxes collected, whenever the node can serve; say so once."""
        announced = False
        while True:
            if not self._reconciler.trouble() and await self._serve_pods() and not announced:
                announced = True
                self._services.on_ready()
                what = "reaching the pods from" if self._settings.external else "serving pods of"
                log.info("ready: %s %s", what, self._settings.hostname)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN if announced else LOOK_SOON):
                    await self._attention.wait()
            self._attention.clear()

    async def _serve_pods(self) -> bool:
        """Have what the container runtime needs of us; an external host has none. False if it cannot be had now."""
        if self._settings.external:
            return True
        await self._collect()
        return await self._publish()

    async def _collect(self) -> None:
        """Remove what sandboxes that are gone left behind, if any may be, or once a period; again later if it fails.

        A pod's end is told by DEL, or by the API. But both may be missed: the runtime died, the pod was forced out long ago.
        And the API may tell of it before the sandbox is gone: as long as a deleted pod has a lease, it is looked at again.
        """
        now = asyncio.get_running_loop().time()
        if not self._collect_due and now < self._collected + self._settings.resync_period:
            return
        self._collect_due, self._collected = False, now
        try:
            self._metrics.collected.inc(await self._pods.recover())
            self._deleted &= {(lease.namespace, lease.pod) for lease in self._parts.switch.attachments()}
            self._collect_due |= bool(self._deleted)
        except K8sOvsError as err:
            self._collect_due = True
            log.warning("collecting what gone sandboxes left behind: %s", err)

    async def _publish(self) -> bool:
        """Have the conflist where the runtime looks for it. False, and trouble, while it cannot be written."""
        cni = self._settings.cni
        versions = await asyncio.to_thread(conflist.chain_versions, cni.bin_dir, portmap=cni.portmap)
        text = conflist.render(cni.socket, versions, portmap=cni.portmap)
        try:
            if await asyncio.to_thread(conflist.write, cni.conf_dir, text):
                log.info("wrote %s", cni.conf_dir / conflist.CONFLIST)
            trouble = ""
        except ConfigError as err:
            # A full disk, say: the pods that are here go on, and new ones are served if the file is there already.
            trouble = str(err)
        if trouble and trouble != self._conflist_trouble:
            log.error("%s", trouble)
        self._conflist_trouble = trouble
        return not trouble

"""The agent's composition root: makes the parts, names the tasks, and says when the node is ready.

    store.watch ──> reconciler <── CNI server (PodNetwork) <── executable <── container runtime
                       │
                       └──> OVSDB, OpenFlow, netlink; FirewallKeeper beside it

Called by the CLI. It decides nothing about networks itself.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from k8s_ovs.agent import conflist
from k8s_ovs.agent.drops import DropWatcher
from k8s_ovs.agent.firewall import FirewallKeeper
from k8s_ovs.agent.metrics import AgentMetrics, ReconcileCollector, StoreCollector
from k8s_ovs.agent.pods import PodNetwork, PodParts
from k8s_ovs.agent.reconcile import Plant, ReconcileOptions, Reconciler
from k8s_ovs.agent.settings import AgentSettings
from k8s_ovs.cni.server import CniServer
from k8s_ovs.config import NetworkConfig
from k8s_ovs.dataplane.firewall import IptablesFirewall
from k8s_ovs.dataplane.hostnet import NetlinkHostNetwork
from k8s_ovs.dataplane.links import NetlinkPodLinks
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch
from k8s_ovs.errors import ConfigError, DataplaneError, SourceError
from k8s_ovs.model.events import ConfigSet, Source, Synced
from k8s_ovs.runtime.backoff import Backoff
from k8s_ovs.runtime.http import HealthChecks
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.objects import PODS
from k8s_ovs.sources.kube.reflector import Deleted, Reflector
from k8s_ovs.sources.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentServices:
    """What the process gives to the agent. `kube` is None on hosts without Kubernetes credentials."""

    store: Store
    kube: KubeClient | None
    health: HealthChecks
    registry: CollectorRegistry
    on_ready: Callable[[], None]


class Agent:
    """One node's agent; `run` until cancelled."""

    def __init__(self, settings: AgentSettings, services: AgentServices) -> None:
        self._settings = settings
        self._services = services
        self._switch = OvsdbSwitch(settings.switch.rundir)
        flows = OfctlFlowTable(settings.switch.management)
        spec = settings.switch.spec
        self._reconciler = Reconciler(
            settings.hostname,
            Plant(self._switch, flows, NetlinkHostNetwork()),
            ReconcileOptions(spec, settings.node_ip, settings.mtu, settings.resync_period),
            source_trouble=self._store_trouble,
        )
        self._firewall = FirewallKeeper(IptablesFirewall(), spec.gateway, settings.resync_period)
        parts = PodParts(self._switch, NetlinkPodLinks(), self._reconciler, tenant_wait=settings.tenant_wait)
        self._pods = PodNetwork(parts)
        self._metrics = AgentMetrics(services.registry)
        self._reconciler.stats.observe_commit = self._metrics.commit_seconds.observe
        services.registry.register(ReconcileCollector(self._reconciler, self._firewall))
        services.registry.register(StoreCollector(services.store))
        self._drops = DropWatcher(flows)
        services.registry.register(self._drops)
        self._config_trouble = "the network config has not been read yet"
        self._watch_trouble = ""
        services.health.add_ready("network-config", lambda: self._config_trouble)
        services.health.add_ready("bridge", self._reconciler.trouble)
        services.health.add_ready("nat", self._firewall.trouble)

    async def run(self) -> None:
        """Serve this node. Raises ConfigError for settings that cannot work."""
        server = CniServer(self._settings.cni.socket, self._pods, observer=self._metrics.observe_cni)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._switch.run(), name="ovsdb")
            tasks.create_task(self._reconciler.run(), name="reconciler")
            tasks.create_task(self._feed(tasks), name="store")
            tasks.create_task(server.run(), name="cni")
            tasks.create_task(self._drops.run(), name="drops")
            tasks.create_task(self._announce(), name="announce")

    async def _feed(self, tasks: asyncio.TaskGroup) -> None:
        """Hand the cluster's records to the reconciler, from the network config on."""
        config = await self._network_config()
        self._reconciler.post(ConfigSet(config), Synced(Source.CONFIG))
        tasks.create_task(self._firewall.run(config.network), name="firewall")
        if self._services.kube is not None:
            tasks.create_task(self._watch_own_pods(self._services.kube), name="own-pods")
        backoff = Backoff(cap=5.0, floor=0.05)
        while True:
            try:
                async for batch in self._services.store.watch():
                    backoff.reset()
                    self._watch_trouble = ""
                    self._reconciler.post(*batch)
            except (ConfigError, SourceError) as err:
                # Forwarding and DEL go on meanwhile; the watch tells everything again from the start.
                self._watch_trouble = str(err)
                log.warning("the network's records cannot be read: %s", err)
                await asyncio.sleep(backoff.next())

    def _store_trouble(self) -> str:
        """Why nothing is heard of the cluster's records now, or ""."""
        outage = self._services.store.outage
        return self._config_trouble or self._watch_trouble or ("" if outage is None else str(outage))

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

    async def _watch_own_pods(self, kube: KubeClient) -> None:
        """A pod that vanished without a CNI DEL leaves a lease: look for sandboxes that are gone."""
        reflector = Reflector(kube, PODS, field_selector=f"spec.nodeName={self._settings.hostname}")
        async with aclosing(reflector.watch()) as batches:
            async for batch in batches:
                if any(isinstance(event, Deleted) for event in batch) and not self._reconciler.trouble():
                    await self._collect()

    async def _collect(self) -> None:
        """Remove what sandboxes that are gone left behind."""
        try:
            self._metrics.collected.inc(await self._pods.recover())
        except DataplaneError as err:
            log.warning("collecting what gone sandboxes left behind: %s", err)

    async def _announce(self) -> None:
        """Write the conflist once the node can serve, and keep the ready gauge true."""
        written = False
        while True:
            ready = not (self._reconciler.trouble() or self._firewall.trouble())
            self._metrics.ready.set(ready)
            if ready and not written:
                await self._collect()
                cni = self._settings.cni
                conflist.write(cni.conf_dir, conflist.render(cni.socket, portmap=cni.portmap))
                self._services.on_ready()
                written = True
                log.info("ready: serving pods of %s", self._settings.hostname)
            await asyncio.sleep(5.0 if written else 0.05)

"""The controller's composition root: waits for the network config, then works whenever it holds the lease.

    Nodes, Namespaces (watch) ──┐                                      ┌─> metrics, log, Kubernetes Events
    records (watch) ────────────┴─wakes─> round: snapshot, plan, commit ─┴─> records

Called by the CLI, alone or beside the agent in one process. It decides nothing about subnets and VNIs itself.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry

from k8s_ovs.controller.cluster import Cluster, KubeCluster
from k8s_ovs.controller.metrics import ControllerMetrics
from k8s_ovs.controller.report import Reporter
from k8s_ovs.controller.rounds import RoundServices, no_config
from k8s_ovs.controller.worker import Worker, WorkerPace
from k8s_ovs.errors import ConfigError, SourceError
from k8s_ovs.runtime.backoff import Backoff
from k8s_ovs.runtime.http import HealthChecks
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.election import LeaseElection, LeaseTiming, unique_identity
from k8s_ovs.sources.kube.lease import LEASE_NAME, LEASE_NAMESPACE
from k8s_ovs.sources.store import Store

log = logging.getLogger(__name__)

CHECK = "controller"
"""Name of the health check."""


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """`hostname` begins the identity in the lease.

    `config_cap` is the longest pause, in seconds, between two looks for the network config.
    """

    hostname: str
    lease_namespace: str = LEASE_NAMESPACE
    lease_name: str = LEASE_NAME
    timing: LeaseTiming = field(default_factory=LeaseTiming)
    pace: WorkerPace = field(default_factory=WorkerPace)
    config_cap: float = 2.0


@dataclass(frozen=True, slots=True)
class ControllerServices:
    """What the process gives to the controller, shared with the agent if both run in it."""

    store: Store
    kube: KubeClient | None
    health: HealthChecks
    registry: CollectorRegistry


class Election(Protocol):
    """Who may work; a LeaseElection outside of tests."""

    @property
    def is_leader(self) -> bool:
        """Whether we lead at this very moment."""

    @property
    def holder(self) -> str:
        """Who leads, as far as known; empty if nobody."""

    @property
    def trouble(self) -> str:
        """Why nothing is known of the lease at the moment; empty if all is well."""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Call `lead` whenever we lead, cancel it when we do not."""


async def run_controller(settings: ControllerSettings, services: ControllerServices) -> None:
    """Be a controller until cancelled. Raises ConfigError if there are no Kubernetes credentials."""
    if services.kube is None:
        raise ConfigError(
            "the controller needs the Kubernetes API, and there are no credentials for it",
            remedy="give --kubeconfig, or run only `k8s-ovs agent` here",
        )
    identity = unique_identity(settings.hostname)
    place = settings.lease_namespace, settings.lease_name
    election = LeaseElection(services.kube, *place, identity, settings.timing)
    await Controller(settings, services, KubeCluster(services.kube, *place), election).run()


class Controller:
    """One controller process, leading or standing by."""

    def __init__(
        self,
        settings: ControllerSettings,
        services: ControllerServices,
        cluster: Cluster,
        election: Election,
    ) -> None:
        self._settings = settings
        self._services = services
        self._cluster = cluster
        self._election = election
        self._metrics = ControllerMetrics(services.registry)
        self._metrics.leader.set_function(lambda: float(election.is_leader))
        self._config_trouble = "the network config has not been read yet"
        self._worker: Worker | None = None
        services.health.add_ready(CHECK, self.trouble)

    def trouble(self) -> str:
        """Why this controller is not ready; empty if it works or stands by."""
        if self._config_trouble:
            return self._config_trouble
        if self._worker is not None:
            outage = self._services.store.outage
            return self._worker.trouble or self._cluster.trouble or ("" if outage is None else str(outage))
        if self._election.is_leader:
            return "the lease has just been won"
        if self._election.trouble:
            return f"not leading: {self._election.trouble}"
        if not self._election.holder:
            return "no controller leads yet: is the Kubernetes API reachable?"
        return ""

    async def run(self) -> None:
        """Until cancelled."""
        await self._await_config()
        await self._election.run(self._lead)

    async def _await_config(self) -> None:
        """Nothing can be planned, and no record found, before there is a valid network config."""
        backoff = Backoff(cap=self._settings.config_cap, floor=0.05)
        while self._config_trouble:
            try:
                config = await self._services.store.network_config()
            except (ConfigError, SourceError) as err:
                trouble = str(err)
            else:
                trouble = "" if config is not None else str(no_config())
            if trouble and trouble != self._config_trouble:
                log.warning("waiting for the network config: %s", trouble)
            self._config_trouble = trouble
            if trouble:
                await self._settings.pace.sleep(backoff.next())

    async def _lead(self) -> None:
        """One reign. A new worker each time: what an earlier one knew may be old."""
        services = RoundServices(
            self._services.store, self._cluster, self._metrics, lambda: self._election.is_leader
        )
        reporter = Reporter(self._metrics, self._cluster.tell)
        self._worker = Worker(services, reporter, self._settings.pace)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._worker.run(), name="controller: reign")
                tasks.create_task(reporter.run(), name="controller: events")
        finally:
            self._worker = None

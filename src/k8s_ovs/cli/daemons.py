"""`k8s-ovs`, `k8s-ovs agent`, `k8s-ovs controller`: the daemons, one half or both in one process."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import click
from prometheus_client import CollectorRegistry

from k8s_ovs.agent.app import Agent, AgentServices
from k8s_ovs.cli import options
from k8s_ovs.cli.settings import DaemonSettings, agent_from, daemon_from, logging_from
from k8s_ovs.controller.app import ControllerServices, ControllerSettings, run_controller
from k8s_ovs.runtime.http import HealthChecks, http_endpoint
from k8s_ovs.runtime.main import run_daemon
from k8s_ovs.runtime.notify import Notifier
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, credentials_given, load_credentials

log = logging.getLogger(__name__)


@click.command(context_settings=options.CONTEXT)
@options.etcd_options
@options.kube_options
@options.daemon_options
@options.agent_options
@options.external_option
@options.log_options
def agent(**flags: object) -> None:
    """Run this node's half: bridge, flows, pods. With --external: bridge and flows of a host outside Kubernetes."""
    _run(dict(flags), with_agent=True, with_controller=False)


@click.command(context_settings=options.CONTEXT)
@options.etcd_options
@options.kube_options
@options.daemon_options
@options.log_options
def controller(**flags: object) -> None:
    """Run the elected half: host subnets for nodes, NetIDs for Namespaces."""
    _run(dict(flags), with_agent=False, with_controller=True)


def run_both(flags: options.Options) -> None:
    """Run agent and controller in one process."""
    _run(flags, with_agent=True, with_controller=True)


def _run(flags: options.Options, *, with_agent: bool, with_controller: bool) -> None:
    logging_from(flags)
    settings = daemon_from(flags)
    agent_settings = agent_from(flags, settings.hostname) if with_agent else None
    external = agent_settings is not None and agent_settings.external
    with_kube = with_controller or _agent_has_kube(settings.kube, external=external)
    notifier = Notifier.from_environment()

    def serving() -> None:
        notifier.ready("serving")

    async def daemon() -> None:
        async with (
            _services(settings, serving, with_kube=with_kube) as services,
            asyncio.TaskGroup() as tasks,
        ):
            if agent_settings is not None:
                tasks.create_task(Agent(agent_settings, services).run(), name="agent")
            if with_controller:
                tasks.create_task(_controller(settings, services), name="controller")

    sys.exit(run_daemon(daemon, notifier=notifier))


def _agent_has_kube(kube: KubeSettings, *, external: bool) -> bool:
    """Whether an agent uses Kubernetes. On an external host only what is given for it: a person's own file is not meant."""
    return kube.kubeconfig is not None if external else credentials_given(kube)


@asynccontextmanager
async def _services(
    settings: DaemonSettings, on_ready: Callable[[], None], *, with_kube: bool
) -> AsyncIterator[AgentServices]:
    """What both halves share: connections, health checks, metrics and their endpoint."""
    async with AsyncExitStack() as stack:
        health, registry = HealthChecks(), CollectorRegistry()
        store = await stack.enter_async_context(EtcdStore(settings.etcd, settings.network))
        kube: KubeClient | None = None
        if with_kube:
            kube = await stack.enter_async_context(KubeClient(load_credentials(settings.kube)))
        else:
            log.info("no Kubernetes credentials (--kubeconfig): this host reaches pods, but no ClusterIPs")
        await stack.enter_async_context(http_endpoint(settings.metrics_address, health, registry))
        yield AgentServices(
            store=store,
            kube=kube,
            health=health,
            registry=registry,
            on_ready=on_ready,
        )


async def _controller(settings: DaemonSettings, services: AgentServices) -> None:
    await run_controller(
        ControllerSettings(hostname=settings.hostname),
        ControllerServices(services.store, services.kube, services.health, services.registry),
    )

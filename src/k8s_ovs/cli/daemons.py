"""`k8s-ovs`, `k8s-ovs agent`, `k8s-ovs controller`: the daemons, one half or both in one process.

A half is imported when it is run: a controller needs no switch, and an agent no plan for the cluster.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any

import click
from prometheus_client import CollectorRegistry

from k8s_ovs.cli import options
from k8s_ovs.cli.services import Services
from k8s_ovs.cli.settings import DaemonSettings, daemon_from, logging_from
from k8s_ovs.runtime import buildinfo
from k8s_ovs.runtime.http import HealthChecks, http_endpoint
from k8s_ovs.runtime.main import run_daemon
from k8s_ovs.runtime.notify import Notifier
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, credentials_given, load_credentials

log = logging.getLogger(__name__)

Half = Callable[[Services], Coroutine[Any, Any, None]]
"""One daemon, ready to be run; what `prepare` of `cli.agent_half` and `cli.controller_half` return."""


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
    wanted = {"agent": with_agent, "controller": with_controller}
    halves = {name: _half(name, flags, settings.hostname) for name, runs in wanted.items() if runs}
    external = with_agent and flags.get("external", False)
    with_kube = with_controller or _agent_has_kube(settings.kube, external=external)
    notifier = Notifier.from_environment()

    def serving() -> None:
        notifier.ready("serving")

    async def daemon() -> None:
        async with (
            _services(settings, serving, with_kube=with_kube) as services,
            asyncio.TaskGroup() as tasks,
        ):
            if not with_agent:
                notifier.ready("running; /readyz tells whether it leads or stands by")
            for name, half in halves.items():
                tasks.create_task(half(services), name=name)

    sys.exit(run_daemon(daemon, notifier=notifier))


def _half(name: str, flags: options.Options, hostname: str) -> Half:
    """Import a half and check its flags. Raises ConfigError."""
    half: Half = import_module(f"k8s_ovs.cli.{name}_half").prepare(flags, hostname)
    return half


def _agent_has_kube(kube: KubeSettings, *, external: bool) -> bool:
    """Whether an agent uses Kubernetes. On an external host only what is given for it: a person's own file is not meant."""
    return kube.kubeconfig is not None if external else credentials_given(kube)


@asynccontextmanager
async def _services(
    settings: DaemonSettings, on_ready: Callable[[], None], *, with_kube: bool
) -> AsyncIterator[Services]:
    """What both halves share: connections, health checks, metrics and their endpoint."""
    async with AsyncExitStack() as stack:
        health, registry = HealthChecks(), CollectorRegistry()
        buildinfo.register(registry)
        store = await stack.enter_async_context(EtcdStore(settings.etcd, settings.network))
        kube: KubeClient | None = None
        if with_kube:
            kube = await stack.enter_async_context(KubeClient(load_credentials(settings.kube)))
        else:
            log.info("no Kubernetes credentials (--kubeconfig): this host reaches pods, but no ClusterIPs")
        await stack.enter_async_context(http_endpoint(settings.metrics_address, health, registry))
        yield Services(store=store, kube=kube, health=health, registry=registry, on_ready=on_ready)

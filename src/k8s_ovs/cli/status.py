"""`k8s-ovs status`: whether the network is healthy, and if not, what is to be done next.

Also called as `kubectl ovs status`. It asks etcd and the Kubernetes API, and on one of our hosts its agent and switch.
"""

import asyncio
import os
import sys
from dataclasses import replace
from typing import Any

import click

from k8s_ovs.cli import options
from k8s_ovs.cli.agent_settings import switch_from
from k8s_ovs.cli.cluster_etcd import cluster_etcd
from k8s_ovs.cli.etcd_settings import etcd_from
from k8s_ovs.cli.output import emit, format_option
from k8s_ovs.cli.status_facts import SECOND_LOOK, Facts, gather
from k8s_ovs.cli.status_here import read_here
from k8s_ovs.cli.status_judge import Judged, judge
from k8s_ovs.cli.status_text import as_data, as_text
from k8s_ovs.runtime.logs import QUIET_VERBOSITY, LogSettings, setup_logging
from k8s_ovs.sources.kube.credentials import KubeSettings

HEALTHY, PROBLEMS, UNKNOWN = 0, 1, 2

EXIT_CODES = """\b
Exit codes, for monitoring:
  0  healthy (there may be notes)
  1  there are problems; each is told with the next step
  2  it could not be found out: etcd or the Kubernetes API cannot be read (what could be seen is shown), or wrong usage
"""


@click.command(context_settings=options.CONTEXT, epilog=EXIT_CODES)
@options.etcd_options
@options.kube_options
@options.switch_options
@click.option(
    "--metrics-address",
    default="127.0.0.1:9640",
    show_default=True,
    help="Where the agent of this host answers, if it has one.",
)
@click.option(
    "--only",
    type=click.Choice(["cluster", "node"]),
    help="cluster: leave out this host's own agent and switch (a host that has none: always); node: ask nobody else.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=SECOND_LOOK,
    show_default=True,
    help="Seconds after which what is normal for a moment (a tenant's change, a node behind) is a problem.",
)
@format_option
@click.pass_context
def status(context: click.Context, /, output: str, only: str | None, patience: float, **flags: Any) -> None:
    """Say whether the network is healthy: nodes, subnets, agents, leader, drops; for each problem the next step.

    DROPS/MIN are the packets dropped in the last whole minute that the node's agent has counted; `k8s-ovs drops` there has
    them at once.

    Without --etcd-endpoints it looks for etcd where the manifests say it is (ConfigMap k8s-ovs-etcd, Secret k8s-ovs-etcd-tls in
    kube-system), if the kubeconfig may read them: `kubectl ovs status` then needs nothing else.
    """
    setup_logging(LogSettings(verbosity=QUIET_VERBOSITY))
    source = context.get_parameter_source("etcd_endpoints")
    flags["etcd_given"] = source is not click.core.ParameterSource.DEFAULT
    facts = asyncio.run(_find_out(flags, only, patience))
    judged = judge(facts)
    code = exit_code(facts, judged)
    data = as_data(facts, judged, code)
    emit(output, data, lambda: as_text(data))
    sys.exit(code)


def exit_code(facts: Facts, judged: list[Judged]) -> int:
    """What monitoring is told."""
    if facts.unknown:
        return UNKNOWN
    return PROBLEMS if any(not one.note for one in judged) else HEALTHY


async def _find_out(flags: options.Options, only: str | None, patience: float) -> Facts:
    facts = Facts()
    if only != "node":
        kube = KubeSettings(kubeconfig=flags["kubeconfig"], environ=dict(os.environ))
        async with cluster_etcd(etcd_from(flags), kube, wanted=not flags["etcd_given"]) as etcd:
            facts = await gather(etcd, flags["network"] or None, kube, patience)
    if only == "cluster":
        return facts
    here = await read_here(flags["metrics_address"], switch_from(flags))
    if here is None and only == "node":
        why = (
            f"neither an agent ({flags['metrics_address']}) nor the bridge {flags['bridge']} is on this host: "
            "run this on a node, or say with --metrics-address and --ovs-rundir where they are"
        )
        return replace(facts, unknown={"node": why})
    return replace(facts, here=here)

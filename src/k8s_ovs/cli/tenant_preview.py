"""`k8s-ovs tenant … --dry-run`: what a change would mean, with the pods and Services that it is about.

Loaded by `cli.tenant` when it is asked for. It writes nothing.
"""

import asyncio
import os
from typing import Any

from k8s_ovs.cli import options
from k8s_ovs.cli.output import columns, emit, say
from k8s_ovs.cli.session import opened
from k8s_ovs.cli.tenant_change import Request, check, foresee
from k8s_ovs.cli.tenant_report import describe
from k8s_ovs.cli.workloads import read_workloads
from k8s_ovs.model.preview import Preview, Reach
from k8s_ovs.sources.kube.credentials import KubeSettings

_FEW = 4


def show(request: Request, output: str, flags: options.Options, *, force: bool) -> None:
    """Print who would newly reach whom, and who no longer would. Raises ConfigError for what would be refused."""
    kube = KubeSettings(kubeconfig=flags["kubeconfig"], environ=dict(os.environ))

    async def look() -> Preview:
        async with opened(flags) as session:
            snapshot = await session.store.snapshot()
            check(snapshot, session.config.mode, request, force=force)
            return foresee(snapshot, session.config.mode, request, await read_workloads(kube, say))

    found = asyncio.run(look())
    emit(
        output,
        {
            "namespace": request.namespace,
            "action": request.action,
            "other": request.other,
            "newlyReaches": [_way(way) for way in found.opened],
            "noLongerReaches": [_way(way) for way in found.closed],
        },
        lambda: _preview_table(request, found),
    )


def _way(way: Reach) -> dict[str, Any]:
    return {
        "from": {"namespace": way.source, "pods": list(way.source_pods)},
        "to": {"namespace": way.destination, "pods": list(way.pods), "services": list(way.services)},
    }


def _preview_table(request: Request, found: Preview) -> str:
    if found.empty:
        return f"{request.namespace}: {describe(request.action, request.other)} would change nothing"
    parts = []
    for title, ways in (("NEWLY REACHES", found.opened), ("NO LONGER REACHES", found.closed)):
        if ways:
            rows = [("FROM", "ITS PODS", title, "ITS PODS", "ITS SERVICES")]
            rows += [
                (way.source, _names(way.source_pods), way.destination, _names(way.pods), _names(way.services))
                for way in ways
            ]
            parts.append(columns(rows))
    return "\n\n".join([*parts, "nothing was changed (--dry-run)"])


def _names(names: tuple[str, ...]) -> str:
    """At most a few names in a table; JSON and YAML have all."""
    few = ", ".join(names[:_FEW])
    return few if len(names) <= _FEW else f"{few} and {len(names) - _FEW} more"

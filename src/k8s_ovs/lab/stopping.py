"""Stop processes of a running lab and start them again: an outage, as long as one wants.

Called by `cli.lab` and tests. A process is stopped by a file of its name in the lab's directory, which the supervisor
looks at before it starts a process again; so a stop outlives the command, and is known before the process ends.
"""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from k8s_ovs.errors import LabError
from k8s_ovs.lab.cluster import Cluster
from k8s_ovs.lab.processid import ProcessId
from k8s_ovs.lab.state import LabState, Phase
from k8s_ovs.lab.wait import until

_STOPPED = "stopped"
_SECONDS = 30.0


def marker(directory: Path, process: str) -> Path:
    """The file that keeps a process of the lab in `directory` from being started."""
    return directory / _STOPPED / process.replace("/", "-")


def stop(cluster: Cluster, processes: tuple[str, ...], *, kill: bool = False) -> None:
    """End processes (SIGTERM, or SIGKILL with `kill`), and return once they are gone. Raises LabError."""
    _state(cluster, processes)
    for name in processes:
        file = marker(cluster.directory, name)
        file.parent.mkdir(exist_ok=True)
        file.touch()
    told: set[ProcessId] = set()

    def gone(state: LabState) -> bool:
        running = {state.processes[name].process_id for name in processes} - {None}
        for process in running - told:
            if process is not None:  # one that was just being started when we looked first is told later
                process.signal(signal.SIGKILL if kill else signal.SIGTERM)
                told.add(process)
        return not running

    _await(cluster, gone, f"{', '.join(processes)} to end")


def start(cluster: Cluster, processes: tuple[str, ...]) -> None:
    """Have the supervisor start processes again; return once they run. Raises LabError."""
    state = _state(cluster, processes)
    for name in processes:
        marker(cluster.directory, name).unlink(missing_ok=True)
    state.supervisor.signal(signal.SIGHUP)
    _await(
        cluster,
        lambda now: all(now.pid(name) is not None for name in processes),
        f"{', '.join(processes)} to run",
    )


def _state(cluster: Cluster, processes: tuple[str, ...]) -> LabState:
    state = LabState.read(cluster.directory)
    if state is None or state.phase is not Phase.READY:
        raise LabError(f"lab {cluster.name!r} is not ready", remedy="see `k8s-ovs lab status`")
    if unknown := [name for name in processes if name not in state.processes]:
        known = ", ".join(sorted(state.processes))
        raise LabError(
            f"no process {', '.join(unknown)} in lab {cluster.name!r}", remedy=f"there are {known}"
        )
    return state


def _await(cluster: Cluster, reached: Callable[[LabState], bool], what: str) -> None:
    async def look() -> bool:
        state = LabState.read(cluster.directory)
        return state is not None and reached(state)

    if not asyncio.run(until(look, _SECONDS)):
        raise LabError(f"waited {_SECONDS:.0f} s for {what}")

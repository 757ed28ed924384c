"""What is done to the processes of a lab in a soak: killed, kept from running for a while, DELs that get lost.

For `fakes.soaking`.
"""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fakes.labs import Lab
from k8s_ovs.lab import stopping
from k8s_ovs.lab.cluster import DEFAULT_BASE, Cluster
from k8s_ovs.lab.state import LabState, load_cluster

PLUGIN = "k8s-ovs"
_FORGETFUL = """#!/bin/sh
# A container runtime that forgets a DEL: one file for each, named like the sandbox's network namespace.
[ "$CNI_COMMAND" = DEL ] && [ -e {lost}/"${{CNI_NETNS##*/}}" ] && exit 0
exec {real}
"""


@contextmanager
def forgetful_runtime(cluster: Cluster) -> Iterator[Path]:
    """DELs of sandboxes named in the directory that this yields never come to the agent."""
    lost, plugin = cluster.directory / "lost", cluster.cni_bin / PLUGIN
    real = plugin.with_suffix(".real")
    lost.mkdir()
    plugin.rename(real)
    plugin.write_text(_FORGETFUL.format(lost=lost, real=real))
    plugin.chmod(0o755)
    yield lost


@dataclass
class Harm:
    """Processes that are killed or away. `instants` tells when: CLOCK_MONOTONIC nanoseconds, and whose."""

    lab: Lab
    lost: Path
    away: dict[tuple[str, ...], float] = field(default_factory=dict)
    instants: list[tuple[int, str]] = field(default_factory=list)

    @property
    def cluster(self) -> Cluster:
        """The lab as it is now: external hosts may have been added."""
        return load_cluster(DEFAULT_BASE, self.lab.name)

    def kill(self, *processes: str) -> None:
        """SIGKILL at once; the lab starts them again."""
        self._note(processes)
        state = self._state()
        for name in processes:
            process = state.processes[name].process_id
            if process is not None:
                process.signal(signal.SIGKILL)

    def stop(self, seconds: float, *processes: str) -> None:
        """Keep them from running for so long."""
        self._note(processes)
        stopping.stop(self.cluster, processes, kill=True)
        self.away[processes] = time.monotonic() + seconds

    def end_outages(self, *, all_of_them: bool = False) -> None:
        """Start what was away long enough."""
        now = time.monotonic()
        for processes in [each for each, due in self.away.items() if all_of_them or due <= now]:
            del self.away[processes]
            stopping.start(self.cluster, processes)
            self._note(processes)

    def running(self, *kinds: str) -> list[str]:
        """The processes whose name (or what follows the node's) begins like one of `kinds`, but those that are away."""
        gone = {name for processes in self.away for name in processes}
        names = sorted(self._state().processes.keys() - gone)
        return [name for name in names if name.rpartition("/")[2].startswith(kinds)]

    def forget_del(self, uid: str) -> bool:
        """The DEL of this pod gets lost. False if it has no sandbox."""
        netns = self._netns(uid)
        if netns is not None:
            (self.lost / netns.name).touch()
        return netns is not None

    def _netns(self, uid: str) -> Path | None:
        try:
            return Path(json.loads((self.cluster.pods_dir / f"{uid}.json").read_text())["netns"])
        except OSError:
            return None

    def _note(self, processes: tuple[str, ...]) -> None:
        self.instants += [(time.monotonic_ns(), name) for name in processes]

    def _state(self) -> LabState:
        state = LabState.read(self.cluster.directory)
        assert state is not None, "the lab is gone"
        return state

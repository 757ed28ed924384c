"""What a running lab tells about itself: state.json, written by the supervisor, read by every other command.

The file is replaced as a whole, so that a reader never sees half of it, and it still tells after a kill -9 of the
supervisor which processes were its own.
"""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from k8s_ovs.errors import LabError
from k8s_ovs.lab import labfile
from k8s_ovs.lab.cluster import Cluster, check_name
from k8s_ovs.lab.processid import ProcessId

LAB_FILE = "lab.json"
STATE_FILE = "state.json"
READY = "ready"
"""The last progress line that the supervisor writes when a start succeeded."""


class Phase(StrEnum):
    """Where a lab is in its life."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    DEAD = "dead"
    """The supervisor is gone without having been asked to stop."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One supervised process; `process_id` is None while it is not running."""

    process_id: ProcessId | None
    restarts: int


@dataclass(frozen=True, slots=True)
class LabState:
    """The supervisor's own id, the phase, and every process by name.

    `hosts` has each external host that the supervisor has built: empty text if it runs, else why it does not.
    """

    supervisor: ProcessId
    phase: Phase
    processes: dict[str, ProcessState] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)

    def pid(self, name: str) -> int | None:
        """The pid of a process that runs now, or None."""
        state = self.processes.get(name)
        if state is None or state.process_id is None or not state.process_id.alive:
            return None
        return state.process_id.pid

    def write(self, directory: Path) -> None:
        """Replace the state file of the lab in `directory`."""
        data = {
            "supervisor": _id_json(self.supervisor),
            "phase": self.phase.value,
            "processes": {
                name: {
                    "id": None if state.process_id is None else _id_json(state.process_id),
                    "restarts": state.restarts,
                }
                for name, state in self.processes.items()
            },
            "hosts": self.hosts,
        }
        replace_file(directory / STATE_FILE, json.dumps(data))

    @classmethod
    def read(cls, directory: Path) -> "LabState | None":
        """The state of the lab in `directory`, or None if there is none (yet)."""
        try:
            data: dict[str, Any] = json.loads((directory / STATE_FILE).read_text())
            supervisor = ProcessId(**data["supervisor"])
            processes = {
                name: ProcessState(
                    None if entry["id"] is None else ProcessId(**entry["id"]), entry["restarts"]
                )
                for name, entry in data["processes"].items()
            }
            hosts = dict(data["hosts"])
            phase = Phase(data["phase"]) if supervisor.alive else Phase.DEAD
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(supervisor, phase, processes, hosts)


def _id_json(process_id: ProcessId) -> dict[str, int]:
    return {"pid": process_id.pid, "start": process_id.start}


def replace_file(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old content or the new, nothing between."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text)
    draft.rename(path)


def load_cluster(base: Path, name: str) -> Cluster:
    """The lab of this name. Raises LabError, naming the labs that exist."""
    directory = base / check_name(name)
    try:
        return labfile.from_json((directory / LAB_FILE).read_text())
    except OSError as err:
        others = labs(base)
        remedy = (
            f"labs that are up: {', '.join(others)} (choose with --name)"
            if others
            else "run `k8s-ovs lab up`"
        )
        raise LabError(f"no lab {name!r} is up", remedy=remedy) from err


def labs(base: Path) -> list[str]:
    """The names of all labs below `base`."""
    return sorted(file.parent.name for file in base.glob(f"*/{LAB_FILE}"))

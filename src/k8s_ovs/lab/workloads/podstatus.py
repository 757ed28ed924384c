"""The status of a pod whose containers are processes, as kubelet writes it. Pure.

Called by the pod worker with what it knows of each container.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from k8s_ovs.lab.objects import now
from k8s_ovs.lab.workloads.spec import Container, PodSpec


@dataclass(slots=True)
class Told:
    """What is known of one container. `waiting` is the reason why it does not run, with `message`; `ended` an exit status."""

    pid: int | None = None
    restarts: int = 0
    ready: bool = False
    started: bool = False
    waiting: str = "PodInitializing"
    message: str = ""
    ended: int | None = None
    since: str = field(default_factory=now)


@dataclass(slots=True)
class Conditions:
    """Remembers when each condition changed last."""

    _known: dict[str, dict[str, Any]] = field(default_factory=dict)

    def set(self, kind: str, *, true: bool, reason: str = "") -> dict[str, Any]:
        """The condition; its time is that of the last change."""
        status = "True" if true else "False"
        known = self._known.get(kind)
        if known is None or known["status"] != status:
            known = {"type": kind, "status": status, "lastTransitionTime": now()}
            self._known[kind] = known
        return {**known, **({"reason": reason} if reason and not true else {})}


def status(
    spec: PodSpec, told: Mapping[str, Told], node_ip: str, conditions: Conditions, started: str
) -> dict[str, Any]:
    """The whole status."""
    initialized = all(told[container.name].ended == 0 for container in spec.init)
    ready = initialized and all(told[container.name].ready for container in spec.containers)
    running = initialized and all(
        told[container.name].pid is not None or told[container.name].restarts > 0
        for container in spec.containers
    )
    return {
        "phase": "Running" if running else "Pending",
        "hostIP": node_ip,
        "hostIPs": [{"ip": node_ip}],
        "podIP": node_ip,
        "podIPs": [{"ip": node_ip}],
        "startTime": started,
        "conditions": [
            conditions.set("Initialized", true=initialized, reason="ContainersNotInitialized"),
            conditions.set("Ready", true=ready, reason="ContainersNotReady"),
            conditions.set("ContainersReady", true=ready, reason="ContainersNotReady"),
            conditions.set("PodScheduled", true=True),
        ],
        "initContainerStatuses": _all(spec.init, told),
        "containerStatuses": _all(spec.containers, told),
    }


def _all(containers: Sequence[Container], told: Mapping[str, Told]) -> list[dict[str, Any]]:
    return [_one(container, told[container.name]) for container in containers]


def _one(container: Container, told: Told) -> dict[str, Any]:
    if told.pid is not None:
        state: dict[str, Any] = {"running": {"startedAt": told.since}}
    elif told.ended is not None and not told.waiting:
        reason = "Completed" if told.ended == 0 else "Error"
        state = {"terminated": {"exitCode": told.ended, "reason": reason, "finishedAt": told.since}}
    else:
        waiting = {"reason": told.waiting or "ContainerCreating"}
        state = {"waiting": {**waiting, **({"message": told.message} if told.message else {})}}
    return {
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "ready": told.ready or (told.ended == 0 and not told.waiting),
        "started": told.started,
        "restartCount": told.restarts,
        "lastState": {},
        "state": state,
        **({"containerID": f"process://{told.pid}"} if told.pid is not None else {}),
    }

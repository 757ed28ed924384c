"""The pod columns of `kubectl get`: READY, STATUS, RESTARTS, READINESS GATES.

Called by tables.py. Pure. Source: printPod in pkg/printers/internalversion.
"""

from k8s_ovs.lab.kubeapi.durations import age
from k8s_ovs.lab.kubeapi.resources import Object, field, meta


def _statuses(pod: Object, group: str = "containerStatuses") -> list[Object]:
    return field(pod, f"status.{group}") or []


def ready(pod: Object) -> str:
    """Ready containers of all containers."""
    count = sum(bool(status.get("ready")) for status in _statuses(pod))
    return f"{count}/{len(field(pod, 'spec.containers') or [])}"


def restarts(pod: Object) -> str:
    """How often containers restarted, and when last."""
    count, last = 0, ""
    for status in _statuses(pod):
        count += status.get("restartCount", 0)
        last = max(last, field(status, "lastState.terminated.finishedAt") or "")
    return f"{count} ({age(last)} ago)" if count and last else str(count)


def status(pod: Object) -> str:
    """The word that says best what the pod is doing."""
    reason = str(field(pod, "status.reason") or field(pod, "status.phase") or "")
    scheduled = next((c for c in _statuses(pod, "conditions") if c.get("type") == "PodScheduled"), {})
    if scheduled.get("reason") == "SchedulingGated":
        reason = "SchedulingGated"
    starting = _init_reason(pod)
    if starting:
        reason = starting
    else:
        for container in reversed(_statuses(pod)):
            reason = _container_reason(container) or reason
        running = any(c.get("ready") and field(c, "state.running") is not None for c in _statuses(pod))
        if reason == "Completed" and running:
            reason = "Running" if _is_ready(pod) else "NotReady"
    if meta(pod).get("deletionTimestamp"):
        if field(pod, "status.reason") == "NodeLost":
            return "Unknown"
        if field(pod, "status.phase") not in ("Succeeded", "Failed"):
            return "Terminating"
    return reason


def gates(pod: Object) -> str:
    """Readiness gates that hold, of all."""
    wanted = [gate.get("conditionType") for gate in field(pod, "spec.readinessGates") or []]
    if not wanted:
        return "<none>"
    true = {c.get("type") for c in _statuses(pod, "conditions") if c.get("status") == "True"}
    return f"{sum(gate in true for gate in wanted)}/{len(wanted)}"


def _is_ready(pod: Object) -> bool:
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in _statuses(pod, "conditions"))


def _container_reason(container: Object) -> str:
    state = container.get("state") or {}
    waiting, ended = state.get("waiting"), state.get("terminated")
    if waiting and waiting.get("reason"):
        return str(waiting["reason"])
    if ended is None:
        return ""
    if ended.get("reason"):
        return str(ended["reason"])
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"


def _init_reason(pod: Object) -> str:
    """The state of the first init container that is not done; empty when all are."""
    total = len(field(pod, "spec.initContainers") or [])
    for index, container in enumerate(_statuses(pod, "initContainerStatuses")):
        state = container.get("state") or {}
        if state.get("terminated") is not None and not state["terminated"].get("exitCode"):
            continue
        if container.get("started") and container.get("restartPolicy") == "Always":
            continue
        reason = _container_reason(container)
        return f"Init:{reason}" if reason and reason != "PodInitializing" else f"Init:{index}/{total}"
    return ""

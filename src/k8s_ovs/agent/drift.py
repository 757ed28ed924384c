"""Decides which differences between what should be and what is were somebody else's doing.

For the writer. What is found at the agent's start, after a failed commit, or after ovs-vswitchd was restarted tells
nothing of anybody. Nor does what is found because a bridge or port had to be made anew: that is told instead. It
compares nothing itself.
"""

from collections.abc import Callable, Iterable

from k8s_ovs.dataplane.bridge import BridgeSpec, GatewaySpec, Switch
from k8s_ovs.dataplane.findings import Finding, Kind

OnRepair = Callable[[Iterable[Finding]], None]


class Drift:
    """What was once known to be as it should be. `on_repair` is told of what is not so any more without our doing."""

    def __init__(self, switch: Switch, on_repair: OnRepair) -> None:
        self._switch = switch
        self._on_repair = on_repair
        self._bridge: BridgeSpec | None = None
        self._flows: int | None = None
        self._gateway: tuple[GatewaySpec, int] | None = None

    @property
    def flows_known(self) -> bool:
        """Whether the bridge should still hold what it was last given: a difference would be somebody's doing."""
        return self._flows == self._switch.restarts

    def gateway_known(self, spec: GatewaySpec) -> bool:
        """Likewise for the host's own leg."""
        return self._gateway == (spec, self._switch.restarts)

    def forget(self) -> None:
        """Flows and gateway may be anything now, and that is nobody's doing."""
        self._flows = None
        self._gateway = None

    def bridge(self, spec: BridgeSpec, findings: tuple[Finding, ...]) -> None:
        """The bridge is as `spec` says, for which this was put right."""
        if findings and spec == self._bridge:
            self._on_repair(findings)
            if any(finding.kind in {Kind.BRIDGE, Kind.PORT} for finding in findings):
                self.forget()
        self._bridge = spec

    def flows(self, findings: tuple[Finding, ...], restarts: int) -> None:
        """The bridge holds what it should, for which this was put right; `restarts` of the switch when that began."""
        if findings and self._flows == restarts:
            self._on_repair(findings)
        self._flows = restarts

    def gateway(self, spec: GatewaySpec, findings: tuple[Finding, ...], restarts: int) -> None:
        """Likewise for the host's own leg."""
        if findings and self._gateway == (spec, restarts):
            self._on_repair(findings)
        self._gateway = (spec, restarts)

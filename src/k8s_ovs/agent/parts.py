"""What an agent works on: the real switch, kernel, rules and API server, or what a test puts in their place."""

import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from k8s_ovs.agent.limits import KubePodApi, PodApi
from k8s_ovs.agent.repairs import NodeEvents, Tell
from k8s_ovs.agent.services import ServiceSources
from k8s_ovs.agent.settings import AgentSettings
from k8s_ovs.dataplane.bridge import Firewall, FlowTable, HostNetwork, PodLinks, Switch
from k8s_ovs.dataplane.firewall import IptablesFirewall
from k8s_ovs.dataplane.hostnet import NetlinkHostNetwork
from k8s_ovs.dataplane.links import NetlinkPodLinks
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.objects import PODS, Pod
from k8s_ovs.sources.kube.reflector import Deleted, InSync, Reflector, Upserted

PodBatches = AsyncGenerator[Sequence[Upserted[Pod] | Deleted | InSync], None]


class FollowingSwitch(Switch, Protocol):
    """A Switch with a task of its own."""

    async def run(self) -> None:
        """Follow the database; everything else works only while this runs."""


@dataclass(frozen=True, slots=True)
class AgentParts:
    """The parts of one node. `own_pods` tells of the Pods bound to it; None where there is no API server.

    `services` tells of all Services, None likewise. `stand_by` keeps `flows` ready, where that has a task of its own.
    `tell_node` makes Events of this host's Node, where there is one. Only processes of the user `cni_uid` may ask for pods
    to be attached.
    """

    switch: FollowingSwitch
    flows: FlowTable
    host: HostNetwork
    links: PodLinks
    firewall: Firewall
    own_pods: Callable[[], PodBatches] | None
    services: ServiceSources | None = None
    pod_api: PodApi | None = None
    stand_by: Callable[[], Coroutine[Any, Any, None]] | None = None
    tell_node: Tell | None = None
    netns_exists: Callable[[str], bool] = os.path.exists
    cni_uid: int = 0

    @classmethod
    def real(cls, settings: AgentSettings, kube: KubeClient | None) -> "AgentParts":
        """Those of the host that this process runs on."""
        own_pods: Callable[[], PodBatches] | None = None
        if kube is not None:
            own_pods = Reflector(kube, PODS, field_selector=f"spec.nodeName={settings.hostname}").watch
        flows = OfctlFlowTable(settings.switch.management)
        return cls(
            switch=OvsdbSwitch(settings.switch.rundir),
            flows=flows,
            host=NetlinkHostNetwork(),
            links=NetlinkPodLinks(),
            firewall=IptablesFirewall(),
            own_pods=own_pods,
            services=ServiceSources.of(kube) if kube is not None else None,
            pod_api=KubePodApi(kube) if kube is not None else None,
            stand_by=flows.stand_by,
            tell_node=NodeEvents(kube, settings.hostname)
            if kube is not None and not settings.external
            else None,
        )

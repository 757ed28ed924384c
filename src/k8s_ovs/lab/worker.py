"""What every kind of pod worker has: what the API says of its pod, and whether the pod is still wanted.

The kubelet has one worker for each pod (uid), and tells it; `podworker` makes sandboxes with a network, `workloads.pod`
runs containers as processes.
"""

import asyncio
from abc import ABC, abstractmethod

from k8s_ovs.lab.objects import LabPod


class Worker(ABC):
    """Makes one pod so, and keeps it so until it is deleted."""

    def __init__(self, pod: LabPod) -> None:
        self.pod = pod
        self._exists = True
        self._changed = asyncio.Event()

    def update(self, pod: LabPod | None) -> None:
        """What the API says now; None: the pod is gone."""
        if pod is None:
            self._exists = False
        else:
            self.pod = pod
        self._changed.set()

    @property
    def _unwanted(self) -> bool:
        return not self._exists or self.pod.metadata.deletion_timestamp is not None

    @abstractmethod
    async def run(self) -> None:
        """Live with the pod. Returns when nothing of it is left."""

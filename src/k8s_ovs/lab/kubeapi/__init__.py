"""The lab's embedded Kubernetes API: an in-memory API server that kubectl and our own daemons can work with.

Started by the lab as a process of its own (`python -m k8s_ovs.lab.kubeapi`) when no real kube-apiserver is found, and
by tests in their own process (`ApiServer`). It serves only what the lab needs, schedules nothing and runs no pod:
that is the lab's work. It has no place in production.

How a request travels: server (HTTP) → handlers (verbs) → admission (defaults, validation) → registry (what the verbs
mean) → store (revisions, history) → journal and watchers.
"""

from k8s_ovs.lab.kubeapi.server import ApiServer
from k8s_ovs.lab.kubeapi.settings import Settings

__all__ = ["ApiServer", "Settings"]

"""k8s-ovs: a Kubernetes pod network on Open vSwitch in which a Namespace is a tenant."""

__version__ = "0.1.0"

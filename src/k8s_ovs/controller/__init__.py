"""The elected part of k8s-ovs: gives every host a subnet and every Namespace a VNI.

`subnets` and `tenants` decide, purely, from a snapshot of the records and what Kubernetes says; `worker`
carries their plans out, one transaction at a time; `app` puts it all together. Nothing here touches a switch.
"""

# Only what k8s_ovs.dataplane uses of the package `ovs` (Apache-2.0, Open vSwitch).

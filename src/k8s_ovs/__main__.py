"""`python -m k8s_ovs`: the same as `k8s-ovs`."""

from k8s_ovs.cli.main import main

main()

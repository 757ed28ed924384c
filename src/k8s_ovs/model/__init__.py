"""What is: the cluster's objects, a node's view of them, tenancy, allocators. Pure: no I/O, no clock, no event loop."""

"""Effects: the switch (OVSDB, OpenFlow), the kernel (netlink) and the host's NAT, behind the protocols of `bridge`."""

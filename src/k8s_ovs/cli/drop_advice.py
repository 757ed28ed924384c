"""What to do about packets that are dropped, by the reason: for `status` and `trace`, which find them."""

from k8s_ovs.flows.names import Drop

ALARMING = {
    Drop.TUNNEL_UNKNOWN_HOST: "a host sends that has no subnet (any more), or with another address than its record has: "
    "compare `k8s-ovs subnet list` with the senders (tcpdump -ni any udp port 4789)",
    Drop.TUNNEL_SPOOFED_SOURCE: "another host sends with addresses that are not of its subnet: look for two hosts that "
    "share an address, and for a host that forwards what is not its own",
    Drop.TUNNEL_FOREIGN_KEY: "another host sends for a tenant with an address outside the cluster network: look at its agent",
    Drop.POD_SPOOFED_IP: "a pod sends with another address than its own: look at what runs in the pods of this node",
    Drop.POD_SPOOFED_ARP: "a pod claims another address than its own by ARP: look at what runs in the pods of this node",
    Drop.POD_VXLAN: "a pod sends VXLAN, which no pod may: look at what runs in the pods of this node",
    Drop.GATEWAY_SPOOFED_SOURCE: "the host sends with the address of a pod that is not on it: look for routes and addresses of "
    "the cluster network there that are not ours (ip route, ip address)",
    Drop.NOT_READY: "the node has no host subnet yet, and its pods no network: see the problems of this node",
}
"""Drops that mean that something is wrong."""

BLOCKING = {
    Drop.TENANT_MISMATCH: "pods of different tenants try to talk: that is refused as it should be; if they should, join them "
    "(k8s-ovs tenant join)",
    Drop.SERVICE_TENANT_MISMATCH: "pods try to reach Services of other tenants: that is refused as it should be; if they "
    "should, join them (k8s-ovs tenant join)",
    Drop.NO_SUCH_POD: "somebody goes on talking to addresses that no pod has any more",
}
"""Drops that do what they are there for."""

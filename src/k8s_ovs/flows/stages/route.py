"""Route: by destination address, most specific first.

A local pod or the gateway: on to the tenant stage, which runs at the destination's host only. Another host's subnet: into the
tunnel with the source's VNI as key, unless the packet came out of a tunnel (no transit: with it, two hosts that disagree
on a subnet would send packets in circles). A node's own address: its host, through the tunnel if it is another, so that
a pod comes there with its own address and is not taken for a host. Outside: a pod's packet goes to the host, which
routes and translates it.

127.0.0.0/8 must not reach the host: kube-proxy sets route_localnet, and the host's loopback services would answer
(CVE-2020-8558).
"""

from collections.abc import Iterator
from ipaddress import IPv4Network

from k8s_ovs.flows.fields import (
    CT_INVALID,
    CT_TRACKED,
    DESTINATION_VNI,
    ETH_DST,
    ETH_TYPE,
    HAS_SECOND_VNI,
    IP_DST,
    IP_PROTO,
    IP_SRC,
    IP_TYPE,
    ORIGIN,
    OUTPUT_PORT,
    SECOND_VNI,
    SOURCE_VNI,
    TCP_DATA,
    TCP_PROTO,
    TUN_DST,
    TUN_SRC,
    TUNNEL_KEY,
    Origin,
    address,
    mac_value,
    prefix,
)
from k8s_ovs.flows.flow import Action, Flow, Move, SetField
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.tables import DELIVER, NODE_PORT, ROUTE, TENANT, goto
from k8s_ovs.model.records import LocalHost, LocalPod, RemoteHost
from k8s_ovs.model.types import GATEWAY_OFPORT, GLOBAL_VNI, HAIRPIN_IP, VXLAN_OFPORT, Mac, OfPort, Vni

_IP = (ETH_TYPE.whole, IP_TYPE)
_FROM_TUNNEL = (ORIGIN, Origin.TUNNEL)
_FROM_POD = (ORIGIN, Origin.POD)

_NOWHERE = {
    IPv4Network("0.0.0.0/8"): Drop.LOOPBACK_DESTINATION,
    IPv4Network("127.0.0.0/8"): Drop.LOOPBACK_DESTINATION,
    IPv4Network("224.0.0.0/4"): Drop.MULTICAST,
    IPv4Network("240.0.0.0/4"): Drop.BROADCAST,
}


class Route(Stage):
    """Which port, which MAC, which tunnel."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """The gateway, and every address that no pod and no host has."""
        network = prefix(IP_DST, local.config.network)
        to_gateway = _to_port(GATEWAY_OFPORT, GLOBAL_VNI, local.gateway_mac)
        yield ROUTE.flow(700, [_IP, address(IP_DST, local.gateway)], to_gateway)
        yield ROUTE.drop(600, [_IP, prefix(IP_DST, local.subnet)], Drop.NO_SUCH_POD)
        yield ROUTE.drop(500, [_IP, network, _FROM_TUNNEL], Drop.NO_TRANSIT)
        yield ROUTE.drop(300, [_IP, network], Drop.NO_SUCH_HOST)
        for nowhere, reason in _NOWHERE.items():
            yield ROUTE.drop(200, [_IP, prefix(IP_DST, nowhere)], reason)
        yield from _hosts_own(local)
        yield ROUTE.flow(100, [_IP, _FROM_POD], to_gateway)
        yield ROUTE.drop(50, [_IP, _FROM_TUNNEL], Drop.NO_TRANSIT)

    def pod(self, local: LocalHost, pod: LocalPod) -> Iterator[Flow]:
        """To the pod's port, with the pod's MAC."""
        del local
        ip = pod.attachment.address
        actions = _to_port(pod.ofport, pod.accepts[0], pod.attachment.mac)
        if len(pod.accepts) > 1:
            actions = [SetField(SECOND_VNI, pod.accepts[1]), SetField(HAS_SECOND_VNI, 1), *actions]
        yield ROUTE.flow(700, [_IP, address(IP_DST, ip)], actions, about=int(ip))

    def remote_host(self, local: LocalHost, remote: RemoteHost) -> Iterator[Flow]:
        """Into the tunnel; the tenant is judged at the other end. A pod's way to the host itself is the same.

        The outer source is named because the other end knows this node by that one address. The kernel's datapath obeys;
        the userspace datapath (3.1) takes the source of its route whatever is asked for.
        """
        actions: list[Action] = [
            SetField(TUN_SRC.whole, int(local.host_ip)),
            SetField(TUN_DST.whole, int(remote.host_ip)),
            Move(SOURCE_VNI, TUNNEL_KEY),
            SetField(OUTPUT_PORT, VXLAN_OFPORT),
        ]
        about = int(remote.host_ip)
        yield ROUTE.flow(400, [_IP, prefix(IP_DST, remote.subnet)], [*actions, goto(DELIVER)], about=about)
        itself = [_IP, address(IP_DST, remote.host_ip), _FROM_POD]
        yield ROUTE.flow(250, itself, [*actions, goto(NODE_PORT)], about=about)


def _hosts_own(local: LocalHost) -> Iterator[Flow]:
    """To this node's own address; and what conntrack sends back here.

    A segment that conntrack takes for invalid was not translated back. Its receiver knows no such connection and would
    answer with a reset, which kills the real one. Without SYN, FIN or RST it can only belong to a connection that conntrack
    knows: else conntrack would have called it new.
    """
    to_gateway = _to_port(GATEWAY_OFPORT, GLOBAL_VNI, local.gateway_mac)
    itself = [_IP, address(IP_DST, local.host_ip)]
    yield ROUTE.flow(250, [*itself, _FROM_TUNNEL], to_gateway)
    yield ROUTE.flow(250, [*itself, _FROM_POD], [*to_gateway[:-1], goto(NODE_PORT)])
    yield ROUTE.flow(150, [_IP, address(IP_SRC, HAIRPIN_IP), (ORIGIN, Origin.GATEWAY)], to_gateway)
    segment = [_IP, (IP_PROTO.whole, TCP_PROTO), (TCP_DATA, 0)]
    yield ROUTE.drop(900, [*segment, (CT_TRACKED, 1), (CT_INVALID, 1)], Drop.SERVICE_INVALID)


def _to_port(port: OfPort, vni: Vni, mac: Mac) -> list[Action]:
    return [
        SetField(DESTINATION_VNI, vni),
        SetField(OUTPUT_PORT, port),
        SetField(ETH_DST.whole, mac_value(mac)),
        goto(TENANT),
    ]

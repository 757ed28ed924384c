"""Tunnel in: whether this host may send this packet, and for which tenant.

The key of the tunnel is the tenant, so it has to come from a host of the cluster (outer source), and the inner source
has to be a pod (or the gateway) of that very host. An inner source outside the cluster network is the host's own
address, or a client that a load balancer passes through: the host acts for it, so only with key 0.

In single-tenant mode the only key is 0; a host that is set to the other mode is dropped as a foreign key.
"""

from collections.abc import Iterator

from k8s_ovs.flows.fields import (
    ARP_TYPE,
    ETH_TYPE,
    IP_SRC,
    IP_TYPE,
    ORIGIN,
    SOURCE_VNI,
    TUN_ID,
    TUN_SRC,
    TUNNEL_KEY,
    Bits,
    Origin,
    address,
    prefix,
)
from k8s_ovs.flows.flow import Action, Flow, Move, SetField
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.tables import SERVICE, TUNNEL, TUNNEL_IN, goto
from k8s_ovs.model.records import LocalHost, RemoteHost
from k8s_ovs.model.types import GLOBAL_VNI

_IP = (ETH_TYPE.whole, IP_TYPE)
_ARP = (ETH_TYPE.whole, ARP_TYPE)
_NO_KEY = (TUN_ID.whole, 0)


class Tunnel(Stage):
    """Outer source, inner source and key belong together."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """What holds whichever host it came from."""
        yield TUNNEL.drop(200, [_ARP], Drop.TUNNEL_ARP)
        inside = [_IP, prefix(IP_SRC, local.config.network), *_key(local)]
        yield TUNNEL_IN.drop(200, inside, Drop.TUNNEL_SPOOFED_SOURCE)
        as_host: list[Action] = [
            SetField(SOURCE_VNI, GLOBAL_VNI),
            SetField(ORIGIN, Origin.TUNNEL),
            goto(SERVICE),
        ]
        yield TUNNEL_IN.flow(100, [_IP, _NO_KEY], as_host)

    def remote_host(self, local: LocalHost, remote: RemoteHost) -> Iterator[Flow]:
        """The host is known; and it may send from its own subnet, for the tenant that it names."""
        outer = address(TUN_SRC, remote.host_ip)
        about = int(remote.host_ip)
        yield TUNNEL.flow(100, [_IP, outer], [goto(TUNNEL_IN)], about=about)
        inner = [_IP, outer, prefix(IP_SRC, remote.subnet), *_key(local)]
        actions: list[Action] = [Move(TUNNEL_KEY, SOURCE_VNI), SetField(ORIGIN, Origin.TUNNEL), goto(SERVICE)]
        yield TUNNEL_IN.flow(300, inner, actions, about=about)


def _key(local: LocalHost) -> list[tuple[Bits, int]]:
    """Single-tenant mode knows no key but 0; what has another falls through to the table's end, which says so."""
    return [] if local.multitenant else [_NO_KEY]

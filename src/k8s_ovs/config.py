"""The network config of a cluster: parsed, validated, and what follows from it.

Read by the agent, the controller and `init-config`. Pure: reading files, flags and the environment is the CLI's.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from k8s_ovs.errors import ConfigError

DEFAULT_PREFIX = "/k8s.ovs.com/ovs/network"
"""Where the network's keys in etcd begin; PREFIX of the seed."""

MIN_PREFIX = 8
"""A pod network larger than a /8 is refused: nobody has one, and it would be a typing error."""
MIN_HOST_BITS = 2
"""A /30 for each host: network, gateway, one pod, broadcast."""

VXLAN_OVERHEAD = 50
"""Outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14 octets (RFC 7348, section 5)."""


class Mode(StrEnum):
    """`PluginName` of the network config."""

    SUBNET = "k8s-ovs-subnet"
    MULTITENANT = "k8s-ovs-multitenant"


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The cluster's network, as kept in etcd.

    `network` is the pod CIDR of the cluster, `host_bits` the size of each host's share of it in bits (10 gives a /22),
    `service_network` the Service CIDR (it has to equal the API server's `--service-cluster-ip-range`).
    """

    name: str
    network: IPv4Network
    host_bits: int
    service_network: IPv4Network
    mode: Mode

    @property
    def host_prefix(self) -> int:
        """Prefix length of a host subnet."""
        return 32 - self.host_bits

    @property
    def host_subnets(self) -> int:
        """How many host subnets the pod network has room for."""
        return 1 << (self.host_prefix - self.network.prefixlen)

    @classmethod
    def from_json(cls, text: str | bytes, *, origin: str = "network config") -> "NetworkConfig":
        """Parse and validate the JSON of the seed's `config` key.

        `origin` names the source in errors (an etcd key or a file). Raises ConfigError.
        """
        try:
            data = json.loads(text)
        except ValueError as err:
            raise ConfigError(
                f"{origin}: not JSON ({err})", remedy="write an object like " + EXAMPLE
            ) from err
        if not isinstance(data, dict):
            raise ConfigError(f"{origin}: not a JSON object", remedy="write an object like " + EXAMPLE)
        return cls.from_fields(data, origin=origin)

    @classmethod
    def from_fields(cls, data: Mapping[str, Any], *, origin: str = "network config") -> "NetworkConfig":
        """Validate the fields of the seed's JSON object. Raises ConfigError."""
        name = data.get("Name")
        if not isinstance(name, str) or not name or "/" in name:
            raise ConfigError(f"{origin}: Name is {name!r}", remedy="give a non-empty name without '/'")
        bits = data.get("HostSubnetLength")
        if not isinstance(bits, int) or isinstance(bits, bool):
            raise ConfigError(
                f"{origin}: HostSubnetLength is {bits!r}", remedy="give the host bits as a number, like 10"
            )
        try:
            mode = Mode(str(data.get("PluginName")))
        except ValueError as err:
            names = " or ".join(mode.value for mode in Mode)
            raise ConfigError(
                f"{origin}: PluginName is {data.get('PluginName')!r}", remedy=f"use {names}"
            ) from err
        config = cls(
            name=name,
            network=_network(data, "Network", origin),
            host_bits=bits,
            service_network=_network(data, "ServiceNetwork", origin),
            mode=mode,
        )
        config._check(origin)
        return config

    def _check(self, origin: str) -> None:
        if self.network.prefixlen < MIN_PREFIX or self.network.prefixlen > 32 - MIN_HOST_BITS:
            raise ConfigError(
                f"{origin}: Network {self.network} is a /{self.network.prefixlen}", remedy="use a /8 to a /30"
            )
        most = 32 - self.network.prefixlen
        if not MIN_HOST_BITS <= self.host_bits <= most:
            raise ConfigError(
                f"{origin}: HostSubnetLength {self.host_bits} does not fit into Network {self.network}",
                remedy=f"use {MIN_HOST_BITS} to {most} host bits",
            )
        if self.network.overlaps(self.service_network):
            raise ConfigError(
                f"{origin}: Network {self.network} and ServiceNetwork {self.service_network} overlap",
                remedy="choose pod and Service networks that share no address",
            )

    def check_nodes(self, addresses: Iterable[IPv4Address], *, origin: str = "network config") -> None:
        """Refuse a config whose pod or Service network contains a node's address. Raises ConfigError."""
        for address in addresses:
            for what, network in (("Network", self.network), ("ServiceNetwork", self.service_network)):
                if address in network:
                    raise ConfigError(
                        f"{origin}: {what} {network} contains the node address {address}",
                        remedy="choose networks that the nodes are not in",
                    )

    def to_json(self) -> str:
        """The JSON that `from_json` reads, keys as in the seed."""
        return json.dumps(
            {
                "Name": self.name,
                "Network": str(self.network),
                "HostSubnetLength": self.host_bits,
                "ServiceNetwork": str(self.service_network),
                "PluginName": self.mode.value,
            }
        )


EXAMPLE = (
    '{"Name":"k8ssdn", "Network":"172.11.0.0/16", "HostSubnetLength":10, '
    '"ServiceNetwork":"10.96.0.0/12", "PluginName":"k8s-ovs-multitenant"}'
)


def _network(data: Mapping[str, Any], key: str, origin: str) -> IPv4Network:
    value = data.get(key)
    try:
        if not isinstance(value, str):
            raise ValueError("not a string")  # noqa: TRY004, TRY301 - one message for both ways to be wrong
        return IPv4Network(value)
    except ValueError as err:
        raise ConfigError(
            f"{origin}: {key} is {value!r} ({err})", remedy="give an IPv4 CIDR like 172.11.0.0/16"
        ) from err

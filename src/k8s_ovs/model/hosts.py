"""Which host subnet records can be used, and which one is this node's.

A part of `NodeView`. Records are written by people too, so they may overlap, lie outside the pod network or carry
this node's name twice. The answer depends on the records only, never on the order in which they came: this node's
own subnet wins; else, of records that overlap, the one that was written first, so that an edit by hand takes nothing
from a host whose record nobody touched. The loser gets no flows at all.
"""

from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.config import MIN_HOST_BITS, NetworkConfig
from k8s_ovs.errors import RecordError
from k8s_ovs.model.overlap import OverlapIndex
from k8s_ovs.model.records import LocalHost, RemoteHost
from k8s_ovs.model.types import HostSubnet, gateway_of


class HostIndex:
    """The host subnet records as one node sees them."""

    def __init__(self, host: str, host_ip: IPv4Address | None) -> None:
        self._host = host
        self._host_ip = host_ip
        self._config: NetworkConfig | None = None
        self._records: dict[IPv4Address, HostSubnet] = {}
        self._overlaps = OverlapIndex()
        self._named_like_us: set[IPv4Address] = set()
        self.local: LocalHost | None = None

    def configure(self, config: NetworkConfig) -> None:
        """Judge the records by this network config from now on."""
        self._config = config
        self.local = self._find_local()

    def replace(self, host_ip: IPv4Address, record: HostSubnet | None) -> set[IPv4Address]:
        """The record of `host_ip` is now this (None: gone); the hosts for which that may make a difference."""
        affected = {host_ip}
        old = self._records.pop(host_ip, None)
        if old is not None and old.subnet is not None:
            self._overlaps.remove(old.subnet, host_ip)
            affected |= self._overlaps.overlapping(old.subnet)
        self._named_like_us.discard(host_ip)
        if record is not None:
            self._records[host_ip] = record
            if record.host == self._host:
                self._named_like_us.add(host_ip)
            if record.subnet is not None:
                affected |= self._overlaps.overlapping(record.subnet)
                self._overlaps.add(record.subnet, host_ip)
        self.local = self._find_local()
        return affected

    def remote(self, host_ip: IPv4Address) -> RemoteHost | None:
        """The host with this address, if it is another one and its record can be used."""
        record = self._records.get(host_ip)
        if record is None or record.subnet is None or self._config is None:
            return None
        if self._is_local(record) or self.problem(record) is not None:
            return None
        return RemoteHost(host_ip, record.subnet)

    def problem(self, record: HostSubnet) -> RecordError | None:
        """Why the record cannot be used; None if it can, or asks for nothing yet."""
        if self._config is None or record.subnet is None or self._is_local(record):
            return None
        wrong = _misplaced(record.host_ip, record.subnet, self._config)
        if wrong is not None:
            return _error(record, wrong)
        if record.host == self._host:
            return self._own_name_problem(record)
        return self._overlap_problem(record, record.subnet)

    def _own_name_problem(self, record: HostSubnet) -> RecordError:
        if self.local is None:
            return _error(record, f"subnet {record.subnet} is too small for a gateway and a pod")
        return _error(record, f"names {record.host}, as the record of {self.local.host_ip} does")

    def _overlap_problem(self, record: HostSubnet, subnet: IPv4Network) -> RecordError | None:
        if self.local is not None and self.local.subnet.overlaps(subnet):
            return _error(
                record, f"subnet {subnet} overlaps {self.local.subnet} of this node ({self.local.host_ip})"
            )
        overlapping = (self._records[ip] for ip in self._overlaps.overlapping(subnet))
        stronger = [other for other in overlapping if _age(other) < _age(record) and self._counts(other)]
        if stronger:
            first = min(stronger, key=_age)
            return _error(
                record, f"subnet {subnet} overlaps {first.subnet} of {first.host} ({first.host_ip})"
            )
        return None

    def _counts(self, record: HostSubnet) -> bool:
        """The record may take a subnet from a weaker one."""
        if self._config is None or record.subnet is None or record.host == self._host:
            return False
        return _misplaced(record.host_ip, record.subnet, self._config) is None

    def _is_local(self, record: HostSubnet) -> bool:
        return self.local is not None and record.host_ip == self.local.host_ip

    def _find_local(self) -> LocalHost | None:
        config = self._config
        if config is None:
            return None
        usable: list[tuple[bool, int, IPv4Address, IPv4Network]] = []
        for host_ip in self._named_like_us:
            record = self._records[host_ip]
            subnet = record.subnet
            if subnet is None or subnet.prefixlen > 32 - MIN_HOST_BITS:
                continue
            if _misplaced(host_ip, subnet, config) is None:
                usable.append((host_ip != self._host_ip, *_age(record), subnet))
        if not usable:
            return None
        _, _, host_ip, subnet = min(usable)
        return LocalHost(config=config, host_ip=host_ip, subnet=subnet, gateway=gateway_of(subnet))


def _age(record: HostSubnet) -> tuple[int, IPv4Address]:
    """Sorts what was written first to the front; the host address decides where the store does not tell."""
    return record.revision, record.host_ip


def _misplaced(host_ip: IPv4Address, subnet: IPv4Network, config: NetworkConfig) -> str | None:
    """What is wrong with a record by itself.

    A host address inside the pod network would make a pod a trusted sender of VXLAN.
    """
    if not subnet.subnet_of(config.network):
        return f"subnet {subnet} is not inside Network {config.network}"
    for what, network in (("Network", config.network), ("ServiceNetwork", config.service_network)):
        if host_ip in network:
            return f"host address {host_ip} is inside {what} {network}"
    return None


def _error(record: HostSubnet, reason: str) -> RecordError:
    return RecordError(
        f"subnets/{record.host_ip}", reason, remedy="no traffic from or to it; correct or delete the record"
    )

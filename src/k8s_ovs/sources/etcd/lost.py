"""What etcd has lost: records that were told and are missing since it was put back to an older state, or emptied.

A part of the ledger. Nobody has deleted them, so they stay in force until they are written again, are deleted after
all, or contradict a record that is written: an overlapping subnet, or the VNI of a tenant that did not share it. Pure;
it decides nothing else, and knows nothing of records that are there.
"""

from collections.abc import Iterable, Mapping

from k8s_ovs.model.overlap import OverlapIndex
from k8s_ovs.model.types import GLOBAL_VNI, HostSubnet, Tenant, Vni

Record = HostSubnet | Tenant


class LostRecords:
    """Lost records by key, found by what they hold."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._sharing: dict[str, frozenset[str]] = {}
        """For each lost tenant's key, the tenants that had one of its VNIs when it was lost."""
        self._by_vni: dict[Vni, set[str]] = {}
        self._by_address: dict[object, str] = {}
        self._overlaps = OverlapIndex()

    def __contains__(self, key: object) -> bool:
        return key in self._records

    @property
    def records(self) -> Mapping[str, Record]:
        """All of them, by key."""
        return dict(self._records)

    def add(self, lost: Mapping[str, Record], told: Iterable[Tenant]) -> None:
        """These are missing; `told` are all tenants as they were told before, the missing ones included."""
        names: dict[Vni, set[str]] = {}
        for tenant in told:
            for vni in _vnis(tenant):
                names.setdefault(vni, set()).add(tenant.name)
        for key, record in lost.items():
            self.remove(key)
            self._records[key] = record
            if isinstance(record, Tenant):
                self._sharing[key] = frozenset[str]().union(*(names.get(vni, ()) for vni in _vnis(record)))
                for vni in _vnis(record):
                    self._by_vni.setdefault(vni, set()).add(key)
            elif record.subnet is not None:
                self._by_address[record.host_ip] = key
                self._overlaps.add(record.subnet, record.host_ip)

    def remove(self, key: str) -> bool:
        """It is there again, or gone for good. Whether it was lost."""
        record = self._records.pop(key, None)
        self._sharing.pop(key, None)
        if isinstance(record, Tenant):
            for vni in _vnis(record):
                self._by_vni[vni].discard(key)
        elif record is not None and record.subnet is not None:
            del self._by_address[record.host_ip]
            self._overlaps.remove(record.subnet, record.host_ip)
        return record is not None

    def contradicted_by(self, record: Record) -> list[str]:
        """The keys of those that cannot be true beside this one, which has just been written."""
        if isinstance(record, HostSubnet):
            overlapping = self._overlaps.overlapping(record.subnet) if record.subnet is not None else ()
            return sorted(self._by_address[address] for address in overlapping)
        keys = set[str]().union(*(self._by_vni.get(vni, ()) for vni in _vnis(record)))
        return sorted(key for key in keys if record.name not in self._sharing[key])


def _vnis(tenant: Tenant) -> frozenset[Vni]:
    """The VNIs that are this tenant's and may not become anybody else's; that of global ones may."""
    change = tenant.change
    both = (tenant.vni,) if change is None else (tenant.vni, change.old, change.new)
    return frozenset(both) - {GLOBAL_VNI}

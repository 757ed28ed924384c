"""What a watch has told so far, and therefore what is still to be told; and a snapshot's records from their values.

The store's watch keeps one Ledger over its whole life, across connections; its snapshots share one Decoder. Pure:
keys and values in, events and records out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from k8s_ovs.config import NetworkConfig
from k8s_ovs.errors import RecordError
from k8s_ovs.model.events import Event, HostSubnetGone, HostSubnetSet, TenantGone, TenantSet
from k8s_ovs.model.types import AgentReport, FormerSubnet, HostSubnet, NetNamespace, Tenant
from k8s_ovs.sources.etcd.lost import LostRecords
from k8s_ovs.sources.former import decode_former
from k8s_ovs.sources.records import Keys, Record, decode_report
from k8s_ovs.sources.store import Snapshot


@dataclass(frozen=True, slots=True)
class _Told:
    record: Record
    value: bytes


class Ledger:
    """The records that were told, by key; the malformed ones go to `problems`, which the owner may show.

    Net namespaces are followed for the sake of `problems` and of `stirred`, but have no events.

    `lost` are records that etcd has no more although nobody has deleted them: it was put back to an older state. They
    are told as gone only when they contradict one that is written, or are deleted after all.
    """

    def __init__(self, keys: Keys, problems: dict[str, RecordError]) -> None:
        self.stirred = False
        """Whether the last call found anything that was different, told or not."""
        self.lost = LostRecords()
        self._keys = keys
        self._told: dict[str, _Told] = {}
        self._problems = problems

    def apply(self, changes: Iterable[tuple[str, bytes | None]], revision: int = 0) -> list[Event]:
        """The events of what one revision changed; a value of None is a deletion."""
        events: list[Event] = []
        self.stirred = False
        for key, value in changes:
            if not self._keys.owns(key):
                continue
            self.stirred = True
            if value is None:
                events += filter(None, [self._gone(key)])
            else:
                events += self._set(key, value, revision)
        return events

    def replace(
        self, entries: Mapping[str, bytes], revisions: Mapping[str, int] = {}, *, restored: bool = False
    ) -> list[Event]:
        """The events that lead from what was told to `entries`, which is everything that exists.

        `revisions` says for each key when it was written last; `restored`, that what is missing is no deletion.
        """
        known = dict.fromkeys((*self._told, *self._problems))
        if restored:
            self._lose(self._told.keys() - entries.keys())
        gone = [key for key in sorted(known.keys() - entries.keys()) if key not in self.lost]
        events = self.apply((key, None) for key in gone)
        stirred = self.stirred
        for key, value in entries.items():
            told, revision = self._told.get(key), revisions.get(key, 0)
            if told is not None and told.value == value and _revision(told.record) in (None, revision):
                stirred |= self._problems.pop(key, None) is not None
            else:
                was = self._problems.get(key)
                events += self.apply([(key, value)], revision)
                stirred |= self.stirred and (was is None or str(was) != str(self._problems.get(key)))
            stirred |= self.lost.remove(key)
        self.stirred = stirred
        return events

    def _lose(self, keys: Iterable[str]) -> None:
        records = {key: self._told[key].record for key in keys}
        told = [told.record for told in self._told.values() if isinstance(told.record, Tenant)]
        self.lost.add({k: r for k, r in records.items() if not isinstance(r, NetNamespace)}, told)

    def _set(self, key: str, value: bytes, revision: int) -> list[Event]:
        try:
            record = self._keys.decode(key, value)
        except RecordError as err:
            self._problems[key] = err
            return []
        events: list[Event] = []
        if not isinstance(record, NetNamespace):
            self.lost.remove(key)
            events += filter(None, map(self._gone, self.lost.contradicted_by(record)))
        if isinstance(record, HostSubnet):
            record = replace(record, revision=revision)
        self._problems.pop(key, None)
        self._told[key] = _Told(record, value)
        match record:
            case HostSubnet():
                events.append(HostSubnetSet(record))
            case Tenant():
                events.append(TenantSet(record))
        return events

    def _gone(self, key: str) -> Event | None:
        self._problems.pop(key, None)
        self.lost.remove(key)
        told = self._told.pop(key, None)
        match told.record if told is not None else None:
            case HostSubnet(host_ip=host_ip):
                return HostSubnetGone(host_ip)
            case Tenant(name=name):
                return TenantGone(name)
            case _:
                return None


def _revision(record: Record) -> int | None:
    """When the record was written, if that matters to anybody who is told of it."""
    return record.revision if isinstance(record, HostSubnet) else None


_Meaning = Record | AgentReport | FormerSubnet | RecordError
"""What a value can be."""


class Decoder:
    """Makes snapshots. A value that was seen under its key before is not decoded again: most of them stay."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._ours = (keys.subnets, keys.namespaces, keys.tenants, keys.reports, keys.formers)
        self._known: dict[str, tuple[bytes, _Meaning]] = {}

    def snapshot(
        self, revision: int, config: NetworkConfig, entries: Iterable[tuple[str, bytes]]
    ) -> Snapshot:
        """The snapshot at `revision` of everything that exists; keys that are not ours are left out."""
        known = self._known
        self._known = {
            key: found
            if (found := known.get(key)) is not None and found[0] == value
            else self._read(key, value)
            for key, value in entries
            if key.startswith(self._ours)
        }
        every = [(key, meaning) for key, (_, meaning) in self._known.items()]
        return Snapshot(
            revision,
            {one.host_ip: one for _, one in every if isinstance(one, HostSubnet)},
            {one.name: one for _, one in every if isinstance(one, NetNamespace)},
            {key: one for key, one in every if isinstance(one, RecordError)},
            {one.name: one for _, one in every if isinstance(one, Tenant)},
            {one.host_ip: one for _, one in every if isinstance(one, AgentReport)},
            config,
            former={one.host: one for _, one in every if isinstance(one, FormerSubnet)},
        )

    def _read(self, key: str, value: bytes) -> tuple[bytes, _Meaning]:
        try:
            if key.startswith(self.keys.reports):
                return value, decode_report(key, value, in_key=key.removeprefix(self.keys.reports))
            if key.startswith(self.keys.formers):
                return value, decode_former(key, value, in_key=key.removeprefix(self.keys.formers))
            return value, self.keys.decode(key, value)
        except RecordError as err:
            return value, err

"""What a watch has told so far, and therefore what is still to be told.

The store's watch keeps one Ledger over its whole life, across connections. Pure: keys and values in, events
out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from k8s_ovs.errors import RecordError
from k8s_ovs.model.events import (
    Event,
    HostSubnetGone,
    HostSubnetSet,
    NetNamespaceGone,
    NetNamespaceSet,
)
from k8s_ovs.model.types import HostSubnet
from k8s_ovs.sources.records import Keys, Record


@dataclass(frozen=True, slots=True)
class _Told:
    record: Record
    value: bytes


class Ledger:
    """The records that were told, by key; the malformed ones go to `problems`, which the owner may show."""

    def __init__(self, keys: Keys, problems: dict[str, RecordError]) -> None:
        self._keys = keys
        self._told: dict[str, _Told] = {}
        self._problems = problems

    def apply(self, changes: Iterable[tuple[str, bytes | None]], revision: int = 0) -> list[Event]:
        """The events of what one revision changed; a value of None is a deletion."""
        events: list[Event] = []
        for key, value in changes:
            if not self._keys.owns(key):
                continue
            event = self._gone(key) if value is None else self._set(key, value, revision)
            if event is not None:
                events.append(event)
        return events

    def replace(self, entries: Mapping[str, bytes], revisions: Mapping[str, int] = {}) -> list[Event]:
        """The events that lead from what was told to `entries`, which is everything that exists.

        `revisions` says for each key when it was written last.
        """
        vanished = (self._told.keys() | self._problems.keys()) - entries.keys()
        events = self.apply((key, None) for key in sorted(vanished))
        for key, value in entries.items():
            told, revision = self._told.get(key), revisions.get(key, 0)
            if told is not None and told.value == value and _revision(told.record) in (None, revision):
                self._problems.pop(key, None)
            else:
                events += self.apply([(key, value)], revision)
        return events

    def _set(self, key: str, value: bytes, revision: int) -> Event | None:
        try:
            record = self._keys.decode(key, value)
        except RecordError as err:
            self._problems[key] = err
            return None
        if isinstance(record, HostSubnet):
            record = replace(record, revision=revision)
        self._problems.pop(key, None)
        self._told[key] = _Told(record, value)
        return HostSubnetSet(record) if isinstance(record, HostSubnet) else NetNamespaceSet(record)

    def _gone(self, key: str) -> Event | None:
        self._problems.pop(key, None)
        told = self._told.pop(key, None)
        if told is None:
            return None
        record = told.record
        return (
            HostSubnetGone(record.host_ip)
            if isinstance(record, HostSubnet)
            else NetNamespaceGone(record.name)
        )


def _revision(record: Record) -> int | None:
    """When the record was written, if that matters to anybody who is told of it."""
    return record.revision if isinstance(record, HostSubnet) else None


def decode_all(
    keys: Keys, entries: Iterable[tuple[str, bytes]]
) -> tuple[dict[str, Record], dict[str, RecordError]]:
    """The records among `entries`, and the malformed ones, each by key."""
    records: dict[str, Record] = {}
    problems: dict[str, RecordError] = {}
    for key, value in entries:
        if keys.owns(key):
            try:
                records[key] = keys.decode(key, value)
            except RecordError as err:
                problems[key] = err
    return records, problems

"""What a watch of the agents' reports has seen, and whether news of it matter to anybody who waits for it.

For the store's `watch_reports`. Agents tell now and then how they fare: that is for people, and must not make every
controller plan anew.
"""

from k8s_ovs.errors import RecordError
from k8s_ovs.model.types import AgentReport
from k8s_ovs.sources.etcd.rangewatch import Batch, Listing
from k8s_ovs.sources.records import decode_report


def told_by(news: Listing | Batch) -> int:
    """The revision up to which everything is known once `news` have been told."""
    return news.revision if isinstance(news, Batch) else max(news.revisions.values(), default=0)


class ReportsSaid:
    """The reports by key; two that differ only in health are equal."""

    def __init__(self) -> None:
        self._said: dict[str, AgentReport | bytes] = {}

    def differs(self, news: Listing | Batch) -> bool:
        """Take `news`; whether anything but health is different. A listing always counts."""
        if isinstance(news, Listing):
            self._said = {key: _essence(key, value) for key, value in news.entries.items()}
            return True
        changed = False
        for key, value in news.changes:
            now = None if value is None else _essence(key, value)
            changed |= now != self._said.get(key)
            if now is None:
                self._said.pop(key, None)
            else:
                self._said[key] = now
        return changed


def _essence(key: str, value: bytes) -> AgentReport | bytes:
    try:
        return decode_report(key, value)
    except RecordError:
        return value

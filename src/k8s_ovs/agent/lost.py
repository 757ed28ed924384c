"""Which attachments have lost their port, and with it their lease, without anybody having asked for it.

The reconciler notes them, `ports` restores them, and whoever hands out addresses or deletes veths spares them. It does
nothing by itself.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator

from k8s_ovs.model.types import Attachment, AttachmentKey


class LostPorts:
    """`known` gives the attachments that have flows: one whose row is gone may not have been noted yet."""

    def __init__(self, known: Callable[[], Iterable[Attachment]] = tuple) -> None:
        self._known = known
        self._noted: dict[AttachmentKey, Attachment] = {}
        self._news = asyncio.Event()

    def note(self, attachments: Iterable[Attachment]) -> None:
        """The rows of these are gone, and nobody here removed them."""
        for attachment in attachments:
            self._noted[attachment.key] = attachment
            self._news.set()

    def forget(self, key: AttachmentKey) -> None:
        """Take note that it has its port again, or shall have none."""
        self._noted.pop(key, None)

    def __iter__(self) -> Iterator[Attachment]:
        return iter(tuple(self._noted.values()))

    def __contains__(self, attachment: Attachment) -> bool:
        return self._noted.get(attachment.key) == attachment

    def held(self) -> Iterator[Attachment]:
        """Every attachment that is somebody's, whether or not there is a row that says so."""
        yield from self._known()
        yield from self

    async def wait(self) -> None:
        """Return when something was noted since the last time, or `again` was called."""
        await self._news.wait()
        self._news.clear()

    def again(self) -> None:
        """Let `wait` return."""
        self._news.set()

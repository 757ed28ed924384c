"""What became of the probes of a stream: the bookkeeping of `fakes.traffic`. Pure; instants are CLOCK_MONOTONIC nanoseconds.

A probe counts by the instant it was sent: `lost` between two instants means sent between them and never received, however
late. What arrives counts by the instant of its arrival: `passed` since an instant means that the receiver's kernel got it
then or later.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

EVER = 1 << 62


@dataclass(frozen=True)
class Gap:
    """Probes lost in a row: how many, and the seconds from the first of them to the first that arrived again."""

    begun: int
    count: int
    seconds: float


@dataclass(frozen=True)
class Segment:
    """A TCP segment that arrived: source port, flags, instant."""

    address: str
    port: int
    flags: int
    instant: int


@dataclass(frozen=True)
class StreamLog:
    """A stream's history. `sent[number]` is the instant; `arrived` are numbers and instants as receivers noted them.

    `connects` and `failures` (name of the error, instant), `retransmits` are a TCP connection's; `answers` are to echoes.
    """

    sent: Sequence[int]
    arrived: Sequence[tuple[int, int]]
    answers: Sequence[tuple[int, int]] = ()
    connects: Sequence[int] = ()
    failures: Sequence[tuple[str, int]] = ()
    retransmits: int = 0
    segments: Sequence[Segment] = ()
    echo: bool = False
    first: Mapping[int, int] = field(init=False)
    """Number to the instant of its first arrival; for echoes, of its answer."""

    def __post_init__(self) -> None:
        first: dict[int, int] = {}
        for number, instant in self.answers if self.echo else self.arrived:
            first[number] = min(instant, first.get(number, EVER))
        object.__setattr__(self, "first", first)

    def numbers(self, begin: int = 0, end: int = EVER) -> range:
        """The probes sent from `begin` until before `end`."""
        return range(bisect_left(self.sent, begin), bisect_left(self.sent, end))

    def lost(self, begin: int = 0, end: int = EVER) -> int:
        """How many of those sent between never arrived; for echoes, were never answered."""
        return sum(1 for number in self.numbers(begin, end) if number not in self.first)

    def received(self, begin: int = 0, end: int = EVER) -> int:
        """How many of those sent between arrived, whenever."""
        return sum(1 for number in self.numbers(begin, end) if number in self.first)

    def duplicates(self) -> int:
        """Arrivals of what had arrived already."""
        what = self.answers if self.echo else self.arrived
        return len(what) - len(self.first)

    def late(self, seconds: float, begin: int = 0, end: int = EVER) -> int:
        """How many took longer than that to arrive."""
        most = int(seconds * 1e9)
        return sum(
            1
            for number in self.numbers(begin, end)
            if number in self.first and self.first[number] - self.sent[number] > most
        )

    def passed(self, begin: int, end: int = EVER) -> int:
        """Packets that arrived at the receiver from `begin` until before `end`: probes, or a connection's segments."""
        instants = [segment.instant for segment in self.segments] or [instant for _, instant in self.arrived]
        return sum(1 for instant in instants if begin <= instant < end)

    def gaps(self, begin: int = 0, end: int = EVER) -> list[Gap]:
        """Every run of lost probes; one that lasts to the end has the time until the last probe was sent."""
        found: list[Gap] = []
        count, since = 0, 0
        numbers = self.numbers(begin, end)
        for number in numbers:
            if number not in self.first:
                since = since if count else self.sent[number]
                count += 1
            elif count:
                found.append(Gap(since, count, (self.sent[number] - since) / 1e9))
                count = 0
        if count:
            found.append(Gap(since, count, (self.sent[numbers[-1]] - since) / 1e9))
        return found

    def stall(self, begin: int = 0, end: int = EVER) -> float:
        """The longest time in seconds without an arrival, between the first arrival and `end` or the last one."""
        instants = sorted(instant for instant in self.first.values() if begin <= instant < end)
        return max((later - earlier for earlier, later in pairwise(instants)), default=0) / 1e9

    def first_arrival(self, begin: int) -> int | None:
        """When the first probe sent at or after `begin` arrived, of those that did."""
        return min((self.first[n] for n in self.numbers(begin) if n in self.first), default=None)

    def last_arrival(self) -> int | None:
        """When the last packet of all arrived."""
        instants = [segment.instant for segment in self.segments] or [instant for _, instant in self.arrived]
        return max(instants, default=None)

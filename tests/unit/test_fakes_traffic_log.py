"""The bookkeeping of the traffic that other tests measure with: what is lost, late, twice, and when."""

import pytest

from fakes.traffic_log import Gap, Segment, StreamLog

MS = 1_000_000
SENT = [number * 2 * MS for number in range(10)]


def arrivals(*numbers: int, delay: int = MS) -> list[tuple[int, int]]:
    return [(number, SENT[number] + delay) for number in numbers]


def test_everything_arrived() -> None:
    log = StreamLog(SENT, arrivals(*range(10)))
    assert (log.lost(), log.received(), log.duplicates(), log.gaps(), log.late(0.01)) == (0, 10, 0, [], 0)
    assert log.stall() == pytest.approx(0.002)


def test_each_run_of_lost_probes_is_a_gap_with_the_time_until_one_arrived_again() -> None:
    log = StreamLog(SENT, arrivals(0, 1, 4, 5, 6))
    assert log.lost() == 5
    assert log.gaps() == [Gap(SENT[2], 2, 0.004), Gap(SENT[7], 3, 0.004)]
    assert log.stall() == pytest.approx(0.006)


def test_a_probe_belongs_to_the_time_it_was_sent_at() -> None:
    log = StreamLog(SENT, arrivals(0, 1, 4, 5, 6))
    assert log.lost(SENT[2], SENT[4]) == 2
    assert log.lost(SENT[4], SENT[7]) == 0
    assert log.lost(SENT[2] + 1, SENT[4]) == 1
    assert log.received(end=SENT[2]) == 2


def test_what_arrives_late_is_not_lost() -> None:
    log = StreamLog(SENT, arrivals(*range(9)) + arrivals(9, delay=50 * MS))
    assert log.lost() == 0
    assert log.late(0.02) == 1
    assert log.late(0.02, end=SENT[9]) == 0


def test_the_same_probe_twice_counts_once_with_its_first_arrival() -> None:
    log = StreamLog(SENT, arrivals(*range(10)) + arrivals(3, 3, delay=30 * MS))
    assert log.duplicates() == 2
    assert log.late(0.02) == 0


def test_answers_count_where_they_are_asked_for() -> None:
    log = StreamLog(SENT, arrivals(*range(10)), answers=arrivals(0, 1, 1), echo=True)
    assert (log.lost(), log.duplicates()) == (8, 1)


def test_what_passed_since_an_instant_is_counted_by_arrival() -> None:
    log = StreamLog(SENT, arrivals(0, 1, 2, delay=5 * MS))
    assert log.passed(5 * MS) == 3
    assert log.passed(5 * MS + 1) == 2
    assert log.passed(0, 7 * MS) == 1
    assert log.last_arrival() == 9 * MS
    assert log.first_arrival(SENT[1]) == 7 * MS
    assert log.first_arrival(SENT[5]) is None


def test_a_connection_passes_by_its_segments_also_those_that_bring_nothing_new() -> None:
    segments = [Segment("10.0.0.2", 4000, 16, instant) for instant in (1, 8, 30)]
    log = StreamLog([1], [(0, 1)], segments=segments)
    assert (log.passed(8), log.passed(9), log.passed(31)) == (2, 1, 0)
    assert log.last_arrival() == 30


def test_nothing_sent_and_nothing_arrived() -> None:
    log = StreamLog([], [])
    assert (log.lost(), log.passed(0), log.stall(), log.gaps(), log.last_arrival()) == (0, 0, 0, [], None)

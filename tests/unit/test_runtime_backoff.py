"""Backoff: how long to wait."""

from hypothesis import given, settings
from hypothesis import strategies as st

from k8s_ovs.runtime.backoff import Backoff


def test_the_limit_doubles_up_to_the_cap_and_starts_anew_after_a_success() -> None:
    backoff = Backoff(base=0.1, cap=1.0, uniform=lambda: 1.0)
    assert [round(backoff.next(), 3) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    backoff.reset()
    assert round(backoff.next(), 3) == 0.1


def test_no_delay_is_below_the_floor() -> None:
    assert Backoff(floor=0.05, uniform=lambda: 0.0).next() == 0.05


@settings(deadline=None)
@given(st.integers(0, 100_000), st.floats(0, 1, exclude_max=True))
def test_however_many_failures_the_delay_stays_in_its_limits(failures: int, drawn: float) -> None:
    backoff = Backoff(base=0.1, cap=30.0, uniform=lambda: drawn)
    backoff.failures = failures
    assert 0 <= backoff.next() <= 30.0


def test_by_default_delays_differ() -> None:
    backoff = Backoff(base=1000.0, cap=1000.0)
    assert len({backoff.next() for _ in range(10)}) > 1

"""When two tenants may talk, as the end-to-end tests count it."""

from fakes.tenant_admin import Period, windows

RED, BLUE = {"red": 10, "blue": 11}, {"red": 11, "blue": 11}
GLOBAL = {"red": 0, "blue": 11}


def test_a_change_between_two_states_that_allow_it_is_part_of_the_time_allowed() -> None:
    periods = [Period(0, 10, RED), Period(15, 20, BLUE), Period(25, 30, GLOBAL), Period(35, 40, RED)]
    assert windows(periods, "red", "blue", allowed=True) == [(15, 30)]
    assert windows(periods, "red", "blue", allowed=False) == [(0, 10), (35, 40)]


def test_what_is_always_allowed_is_so_without_a_break() -> None:
    periods = [Period(0, 10, RED), Period(15, 20, BLUE)]
    assert windows(periods, "red", "red", allowed=True) == [(0, 20)]
    assert windows(periods, "red", "red", allowed=False) == []

"""Kubernetes quantities: the syntax of resource.Quantity, exactly, and the bounds of bandwidth limits."""

from contextlib import suppress
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s_ovs.model.quantity import MAX_LIMIT, MIN_LIMIT, check_limit, parse_limit, parse_quantity

SUFFIXES = {"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1)}
SUFFIXES |= {name: Fraction(1000**power) for power, name in enumerate("kMGTPE", 1)}
SUFFIXES |= {f"{name}i": Fraction(1024**power) for power, name in enumerate("KMGTPE", 1)}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", Fraction(0)),
        ("10M", Fraction(10**7)),
        ("1.5Gi", Fraction(3 * 2**29)),
        (".5k", Fraction(500)),
        ("5.", Fraction(5)),
        ("+7", Fraction(7)),
        ("-7m", Fraction(-7, 1000)),
        ("1e3", Fraction(1000)),
        ("1E3", Fraction(1000)),
        ("1E", Fraction(10**18)),
        ("12.34e-2", Fraction(1234, 10**4)),
        ("1e+2", Fraction(100)),
        ("007", Fraction(7)),
        ("0.000000001", Fraction(1, 10**9)),
    ],
)
def test_what_kubernetes_takes(text: str, value: Fraction) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "M",
            ".",
            "+",
            "-",
            "1 M",
            " 1M",
            "1M ",
            "1M\n",
            "10mbit",
            "10Mb",
            "10MB",
            "1K",
            "1ki",
            "1g",
        ),
        *(
            "1e",
            "1e1.5",
            "1eM",
            "1M3",
            "1Mi3",
            "1.2.3",
            "--1",
            "+-1",
            "1,5M",
            "0x10",
            "ten",
            "NaN",
            "inf",
            "\u0661M",
        ),
        *("1_000", "1e999999999", "9" * 1000),
    ],
)
def test_what_kubernetes_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|bounds"):
        parse_quantity(text)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6), st.sampled_from(sorted(SUFFIXES)))
def test_every_suffix_is_exact(number: Decimal, suffix: str) -> None:
    if len(text := f"{number:f}{suffix}") <= 64:
        assert parse_quantity(text) == Fraction(number) * SUFFIXES[suffix]


@given(st.text(max_size=20))
def test_any_text_is_a_number_or_a_value_error(text: str) -> None:
    value = None
    with suppress(ValueError):
        value = parse_quantity(text)
    assert value is None or isinstance(value, Fraction)


@pytest.mark.parametrize(
    ("text", "limit"),
    [("1k", 1000), ("1P", 10**15), ("10M", 10**7), ("1Mi", 2**20), ("999.5", 1000), ("1000000m", 1000)],
)
def test_limits_within_bounds_both_ends_included(text: str, limit: int) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize("text", ["0", "-10M", "999", "1.1P", "1E", "1000000000000001", "1Pi", "500m"])
def test_limits_out_of_bounds_name_the_bounds(text: str) -> None:
    with pytest.raises(ValueError, match=f"{text} is not between 1k and 1P bits per second"):
        parse_limit(text)


def test_numbers_have_the_same_bounds() -> None:
    check_limit(MIN_LIMIT)
    check_limit(MAX_LIMIT)
    for limit in (MIN_LIMIT - 1, MAX_LIMIT + 1):
        with pytest.raises(ValueError, match=str(limit)):
            check_limit(limit)

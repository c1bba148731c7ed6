"""Periods: read, written, checked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.clock import SECOND_NS
from marketd.periods import (
    DAY_NS,
    DEFAULT_PERIODS,
    check_periods,
    parse_activity,
    parse_any,
    parse_period,
    print_period,
)

UNITS_NS = {"s": SECOND_NS, "m": 60 * SECOND_NS, "h": 3600 * SECOND_NS, "d": DAY_NS}


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("90s", 90), ("1m", 60), ("5m", 300), ("4h", 14_400), ("1d", 86_400)]
)
def test_period_is_read_as_its_length(text: str, seconds: int):
    period = parse_period(text)
    assert period.period_ns == seconds * SECOND_NS
    assert period.measure == "time"


@pytest.mark.parametrize(
    ("text", "name"), [("60s", "1m"), ("90s", "90s"), ("1440m", "1d"), ("24h", "1d"), ("60m", "1h")]
)
def test_period_is_named_in_its_largest_whole_unit_however_it_was_written(text: str, name: str):
    """So a series has one name."""
    assert parse_period(text).name == name


@given(st.integers(1, 86_400))
def test_printing_and_reading_a_period_are_inverse(seconds: int):
    period = parse_period(print_period(seconds * SECOND_NS))
    assert period.period_ns == seconds * SECOND_NS
    assert parse_period(period.name) == period


@given(st.integers(1, 999_999), st.sampled_from("smhd"))
def test_whatever_is_read_is_at_most_a_day_and_what_it_says(count: int, unit: str):
    length_ns = count * UNITS_NS[unit]
    if length_ns > DAY_NS:
        with pytest.raises(ValueError, match="longer than a day"):
            parse_period(f"{count}{unit}")
    else:
        assert parse_period(f"{count}{unit}").period_ns == length_ns


@pytest.mark.parametrize("text", ["", "1", "s", "0s", "01s", "-1s", "1.5s", "1 s", "1S", "1w", "1s ", "٣s", "1000t"])
def test_text_that_is_no_period_is_refused_with_an_example(text: str):
    with pytest.raises(ValueError, match=r"is no period: .* as in 1s, 5m, 4h, 1d"):
        parse_period(text)


@pytest.mark.parametrize(
    ("text", "measure", "size"),
    [
        ("1000t", "trades", 1000),
        ("1e3t", "trades", 1000),
        ("50v", "volume", 50),
        ("0.5v", "volume", 0.5),
        ("1e6d", "value", 1_000_000),
        ("2.5e3d", "value", 2500),
    ],
)
def test_bars_of_activity_say_what_ends_them(text: str, measure: str, size: float):
    period = parse_activity(text)
    assert (period.name, period.measure, period.size) == (text, measure, size)
    assert period.period_ns == 0


@pytest.mark.parametrize(
    "text", ["", "t", "0t", "1.5t", "0v", "0.0d", "-1v", "1e-3v", "infv", "nanv", "1m", "1 t", "1T"]
)
def test_text_that_is_no_bar_of_activity_is_refused_with_examples(text: str):
    with pytest.raises(ValueError, match=r"1000t .* 50v .* 1e6d"):
        parse_activity(text)


def test_d_after_a_whole_number_is_a_day_and_after_another_a_value():
    """``1d`` is the period that everybody means; a value of 1 can be written ``1.0d``."""
    assert parse_any("1d").period_ns == DAY_NS
    assert parse_any("1.0d").measure == "value"
    assert parse_any("1e6d").measure == "value"
    assert parse_any("50v").measure == "volume"


def test_usual_periods_are_fine_and_so_are_none():
    assert check_periods(DEFAULT_PERIODS) == []
    assert check_periods([]) == []


def test_periods_may_come_in_any_order():
    assert check_periods(["1m", "5s", "15s"]) == []


@pytest.mark.parametrize(
    ("periods", "problem"),
    [
        (["2s", "5s"], "5s is no multiple of 2s, the shortest"),
        (["1s", "60s", "1m"], "1m is there more than once"),
        (["1s", "2d"], "'2d' is longer than a day"),
        (["1s", "1w"], "'1w' is no period"),
    ],
)
def test_list_of_periods_that_can_not_be_is_refused_in_words(periods: list[str], problem: str):
    [found] = check_periods(periods)
    assert problem in found


def test_every_period_that_is_wrong_is_named_at_once():
    assert len(check_periods(["x", "1s", "y"])) == 2
    assert len(check_periods(["2s", "3s", "5s"])) == 2

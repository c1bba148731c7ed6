"""Trading calendars: known hours of known markets, checked against what is printed elsewhere and against real bars."""

from __future__ import annotations

import gzip
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from marketd.calendars import bounds, expected_gaps, is_open, known, sessions
from marketd.errors import ConfigError
from tests.conftest import PROJECT

HOUR_NS = 3600 * 10**9
MINUTE_NS = 60 * 10**9
DAY_NS = 24 * HOUR_NS
ZONES = {"XNYS": "America/New_York", "XTKS": "Asia/Tokyo", "CME_FX": "America/Chicago", "XHKG": "Asia/Hong_Kong"}


def ns(text: str, zone: str = "UTC") -> int:
    """Read a local time."""
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    return int(moment.timestamp()) * 10**9


def local(name: str, spans: list[tuple[int, int]]) -> list[str]:
    """Print spans in the market's own time."""
    zone = ZoneInfo(ZONES[name])

    def text(at_ns: int) -> str:
        return datetime.fromtimestamp(at_ns // 10**9, UTC).astimezone(zone).strftime("%d %H:%M")

    return [f"{text(open_ns)} - {text(close_ns)}" for open_ns, close_ns in spans]


def hours(name: str, begin: str, end: str) -> list[str]:
    """Sessions between two local times, in local time."""
    return local(name, sessions(name, ns(begin, ZONES[name]), ns(end, ZONES[name])))


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["24/7", "24/5", "XNYS", "NYSE", "CME_FX", "CME_Currency", "CMES", "XTKS"])
def test_calendars_are_known_by_their_names_and_their_other_names(name):
    assert known(name)
    assert sessions(name, 0, 1)


@pytest.mark.parametrize(("name", "words"), [("XNYC", "did you mean 'XNYS'"), ("CME_FC", "did you mean 'CME_FX'")])
def test_an_unknown_calendar_is_refused_with_the_nearest(name, words):
    assert not known(name)
    for ask in (lambda: sessions(name, 0, 1), lambda: is_open(name, 0), lambda: expected_gaps(name, 0, 1),
                lambda: bounds(name)):  # fmt: skip
        with pytest.raises(ConfigError, match=f"there is no calendar '{name}'; {words}"):
            ask()


def test_other_names_mean_the_same_hours():
    year = ns("2024-01-01"), ns("2025-01-01")
    assert sessions("NYSE", *year) == sessions("XNYS", *year)
    assert sessions("CME_Currency", *year) == sessions("CME_FX", *year)


def test_who_needs_only_24_7_never_loads_pandas():
    script = """
import sys
from marketd import calendars
assert calendars.known("24/7") and calendars.is_open("24/7", 5)
assert calendars.sessions("24/7", 3, 9) == [(3, 9)] and calendars.expected_gaps("24/7", 3, 9) == []
assert not {"pandas", "exchange_calendars"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=PROJECT)


# --- hours --------------------------------------------------------------------------------------------------


def test_24_7_is_one_span_that_covers_the_range():
    assert sessions("24/7", -5, 10**18) == [(-5, 10**18)]
    assert sessions("24/7", 5, 5) == sessions("24/7", 6, 5) == expected_gaps("24/7", 6, 5) == []


def test_24_5_is_one_span_a_week():
    week = sessions("24/5", ns("2024-01-05"), ns("2024-01-09"))
    assert week == [(ns("2024-01-05"), ns("2024-01-06")), (ns("2024-01-08"), ns("2024-01-09"))]


def test_a_market_is_open_at_its_open_and_closed_at_its_close():
    open_ns, close_ns = ns("2024-01-03T09:30", "America/New_York"), ns("2024-01-03T16:00", "America/New_York")
    assert [is_open("XNYS", at_ns) for at_ns in (open_ns - 1, open_ns, close_ns - 1, close_ns)] == [
        False, True, True, False]  # fmt: skip


def test_lunch_is_no_part_of_a_session():
    assert hours("XTKS", "2024-03-01", "2024-03-02") == ["01 09:00 - 01 11:30", "01 12:30 - 01 15:00"]
    assert hours("XHKG", "2024-03-01", "2024-03-02") == ["01 09:30 - 01 12:00", "01 13:00 - 01 16:00"]


def test_a_short_day_has_no_afternoon():
    """Hong Kong on the eve of the lunar new year."""
    assert hours("XHKG", "2024-02-09", "2024-02-10") == ["09 09:30 - 09 12:00"]


def test_local_hours_stay_when_clocks_change():
    """New York changed on 10 March and 3 November 2024, and its sessions moved in UTC."""
    assert hours("XNYS", "2024-03-08", "2024-03-12") == ["08 09:30 - 08 16:00", "11 09:30 - 11 16:00"]
    friday, monday = sessions("XNYS", ns("2024-03-08"), ns("2024-03-12"))
    assert monday[0] - friday[0] == 3 * DAY_NS - HOUR_NS
    friday, monday = sessions("XNYS", ns("2024-11-01"), ns("2024-11-05"))
    assert monday[0] - friday[0] == 3 * DAY_NS + HOUR_NS


def test_a_year_boundary_has_its_holiday():
    assert hours("XNYS", "2023-12-29", "2024-01-03") == ["29 09:30 - 29 16:00", "02 09:30 - 02 16:00"]


def test_an_early_close_is_one():
    assert hours("XNYS", "2024-11-27", "2024-11-30") == ["27 09:30 - 27 16:00", "29 09:30 - 29 13:00"]


# --- CME's currencies ---------------------------------------------------------------------------------------


def test_currency_futures_break_for_an_hour_a_day_and_over_the_weekend():
    assert hours("CME_FX", "2024-01-11", "2024-01-16T12:00") == [
        "11 00:00 - 11 16:00",
        "11 17:00 - 12 16:00",
        "14 17:00 - 15 16:00",
        "15 17:00 - 16 12:00",
    ]


@pytest.mark.parametrize(
    ("begin", "end", "spans"),
    [
        ("2023-12-29", "2024-01-02", ["29 00:00 - 29 16:00", "01 17:00 - 02 00:00"]),
        ("2024-03-28", "2024-04-01", ["28 00:00 - 28 16:00", "31 17:00 - 01 00:00"]),
        ("2023-04-06T17:00", "2023-04-10", ["06 17:00 - 07 10:15", "09 17:00 - 10 00:00"]),
        ("2024-07-03T17:00", "2024-07-05", ["03 17:00 - 04 16:00", "04 17:00 - 05 00:00"]),
        ("2021-01-17", "2021-01-19", ["17 17:00 - 18 12:00", "18 17:00 - 19 00:00"]),
        ("2024-11-28T17:00", "2024-12-02", ["28 17:00 - 29 12:15", "01 17:00 - 02 00:00"]),
        ("2024-12-23T17:00", "2024-12-26", ["23 17:00 - 24 12:15", "25 17:00 - 26 00:00"]),
        ("2024-03-08T12:00", "2024-03-11", ["08 12:00 - 08 16:00", "10 17:00 - 11 00:00"]),
    ],
    ids=["new year", "good friday", "with jobs report", "july 4", "before 2022", "november", "christmas", "clocks"],
)
def test_currency_futures_have_their_holidays(begin, end, spans):
    assert hours("CME_FX", begin, end) == spans


@pytest.fixture(scope="session")
def euro_minutes(shared_data):
    """Begins of the minutes of January 2024 in which 6E had a bar; the file says their ends."""
    text = gzip.decompress((shared_data / "bars" / "6e-future-1m-jan2024.csv.gz").read_bytes()).decode()
    return [ns(line.partition(",")[0]) - MINUTE_NS for line in text.splitlines()[1:]]


def test_recorded_bars_of_euro_futures_are_in_their_hours_and_in_all_of_them(euro_minutes):
    spans = sessions("CME_FX", euro_minutes[0], euro_minutes[-1] + MINUTE_NS)
    gaps = expected_gaps("CME_FX", euro_minutes[0], euro_minutes[-1] + MINUTE_NS)
    assert all(is_open("CME_FX", minute) for minute in euro_minutes)
    holes = [(minute + MINUTE_NS, after) for minute, after in pairwise(euro_minutes) if after - minute > 10 * MINUTE_NS]
    assert holes == gaps, "no hole of ten minutes is unexpected, and every expected one is there, to the minute"
    begins = {open_ns for open_ns, _ in spans}
    assert begins <= set(euro_minutes), "each session begins with a bar"
    assert {close_ns - MINUTE_NS for _, close_ns in spans} <= set(euro_minutes), "and ends with one"


def test_the_librarys_calendar_of_cme_is_not_that_of_euro_futures(euro_minutes):
    """Should the library learn it, `cme_fx.py` is no longer needed."""
    closed = [minute for minute in euro_minutes if not is_open("CMES", minute)]
    assert local("CME_FX", [(closed[0], closed[-1] + MINUTE_NS)]) == ["15 12:00 - 15 16:00"]
    assert is_open("CMES", ns("2024-01-03T16:30", "America/Chicago"))


# --- bounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first", "last"), [("XNYS", 1990, 2049), ("CME_FX", 1990, 2049), ("AIXK", 2017, 2049)]
)
def test_beyond_what_a_calendar_knows_the_market_counts_as_open(name, first, last):
    begin_ns, end_ns = bounds(name)
    assert ns(f"{first}-01-01") <= begin_ns < ns(f"{first}-02-01")
    assert ns(f"{last}-12-01") < end_ns <= ns(f"{last + 1}-01-01")
    for from_ns, to_ns in ((-(1 << 63), begin_ns), (end_ns, (1 << 63) - 1)):
        assert sessions(name, from_ns, to_ns) == [(from_ns, to_ns)]
        assert expected_gaps(name, from_ns, to_ns) == []
    assert expected_gaps(name, begin_ns, begin_ns + 7 * DAY_NS)
    assert expected_gaps(name, end_ns - 7 * DAY_NS, end_ns)


def test_24_7_has_no_bounds():
    assert bounds("24/7") == (-(1 << 63), (1 << 63) - 1)

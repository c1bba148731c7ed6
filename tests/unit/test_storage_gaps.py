"""Gaps: which there are, and of which kind."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.coverage import State, mark
from storage.gaps import GapKind, detect_null_time_gap, detect_period, detect_time_gaps, with_dts
from storage.schema import Provenance
from tests.store_rows import MINUTE_NS, T0_NS, bars

MINUTES = st.integers(0, 40)
RANGES = st.lists(st.tuples(MINUTES, MINUTES), max_size=4)


def in_ns(ranges):
    return [(T0_NS + start * MINUTE_NS, T0_NS + end * MINUTE_NS) for start, end in ranges]


def in_minutes(gaps):
    return [((gap.start_ns - T0_NS) // MINUTE_NS, (gap.end_ns - T0_NS) // MINUTE_NS, gap.rows, gap.kind.value)
            for gap in gaps]  # fmt: skip


def test_distances_are_shown_in_the_words_of_people():
    shown = with_dts(bars([0, 1, 5]))
    assert shown["dt"].dt.to_string("%Y-%m-%d %H:%M %Z").to_list() == [
        "2024-01-05 00:00 UTC", "2024-01-05 00:01 UTC", "2024-01-05 00:05 UTC"]  # fmt: skip
    assert shown["diff_ns"].to_list() == [None, MINUTE_NS, 4 * MINUTE_NS]
    assert shown["dt_diff"].dt.total_minutes().to_list() == [None, 1, 4]


def test_the_period_is_the_usual_distance_and_not_the_first():
    """D6, R67: gaps in an array do not change its step."""
    assert detect_period(bars([0, 100, 101, 102, 300, 301])) == MINUTE_NS
    for rows in (bars([]), bars([3]), bars([1, 1]), bars([2, 1])):
        with pytest.raises(ValueError, match="two rows or more"):
            detect_period(rows)


def test_rows_without_a_time_are_found():
    """D6, R59."""
    rows = bars(range(8)).with_columns(open_ns=pl.when(pl.int_range(pl.len()).is_in([0, 3, 4, 7])).then(0).otherwise(1))
    assert detect_null_time_gap(rows) == [(0, 1), (3, 5), (7, 8)]
    assert detect_null_time_gap(bars(range(3))) == []
    assert detect_null_time_gap(bars([])) == []


def test_each_piece_of_a_gap_has_its_kind():
    coverage = mark((), in_ns([(0, 12)]), State.COMPLETE, Provenance.BACKFILLED)
    coverage = mark(coverage, in_ns([(12, 14)]), State.EMPTY, Provenance.BACKFILLED)
    coverage = mark(coverage, in_ns([(16, 18)]), State.UNVERIFIED, Provenance.OBSERVED)
    rows = bars([0, 1, 2, 30])
    assert in_minutes(detect_time_gaps(rows, MINUTE_NS, closed=in_ns([(5, 8), (25, 40)]), coverage=coverage)) == [
        (3, 5, 2, "no_trade"),
        (5, 8, 3, "expected"),
        (8, 12, 4, "no_trade"),
        (12, 14, 2, "expected"),
        (14, 25, 11, "real"),
        (25, 30, 5, "expected"),
    ]


def test_what_is_lacking_at_the_ends_counts_where_a_range_is_asked_for():
    rows = bars([3, 4, 6])
    assert in_minutes(detect_time_gaps(rows, MINUTE_NS)) == [(5, 6, 1, "real")]
    [span] = in_ns([(0, 9)])
    assert in_minutes(detect_time_gaps(rows, MINUTE_NS, span=(span[0] - 5, span[1] + 5))) == [
        (0, 3, 3, "real"), (5, 6, 1, "real"), (7, 9, 2, "real")]  # fmt: skip
    assert in_minutes(detect_time_gaps(bars([]), MINUTE_NS, span=span)) == [(0, 9, 9, "real")]


def test_a_bar_that_is_not_known_whole_is_a_real_gap():
    rows = bars(range(5)).with_columns(state=pl.when(pl.int_range(pl.len()) == 2).then(4).otherwise(2))
    assert in_minutes(detect_time_gaps(rows, MINUTE_NS)) == [(2, 3, 1, "real")]


def test_a_bar_that_is_closed_in_part_is_expected_to_be_there():
    """A market that closes at 00:10 has a bar for the quarter from 00:00."""
    rows = bars([0, 4], step_ns=15 * MINUTE_NS)
    gaps = detect_time_gaps(rows, 15 * MINUTE_NS, closed=in_ns([(20, 60)]))
    assert in_minutes(gaps) == [(15, 30, 1, "real"), (30, 60, 2, "expected")]


@given(st.sets(MINUTES, min_size=1), RANGES, RANGES, RANGES)
def test_every_minute_that_is_lacking_is_in_one_gap_of_the_right_kind(held, closed, complete, empty):
    coverage = mark((), in_ns(complete), State.COMPLETE, Provenance.OBSERVED)
    coverage = mark(coverage, in_ns(empty), State.EMPTY, Provenance.OBSERVED)
    gaps = detect_time_gaps(bars(sorted(held)), MINUTE_NS, closed=in_ns(closed), coverage=coverage)
    found = [(minute, kind) for start, end, _, kind in in_minutes(gaps) for minute in range(start, end)]

    def covers(ranges, minute):
        return any(start <= minute < end for start, end in ranges)

    def kind(minute):
        if covers(closed, minute) or covers(empty, minute):
            return GapKind.EXPECTED
        return GapKind.NO_TRADE if covers(complete, minute) else GapKind.REAL

    assert found == [(minute, kind(minute)) for minute in range(min(held), max(held)) if minute not in held]
    assert all(gap.rows * MINUTE_NS == gap.end_ns - gap.start_ns for gap in gaps)

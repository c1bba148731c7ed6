"""Writes, trims and merges in any order, beside a dictionary of bars."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.errors import Overlap
from storage.client import open_storage_client
from storage.combine import OnOverlap, splice
from storage.coverage import missing
from storage.layout import Series
from storage.schema import BARS
from tests.store_rows import DAY_NS, T0_NS, bars

HOURS = Series("btc/usdt.spot.binance", "10m")
STEP_NS = 600 * 10**9
STEPS = st.integers(-300, 300)
WRITE = st.tuples(st.just("write"), st.sets(STEPS, min_size=1, max_size=300), st.sampled_from(OnOverlap))
RUN = st.tuples(st.just("run"), st.tuples(STEPS, STEPS), st.sampled_from(OnOverlap))
TRIM = st.tuples(st.just("trim"), st.tuples(STEPS, STEPS), st.none())
MERGE = st.tuples(st.just("merge"), st.integers(0, 800), st.none())


@settings(max_examples=60)
@given(st.lists(WRITE | RUN | TRIM | MERGE, max_size=7))
def test_a_series_is_a_dictionary_of_bars(operations):
    """R55, R56 and R69, as far as the store joins ranges: no bar twice, none lost, whatever overlaps."""
    held: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder, open_storage_client(Path(folder)) as store:
        for number, (what, argument, on_overlap) in enumerate(operations):
            with store.writer(HOURS) as writer:
                match what:
                    case "trim":
                        first, last = sorted(argument)
                        gone = [step for step in held if first <= step < last]
                        assert writer.trim((T0_NS + first * STEP_NS, T0_NS + last * STEP_NS)) == len(gone)
                        for step in gone:
                            del held[step]
                    case "merge":
                        writer.merge(T0_NS + argument * DAY_NS)
                    case _:
                        steps = sorted(argument) if what == "write" else list(range(*sorted(argument)))
                        put(writer, held, steps, 1000.0 * (number + 1), on_overlap)
        rows = store.read(HOURS)
        steps = sorted(held)
        assert ((rows["open_ns"] - T0_NS) // STEP_NS).to_list() == steps
        assert (rows["close"] // 1000).to_list() == [held[step] // 1000 for step in steps]
        whole = missing(store.coverage(HOURS), T0_NS - 400 * STEP_NS, T0_NS + 400 * STEP_NS)
        lacking = {step for start, end in whole for step in range((start - T0_NS) // STEP_NS, (end - T0_NS) // STEP_NS)}
        assert lacking == set(range(-400, 400)) - set(held)
        assert store.check(HOURS) == []


@given(
    stored=st.sets(STEPS, max_size=100),
    cuts=st.lists(st.integers(0, 100), max_size=5),
    span=st.tuples(STEPS, STEPS).map(sorted),
)
def test_rows_take_the_place_of_what_lies_in_their_time_however_the_rest_is_cut(stored, cuts, span):
    whole = bars(sorted(stored), step_ns=STEP_NS)
    places = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    frames = [whole[first:after] for first, after in itertools.pairwise(places)]
    rows = bars(range(span[0], span[1] + 1), 7.0, step_ns=STEP_NS)
    spliced = list(splice(frames, rows, BARS))
    assert all(len(frame) for frame in spliced)
    outside = [step for step in sorted(stored) if not span[0] <= step <= span[1]]
    expected = pl.concat([bars(outside, step_ns=STEP_NS), rows]).sort("open_ns")
    assert pl.concat(spliced).equals(expected)


def put(writer, held, steps, price, on_overlap):
    """Write bars to both."""
    rows = bars(steps, price, step_ns=STEP_NS)
    rows = rows.with_columns(pl.lit(price).alias(name) for name in ("open", "high", "low", "close"))
    if on_overlap is OnOverlap.REFUSE and held.keys() & set(steps):
        with pytest.raises(Overlap):
            writer.write(rows, on_overlap)
        return
    written = writer.write(rows, on_overlap)
    both = held.keys() & set(steps)
    assert written.added == len(steps) - len(both)
    assert (written.replaced, written.kept) == ((len(both), 0) if on_overlap is OnOverlap.REPLACE else (0, len(both)))
    held.update({step: price for step in steps if on_overlap is OnOverlap.REPLACE or step not in held})

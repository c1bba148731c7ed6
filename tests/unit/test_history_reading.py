"""Bars out of memory and files, put together: which one counts, where the edges are, and what longer ones are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.history.frames import page_frame
from marketd.history.reading import View, batches, read_window
from marketd.ring.steps import BarState
from storage.client import StorageClient, open_storage_client
from storage.coverage import State, ranges
from storage.layout import Series
from storage.schema import Provenance
from tests.history_harness import FQME, MINUTE_NS, bar, told_rows

SERIES = Series(FQME, "1m")
FIRST = 28_333_300  # a multiple of five


@pytest.fixture
def store(tmp_path: Path):
    with open_storage_client(tmp_path) as store:
        yield store


def keep(store: StorageClient, numbers: range) -> None:
    with store.writer(SERIES) as writer:
        writer.write(page_frame([bar(number) for number in numbers]), provenance=Provenance.BACKFILLED)


def view(store: StorageClient, ring=None, until: int = 0, period: int = 1) -> View:
    facts = store.facts(SERIES)
    held = (facts.start_ns, facts.end_ns) if facts else (0, 0)
    period_ns = period * MINUTE_NS
    held = (held[0] // period_ns * period_ns, -(-held[1] // period_ns) * period_ns)
    stored = SERIES if facts else None
    ring = told_rows([]) if ring is None else ring
    return View(period_ns, stored, held, store.coverage(SERIES), ring, until * MINUTE_NS)


def read(found: View, store: StorageClient, start=None, end=None, **options) -> pl.DataFrame:
    bounds = [None if at is None else at * MINUTE_NS for at in (start, end)]
    parts = list(batches(found, store, *bounds, **options))
    assert all(len(part) for part in parts)
    return pl.concat(parts) if parts else page_frame([])


def numbers(frame: pl.DataFrame) -> list[int]:
    return (frame["open_ns"] // MINUTE_NS - FIRST).to_list()


def test_memory_that_holds_few_bars_limits_no_range(store: StorageClient):
    """C10: what the sampler's segment has no room for is read from disk."""
    keep(store, range(FIRST, FIRST + 50))
    assert numbers(read(view(store, told_rows(range(FIRST + 48, FIRST + 51)), FIRST + 51), store)) == list(range(51))


def test_bar_of_the_sampler_counts_where_it_is_whole_and_the_stored_one_where_it_is_not(store: StorageClient):
    keep(store, range(FIRST, FIRST + 4))
    ring = told_rows(range(FIRST + 1, FIRST + 7))
    ring["volume"] = 99
    ring["state"] = [BarState.MISSING, BarState.REVISED, BarState.FORMING, BarState.MISSING, BarState.CLOSED, 1]
    found = read(view(store, ring, FIRST + 6), store)
    assert numbers(found) == [0, 1, 2, 3, 4, 5, 6]
    assert (found["volume"] == 99).to_list() == [False, False, True, False, True, True, True]
    assert found["state"].to_list() == [2, 2, 3, 2, 4, 2, 1]


@given(data=st.data())
def test_answer_does_not_depend_on_how_the_range_is_cut(data, tmp_path_factory):
    """Nor on the batches: every cut gives the same bars."""
    folder = tmp_path_factory.mktemp("cuts")
    with open_storage_client(folder) as store:
        keep(store, range(FIRST, FIRST + 30))
        found = view(store, told_rows(range(FIRST + 25, FIRST + 40)), FIRST + 40)
        whole = read(found, store)
        assert numbers(whole) == list(range(40))
        cut = data.draw(st.integers(-3, 43))
        size = data.draw(st.integers(1, 50))
        parts = [
            read(found, store, None, FIRST + cut, batch_rows=size),
            read(found, store, FIRST + cut, batch_rows=size),
        ]
        assert pl.concat(parts).equals(whole)
        limit = data.draw(st.integers(1, 45))
        assert read(found, store, limit=limit, batch_rows=size).equals(whole.tail(limit))
        assert read(found, store, limit=limit, order="oldest", batch_rows=size).equals(whole.head(limit))


def test_range_before_the_first_bar_or_after_the_last_is_empty(store: StorageClient):
    """R70."""
    keep(store, range(FIRST, FIRST + 4))
    found = view(store)
    for start, end in ((0, FIRST), (FIRST + 4, None), (FIRST + 10, FIRST + 20), (FIRST + 2, FIRST + 2)):
        assert len(read(found, store, start, end)) == 0


def test_range_never_has_a_bar_from_before_its_begin(store: StorageClient):
    """R66, R67: with a hole in front of it, and whatever distances the bars have."""
    keep(store, range(FIRST, FIRST + 4))
    keep(store, range(FIRST + 9, FIRST + 12))
    for start in range(14):
        expected = [n for n in (0, 1, 2, 3, 9, 10, 11) if n >= start]
        assert numbers(read(view(store), store, FIRST + start)) == expected
    inside = list(batches(view(store), store, FIRST * MINUTE_NS + 1, None))
    assert numbers(pl.concat(inside))[0] == 1


def test_longer_bars_are_those_of_the_shorter_ones(store: StorageClient):
    keep(store, range(FIRST, FIRST + 13))
    found = read(view(store, period=5), store)
    rows = [bar(number) for number in range(FIRST, FIRST + 13)]
    for place, row in enumerate(found.iter_rows(named=True)):
        part = rows[place * 5 : place * 5 + 5]
        assert row["open_ns"] == part[0][0]
        assert (row["open"], row["close"]) == (part[0][1], part[-1][4])
        assert (row["high"], row["low"]) == (max(r[2] for r in part), min(r[3] for r in part))
        assert (row["volume"], row["trade_count"]) == (sum(r[5] for r in part), sum(r[6] for r in part))
    assert found["state"].to_list() == [BarState.CLOSED, BarState.CLOSED, BarState.FORMING]


def test_longer_bar_that_lacks_a_shorter_one_is_missing_unless_there_was_no_trade(store: StorageClient):
    keep(store, range(FIRST, FIRST + 7))
    keep(store, range(FIRST + 8, FIRST + 15))
    found = view(store, period=5)
    assert read(found, store)["state"].to_list() == [2, BarState.MISSING, 2]
    assert found.missing(None, None) == [((FIRST + 5) * MINUTE_NS, (FIRST + 10) * MINUTE_NS)]
    with store.writer(SERIES) as writer:
        writer.mark([((FIRST + 7) * MINUTE_NS, (FIRST + 8) * MINUTE_NS)], State.COMPLETE, Provenance.BACKFILLED)
    found = view(store, period=5)
    assert read(found, store)["state"].to_list() == [2, 2, 2]
    assert found.missing(None, None) == []


def test_missing_is_what_neither_has_whole_up_to_what_is_out(store: StorageClient):
    keep(store, range(FIRST, FIRST + 4))
    ring = told_rows(range(FIRST + 6, FIRST + 9))
    ring["state"] = [BarState.CLOSED, BarState.MISSING, BarState.FORMING]
    found = view(store, ring, FIRST + 8)
    relative = [(start // MINUTE_NS - FIRST, end // MINUTE_NS - FIRST) for start, end in found.missing(None, None)]
    assert relative == [(4, 6), (7, 8)]
    early = found.missing((FIRST - 2) * MINUTE_NS, (FIRST + 5) * MINUTE_NS)
    assert [(start // MINUTE_NS - FIRST, end // MINUTE_NS - FIRST) for start, end in early] == [(-2, 0), (4, 5)]
    assert ranges(found.coverage, State.COMPLETE) == [(FIRST * MINUTE_NS, (FIRST + 4) * MINUTE_NS)]


def test_nothing_stored_and_nothing_made_are_no_bars(store: StorageClient):
    assert len(read(view(store), store)) == 0
    assert view(store).missing(None, None) == []
    ring = told_rows(range(FIRST, FIRST + 3))
    assert numbers(read(view(store, ring, FIRST + 3), store)) == [0, 1, 2]
    np.testing.assert_array_equal(read_window(view(store, ring), store, (0, 0))["open_ns"].to_numpy(), [])

"""Names of folders and files, and which small files to merge."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.errors import StorageError
from storage import layout, merge, names
from storage.layout import Grain, parse_partition, partition_at, visible
from tests.property.test_fqme import names as fqmes
from tests.store_rows import DAY_NS, T0_NS


@given(fqmes())
def test_an_instrument_has_one_folder_and_a_folder_one_instrument(fqme):
    folder = names.folder_of(str(fqme))
    assert "/" not in folder
    assert not folder.startswith(".")
    assert names.name_of(folder) == str(fqme)
    assert names.folder_of(str(fqme).upper()) == names.folder_of(str(fqme).upper().lower())


@pytest.mark.parametrize("folder", ["btc", "BTC.x", "a%2fb.c", "%61.b", "..", "a%2F.b", "a/b.c"])
def test_other_folders_are_no_instruments(folder):
    assert names.name_of(folder) is None


def test_names_that_no_folder_can_have_are_refused():
    for name in ("x" * 250 + ".binance", "é" * 50 + ".binance", "a/b.quarantine", "", "a", "a.b/c"):
        with pytest.raises(StorageError):
            names.folder_of(name)


@given(st.integers(0, 290 * 365 * DAY_NS), st.sampled_from(Grain))
def test_a_time_lies_in_its_partition_and_names_are_reversible(at_ns, grain):
    partition = partition_at(at_ns, grain)
    assert partition.start_ns <= at_ns < partition.end_ns
    assert parse_partition(partition.name) == partition
    assert partition.grain is grain
    assert partition_at(partition.end_ns, grain).start_ns == partition.end_ns


def test_partitions_follow_the_period():
    found = {what: partition_at(T0_NS, layout.grain_of(what)).name for what in ("trade", "1s", "59m", "1h", "4h", "1d")}
    assert found == {"trade": "2024-01-05", "1s": "2024-01-05", "59m": "2024-01-05", "1h": "2024-01", "4h": "2024-01",
                     "1d": "2024"}  # fmt: skip


@pytest.mark.parametrize("name", ["", "24", "2024-1", "2024-02-30", "2024-01-05-01", "1969", "2024-W01", "notes"])
def test_other_names_are_no_partitions(name):
    assert parse_partition(name) is None


@given(st.sets(st.tuples(st.integers(0, 800), st.sampled_from(Grain)), max_size=20))
def test_what_is_shown_is_all_times_that_are_held_once_each(held):
    every = {partition_at(T0_NS + day * DAY_NS, grain) for day, grain in held}
    shown = visible(every)
    assert all(a.end_ns <= b.start_ns for a, b in pairwise(shown))
    assert all(any(s == e or s.holds(e) for s in shown) for e in every)


# --- merging ----------------------------------------------------------------------------------------------------------


def days(first: int, last: int) -> list[layout.Partition]:
    return [partition_at(T0_NS + day * DAY_NS, Grain.DAY) for day in range(first, last)]


def merged(rows, after_days, rows_max=1000):
    return [(target.name, len(parts)) for target, parts in merge.plan(rows, T0_NS + after_days * DAY_NS, rows_max)]


def test_what_is_not_long_over_is_left_alone():
    rows = dict.fromkeys(days(0, 40), 1)
    assert merged(rows, 26) == []
    assert merged(rows, 29) == [("2024-01", 27)]
    assert merged(rows, 57) == [("2024-01", 27)]
    assert merged(rows, 58) == [("2024-01", 27), ("2024-02", 13)]
    assert merged(rows, 400) == [("2024", 40)]


def test_no_file_is_made_too_long():
    rows = dict.fromkeys(days(0, 40), 30)
    assert merged(rows, 400) == [("2024-01", 27), ("2024-02", 13)]
    assert merged(rows, 400, 700) == [("2024-02", 13)]
    assert merged(rows, 400, 10_000) == [("2024", 40)]


def test_merging_what_is_merged_does_nothing():
    january = partition_at(T0_NS, Grain.MONTH)
    assert merged({january: 900}, 400) == []
    assert merged({january: 500, **dict.fromkeys(days(27, 30), 1)}, 400) == [("2024", 4)]
    assert merged({january: 999, **dict.fromkeys(days(27, 30), 1)}, 400) == [("2024-02", 3)]

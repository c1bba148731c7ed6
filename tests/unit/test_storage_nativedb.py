"""Files of the store: what they are to other readers, and what becomes of damaged, foreign and left ones."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from random import Random

import polars as pl
import pyarrow.parquet as pq
import pytest

from marketd.errors import StorageConnectionError, StorageError
from storage import files, staging
from storage.client import open_storage_client
from storage.combine import OnOverlap
from storage.coverage import State, missing, ranges
from storage.layout import Series
from storage.schema import BARS
from tests.conftest import PROJECT
from tests.store_rows import DAY_NS, MINUTE_NS, T0_NS, bars, files_below, opens

BTC = Series("btc/usdt.spot.binance", "1m")
FOLDER = "binance/btc%2Fusdt.spot.binance/1m"
DAY_2 = f"{FOLDER}/2024-01-06.parquet"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def found():
    """What was reported as damaged."""
    return []


@pytest.fixture
def store(root, found):
    with open_storage_client(root, on_damage=found.append) as client:
        yield client


@pytest.fixture
def three_days(store):
    with store.writer(BTC) as writer:
        writer.write(bars(range(3 * 1440)))
    return bars(range(3 * 1440))


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_reached_is_told_apart_from_an_empty_one(tmp_path):
    """C3, D1, D3, R65: the text says what there is; another store would be one more name."""
    (tmp_path / "file").write_text("no folder")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageConnectionError, match="is no folder"), open_storage_client(root):
            pass
    unknown = pytest.raises(StorageConnectionError, match="no storage backend 'marketstore'")
    with unknown, open_storage_client(tmp_path, "marketstore"):
        pass
    with open_storage_client(tmp_path / "not" / "yet" / "there") as store:
        assert store.series() == []
    assert not (tmp_path / "not").exists()


# --- the files --------------------------------------------------------------------------------------------------------


def test_a_series_is_a_folder_of_days_that_any_parquet_reader_can_use(store, root, three_days):
    assert files_below(root) == [
        f"{FOLDER}/2024-01-05.parquet", DAY_2, f"{FOLDER}/2024-01-07.parquet", f"{FOLDER}/ledger.json"]  # fmt: skip
    assert pl.read_parquet(root / FOLDER / "2024-*.parquet", glob=True).equals(three_days)
    assert pl.scan_parquet(root / FOLDER / "*.parquet").filter(pl.col("open_ns") < T0_NS).collect().is_empty()


def test_fields_say_their_units_and_files_their_schema(root, three_days):
    schema = pq.read_schema(root / DAY_2)
    assert schema.field("open_ns").metadata == {b"unit": b"ns since 1970-01-01 UTC"}
    assert schema.field("close").metadata == {b"unit": b"price"}
    assert all(field.metadata for field in schema)
    assert schema.metadata[b"marketd.schema"] == b"bars/1"


def test_times_are_never_shifted_by_a_time_zone(tmp_path):
    """R63: written and read where clocks show another time, with summer time in between."""
    script = f"""
import polars as pl
from pathlib import Path
from datetime import datetime
from storage.client import open_storage_client
from storage.layout import Series
from tests.store_rows import bars
rows = bars(range(0, 400 * 1440, 240))
with open_storage_client(Path({str(tmp_path)!r})) as store:
    for series in (Series("a/b.c", "1m"), Series("a/b.c", "4h")):
        with store.writer(series) as writer:
            writer.write(rows)
        assert store.read(series).equals(rows)
        assert store.read(series, datetime(2024, 3, 10, 8), datetime(2024, 3, 10, 8, 1))["open_ns"].to_list() == [
            1710057600 * 10**9]
"""
    for zone in ("America/Chicago", "Asia/Kolkata"):
        env = {**os.environ, "TZ": zone}
        subprocess.run([sys.executable, "-c", script.replace("a/b", f"a/{zone[:2].lower()}")], check=True, env=env,
                       cwd=PROJECT)  # fmt: skip
    names = [name.rpartition("/")[2] for name in files_below(tmp_path)]
    assert {"2024-01-05.parquet", "2024-03-10.parquet", "2024-03.parquet", "2025-02-07.parquet"} <= set(names)


def test_damage_far_from_the_new_rows_is_found_as_well(store, root, found, monkeypatch):
    monkeypatch.setattr(files, "ROWS_IN_GROUP", 100)
    with store.writer(BTC) as writer:
        writer.write(bars(range(1000)))
        path = root / FOLDER / "2024-01-05.parquet"
        damaged = bytearray(path.read_bytes())
        damaged[200:400] = bytes(200)  # in the first rows
        path.write_bytes(damaged)
        assert writer.write(bars([1100])) == (1, 0, 0)
        assert [damage.path for damage in found] == [path]
        assert ranges(writer.coverage, State.COMPLETE) == [(T0_NS + 1100 * MINUTE_NS, T0_NS + 1101 * MINUTE_NS)]
    assert store.read(BTC).equals(bars([1100]))
    assert not list(path.parent.glob(".*.tmp"))


def test_rows_are_put_into_a_day_a_row_group_at_a_time(store, root, monkeypatch):
    monkeypatch.setattr(files, "ROWS_IN_GROUP", 100)
    largest = []
    to_frame = files.to_frame
    monkeypatch.setattr(files, "to_frame", lambda table: largest.append(len(table)) or to_frame(table))
    with store.writer(BTC) as writer:
        writer.write(bars(range(900)))
        largest.clear()
        writer.write(bars(range(900, 1000)))
        writer.write(bars([450, 1000]), OnOverlap.KEEP)
    assert max(largest) < 700, "what lies between two new rows, and no more"
    assert store.read(BTC).equals(bars(range(1001)))


def test_a_full_disk_leaves_what_was_there(store, root, three_days, monkeypatch):
    before = files_below(root)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with store.writer(BTC) as writer:
        monkeypatch.setattr(staging.os, "fsync", full)
        with pytest.raises(StorageError, match=r"2024-01-08.parquet can't be written: No space left on device"):
            writer.write(bars([3 * 1440]))
        monkeypatch.undo()
    assert files_below(root) == before
    assert store.read(BTC).equals(three_days)


# --- damage -----------------------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    """Change one bit of a page, which the footer knows nothing of."""
    data = bytearray(path.read_bytes())
    data[2000] ^= 4
    path.write_bytes(data)


def foreign(path):
    pl.DataFrame({"open_ns": [T0_NS + DAY_NS], "close": [1.0]}).write_parquet(path)


def same_columns_without_units(path):
    pl.read_parquet(path).write_parquet(path)


def other(path):
    path.write_text("time,close\n")


DAMAGES = [cut, empty, flip, foreign, same_columns_without_units, other]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_set_aside_and_the_others_are_read(store, root, found, three_days, damage):
    damage(root / DAY_2)
    assert next((finding.file, finding.repairable) for finding in store.check(BTC)) == (root / DAY_2, True)
    rest = pl.concat([three_days[:1440], three_days[2880:]])
    assert store.read(BTC).equals(rest)
    assert [error.path for error in found] == [root / DAY_2]
    assert store.read(BTC).equals(rest)
    assert len(found) == 1
    assert not (root / DAY_2).exists()
    assert (root / "quarantine" / f"{DAY_2}.1").exists()
    day_2 = (T0_NS + DAY_NS, T0_NS + 2 * DAY_NS)
    assert missing(store.coverage(BTC), T0_NS, T0_NS + 3 * DAY_NS) == [day_2]
    assert ranges(store.coverage(BTC), State.MISSING) == [day_2]
    assert store.check(BTC) == []
    with store.writer(BTC) as writer:
        writer.write(three_days, OnOverlap.KEEP)
    assert store.read(BTC).equals(three_days)
    assert missing(store.coverage(BTC), T0_NS, T0_NS + 3 * DAY_NS) == []


def test_no_flipped_bit_changes_what_is_read(tmp_path):
    """Wherever it is, in pages or in the footer, which has no checksum of its own: the same rows, or damage."""
    path, rows, random = tmp_path / "2024-01-05.parquet", bars(range(1440)), Random(3)
    files.write(path, BARS, [rows])
    data, same = path.read_bytes(), 0
    for number in range(800):
        changed = bytearray(data)
        place = random.randrange(len(data)) if number % 2 else len(data) - 1 - random.randrange(3000)
        changed[place] ^= 1 << random.randrange(8)
        path.write_bytes(changed)
        with contextlib.suppress(files.Damaged):
            assert files.read(path, BARS, (0, 1 << 62)).equals(rows), f"bit flipped in byte {place}"
            same += 1
    assert same < 400


def test_a_writer_that_meets_damage_goes_on_with_what_is_whole(store, root, found, three_days):
    with store.writer(BTC) as writer:
        flip(root / DAY_2)
        writer.write(bars(range(2000, 2100), 7.0), OnOverlap.REPLACE)
    assert [error.path for error in found] == [root / DAY_2]
    assert opens(store.read(BTC)) == [*range(1440), *range(2000, 2100), *range(2880, 4320)]
    assert missing(store.coverage(BTC), T0_NS, T0_NS + 3 * DAY_NS) == [
        (T0_NS + DAY_NS, T0_NS + 2000 * MINUTE_NS), (T0_NS + 2100 * MINUTE_NS, T0_NS + 2 * DAY_NS)]  # fmt: skip


def test_damage_that_is_met_while_another_writes_is_reported_and_left(store, root, found, three_days):
    with store.writer(BTC):
        cut(root / DAY_2)
        assert len(store.read(BTC)) == 2880
        assert [error.path for error in found] == [root / DAY_2]
        assert (root / DAY_2).exists()


@pytest.mark.parametrize("damage", [cut, empty, other])
def test_a_damaged_ledger_costs_no_row(store, root, found, three_days, damage):
    damage(root / FOLDER / "ledger.json")
    assert store.check(BTC)[0].file == root / FOLDER / "ledger.json"
    with store.writer(BTC) as writer:
        assert ranges(writer.coverage, State.UNVERIFIED) == [(T0_NS, T0_NS + 3 * DAY_NS)]
    assert store.read(BTC).equals(three_days)
    assert [error.path for error in found] == [root / FOLDER / "ledger.json"]
    assert store.check(BTC) == []


def test_a_file_that_is_gone_is_missing_and_an_empty_range_stays_empty(store, root, three_days):
    with store.writer(BTC) as writer:
        writer.mark([(T0_NS + DAY_NS, T0_NS + DAY_NS + MINUTE_NS)], State.EMPTY, writer.coverage[0].provenance)
    (root / DAY_2).unlink()
    assert [finding.what for finding in store.check(BTC)] == ["does not fit the files"]
    with store.writer(BTC):
        pass
    assert ranges(store.coverage(BTC), State.MISSING) == [(T0_NS + DAY_NS + MINUTE_NS, T0_NS + 2 * DAY_NS)]
    assert store.check(BTC) == []


def test_files_of_a_later_version_are_refused_and_left(store, root, three_days, monkeypatch):
    table = pq.read_table(root / DAY_2)
    pq.write_table(table.replace_schema_metadata({b"marketd.schema": b"bars/2"}), root / DAY_2)
    with pytest.raises(StorageError, match="later version of marketd"):
        store.read(BTC)
    with pytest.raises(StorageError, match="later version of marketd"), store.writer(BTC):
        pass
    assert (root / DAY_2).exists()


# --- what killed writers leave ----------------------------------------------------------------------------------------


def test_what_a_killed_writer_leaves_is_invisible_and_swept(store, root, three_days):
    left = root / FOLDER / ".2024-01-06.parquet.1234abcd.tmp"
    left.write_bytes(b"PAR1 half")
    assert store.read(BTC).equals(three_days)
    assert [finding.file for finding in store.check(BTC)] == [left]
    with store.writer(BTC):
        assert not left.exists()


def test_rows_that_the_ledger_has_not_heard_of_are_unverified(store, root, three_days):
    """Killed between the rows and the ledger; the hole in the rows stays missing."""
    before = (root / FOLDER / "ledger.json").read_bytes()
    with store.writer(BTC) as writer:
        writer.write(bars([*range(4320, 4330), *range(4340, 4350)]))
    (root / FOLDER / "ledger.json").write_bytes(before)
    with store.writer(BTC) as writer:
        unverified = ranges(writer.coverage, State.UNVERIFIED)
    assert [((a - T0_NS) // MINUTE_NS, (b - T0_NS) // MINUTE_NS) for a, b in unverified] == [(4320, 4330), (4340, 4350)]


def test_a_merge_that_was_killed_half_way_shows_each_row_once(store, root, three_days):
    with store.writer(BTC) as writer:
        days = {path: path.read_bytes() for path in (root / FOLDER).glob("*.parquet")}
        writer.merge(T0_NS + 800 * DAY_NS)
    for path in list(days)[1:]:
        path.write_bytes(days[path])
    assert store.read(BTC).equals(three_days)
    assert {finding.what for finding in store.check(BTC)} == {"left by a merge that was killed"}
    with store.writer(BTC):
        pass
    assert files_below(root) == [f"{FOLDER}/2024.parquet", f"{FOLDER}/ledger.json"]
    assert store.check(BTC) == []


def test_strangers_in_the_store_are_neither_read_nor_removed(store, root, three_days):
    for name in ("notes.txt", "2024-01-99.parquet", "x.parquet"):
        (root / FOLDER / name).write_text("mine")
    (root / "lost+found").mkdir()
    (root / "binance" / "Some Folder" / "1m").mkdir(parents=True)
    assert store.read(BTC).equals(three_days)
    assert store.series() == [BTC]
    assert [(f.file.name, f.repairable) for f in store.check(BTC)] == [
        ("2024-01-99.parquet", False), ("notes.txt", False), ("x.parquet", False)]  # fmt: skip
    with store.writer(BTC) as writer:
        writer.delete()
    assert [path.rpartition("/")[2] for path in files_below(root)] == ["2024-01-99.parquet", "notes.txt", "x.parquet"]


def test_an_instrument_that_is_deleted_leaves_no_folder_and_no_other_name(store, root):
    """R73, R76."""
    for name in ("mnq.cme.ib", "mnq/usd.cme.ib"):
        with store.writer(Series(name, "1m")) as writer:
            writer.write(bars([1]), OnOverlap.KEEP)
    assert files_below(root) == [
        f"ib/mnq.cme.ib/{name}" for name in ("1m/2024-01-05.parquet", "1m/ledger.json", "fqme")
    ]
    assert store.series() == [Series("mnq/usd.cme.ib", "1m")]
    with store.writer(Series("mnq.cme.ib", "1m")) as writer:
        writer.delete()
    with store.writer(Series("mnq/eur.cme.ib", "1m")):
        pass
    assert list(root.iterdir()) == []


def test_an_empty_frame_has_the_columns():
    assert BARS.polars.to_frame().columns == BARS.arrow.names

"""Writers that are killed at any moment, and readers that read all the while."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import polars as pl

from storage.client import open_storage_client
from storage.combine import OnOverlap
from storage.coverage import State, missing, ranges
from storage.layout import Series
from tests.conftest import PROJECT
from tests.store_rows import DAY_NS, MINUTE_NS, T0_NS, bars, files_below, opens

BTC = Series("btc/usdt.spot.binance", "1m")
TEN_DAYS = range(10 * 1440)

WRITE = """
import sys
from pathlib import Path
from storage.client import open_storage_client
from storage.combine import OnOverlap
from tests.store_rows import DAY_NS, T0_NS, bars
from tests.scenario.test_store_kills import BTC, TEN_DAYS
with open_storage_client(Path(sys.argv[1])) as store, store.writer(BTC) as writer:
    print("ready", flush=True)
    while True:
        for first in range(0, len(TEN_DAYS), 700):
            writer.write(bars(TEN_DAYS[first : first + 700]), OnOverlap.KEEP)
        writer.merge(T0_NS + 800 * DAY_NS)
        writer.trim((T0_NS + DAY_NS, T0_NS + 3 * DAY_NS))
        writer.write(bars(TEN_DAYS[1440 : 3 * 1440]), OnOverlap.KEEP)
        writer.trim((T0_NS, T0_NS + 20 * DAY_NS))
"""


def start(script, *arguments):
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, cwd=PROJECT)
    assert process.stdout.readline() == b"ready\n"
    return process


def test_a_writer_killed_at_any_moment_leaves_whole_files_and_each_bar_once(tmp_path):
    found, moments = [], random.Random(20260105)
    for _ in range(8):
        with start(WRITE, str(tmp_path)) as process:
            time.sleep(moments.uniform(0, 0.6))
            process.kill()
        with open_storage_client(tmp_path, on_damage=found.append) as store:
            before = store.read(BTC)
            with store.writer(BTC) as writer:
                held = writer.coverage
            rows = store.read(BTC)
            assert store.check(BTC) == []
            assert rows.equals(before)
            assert rows.equals(bars(opens(rows)))
            assert opens(rows) == sorted(set(opens(rows)))
            known = missing(held, T0_NS, T0_NS + 10 * DAY_NS)
            lacking = {minute for a, b in known for minute in range((a - T0_NS) // MINUTE_NS, (b - T0_NS) // MINUTE_NS)}
            complete = set(TEN_DAYS) - lacking
            assert complete <= set(opens(rows)), "nothing counts as held that is not"
            assert ranges(held, State.EMPTY) == []
        assert not [name for name in files_below(tmp_path) if name.endswith(".tmp")]
    assert found == []
    with open_storage_client(tmp_path) as store, store.writer(BTC) as writer:
        writer.write(bars(TEN_DAYS), OnOverlap.KEEP)
        assert opens(store.read(BTC)) == list(TEN_DAYS)


def test_an_import_that_is_killed_can_be_done_again(tmp_path):
    """What it left are whole files; with `--on-overlap keep` the rest is put to them, and nothing is there twice."""
    rows, root = bars(range(200 * 1440)), tmp_path / "store"
    rows.write_parquet(tmp_path / "bars.parquet")
    command = [sys.executable, "-m", "marketd", "store", "import", str(tmp_path / "bars.parquet"), "--as", BTC.fqme,
               "--period", "1m", "--on-overlap", "keep", "--store", str(root)]  # fmt: skip
    moments = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
        while process.poll() is None and not root.exists():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 1.0))
        process.kill()
        process.wait()
        with open_storage_client(root) as store:
            held = store.read(BTC)
            assert held.equals(rows.filter(pl.col("open_ns").is_in(held["open_ns"].implode())))
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    with open_storage_client(root) as store:
        assert store.read(BTC).equals(rows)
        assert store.check(BTC) == []
    assert not [name for name in files_below(root) if name.endswith(".tmp")]


MERGE = """
import sys
from pathlib import Path
from storage.client import open_storage_client
from storage.combine import OnOverlap
from tests.store_rows import DAY_NS, T0_NS, bars
from tests.scenario.test_store_kills import BTC, TEN_DAYS
with open_storage_client(Path(sys.argv[1])) as store:
    print("ready", flush=True)
    with store.writer(BTC) as writer:
        for turn in range(int(sys.argv[2])):
            writer.write(bars(TEN_DAYS, turn), OnOverlap.REPLACE)
            writer.merge(T0_NS + 800 * DAY_NS)
            writer.trim((T0_NS + 20 * DAY_NS, T0_NS + 40 * DAY_NS))
            writer.write(bars(range(20 * 1440, 40 * 1440, 60)))
"""


def test_a_reader_sees_every_bar_once_while_files_are_merged_and_removed(tmp_path):
    with open_storage_client(tmp_path) as store:
        with store.writer(BTC) as writer:
            writer.write(bars(TEN_DAYS))
        process = start(MERGE, str(tmp_path), "6")
        turns = 0
        while process.poll() is None:
            rows = store.read(BTC, None, T0_NS + 10 * DAY_NS)
            assert opens(rows) == list(TEN_DAYS)
            turns += 1
        assert process.returncode == 0
        assert turns > 3


TRIM = """
import resource, sys
from pathlib import Path
from storage.client import open_storage_client
from storage.layout import Series
from tests.store_rows import T0_NS
series = Series("btc/usdt.spot.binance", "1s")
with open_storage_client(Path(sys.argv[1])) as store, store.writer(series) as writer:
    print("ready", flush=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(writer.trim((T0_NS + 1000 * 10**9, T0_NS + 9_999_000 * 10**9)))
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_trimming_ten_million_rows_takes_little_memory(tmp_path):
    """R72: 1 s bars of 116 days; all of them at once would be 800 MiB."""
    series = Series("btc/usdt.spot.binance", "1s")
    with open_storage_client(tmp_path) as store:
        with store.writer(series) as writer:
            for first in range(0, 10_000_000, 86_400 * 20):
                writer.write(bars(range(first, min(first + 86_400 * 20, 10_000_000)), step_ns=10**9))
        assert store.facts(series).rows == 10_000_000
        with start(TRIM, str(tmp_path)) as process:
            removed, grown_mib = map(int, process.stdout.read().split())
        assert removed == 9_998_000
        assert grown_mib < 200
        assert store.facts(series).rows == 2000
        assert store.check(series) == []


def test_an_open_series_is_free_again_when_its_writer_is_killed(tmp_path):
    process = start(WRITE, str(tmp_path))
    process.kill()
    process.wait()
    with open_storage_client(tmp_path) as store, store.writer(BTC) as writer:
        assert isinstance(store.read(BTC), pl.DataFrame)
        writer.delete()
    assert files_below(tmp_path) == []

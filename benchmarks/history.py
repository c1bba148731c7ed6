"""How fast scripts get history: from the store, and from a daemon over TCP; beside polars, duckdb and ArcticDB.

1 s bars of a random walk, nine columns. `day_of_year`: one day out of a year (31.5 M rows) read from our files, by a
plain polars scan of the very same files, by duckdb from them, and by ArcticDB from its own. `ten_million`: so many
rows from a daemon to a client on loopback as Arrow, to a polars frame; the baseline is the plain scan of the files in
this process, which nobody sends anywhere. `first_batch`: until the first bytes of that answer. duckdb and ArcticDB live
in an environment of their own, which is made when there is none yet. Medians; files are in the page cache.

    python -m benchmarks.history [--days 365] [--rounds 5] [--json] [--no-others]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import psutil

from benchmarks.environment import python_with
from benchmarks.report import Figure, report
from benchmarks.store import BEGIN_NS, DAY_ROWS, MONTH_DAYS, make_bars, median_ms
from marketd.client import connect
from marketd.client.history import history_params
from marketd.history.reading import COLUMNS
from marketd.periods import DAY_NS
from storage.client import StorageClient, open_storage_client
from storage.layout import Series
from tests.scenario.daemon import running

OTHERS = "arcticdb==6.28.2"
OTHERS_SIDE = Path(__file__).with_name("arctic_side.py")
SERIES = Series("bench/usd.spot.bench", "1s")
ROWS = 10_000_000
CONFIG = """
[bars]
periods = ["1s"]
[history]
periods = ["1s"]
store = "{store}"
[feeds.sim]
backend = "sim"
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=365, help="how long the year is (365)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--no-others", action="store_true", help="without duckdb and ArcticDB")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_storage_client(Path(folder) / "store") as store:
        files = _fill(store, Path(folder), arguments.days)
        figures = [*_write(store, arguments.days)]
        figures += _day(store, files, Path(folder), arguments)
        figures += _served(store, files, Path(folder), arguments.rounds)
    report(figures, json=arguments.json)


def _fill(store: StorageClient, folder: Path, days: int) -> Path:
    with store.writer(SERIES) as writer:
        for first in range(0, days, MONTH_DAYS):
            writer.write(make_bars(first * DAY_ROWS, min(MONTH_DAYS, days - first) * DAY_ROWS))
    [files] = {path.parent for path in (folder / "store").rglob("*.parquet")}
    return files


def _write(store: StorageClient, days: int) -> Iterator[Figure]:
    other = Series("bench/usd.spot.import", "1s")
    months = range(0, days, MONTH_DAYS)
    began_s, rows = time.perf_counter(), 0
    made_s = 0.0
    for first in months:
        before_s = time.perf_counter()
        bars = make_bars(first * DAY_ROWS, min(MONTH_DAYS, days - first) * DAY_ROWS)
        made_s += time.perf_counter() - before_s
        with store.writer(other) as writer:
            writer.write(bars)
        rows += len(bars)
    yield Figure("history.write_year", rows / (time.perf_counter() - began_s - made_s), "rows/s")
    with store.writer(other) as writer:
        writer.delete()


def _day(store: StorageClient, files: Path, folder: Path, arguments: argparse.Namespace) -> list[Figure]:
    start_ns = BEGIN_NS + arguments.days // 2 * DAY_NS
    end_ns = start_ns + DAY_NS
    day = pl.col("open_ns").is_between(start_ns, end_ns, closed="left")
    plain = pl.scan_parquet(files / "*.parquet").filter(day).select(COLUMNS)
    columns = list(COLUMNS)
    assert store.read(SERIES, start_ns, end_ns, columns=columns).equals(plain.collect())
    baselines = {"a plain polars scan": median_ms(plain.collect, arguments.rounds)}
    python = (
        None
        if arguments.no_others
        else python_with(OTHERS, "arcticdb, duckdb, pyarrow", "3.11", "duckdb", "pandas", "pyarrow")
    )
    if python is not None:
        command = [python, OTHERS_SIDE, files, folder / "arctic", str(start_ns), str(end_ns), str(arguments.rounds)]
        said = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        print(said.stderr, end="", file=sys.stderr)
        for line in said.stdout.splitlines():
            name, _, value_ms = line.rpartition(" ")
            baselines[name] = float(value_ms)
    ours_ms = median_ms(lambda: store.read(SERIES, start_ns, end_ns, columns=columns), arguments.rounds)
    return [
        Figure(f"history.day_of_{arguments.days}", ours_ms, "ms", base_ms, label)
        for label, base_ms in baselines.items()
    ]


def _served(store: StorageClient, files: Path, folder: Path, rounds: int) -> list[Figure]:
    end_ns = BEGIN_NS + ROWS * 10**9
    within = pl.col("open_ns") < end_ns
    plain_s = median_ms(pl.scan_parquet(files / "*.parquet").filter(within).select(COLUMNS).collect, rounds) / 1000
    took_s, first_ms, day_ms, rss = [], [], [], 0
    with running(folder, CONFIG.format(store=folder / "store")) as daemon, connect(daemon.address) as md:
        for _ in range(rounds):
            began_s = time.perf_counter()
            first_ms.append(_first_batch_ms(daemon.address))
            began_s = time.perf_counter()
            frame = md.history(SERIES.fqme, "1s", end=end_ns).to_polars()
            took_s.append(time.perf_counter() - began_s)
            rows = len(frame)
            del frame
            began_s = time.perf_counter()
            start_ns = BEGIN_NS + 7 * DAY_NS
            assert len(md.history(SERIES.fqme, "1s", start_ns, start_ns + DAY_NS).to_polars()) == DAY_ROWS
            day_ms.append((time.perf_counter() - began_s) * 1000)
        rss = psutil.Process(daemon.pids()["history"]).memory_info().rss
    return [
        Figure("history.served_rows", rows / statistics.median(took_s), "rows/s", rows / plain_s, "a scan, not sent"),
        Figure("history.first_batch", statistics.median(first_ms), "ms"),
        Figure("history.served_day", statistics.median(day_ms), "ms"),
        Figure("history.actor_rss", rss / 2**20, "MiB"),
    ]


def _first_batch_ms(address: str) -> float:
    """How long until some of a whole year has come."""
    with connect(address) as md:
        began_s = time.perf_counter()
        params = history_params(SERIES.fqme, "1s", None, None, None, "newest", None)
        call = md._protocol.request("history", params)
        md._line.wait(call, lambda: bool(call.batches), time.monotonic() + 60)
        return (time.perf_counter() - began_s) * 1000


if __name__ == "__main__":
    main()

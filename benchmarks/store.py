"""How fast bars go into the store and come back, beside plain polars in the same run.

1 s bars of a random walk, all eleven columns. The store syncs each file and its folder, keeps checksums and a ledger,
and has a file for each day; polars writes zstd parquet and syncs nothing, one file for the million rows, and one for
each month of the year. Times are medians; files are in the page cache.

    python -m benchmarks.store [--days 365] [--rounds 5] [--json]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.report import Figure, report
from marketd.clock import SECOND_NS
from marketd.periods import DAY_NS
from marketd.ring.steps import BarState
from storage.client import StorageClient, open_storage_client
from storage.layout import Series
from storage.schema import BARS, Provenance

ROWS = 1_000_000
DAY_ROWS = 86_400
BEGIN_NS = 1_672_531_200 * SECOND_NS  # 2023-01-01
MONTH_DAYS = 31
PLAIN = "plain polars"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=365, help="how long the year is (365)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_storage_client(Path(folder) / "store") as store:
        figures = _million(store, Path(folder), arguments.rounds)
        figures += _day_of_year(store, Path(folder), arguments.days, arguments.rounds)
    report(figures, json=arguments.json)


def _million(store: StorageClient, folder: Path, rounds: int) -> list[Figure]:
    rows, series, file = make_bars(0, ROWS), Series("bench/usd.million", "1s"), folder / "million.parquet"

    def write() -> None:
        with store.writer(series) as writer:
            writer.write(rows)

    def delete() -> None:
        with store.writer(series) as writer:
            writer.delete()

    wrote_ms = median_ms(write, rounds, between=delete)
    plain_wrote_ms = median_ms(lambda: rows.write_parquet(file), rounds)
    facts = store.facts(series)
    assert facts is not None
    assert store.read(series).equals(rows)
    read_ms = median_ms(lambda: store.read(series), rounds)
    plain_read_ms = median_ms(lambda: pl.read_parquet(file), rounds)
    return [
        Figure("store.write_1m_rows", wrote_ms, "ms", plain_wrote_ms, PLAIN),
        Figure("store.read_1m_rows", read_ms, "ms", plain_read_ms, PLAIN),
        Figure("store.bytes_a_row", facts.bytes / ROWS, "bytes", file.stat().st_size / ROWS, PLAIN),
    ]


def _day_of_year(store: StorageClient, folder: Path, days: int, rounds: int) -> list[Figure]:
    series, months = Series("bench/usd.year", "1s"), folder / "months"
    months.mkdir()
    with store.writer(series) as writer:
        for first in range(0, days, MONTH_DAYS):
            rows = make_bars(first * DAY_ROWS, min(MONTH_DAYS, days - first) * DAY_ROWS)
            writer.write(rows)
            rows.write_parquet(months / f"{first:03}.parquet")
    start_ns = BEGIN_NS + days // 2 * DAY_NS
    day = pl.col("open_ns").is_between(start_ns, start_ns + DAY_NS, closed="left")
    plain = pl.scan_parquet(months / "*.parquet").filter(day)
    assert store.read(series, start_ns, start_ns + DAY_NS).equals(plain.collect())
    read_ms = median_ms(lambda: store.read(series, start_ns, start_ns + DAY_NS), rounds)
    newest_ms = median_ms(lambda: store.read(series, limit=1000), rounds)
    return [
        Figure(f"store.read_day_of_{days}", read_ms, "ms", median_ms(plain.collect, rounds), PLAIN),
        Figure(f"store.read_newest_1000_of_{days}_days", newest_ms, "ms"),
    ]


def make_bars(first: int, count: int) -> pl.DataFrame:
    """Make 1 s bars, prices with 2 decimals and volumes with 5."""
    random = np.random.default_rng(first)
    opens = np.round(30_000 + np.cumsum(random.normal(0, 0.5, count)), 2)
    closes = np.round(opens + random.normal(0, 0.5, count), 2)
    rows = pl.DataFrame({"open_ns": BEGIN_NS + np.arange(first, first + count) * SECOND_NS})
    trades = pl.Series(random.poisson(3, count))
    return rows.with_columns(
        open=pl.Series(opens),
        high=pl.Series(np.maximum(opens, closes) + 0.5),
        low=pl.Series(np.minimum(opens, closes) - 0.5),
        close=pl.Series(closes),
        volume=pl.Series(np.round(random.exponential(1, count), 5)),
        trade_count=trades,
        state=pl.lit(int(BarState.CLOSED)),
        provenance=pl.lit(int(Provenance.OBSERVED)),
        first_id=trades.cum_sum(),
        last_id=trades.cum_sum() + trades,
    ).cast(dict(BARS.polars))


def median_ms(call: Callable[[], object], rounds: int, *, between: Callable[[], object] = lambda: None) -> float:
    """Return the median of some calls, with another call before each but the first."""
    times_ms = []
    for number in range(rounds):
        if number:
            between()
        begin = time.perf_counter()
        call()
        times_ms.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times_ms)


if __name__ == "__main__":
    main()

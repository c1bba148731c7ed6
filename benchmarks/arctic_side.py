"""duckdb's and ArcticDB's side of `history.py`, run by a Python of its own.

    python arctic_side.py FILES FOLDER START_NS END_NS ROUNDS

Prints a line for each: its name, and the milliseconds that one day of the year took.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
from arcticdb import Arctic

COLUMNS = ["open_ns", "open", "high", "low", "close", "volume", "trade_count", "state", "provenance"]


def main() -> None:
    """Measure and print."""
    files, folder, start_ns, end_ns, rounds = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    names = ", ".join(COLUMNS)
    query = f"SELECT {names} FROM '{files}/*.parquet' WHERE open_ns >= {start_ns} AND open_ns < {end_ns}"
    connection = duckdb.connect()
    print("duckdb, the same files", median_ms(lambda: connection.sql(query).arrow(), rounds))

    library = Arctic(f"lmdb://{folder}?map_size=8GB").get_library("bars", create_if_missing=True)
    for number, path in enumerate(sorted(files.glob("*.parquet"))):
        frame = connection.sql(f"SELECT {names} FROM '{path}'").df()
        frame.index = pd.DatetimeIndex(frame.pop("open_ns"))
        library.append("year", frame) if number else library.write("year", frame)
    span = (pd.Timestamp(start_ns), pd.Timestamp(end_ns - 1))
    print("ArcticDB, its own files", median_ms(lambda: library.read("year", date_range=span).data, rounds))


def median_ms(call: Callable[[], object], rounds: int) -> float:
    """Return the median of some calls."""
    times_ms = []
    for _ in range(rounds):
        began_s = time.perf_counter()
        call()
        times_ms.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(times_ms)


if __name__ == "__main__":
    main()

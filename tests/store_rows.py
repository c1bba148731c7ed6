"""Rows to be stored, and a listing of what a store's folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from storage.schema import BARS, TRADE

MINUTE_NS = 60 * 10**9
DAY_NS = 86_400 * 10**9
T0_NS = 1_704_412_800 * 10**9  # 2024-01-05, a Friday


def bars(minutes: Sequence[int] | range, price: float = 100.0, *, step_ns: int = MINUTE_NS) -> pl.DataFrame:
    """Make closed bars that open so many steps after ``T0_NS``; each has its own prices."""
    steps = pl.Series("step", list(minutes), pl.Int64)
    prices = price + (steps % 1000).cast(pl.Float64) / 8
    return pl.DataFrame(
        {
            "open_ns": T0_NS + steps * step_ns,
            "open": prices,
            "high": prices + 2,
            "low": prices - 2,
            "close": prices + 1,
            "volume": (steps.abs() % 7).cast(pl.Float64),
            "trade_count": steps.abs() % 5,
            "state": pl.repeat(2, len(steps), eager=True),
            "provenance": pl.repeat(1, len(steps), eager=True),
            "first_id": steps,
            "last_id": steps + 1,
        },
    ).cast(dict(BARS.polars))


def trades(*rows: tuple[int, int, float]) -> pl.DataFrame:
    """Make trades of (nanoseconds after ``T0_NS``, sequence, price), each with a ring cursor of its own."""
    return pl.DataFrame(
        {
            "event_ns": [T0_NS + after_ns for after_ns, _, _ in rows],
            "received_ns": [T0_NS + after_ns + 5 for after_ns, _, _ in rows],
            "sequence": [sequence for _, sequence, _ in rows],
            "cursor": list(range(1, len(rows) + 1)),
            "side": [1] * len(rows),
            "flags": [0] * len(rows),
            "price": [price for _, _, price in rows],
            "size": [1.0] * len(rows),
        }
    ).cast(dict(TRADE.polars))


def opens(rows: pl.DataFrame) -> list[int]:
    """Return the minutes after ``T0_NS`` at which bars open, in the frame's order."""
    return ((rows["open_ns"] - T0_NS) // MINUTE_NS).to_list()


def files_below(folder: Path) -> list[str]:
    """Return the files below a folder, temporary ones too, without locks."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )

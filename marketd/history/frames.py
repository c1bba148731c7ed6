"""Bars as the store has them, made of what the sampler tells and of what venues' pages hold. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from backends.live import BarRow
from marketd.model import Flag
from marketd.ring.steps import BarState
from storage.intervals import Range, normalize
from storage.schema import BARS, UNKNOWN, Provenance

_PRICES = ("open", "high", "low", "close", "volume")
_PAGE = (*_PRICES, "trade_count")


def newest_of_each(rows: NDArray[np.void]) -> NDArray[np.void]:
    """Return each bar as it was told last, in order of kind, instrument and time.

    Args:
        rows: dtype ``steps.BAR``, in the order in which they were told.
    """
    order = np.lexsort((np.arange(len(rows)), rows["open_ns"], rows["instrument"], rows["kind"]))
    ordered = rows[order]
    last = np.ones(len(rows), np.bool_)
    same = np.ones(max(len(rows) - 1, 0), np.bool_)
    for name in ("kind", "instrument", "open_ns"):
        same &= ordered[name][1:] == ordered[name][:-1]
    last[:-1] = ~same
    found: NDArray[np.void] = ordered[last]
    return found


def is_whole(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """Say which bars are out and known whole."""
    return np.isin(rows["state"], [BarState.CLOSED, BarState.REVISED])


def ranges_of(opens_ns: NDArray[np.int64], period_ns: int) -> list[Range]:
    """Return the time that bars take, neighbours joined."""
    return normalize((open_ns, open_ns + period_ns) for open_ns in opens_ns.tolist())


def told_frame(rows: NDArray[np.void]) -> pl.DataFrame:
    """Make stored bars of those that the sampler has told, dtype ``steps.BAR``."""
    provenance = np.full(len(rows), Provenance.OBSERVED, np.uint8)
    provenance[rows["state"] == BarState.REVISED] = Provenance.REVISED
    provenance[rows["flags"] & Flag.SYNTHETIC != 0] = Provenance.SYNTHETIC
    provenance[rows["flags"] & Flag.BACKFILLED != 0] = Provenance.BACKFILLED
    columns = {name: np.ascontiguousarray(rows[name]) for name in ("open_ns", *_PAGE, "state", "first_id", "last_id")}
    return pl.DataFrame(columns | {"provenance": provenance}).select(BARS.arrow.names)


def page_frame(bars: Sequence[BarRow]) -> pl.DataFrame:
    """Make stored bars of a venue's, each once, the last one that came of it."""
    by_time = {bar[0]: bar for bar in bars}
    rows = [by_time[open_ns] for open_ns in sorted(by_time)]
    frame = pl.DataFrame(rows, schema=["open_ns", *_PAGE], orient="row") if rows else _nothing()
    return frame.select(
        "open_ns",
        *(pl.col(name).cast(pl.Float64) for name in _PRICES),
        "trade_count",
        pl.lit(BarState.CLOSED, pl.UInt8).alias("state"),
        pl.lit(Provenance.BACKFILLED, pl.UInt8).alias("provenance"),
        pl.lit(UNKNOWN, pl.Int64).alias("first_id"),
        pl.lit(UNKNOWN, pl.Int64).alias("last_id"),
    )


def inside(frame: pl.DataFrame, ranges: Sequence[Range]) -> pl.DataFrame:
    """Return the bars that open in some ranges."""
    if not ranges:
        return frame.clear()
    within = (pl.col("open_ns").is_between(start, end, closed="left") for start, end in ranges)
    return frame.filter(pl.any_horizontal(within))


def differing(stored: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """Return the bars of a venue that are stored otherwise, or not at all.

    Counts of trades are compared where both know them, volumes to the last of twelve digits: venues add up otherwise.
    """
    both = told.join(stored, on="open_ns", how="left", suffix="_stored")
    same = [pl.col(name) == pl.col(f"{name}_stored") for name in ("open", "high", "low", "close")]
    off = (pl.col("volume") - pl.col("volume_stored")).abs() <= pl.col("volume").abs() * 1e-12
    counts = [pl.col("trade_count"), pl.col("trade_count_stored")]
    unknown = (counts[0] == UNKNOWN) | (counts[1] == UNKNOWN)
    equal = pl.all_horizontal(*same, off, unknown | (counts[0] == counts[1])).fill_null(value=False)
    return both.filter(~equal).select(told.columns)


def _nothing() -> pl.DataFrame:
    return pl.DataFrame(schema={"open_ns": pl.Int64, **dict.fromkeys(_PRICES, pl.Float64), "trade_count": pl.Int64})

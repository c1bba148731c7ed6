"""Bars of a range out of everything that is held: the sampler's segment, and files. Pure but for the store.

Where both have a bar the sampler's counts if it is whole: it may have been revised since it was written. A bar that is
forming, or not known whole, is told only where no file has it. Longer periods are made of stored ones, so that a bar is
the same whether it was stored or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from marketd.history.frames import is_whole, ranges_of, told_frame
from marketd.ring.steps import BarState
from marketd.rpc.messages import Order
from storage.bounds import exactly
from storage.client import StorageClient
from storage.coverage import Coverage, State, ranges
from storage.intervals import Range, normalize, shrink, subtract
from storage.layout import Series
from storage.schema import BARS, UNKNOWN

FIRST_ROWS = 1 << 15
BATCH_ROWS = 1 << 19
COLUMNS = ("open_ns", "open", "high", "low", "close", "volume", "trade_count", "state", "provenance")


class View(NamedTuple):
    """All that is held of one instrument's bars of one period.

    Attributes:
        period_ns: of the bars that are asked for.
        stored: the series on disk, of this period or one that fits into it whole times; None if there is none.
        held: the range of that; empty if there is none.
        coverage: what is known of it.
        ring: the sampler's bars, dtype ``steps.BAR``, in order of time.
        until_ns: up to when all is out; 0 if the sampler makes no such bars.
    """

    period_ns: int
    stored: Series | None
    held: Range
    coverage: Coverage
    ring: NDArray[np.void]
    until_ns: int

    @property
    def span(self) -> Range:
        """From the first bar to the end of the last one, whichever state they are in."""
        ends = [self.held] if self.held[0] < self.held[1] else []
        if len(self.ring):
            ends.append((int(self.ring["open_ns"][0]), int(self.ring["open_ns"][-1]) + self.period_ns))
        return (min(start for start, _ in ends), max(end for _, end in ends)) if ends else (0, 0)

    @property
    def complete_until_ns(self) -> int:
        """Up to when everything is out."""
        known = ranges(self.coverage, State.COMPLETE, State.EMPTY)
        return max(self.until_ns, known[-1][1] if known else 0)

    def missing(self, start_ns: int | None, end_ns: int | None) -> list[Range]:
        """Return what has no whole bars, in whole bars, up to :attr:`complete_until_ns`."""
        start = self.span[0] if start_ns is None else start_ns
        known = ranges(self.coverage, State.COMPLETE, State.EMPTY, State.UNVERIFIED)
        known += ranges_of(self.ring["open_ns"][is_whole(self.ring)], self.period_ns)
        until = self.complete_until_ns // self.period_ns * self.period_ns
        first = -(-start // self.period_ns) * self.period_ns
        last = until if end_ns is None else min(until, -(-end_ns // self.period_ns) * self.period_ns)
        return subtract([(first, last)], shrink(normalize(known), self.period_ns))


def batches(
    view: View,
    store: StorageClient,
    start_ns: int | None,
    end_ns: int | None,
    *,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    order: Order = "newest",
    batch_rows: int = BATCH_ROWS,
) -> Iterator[pl.DataFrame]:
    """Yield the bars of ``[start_ns, end_ns)`` in order of time, in batches of some hundred thousand.

    Args:
        columns: which; all of :data:`storage.schema.BARS` if None.

    Yields:
        Frames, none of them empty.

    Raises:
        StorageError: the store can't be read.
    """
    start = max(view.span[0], view.span[0] if start_ns is None else start_ns)
    end = min(view.span[1], view.span[1] if end_ns is None else end_ns)
    sizes = [rows * view.period_ns for rows in _growing(batch_rows if limit is None else min(limit, batch_rows))]
    if limit is None or order == "oldest":
        left = limit
        for window in _forward(start, end, sizes):
            rows = read_window(view, store, window, columns)
            rows = rows if left is None else rows.head(left)
            left = None if left is None else left - len(rows)
            if len(rows):
                yield rows
            if left == 0:
                return
        return
    found: list[pl.DataFrame] = []
    for window in _backward(start, end, sizes):
        rows = read_window(view, store, window, columns).tail(limit - sum(map(len, found)))
        if len(rows):
            found.append(rows)
        if sum(map(len, found)) == limit:
            break
    yield from reversed(found)


def _growing(rows: int) -> list[int]:
    """Say how many bars to read in one go: few at first, so that who waits has some soon."""
    return [max(1, min(rows, each)) for each in (FIRST_ROWS, 4 * FIRST_ROWS, rows)]


def _forward(start: int, end: int, sizes: Sequence[int]) -> Iterator[Range]:
    """Cut a range into pieces whose inner edges are multiples of their sizes; the last size is that of all others."""
    number = 0
    while start < end:
        size = sizes[min(number, len(sizes) - 1)]
        yield start, (start := min(end, (start // size + 1) * size))
        number += 1


def _backward(start: int, end: int, sizes: Sequence[int]) -> Iterator[Range]:
    """The same from the end on."""
    number = 0
    while start < end:
        size = sizes[min(number, len(sizes) - 1)]
        before, end = end, max(start, (end - 1) // size * size)
        yield end, before
        number += 1


def read_window(view: View, store: StorageClient, window: Range, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read the bars that open in a range. Raises StorageError if the store can't be read."""
    columns = list(columns or BARS.arrow.names)
    start, end = window
    opens = view.ring["open_ns"]
    ring = view.ring[(opens >= start) & (opens < end)]
    live = told_frame(ring)
    if view.stored is None:
        return live.select(columns)
    if view.stored.period_ns == view.period_ns and live.is_empty():
        return store.read(view.stored, exactly(start), exactly(end), columns=columns)
    if view.stored.period_ns == view.period_ns:
        files = store.read(view.stored, exactly(start), exactly(end))
    else:
        first, last = -(-start // view.period_ns) * view.period_ns, -(-end // view.period_ns) * view.period_ns
        files = resample(store.read(view.stored, exactly(first), exactly(last)), view)
    if live.is_empty():
        return files.select(columns)
    whole = is_whole(ring)
    kept = files.join(live.filter(whole), on="open_ns", how="anti")
    others = live.join(kept.select("open_ns"), on="open_ns", how="anti")
    return pl.concat([kept, others]).sort("open_ns").select(columns)


def resample(rows: pl.DataFrame, view: View) -> pl.DataFrame:
    """Make longer bars. One of which some time is not known is *missing*, or still forming if it is not over."""
    bars = (
        rows.group_by((pl.col("open_ns") // view.period_ns * view.period_ns).alias("bar_ns"), maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
            pl.when((pl.col("trade_count") == UNKNOWN).any())
            .then(UNKNOWN)
            .otherwise(pl.col("trade_count").sum())
            .alias("trade_count"),
            pl.lit(BarState.CLOSED, pl.UInt8).alias("state"),
            pl.col("provenance").max(),
            pl.col("first_id").filter(pl.col("first_id") > 0).first().fill_null(UNKNOWN),
            pl.col("last_id").filter(pl.col("last_id") > 0).last().fill_null(UNKNOWN),
        )
        .rename({"bar_ns": "open_ns"})
        .select(BARS.arrow.names)
    )
    known = shrink(ranges(view.coverage, State.COMPLETE, State.EMPTY), view.period_ns)
    starts = np.array([start for start, _ in known], np.int64)
    ends = np.array([end for _, end in known], np.int64)
    opens = bars["open_ns"].to_numpy()
    place = np.searchsorted(starts, opens, side="right") - 1
    whole = (place >= 0) & (opens < ends[place]) if len(known) else np.zeros(len(opens), np.bool_)
    over = opens + view.period_ns <= view.complete_until_ns
    states = np.select([whole, over], [BarState.CLOSED, BarState.MISSING], BarState.FORMING).astype(np.uint8)
    return bars.with_columns(pl.Series("state", states))

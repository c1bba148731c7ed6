"""Ticks of any time that is held: in parquet files, in the log, and in the ring, read as one. Blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from marketd.clock import SECOND_NS
from marketd.errors import Lapped
from marketd.history.ticks import from_first, gap_ranges, in_order, tick_frame
from marketd.model import RECORDED_KINDS
from marketd.ring import layout
from marketd.ring.reader import RingReader
from marketd.rpc.messages import Order
from storage.bounds import exactly
from storage.client import StorageClient
from storage.coverage import Coverage, State, ranges
from storage.intervals import Range, normalize, subtract
from storage.layout import Series
from storage.ticklog import Place, log_files, read_log

CHUNK_ROWS = 1 << 16
WINDOW_NS, WINDOW_NS_MIN, WINDOW_NS_MAX = 3600 * SECOND_NS, SECOND_NS, 7 * 86_400 * SECOND_NS
FEW_ROWS, MANY_ROWS = 1 << 16, 1 << 19  # of a window: the next one is longer, shorter


class Recent(NamedTuple):
    """What is not in parquet files yet.

    Attributes:
        rows: of one instrument, trades, quotes and gaps, dtype ``layout.ROW``, in order of cursor.
        spans: times of which all that came is among them.
        until_ns: up to when, by our clock.
    """

    rows: NDArray[np.void]
    spans: list[Range]
    until_ns: int


class TickView(NamedTuple):
    """All that is held of one series of ticks.

    Attributes:
        series: whose.
        held: the range of what is in parquet files; empty if nothing is.
        recent: the rest, in order.
        complete: the times of which nothing is missing.
        until_ns: later ones may be on their way.
    """

    series: Series
    held: Range
    recent: pl.DataFrame
    complete: list[Range]
    until_ns: int

    @property
    def span(self) -> Range:
        """From the first tick to behind the last one."""
        ends = [self.held] if self.held[0] < self.held[1] else []
        if len(self.recent):
            ends.append((int(self.recent["event_ns"][0]), int(self.recent["event_ns"][-1]) + 1))
        return (min(start for start, _ in ends), max(end for _, end in ends)) if ends else (0, 0)

    def missing(self, start_ns: int | None, end_ns: int | None) -> list[Range]:
        """Return the times of a range, up to :attr:`until_ns`, of which ticks may be missing."""
        begin = start_ns if start_ns is not None else self.span[0] or self.until_ns
        end = self.until_ns if end_ns is None else min(end_ns, self.until_ns)
        return subtract([(begin, end)], self.complete) if begin < end else []


def read_log_of(folder: Path, fqme: str) -> tuple[Recent, Place | None]:
    """Read what a log has of an instrument, and how far it goes. Raises StorageError: it can't be read."""
    parts: list[NDArray[np.void]] = [np.zeros(0, layout.ROW)]
    spans: list[Range] = []
    last: Place | None = None
    for path in log_files(folder):
        try:
            logged = read_log(path)
        except FileNotFoundError:
            continue  # it is in parquet files by now
        last = logged.last or last
        for number, name in logged.names.items():
            if name == fqme:
                parts.append(logged.rows[np.isin(logged.rows["instrument"], (0, number))])
                spans += logged.spans[number]
    return Recent(np.concatenate(parts), spans, last.at_ns if last is not None else 0), last


def read_ring_of(ring: RingReader, instrument: int, cursor: int, since_ns: int, now_ns: int) -> Recent:
    """Read what a ring has of an instrument behind a cursor.

    Args:
        since_ns: all that came until then is known already; 0: nothing is.
        now_ns: our clock, read before.
    """
    parts: list[NDArray[np.void]] = [np.zeros(0, layout.ROW)]
    published = ring.published
    ring.cursor = min(max(cursor, ring.oldest - 1), published)
    whole = ring.cursor <= cursor
    while ring.cursor < published:
        try:
            rows = ring.read_nowait(min(CHUNK_ROWS, published - ring.cursor))
        except Lapped:
            parts, whole = parts[:1], False
            continue
        parts.append(rows[np.isin(rows["instrument"], (0, instrument))])
    rows = np.concatenate(parts)
    first = rows["received_ns"][rows["instrument"] == instrument][:1].tolist()
    begin = since_ns if whole and since_ns else first[0] if first else now_ns
    return Recent(rows, [(begin, now_ns)] if begin < now_ns else [], now_ns)


def view_of(store: StorageClient, series: Series, recents: Sequence[Recent]) -> TickView:
    """Put everything together. What is recent was read first: rows move from there to the files, never back."""
    frames: list[pl.DataFrame] = []
    gaps: list[Range] = []
    spans: list[Range] = []
    for recent in recents:
        frames.append(tick_frame(recent.rows[recent.rows["kind"] == RECORDED_KINDS[series.what]], series.what))
        begin = min((start for start, _ in recent.spans), default=recent.until_ns)
        gaps += gap_ranges(recent.rows, (begin, recent.until_ns))
        spans += from_first(recent.spans, recent.rows)
    held = store.span(series) or (0, 0)
    known: Coverage = store.coverage(series) if held[1] else ()
    complete = subtract(normalize([*ranges(known, State.COMPLETE), *spans]), normalize(gaps))
    until_ns = max((recent.until_ns for recent in recents), default=complete[-1][1] if complete else 0)
    return TickView(series, held, in_order(frames, series.what), complete, until_ns)


def tick_batches(
    view: TickView,
    store: StorageClient,
    start_ns: int | None,
    end_ns: int | None,
    *,
    limit: int | None = None,
    order: Order = "newest",
) -> Iterator[pl.DataFrame]:
    """Yield the ticks of ``[start_ns, end_ns)`` in order of time, none of the frames empty.

    Raises:
        StorageError: the store can't be read.
    """
    start = max(view.span[0], view.span[0] if start_ns is None else start_ns)
    end = min(view.span[1], view.span[1] if end_ns is None else end_ns)
    left = limit
    newest = limit is not None and order == "newest"
    found: list[pl.DataFrame] = []
    length = WINDOW_NS
    while start < end and left != 0:
        window = (max(start, end - length), end) if newest else (start, min(end, start + length))
        start, end = (start, window[0]) if newest else (window[1], end)
        rows = _read_window(view, store, window)
        if len(rows) < FEW_ROWS:
            length = min(2 * length, WINDOW_NS_MAX)
        elif len(rows) > MANY_ROWS:
            length = max(length // 2, WINDOW_NS_MIN)
        if left is not None:
            rows = rows.tail(left) if newest else rows.head(left)
            left -= len(rows)
        if newest and len(rows):
            found.append(rows)
        elif len(rows):
            yield rows
    yield from reversed(found)


def _read_window(view: TickView, store: StorageClient, window: Range) -> pl.DataFrame:
    frames = [view.recent.filter(pl.col("event_ns").is_between(*window, closed="left"))]
    if view.held[0] < window[1] and window[0] < view.held[1]:
        frames.insert(0, store.read(view.series, *map(exactly, window)))
    return in_order(frames, view.series.what)

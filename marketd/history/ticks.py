"""Ticks as the store has them, made of the rows of a ring, and what is known of the time between them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from marketd.clock import SECOND_NS
from marketd.model import RECORDED_KINDS, GapReason, Kind
from marketd.ring import layout
from storage.intervals import Range, normalize
from storage.schema import TICKS, key_columns

LATE_NS = 60 * SECOND_NS
_KEPT = (Kind.TRADE, Kind.QUOTE, Kind.GAP, Kind.STATUS)


def kept(rows: NDArray[np.void], wanted: NDArray[np.bool_]) -> NDArray[np.void]:
    """Return what a log of ticks keeps of a ring's rows: trades, quotes, gaps and states of what is wanted.

    Args:
        rows: dtype ``layout.ROW``.
        wanted: by the instruments' ids; 0, which gaps of all instruments have, is wanted always.
    """
    mask = np.isin(rows["kind"], _KEPT) & wanted.take(rows["instrument"], mode="clip")
    found: NDArray[np.void] = rows[mask]
    return found


def tick_frame(rows: NDArray[np.void], kind: str) -> pl.DataFrame:
    """Make stored ticks of a ring's rows, all of one kind, in order of time, each once.

    Args:
        rows: dtype ``layout.ROW``.
        kind: a key of :data:`storage.schema.TICKS`.
    """
    schema = TICKS[kind]
    view = rows.view(layout.BY_KIND[RECORDED_KINDS[kind]])
    frame = pl.DataFrame(
        {name: np.ascontiguousarray(view[name]) for name in schema.arrow.names}, schema_overrides=schema.polars
    )
    return in_order([frame], kind)


def in_order(frames: Sequence[pl.DataFrame], kind: str) -> pl.DataFrame:
    """Put stored ticks of one kind together, in order of time, each once: of two with one key the first frame's."""
    schema = TICKS[kind]
    rows = pl.concat(frames) if frames else schema.polars.to_frame()
    keys = rows.select(key_columns(schema))
    if keys.is_duplicated().any():
        rows = rows.filter(keys.select(pl.struct(pl.all()).is_first_distinct()).to_series())
    return rows.sort(schema.key, maintain_order=True)


def gap_ranges(rows: NDArray[np.void], span: Range) -> list[Range]:
    """Return the times that gap rows say are missing.

    A gap whose beginning nobody knows begins where ``span`` does, the time in which the rows
    came; its end is part of it.
    """
    gaps = rows[rows["kind"] == Kind.GAP].view(layout.GAP)
    found = [
        (from_ns or span[0], max(to_ns, from_ns) + 1)
        for from_ns, to_ns in zip(gaps["from_ns"].tolist(), gaps["to_ns"].tolist(), strict=True)
    ]
    return normalize(found)


def from_first(spans: list[Range], rows: NDArray[np.void]) -> list[Range]:
    """Let times begin with the first row's event, if that is what a venue's clock and the way from there make of it.

    Args:
        spans: by our clock, in order.
        rows: dtype ``layout.ROW``.
    """
    ticks = rows[np.isin(rows["kind"], list(RECORDED_KINDS.values()))]
    if not spans or not len(ticks):
        return spans
    first_ns = int(ticks["event_ns"].min())
    if spans[0][0] - LATE_NS <= first_ns < spans[0][0]:
        return [(first_ns, spans[0][1]), *spans[1:]]
    return spans


def lapped_row(from_ns: int, to_ns: int, cursor: int, lost: int) -> NDArray[np.void]:
    """Make the gap row of what was overwritten in a ring before it was read."""
    packed = layout.PACK_INTEGERS.pack(
        cursor, to_ns, to_ns, 0, 0, Kind.GAP, 0, 0, from_ns, to_ns, GapReason.LAPPED, lost
    )
    return np.frombuffer(packed, layout.ROW)

"""What is not there in a series of bars, and whether that was to be expected. Pure.

A gap is expected where the market was closed, or where who ought to know has nothing. Where the coverage is complete, a
bar that is not there is a time without a trade. All else is a real gap: so are bars that are there and not known whole.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl

from marketd.ring.steps import BarState
from storage.coverage import Coverage, State, ranges
from storage.intervals import Range, intersect, normalize, shrink, subtract

TIME = "open_ns"


class GapKind(enum.StrEnum):
    """See the module."""

    REAL = "real"
    EXPECTED = "expected"
    NO_TRADE = "no_trade"


class Gap(NamedTuple):
    """Bars that are not there: those that would open in ``[start_ns, end_ns)``, ``rows`` of them."""

    start_ns: int
    end_ns: int
    rows: int
    kind: GapKind


def with_dts(rows: pl.DataFrame, time: str = TIME) -> pl.DataFrame:
    """Add what a person needs to see gaps: ``dt`` (UTC), and the distance from the row before.

    Returns:
        The frame with ``dt`` (datetime), ``diff_ns`` (int64) and ``dt_diff`` (duration); the first row has no distance.
    """
    diff = pl.col(time).diff()
    return rows.with_columns(
        pl.from_epoch(time, time_unit="ns").dt.replace_time_zone("UTC").alias("dt"),
        diff.alias("diff_ns"),
        diff.cast(pl.Duration("ns")).alias("dt_diff"),
    )


def detect_period(rows: pl.DataFrame, time: str = TIME) -> int:
    """Return the distance in ns that most rows are from the one before; the smallest of several.

    Raises:
        ValueError: there are fewer than two rows, or they are not in order of time.
    """
    distances = rows[time].diff().drop_nulls()
    if distances.is_empty() or distances.min() <= 0:  # type: ignore[operator]  # integers that are there
        raise ValueError("a period shows only in two rows or more, in order of time")
    return int(distances.mode().sort()[0])


def detect_null_time_gap(rows: pl.DataFrame, time: str = TIME) -> list[Range]:
    """Return the runs of rows that have no time (0), as places in the frame, half-open."""
    null = np.concatenate([[False], rows[time].to_numpy() == 0, [False]])
    edges = np.flatnonzero(null[1:] != null[:-1]).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def holes(rows: pl.DataFrame, period_ns: int, span: Range | None = None) -> list[Range]:
    """Return where bars are lacking between others, and within ``span`` before the first and after the last.

    Args:
        rows: in order of time. Those in the state *missing* count as not there.
    """
    if "state" in rows.columns:
        rows = rows.filter(pl.col("state") != BarState.MISSING)
    times = rows[TIME].to_numpy()
    before = np.flatnonzero(np.diff(times) > period_ns)
    starts, ends = (times[before] + period_ns).tolist(), times[before + 1].tolist()
    found = list(zip(starts, ends, strict=True))
    if span is None:
        return found
    start, end = next(iter(shrink([span], period_ns)), (0, 0))
    edges = [(start, int(times[0])), (int(times[-1]) + period_ns, end)] if len(times) else [(start, end)]
    return normalize([*intersect(found, [(start, end)]), *edges])


def detect_time_gaps(
    rows: pl.DataFrame,
    period_ns: int,
    *,
    closed: Iterable[Range] = (),
    coverage: Coverage = (),
    span: Range | None = None,
) -> list[Gap]:
    """Return what is not there, in order of time, each piece of one kind.

    Args:
        rows: bars in order of time.
        closed: when the market was closed. A bar is expected to be lacking if all of it is in there.
        span: the range that was asked for; None for that between the first bar and the last.
    """
    left = holes(rows, period_ns, span)
    gaps: list[Gap] = []
    for kind, where in (
        (GapKind.EXPECTED, [*closed, *ranges(coverage, State.EMPTY)]),
        (GapKind.NO_TRADE, ranges(coverage, State.COMPLETE)),
        (GapKind.REAL, left),
    ):
        whole = shrink(where, period_ns)
        pieces = intersect(left, whole)
        gaps += [Gap(start, end, (end - start) // period_ns, kind) for start, end in pieces]
        left = subtract(left, whole)
    return sorted(gaps)

"""Stored rows and new ones of the same range, put together. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from marketd.ring.steps import BarState
from storage.intervals import Range
from storage.schema import BARS, Schema, key_columns


class OnOverlap(enum.Enum):
    """Which side wins where a row of the same key is stored: nobody, the stored one, the new one."""

    REFUSE = "refuse"
    KEEP = "keep"
    REPLACE = "replace"


class Combined(NamedTuple):
    """All rows in order, and of the new ones how many had no stored row, took one's place, or were left out."""

    rows: pl.DataFrame
    added: int
    replaced: int
    kept: int


def overlap(stored: pl.DataFrame, new: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return the new rows whose key is stored."""
    return new.join(stored, on=key_columns(schema), how="semi", maintain_order="left")


def combine(stored: pl.DataFrame, new: pl.DataFrame, schema: Schema, on_overlap: OnOverlap) -> Combined:
    """Put new rows to stored ones, both in order of key; no key is there twice.

    Rows that are equal to stored ones change nothing.
    """
    if stored.is_empty():
        return Combined(new, len(new), 0, 0)
    keys = key_columns(schema)
    fresh = new.join(stored, on=keys, how="anti")
    if on_overlap is OnOverlap.REPLACE:
        changed = new.join(stored, on=schema.arrow.names, how="anti")
        rows = pl.concat([stored.join(changed, on=keys, how="anti"), changed])
        replaced = len(changed) - len(fresh)
    else:
        rows = pl.concat([stored, fresh])
        replaced = 0
    return Combined(rows.sort(schema.key), len(fresh), replaced, len(new) - len(fresh) - replaced)


def splice(stored: Iterable[pl.DataFrame], rows: pl.DataFrame, schema: Schema) -> Iterator[pl.DataFrame]:
    """Put rows in the place of all stored ones from the time of their first to that of their last.

    Args:
        stored: frames that follow each other in time. Each is let go of before the next is asked for.
        rows: at least one.
    """
    first_ns, last_ns = rows[schema.time][0], rows[schema.time][-1]
    placed = False
    for frame in stored:
        times = frame[schema.time]
        before, after = int(times.search_sorted(first_ns, "left")), int(times.search_sorted(last_ns, "right"))
        if before:
            yield frame[:before]
        if after < len(frame):
            if not placed:
                placed = True
                yield rows
            yield frame[after:]
    if not placed:
        yield rows


def runs(rows: pl.DataFrame, schema: Schema, step_ns: int) -> list[Range]:
    """Return the ranges that whole bars follow each other in; bars that are forming or not known whole end a run.

    Ticks say nothing of the time between them: theirs is one range, from the first to the last.
    """
    if schema is BARS:
        rows = rows.filter(pl.col("state").is_in([BarState.CLOSED, BarState.REVISED]))
    if rows.is_empty():
        return []
    times = rows[schema.time].to_numpy()
    cuts = np.flatnonzero(np.diff(times) != step_ns) if schema is BARS else np.array([], np.intp)
    starts = times[np.concatenate([[0], cuts + 1])].tolist()
    ends = times[np.concatenate([cuts, [len(times) - 1]])].tolist()
    return [(start, end + step_ns) for start, end in zip(starts, ends, strict=True)]

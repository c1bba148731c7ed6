"""The rows of a step ring: what the sampler says about a feed's bars, as it happens. Bytes as in `layout.py`.

    row   = u64 cursor, i64 open_ns, i64 made_ns, i64 period_ns,
            u32 instrument, u8 kind, u8 state, u16 flags, value * 9
    value = bar:   f64 open, f64 high, f64 low, f64 close, f64 volume, i64 trade_count, i64 first_id, i64 last_id,
                   i64 number
            index: i64 instruments, i64 revised, -

Each series of bars has a kind of its own, in the order of the daemon's configuration: the n-th one's bars are of kind
16 + n, its index events of kind 128 + n. ``made_ns`` is the sampler's clock. ``period_ns`` is 0 for bars that no period
ends. A bar's row has its values at that moment; the newest row of a bar is the one that counts.
"""

from __future__ import annotations

import enum

import numpy as np

from marketd.ring.layout import RowLayout, row_dtype

BAR_KIND_FIRST = 16
INDEX_KIND_FIRST = 128
SERIES_MAX = INDEX_KIND_FIRST - BAR_KIND_FIRST
STEP_BYTES = 112


class BarState(enum.IntEnum):
    """How far a bar is.

    A missing one is over and not known whole: the feed was not live all the time. What was seen of it is there.
    """

    FORMING = 1
    CLOSED = 2
    REVISED = 3
    MISSING = 4


class IndexState(enum.IntEnum):
    """What an index event tells: a step has begun; all bars of one are out; a bar that was out has changed."""

    OPENED = 1
    ENDED = 2
    REVISED = 3


_COMMON = {
    "cursor": ("<u8", 0),
    "open_ns": ("<i8", 8),
    "made_ns": ("<i8", 16),
    "period_ns": ("<i8", 24),
    "instrument": ("<u4", 32),
    "kind": ("u1", 36),
    "state": ("u1", 37),
    "flags": ("<u2", 38),
}


def _dtype(**values: str) -> np.dtype[np.void]:
    return row_dtype(_COMMON, STEP_BYTES, values)


BAR = _dtype(
    open="<f8",
    high="<f8",
    low="<f8",
    close="<f8",
    volume="<f8",
    trade_count="<i8",
    first_id="<i8",
    last_id="<i8",
    number="<i8",
)
INDEX = _dtype(instruments="<i8", revised="<i8")

STEPS = RowLayout(b"MKTDSTEP", BAR, {BAR_KIND_FIRST: BAR, INDEX_KIND_FIRST: INDEX})


def dtype_of(kind: int) -> np.dtype[np.void]:
    """Return the dtype of a kind's rows."""
    return INDEX if kind >= INDEX_KIND_FIRST else BAR

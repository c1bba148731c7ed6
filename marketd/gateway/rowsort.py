"""The two sorts of rows that a gateway passes on, ticks and steps, and what differs between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from marketd.ring import layout, steps
from marketd.ring.layout import RowLayout
from marketd.supervise.messages import SeriesInfo


@dataclass(frozen=True)
class RowSort:
    """One sort of rows.

    Attributes:
        of: their layout.
        method: of the message that carries them as they are.
        kinds: their names by number.
        dtype_of: the fields of a kind.
    """

    of: RowLayout
    method: str
    kinds: Mapping[int, str]
    dtype_of: Callable[[int], np.dtype[np.void]]

    def name(self, kind: int) -> str:
        """Return a kind's name."""
        return self.kinds.get(kind, "unknown")


def _tick_dtype(kind: int) -> np.dtype[np.void]:
    return layout.BY_KIND.get(kind, layout.ROW)


TICK_ROWS = RowSort(layout.TICKS, "rows", layout.KIND_NAMES, _tick_dtype)


def step_rows(series: Sequence[SeriesInfo]) -> RowSort:
    """Describe the rows of a feed's step ring."""
    bars = {one.kind: f"bar.{one.name}" for one in series}
    indexes = {index_kind(one): f"index.{one.name}" for one in series if one.period_ns}
    return RowSort(steps.STEPS, "bars", bars | indexes, steps.dtype_of)


def index_kind(series: SeriesInfo) -> int:
    """Return the kind of a series' index events."""
    return series.kind - steps.BAR_KIND_FIRST + steps.INDEX_KIND_FIRST

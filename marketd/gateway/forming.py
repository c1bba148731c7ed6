"""Bars that are still forming, read where the sampler makes them, as often as a client wants them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketd.errors import SegmentError
from marketd.gateway.selection import Choice
from marketd.ring import steps
from marketd.ring.bars import BarsReader, rows_of
from marketd.ring.steps import BarState


class _Told(NamedTuple):
    """What was told of one number's bars, by the choice's instruments; a count of -1: nothing."""

    counts: NDArray[np.int64]
    closes: NDArray[np.float64]


class FormingBars:
    """What one subscription knows of one feed's forming bars. Only those of time: no others have a common number.

    Args:
        segments: by kind.

    Attributes:
        busy: whether the sampler was changing some of them at the last call, so that one should come back soon.
    """

    def __init__(self, segments: dict[int, BarsReader]) -> None:
        self._segments = {kind: segment for kind, segment in segments.items() if segment.header.period_ns}
        self.busy = False
        self._choice: Choice | None = None
        self._told: dict[tuple[int, int], _Told] = {}

    def changed(self, choice: Choice, now_ns: int) -> NDArray[np.void]:
        """Return the forming bars that are new or have changed since the last call, dtype ``steps.BAR``, cursor 0."""
        before = self._told if choice is self._choice else {}
        self._choice, self._told, self.busy = choice, {}, False
        found = [np.zeros(0, steps.BAR)]
        for kind in sorted(choice.selection.kinds & self._segments.keys()):
            segment = self._segments[kind]
            progress = segment.progress
            for number in range(max(progress.closed, progress.opened - 1), progress.opened + 1):
                try:
                    slots = segment.newest(choice.id_array, number)
                except SegmentError:
                    self.busy = True
                    if (kind, number) in before:
                        self._told[kind, number] = before[kind, number]
                    continue
                old = before.get((kind, number))
                self._told[kind, number] = _Told(slots["trade_count"], slots["close"])
                fresh = (slots["number"] == number) & (slots["state"] == BarState.FORMING) & _differ(slots, old)
                instruments = choice.id_array[fresh]
                found.append(rows_of(slots[fresh], instruments, kind, segment.header.period_ns, now_ns))
        return np.concatenate(found)


def _differ(slots: NDArray[np.void], old: _Told | None) -> NDArray[np.bool_]:
    if old is None:
        return np.ones(len(slots), np.bool_)
    counts = np.pad(old.counts, (0, len(slots) - len(old.counts)), constant_values=-1)
    closes = np.pad(old.closes, (0, len(slots) - len(old.closes)))
    same_close = (slots["close"] == closes) | (np.isnan(slots["close"]) & np.isnan(closes))
    return np.asarray((slots["trade_count"] != counts) | ~same_close)

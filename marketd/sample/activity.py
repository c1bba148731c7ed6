"""Bars that are ended by what is traded and not by time: so many trades, so much volume, so much value. No I/O.

A trade belongs whole to one bar, and the bar that reaches its size with it is out. Trades count in the order in which
they came: there is no other by which everybody could agree where such a bar ends. Numbers go up by one, from 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marketd.periods import Period
from marketd.ring import layout, steps
from marketd.ring.bars import BLOCK
from marketd.sample import activity_kernel, bar, kernel

CHANGES_MAX = 1 << 14  # more than a call's rows can end


class ActivityBars:
    """One series of such bars, of the instruments that ask for them.

    Args:
        period: what ends a bar.
        words: the slots, as in a bar segment. What is in them, a predecessor has left.
        kind: of its rows in the step ring.
    """

    def __init__(self, period: Period, words: NDArray[np.int64], kind: int) -> None:
        instruments, self._rows = words.shape[0] * BLOCK, words.shape[1]
        self._period = period
        self._kind = kind
        self._measure = activity_kernel.MEASURES.index(period.measure)
        self._whole, self._frac = (int(part) for part in bar.split_volume(period.size))
        self._words = words
        self._ints = words.reshape(-1, bar.WORDS)
        self._floats = self._ints.view(np.float64)
        self._selected = np.zeros(instruments + 1, np.int64)
        self._current = np.zeros(instruments + 1, np.int64)
        self._changes = np.zeros((CHANGES_MAX, 3), np.int64)
        self._found = np.zeros(2, np.int64)

    def select(self, instrument: int) -> None:
        """Make bars of this instrument from now on."""
        self._selected[instrument] = 1
        block, lane = divmod(instrument - 1, BLOCK)
        bars = self._words[block, :, lane]
        newest = bars[bars[:, bar.NUMBER].argmax()]
        is_over = newest[bar.STATE] & 0xFF != bar.FORMING
        self._current[instrument] = newest[bar.NUMBER] + (1 if is_over else 0)

    def take(self, rows: NDArray[np.void]) -> None:
        """Take rows of a tick ring, dtype ``layout.ROW``; at most :data:`CHANGES_MAX` before :meth:`changes`."""
        words = np.ascontiguousarray(rows).view(np.int64).reshape(len(rows), layout.ROW_BYTES // 8)
        activity_kernel.take_activity(
            words,
            words.view(np.float64),
            self._selected,
            self._measure,
            self._period.size,
            self._whole,
            self._frac,
            self._ints,
            self._floats,
            self._rows,
            self._current,
            self._changes,
            self._found,
        )

    def gap(self, instrument: int, to_ns: int) -> None:
        """Note that something is missing of an instrument, or of all with 0: its present bar is not whole.

        Between two bars the second is the present one.
        """
        activity_kernel.gap_activity(
            instrument, to_ns, self._selected, self._ints, self._floats, self._rows, self._current
        )

    def close(self) -> None:
        """Let go of the slots' memory."""
        self._words = self._ints = np.empty((0, bar.WORDS), np.int64)
        self._floats = self._ints.view(np.float64)

    def changes(self, made_ns: int) -> NDArray[np.void]:
        """Return the bars that came out since the last call, dtype ``steps.BAR``, without cursors."""
        count = int(self._found[0])
        self._found[0] = 0
        out = np.zeros(count, steps.BAR)
        words = out.view(np.int64).reshape(count, steps.STEP_BYTES // 8)
        changes = self._changes[:count]
        kernel.tell_changes(changes, 0, self._ints, self._rows, made_ns, 0, self._kind, words, words.view(np.float64))
        return out[out["state"] > 0]

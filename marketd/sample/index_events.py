"""Index events, pure: one for each step of each period, whoever listens and whether anything was traded or not.

    OPENED    a step has begun: all instruments' bars of it are forming
    REVISED   a bar that was out has changed: the row's instrument, the bar's time
    ENDED     all instruments' bars of a step are out

They carry times and no places in arrays, and there is one for each step and not one for each instrument.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from marketd.ring import steps
from marketd.ring.steps import IndexState
from marketd.sample.bars import BarSet

STEPS_TOLD_MAX = 3600  # after a pause of the process or the machine, of each period: the newest ones


class IndexEvents:
    """What a feed's steps are told by.

    Args:
        bars: whose steps.
        kinds: of the bars of each level.
    """

    def __init__(self, bars: BarSet, kinds: Sequence[int]) -> None:
        self._bars = bars
        self._kinds = [kind - steps.BAR_KIND_FIRST + steps.INDEX_KIND_FIRST for kind in kinds]
        self._opened = bars.opened.copy()
        self._closed = bars.closed.copy()
        self._revised = np.zeros(len(kinds), np.int64)

    def take(self, rows: NDArray[np.void], made_ns: int) -> tuple[NDArray[np.void], NDArray[np.void], NDArray[np.void]]:
        """Make the events of what has happened since the last call.

        Args:
            rows: the bars that have come out or have changed, dtype ``steps.BAR``.

        Returns:
            What goes before these rows, and two blocks that go after them: OPENED; REVISED; ENDED.
            Dtype ``steps.BAR``, as that of all rows of a step ring.
        """
        revised = self._find_revised(rows)
        ended = self._steps(self._closed, self._bars.closed, IndexState.ENDED, made_ns, last=-1)
        opened = self._steps(self._opened, self._bars.opened, IndexState.OPENED, made_ns, last=0)
        return opened, revised, ended

    def _find_revised(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        if not len(rows):
            return rows  # as at most steps, for which clients wait
        levels = rows["kind"].astype(np.intp) - steps.BAR_KIND_FIRST
        places = np.zeros(steps.SERIES_MAX, np.intp)
        places[[kind - steps.INDEX_KIND_FIRST for kind in self._kinds]] = np.arange(len(self._kinds))
        level = places[levels]
        again = rows["number"] < self._closed[level]
        self._revised += np.bincount(level[again], minlength=len(self._kinds))
        found = np.zeros(int(again.sum()), steps.INDEX)
        for name in ("open_ns", "made_ns", "period_ns", "instrument"):
            found[name] = rows[name][again]
        found["kind"] = np.array(self._kinds)[level[again]]
        found["state"] = IndexState.REVISED
        return found.view(steps.BAR)

    def _steps(
        self, told: NDArray[np.int64], reached: NDArray[np.int64], state: IndexState, made_ns: int, *, last: int
    ) -> NDArray[np.void]:
        """Make an event for each step up to ``reached + last`` that was not told of."""
        blocks = []
        for n, kind in enumerate(self._kinds):
            if reached[n] == told[n]:
                continue
            period_ns = self._bars.levels[n].period.period_ns
            before = max(told[n], self._bars.first[n] - 1 - last, reached[n] - STEPS_TOLD_MAX)
            numbers = np.arange(before + 1, reached[n] + 1) + last
            block = np.zeros(len(numbers), steps.INDEX)
            block["open_ns"], block["made_ns"], block["period_ns"] = numbers * period_ns, made_ns, period_ns
            block["kind"], block["state"] = kind, state
            block["instruments"] = self._bars.traded
            if state is IndexState.OPENED:
                block["revised"][-1] = self._revised[n]
                self._revised[n] = 0
            blocks.append(block)
        told[:] = reached
        # Joined under a dtype without unnamed bytes: numpy would leave those out.
        return np.concatenate([np.zeros(0, steps.BAR), *(block.view(steps.BAR) for block in blocks)])

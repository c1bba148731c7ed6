"""One feed's bars as they come out: from its step ring, and from its bar segments where the ring was too short."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog
import trio
from numpy.typing import NDArray

from marketd.errors import Lapped, SegmentError
from marketd.history.frames import newest_of_each
from marketd.history.names import Names
from marketd.ring.bars import BarsReader, rows_of
from marketd.ring.doorbell import Bell
from marketd.ring.reader import RingReader
from marketd.ring.steps import BAR, STEPS, BarState
from marketd.ring.table import TableReader
from marketd.supervise.messages import FeedInfo, SeriesInfo

TRY_EVERY_S = 0.01
TRIES_MAX = 1000
HELD_ROWS_MAX = 1 << 20  # that wait to be taken; the segments have the newest of them, the venue the others

log = structlog.get_logger("marketd.history")


class Told(NamedTuple):
    """Bars of one series that have come out or have changed: dtype ``steps.BAR``, in order of time, each once."""

    instrument: int
    series: SeriesInfo
    rows: NDArray[np.void]


class LiveBars:
    """See the module.

    Args:
        periods: those that are stored.

    Attributes:
        table: the feed's instruments.
        series: those that are stored, by kind.
    """

    def __init__(self, info: FeedInfo, periods: Sequence[str]) -> None:
        """Attach to the feed's segments.

        Raises:
            SegmentError: one is missing or foreign.
        """
        self.name = info.name
        self.series = {series.kind: series for series in info.series if series.name in periods}
        self._all = {series.name: series for series in info.series if series.period_ns}
        self._others: dict[int, BarsReader] = {}  # segments of periods that are not stored
        with contextlib.ExitStack() as stack:
            self.table = stack.enter_context(closing(TableReader(Path(info.table_path))))
            self._segments = {
                kind: stack.enter_context(closing(BarsReader(Path(series.path), pauses_max=0)))
                for kind, series in self.series.items()
            }
            self._steps = stack.enter_context(closing(RingReader(Path(info.steps_path), of=STEPS)))
            self._bell = Bell(Path(info.steps_bells_path))
            stack.pop_all()
        self._names = Names(self.table)
        self._told: list[NDArray[np.void]] = []
        self._held = 0  # rows in there
        self._begun: set[tuple[int, int]] = set()
        self._unread = True  # the segments hold what was told before we listened

    async def follow(self) -> None:
        """Note what is told, for ever."""
        while True:
            await self._steps.wait_available(self._bell)
            self._read()
            await trio.lowlevel.checkpoint()

    def _read(self) -> None:
        while True:
            try:
                rows = self._steps.read_nowait()
            except Lapped as lapped:
                log.warning("history.lapped", feed=self.name, lost=lapped.lost)
                self._unread = True
                continue
            if not len(rows):
                return
            wanted = np.isin(rows["kind"], list(self.series))
            if wanted.any():
                self._hold(rows[wanted], len(self._told))

    def until_ns(self, kind: int) -> int:
        """Return up to when all bars of a series are out. What came out before is in the next :meth:`take`."""
        return self._segments[kind].progress.closed * self.series[kind].period_ns

    def from_ns(self, kind: int) -> int:
        """Return from when on the sampler can hold bars of a series."""
        segment = self._segments[kind]
        return (segment.progress.opened - segment.header.rows + 1) * self.series[kind].period_ns

    def has_bars(self, kind: int, instrument: int) -> bool:
        """Whether the sampler makes bars of an instrument: from its first trade on."""
        if (kind, instrument) in self._begun:
            return True
        segment = self._segments[kind]
        if instrument > segment.allocated:
            return False
        newest = segment.progress.opened
        try:
            found = bool(segment.newest(np.array([instrument]), newest)["number"][0] == newest > 0)
        except SegmentError:
            return True  # the sampler is at work, or about to be replaced: who asks looks again
        if found:
            self._begun.add((kind, instrument))
        return found

    async def take(self) -> list[Told]:
        """Return everything that has come out since the last call; at the first one, everything that there is."""
        self._read()
        if self._unread:
            # They go first: what was told meanwhile is newer.
            self._told = [*[rows async for rows in self._read_segments()], *self._told]
            self._unread = False
        told, self._told, self._held = self._told, [], 0
        rows = newest_of_each(np.concatenate([np.zeros(0, BAR), *told]))
        if not len(rows):
            return []
        changes = np.flatnonzero(np.diff(rows["kind"].astype(np.int64) << 32 | rows["instrument"]))
        edges = [0, *(changes + 1).tolist(), len(rows)]
        return [
            Told(int(rows["instrument"][start]), self.series[int(rows["kind"][start])], rows[start:end])
            for start, end in itertools.pairwise(edges)
        ]

    def put_back(self, told: Told) -> None:
        """Let the next :meth:`take` return bars once more; what is told of them meanwhile is newer."""
        self._hold(told.rows, 0)

    def _hold(self, rows: NDArray[np.void], place: int) -> None:
        """Keep rows until they are taken; or none at all if nobody has taken any for so long that they are too many."""
        self._told.insert(place, rows)
        self._held += len(rows)
        if self._held > HELD_ROWS_MAX:
            log.warning("history.let_go", feed=self.name, rows=self._held)
            self._told, self._held, self._unread = [], 0, True

    def find(self, fqme: str) -> int | None:
        """Return an instrument's id, if the feed has it."""
        return self._names.find(fqme)

    async def bars(self, period: str, instrument: int) -> tuple[NDArray[np.void], int]:
        """Return all bars of an instrument that the sampler holds, and up to when all of them are out.

        Returns:
            Dtype ``steps.BAR``, in order of time; and 0 where it makes no such bars.

        Raises:
            SegmentError: the sampler died, and nobody mends what it left.
        """
        series = self._all.get(period)
        if series is None:
            return np.zeros(0, BAR), 0
        segment = self._segments.get(series.kind) or self._others.get(series.kind)
        if segment is None:
            segment = self._others[series.kind] = BarsReader(Path(series.path), pauses_max=0)
        if instrument > segment.allocated:
            return np.zeros(0, BAR), 0
        until_ns = segment.progress.closed * series.period_ns
        slots = await _slots(segment, instrument)
        return rows_of(slots, np.full(len(slots), instrument), series.kind, series.period_ns, 0), until_ns

    async def _read_segments(self) -> AsyncIterator[NDArray[np.void]]:
        for kind, segment in self._segments.items():
            for instrument in range(1, min(self.table.count, segment.allocated) + 1):
                slots = await _slots(segment, instrument)
                out = slots[np.isin(slots["state"], [BarState.CLOSED, BarState.REVISED, BarState.MISSING])]
                yield rows_of(out, np.full(len(out), instrument), kind, self.series[kind].period_ns, 0)
                await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Let go of the segments."""
        for segment in (*self._segments.values(), *self._others.values()):
            segment.close()
        self._steps.close()
        self._bell.close()
        self.table.close()


async def _slots(segment: BarsReader, instrument: int) -> NDArray[np.void]:
    """Copy an instrument's bars. Raises SegmentError if the sampler died and nobody mends what it left."""
    for _ in range(TRIES_MAX):
        try:
            return segment.slots(instrument)
        except SegmentError:
            await trio.sleep(TRY_EVERY_S)
    return segment.slots(instrument)

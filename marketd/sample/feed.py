"""One feed's bars, live: from its tick ring into its bar segments and its step ring.

    ring -> RingReader -> BarSet (bars.py) -> slots of the bar segments, in place
                                           -> rows of the step ring: bars that are out or have changed, index events

What one call does is whole or not at all: the segments' headers say up to which tick the bars know (`ring/bars.py`),
and the step ring is published before that is written. A successor goes on from there (`recover.py`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import structlog
import trio
from numpy.typing import NDArray

from marketd.clock import MILLISECOND_NS, SECOND_NS, SteadyClock
from marketd.errors import Lapped, SegmentError
from marketd.fqme import glob_pattern
from marketd.model import Quality
from marketd.periods import parse_activity, parse_period
from marketd.ring.bars import BLOCK, BarsWriter
from marketd.ring.doorbell import Bell, Bells
from marketd.ring.reader import RingReader
from marketd.ring.steps import STEPS
from marketd.ring.table import TableReader
from marketd.ring.writer import BlockWriter
from marketd.sample import kernel
from marketd.sample.activity import ActivityBars
from marketd.sample.bars import BarSet, Level
from marketd.sample.hours import Hours
from marketd.sample.index_events import IndexEvents
from marketd.sample.recover import recover
from marketd.supervise.messages import FeedInfo, FilledBars, SampledFeed, SeriesInfo
from marketd.trouble import Trouble

ROWS_MAX = 16_384  # taken in one go
ROOM_RETRY_S = 1.0
PAUSE_NS_MAX = 86_400 * SECOND_NS  # what happened in a longer pause is not told step by step

_LIVE = np.full(256, kernel.NOT_LIVE, np.int64)
_LIVE[[Quality.OK, Quality.CLOSED]] = kernel.LIVE, kernel.SHUT


class OtherBars:
    """A series that no period ends, and the instruments that have it."""

    def __init__(self, series: SeriesInfo, activity: Mapping[str, Sequence[str]]) -> None:
        self.writer = BarsWriter(Path(series.path))
        self.bars = ActivityBars(parse_activity(series.name), self.writer.words, series.kind)
        self._patterns = [glob_pattern(text) for text, names in activity.items() if series.name in names]

    def close(self) -> None:
        """Let go of the segment."""
        self.bars.close()
        self.writer.close()

    def admit(self, instrument: int, fqme: str) -> None:
        """Make such bars of an instrument if it asks for them."""
        if any(pattern.match(fqme) for pattern in self._patterns):
            self.bars.select(instrument)


class FeedBars:
    """See the module.

    Args:
        info: where the segments are.
        lateness_ms: so much after its end a bar is out.
        activity: which instruments, by name or glob, have which bars that no period ends.

    Attributes:
        recorded: the feed plays a recording: its clock is what its rows say.
        ended: its source has ended, and no row will follow.
        stopped: an operator has stopped it: whatever its table says, nothing comes.
        epoch: as its announcement said.
        following: of the task that takes its rows.
        unfollowed: set once that task has ended.
    """

    def __init__(self, info: FeedInfo, lateness_ms: float, activity: Mapping[str, Sequence[str]]) -> None:
        """Attach to all segments, and go on where a predecessor stopped.

        Raises:
            SegmentError: one is missing or foreign, or has a living writer.
        """
        self.name = info.name
        self.recorded = info.recorded
        self.ended = info.state == "finished"
        self.stopped = info.state == "stopped"
        self.epoch = info.epoch
        self.following = trio.CancelScope()
        self.unfollowed = trio.Event()
        self._left = False
        self.counts = SampledFeed()
        self._log = structlog.get_logger("marketd.sample").bind(feed=info.name)
        self._series = [series for series in info.series if series.period_ns]
        with contextlib.ExitStack() as stack:
            self._table = stack.enter_context(closing(TableReader(Path(info.table_path))))
            self._ring = stack.enter_context(closing(RingReader(Path(info.ring_path), cursor=0)))
            self._bell = stack.enter_context(closing(Bell(Path(info.bells_path))))
            self._writers = [stack.enter_context(closing(BarsWriter(Path(series.path)))) for series in self._series]
            self._others = [
                stack.enter_context(closing(OtherBars(series, activity)))
                for series in info.series
                if not series.period_ns
            ]
            self._bells = stack.enter_context(closing(Bells(Path(info.steps_bells_path))))
            self._steps = BlockWriter(Path(info.steps_path), self._bells, STEPS)
            stack.pop_all()
        self._all_writers = [*self._writers, *(other.writer for other in self._others)]
        levels = [
            Level(parse_period(series.name), writer.words)
            for series, writer in zip(self._series, self._writers, strict=True)
        ]
        # A predecessor may have found room in some segments, and no more in the others.
        self._room = min(writer.allocated for writer in self._all_writers)
        self.bars = BarSet(levels, lateness_ns=round(lateness_ms * MILLISECOND_NS), inherited=self._room)
        self.bars.opened[:] = [writer.progress.opened for writer in self._writers]
        self.bars.closed[:] = [writer.progress.closed for writer in self._writers]
        self._hours = Hours(self.bars.capacity)
        self._kinds = [series.kind for series in self._series]
        self._events = IndexEvents(self.bars, self._kinds)
        self._span_ns = min(writer.header.rows * writer.header.period_ns for writer in self._writers) // 2
        self._no_room = Trouble(self._log, "bars.no_room", "bars.room_again")
        self._retry_room_s = 0.0
        self._cursor = 0  # of the last row that the bars know
        self._turn = trio.Lock()  # rows and the clock take turns, each whole
        self._resume()

    @property
    def trouble(self) -> str:
        """Why some instruments have no bars; empty if all have."""
        return self._no_room.text

    @property
    def cursor(self) -> int:
        """The newest row that the bars know."""
        return self._cursor

    @property
    def base_ns(self) -> int:
        """The shortest period."""
        return self._series[0].period_ns

    def _resume(self) -> None:
        """Take over what a predecessor has made, and go on with what it had not seen."""
        progress, ring = self._writers[0].progress, self._ring
        self._admit()
        self._cursor = ring.cursor = progress.applied
        if any(writer.torn for writer in self._all_writers):
            self._log.warning("bars.torn", applied=progress.applied, applying=progress.applying)
            self._learn_live()
            ring.cursor = progress.applying

            def mend() -> None:
                recover(self.bars, ring, progress.applied, progress.applying)
                for other in self._others:
                    other.bars.gap(0, 1)

            self._cursor = progress.applying
            self._change(mend, self.bars.newest_open_ns)

    def close(self) -> None:
        """Let go of all segments."""
        self.bars.close()
        for writer in self._writers:
            writer.close()
        for other in self._others:
            other.close()
        for part in (self._ring, self._table, self._bell, self._steps, self._bells):
            part.close()

    async def leave(self) -> None:
        """Let go of all segments while others may still be about to take rows or to advance: nothing comes of that."""
        self.following.cancel()
        await self.unfollowed.wait()  # until then it touches the doorbell
        async with self._turn:
            self._left = True
            self.close()

    # --- what goes in -------------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Return when there are rows to take."""
        await self._ring.wait_available(self._bell)

    async def take(self, clock: SteadyClock) -> bool:
        """Take some of the rows there are; return whether there may be more."""
        async with self._turn:
            if self._left:
                return False
            now_ns = clock.now_ns()
            await self._make_room()
            await self._learn_hours(now_ns)
            try:
                rows = self._ring.read_nowait(ROWS_MAX)
            except Lapped as lapped:
                self._note_lapped(lapped, now_ns)
                return True
            if not len(rows):
                return False
            if not self.recorded and clock.jumps:
                now_ns = self._steady(rows, clock)
            before = self.bars.live == kernel.LIVE
            self._look_at_qualities(now_ns)
            live = self.bars.live.copy()
            # Whatever has ended since the last look ended after these rows: their bars begin as what they were then.
            self.bars.live[before] = kernel.LIVE
            for start, end in self._pieces(rows["received_ns"]):
                await self._go_on_to(int(rows["received_ns"][start]))
                self._take(rows[start:end], now_ns)
            self.bars.live[:] = live
            self.counts.rows += len(rows)
            return len(rows) == ROWS_MAX

    def _steady(self, rows: NDArray[np.void], clock: SteadyClock) -> int:
        """Let rows have been received by a clock that was not set meanwhile; return what it says now."""
        events_ns = rows["event_ns"][rows["kind"] <= kernel.LAST_DATA_KIND]
        if len(events_ns):
            clock.witness(int(np.median(events_ns)))
        rows["received_ns"] = clock.steadied(rows["received_ns"])
        return clock.now_ns()

    def _pieces(self, received_ns: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Cut rows, so that no piece takes longer than bars are held: all of them are told while they are there."""
        clock_ns, start = np.maximum.accumulate(received_ns), 0
        while start < len(clock_ns):
            end = int(np.searchsorted(clock_ns, clock_ns[start] + self._span_ns, side="right"))
            yield start, end
            start = end

    async def _go_on_to(self, now_ns: int) -> None:
        """Let a long time without rows pass in several steps, for the same reason; but not a very long one."""
        while 0 < self.bars.time.now_ns < now_ns - self._span_ns and now_ns - self.bars.time.now_ns < PAUSE_NS_MAX:
            reached_ns = self.bars.time.now_ns + self._span_ns
            self._change(functools.partial(self.bars.advance, reached_ns), reached_ns)
            await trio.lowlevel.checkpoint()

    def _take(self, rows: NDArray[np.void], now_ns: int) -> None:
        mine = rows[rows["instrument"] <= self._room] if self._no_room.text else rows

        def take() -> None:
            self.bars.take(mine)
            for other in self._others:
                other.bars.take(mine)

        self._cursor = int(rows["cursor"][-1])
        self._change(take, now_ns)

    async def advance(self, now_ns: int) -> None:
        """Do what is due by a clock that is not the rows'."""
        async with self._turn:
            if self._left:
                return
            await self._go_on_to(now_ns)
            await self._make_room()
            if self.bars.is_due(now_ns):
                self._look_at_qualities(now_ns)
                self._change(lambda: self.bars.advance(now_ns), now_ns)

    async def finish(self) -> None:
        """Close every bar that is over, since nothing will follow."""
        async with self._turn:
            if self._left:
                return
            self.bars.time.finish()
            now_ns = self.bars.time.now_ns
            self._change(lambda: self.bars.advance(now_ns), now_ns)

    async def fill(self, told: FilledBars) -> None:
        """Take bars as their venue tells them in which something was missing."""
        async with self._turn:
            if self._left or told.kind not in self._kinds or not 0 < told.instrument <= self.bars.instruments:
                return
            level = self._kinds.index(told.kind)

            def fill() -> None:
                self.counts.filled += self.bars.fill(level, told.instrument, told.bars)

            self._change(fill, self.bars.time.now_ns)

    def next_due_ns(self, now_ns: int) -> int:
        """When :meth:`advance` will have something to do."""
        return self.bars.time.next_due_ns(now_ns, self.base_ns)

    def _look_at_qualities(self, now_ns: int) -> None:
        """Learn from the instrument table whose data comes now. In a recording all that is missing is in its rows.

        After rows were read and before bars are opened: a feed says that an outage is over before it publishes the
        outage's gap row, so that whoever seems to be away here has that row yet to come.
        """
        live = self._learn_live()
        if not self.recorded:
            self.bars.cover(np.flatnonzero(live == kernel.LIVE) + 1, now_ns)

    def _learn_live(self) -> NDArray[np.int64]:
        count = self.bars.instruments
        if self.recorded:
            live = np.full(count, kernel.LIVE)
        elif self.stopped:
            live = np.full(count, kernel.NOT_LIVE)
        else:
            live = _LIVE[self._table.qualities()[:count]]
        self.bars.live[1 : count + 1] = live
        return live

    async def _make_room(self) -> None:
        """Allocate memory for instruments that are new, some at a time, as that may take a while.

        Where there is none, it is tried again; until then they have no bars, and begin as new ones once there is.
        """
        while self._room < (wanted := self._table.count):
            if self._no_room.text and trio.current_time() < self._retry_room_s:
                break
            try:
                for writer in self._all_writers:
                    writer.allocate(self._room + BLOCK)
            except SegmentError as error:
                left = f"feed {self.name}: {wanted - self._room} of {wanted} instruments have no bars: {error}"
                self._no_room.begin(left, instruments=self._room, wanted=wanted)
                self._retry_room_s = trio.current_time() + ROOM_RETRY_S
                break
            self._room += BLOCK
            await trio.lowlevel.checkpoint()
        else:
            self._no_room.end()
        self._admit()

    async def _learn_hours(self, now_ns: int) -> None:
        """Know when markets are open, if any ever closes."""
        now_ns = self._next_received_ns() if self.recorded else now_ns
        if self._hours.is_due(now_ns):
            await self._hours.learn(now_ns)
            self.bars.set_calendars(self._hours.calendars, self._hours.spans)

    def _admit(self) -> None:
        """Take instruments in for which there is room."""
        count = min(self._room, self._table.count)
        for instrument in range(self.bars.instruments + 1, count + 1):
            self._hours.add(instrument, self._table.entry(instrument))
            for other in self._others:
                other.admit(instrument, self._table.fqme(instrument))
        self.bars.admit(count)

    def _note_lapped(self, lapped: Lapped, now_ns: int) -> None:
        """Note that rows were overwritten before they were read: whatever they were, it is missing."""
        self.counts.lapped += lapped.lost
        # What is lost came after what was read, and what happened up to the watermark had come by then.
        from_ns = self.bars.time.watermark_ns or now_ns
        to_ns = max(from_ns, self._next_received_ns() or now_ns) + 1
        self._log.warning("bars.lapped", lost=lapped.lost, from_ns=from_ns, to_ns=to_ns)

        def note() -> None:
            self.bars.advance(to_ns)
            self.bars.gap(0, from_ns, to_ns)
            for other in self._others:
                other.bars.gap(0, to_ns)

        self._cursor = self._ring.cursor
        self._change(note, to_ns)

    def _next_received_ns(self) -> int:
        """When the next row came; 0 if that is not there."""
        cursor = self._ring.cursor + 1
        try:
            return int(self._ring.read_range(cursor, cursor)["received_ns"][0])
        except (Lapped, ValueError):
            return 0

    # --- what comes out -----------------------------------------------------------------------------------

    def _change(self, work: Callable[[], None], now_ns: int) -> None:
        """Change the bars, tell of it, and note how far they are."""
        for writer in self._all_writers:
            writer.begin(self._cursor)
        work()
        self._tell(now_ns)
        # Not in a `finally`: what failed half way is for a successor to mend.
        for n, writer in enumerate(self._writers):
            writer.end(int(self.bars.opened[n]), int(self.bars.closed[n]))
        for other in self._others:
            other.writer.end(0, 0)

    def _tell(self, now_ns: int) -> None:
        rows = self.bars.changes(now_ns, self._kinds)
        before, events, after = self._events.take(rows, now_ns)
        for block in (before, rows, events, after):
            if len(block):
                self._steps.append_block(block)
        for other in self._others:
            if len(bars := other.bars.changes(now_ns)):
                self._steps.append_block(bars)
                self.counts.bars += len(bars)
        self._steps.publish()
        self.counts.bars += len(rows)
        self.counts.revised += len(events)
        self.counts.steps += len(before)
        self.counts.misdated = self.bars.misdated

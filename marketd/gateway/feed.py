"""One feed as a gateway reads it: its ring, its instruments, and who is to be woken.

A feed has one follower task, and all of its clients read up to `Feed.head` and no further. The follower moves the head
only after every selection has been looked at again if there are new instruments; so whatever is in front of the head,
its instruments are known, and no client has to look at a table itself.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

import trio

from marketd.errors import Lapped
from marketd.gateway.fanout import ROWS_MAX, Fanout
from marketd.gateway.latest import LatestState
from marketd.gateway.rowsort import TICK_ROWS, RowSort, step_rows
from marketd.gateway.selection import Choice, Selection
from marketd.ring.bars import BarsReader
from marketd.ring.doorbell import Bell
from marketd.ring.reader import RingReader
from marketd.ring.table import TableReader
from marketd.supervise.messages import FeedInfo

LISTENERS_IN_ONE_GO = 64  # woken, and most of them sent to, between two turns of the event loop
NAMES_IN_ONE_GO = 1024  # matched against a selection between two turns of the event loop


class Listener(Protocol):
    """Who follows feeds: a client's way out."""

    def wake_for_rows(self, now_s: float) -> None:
        """Take notice that a feed's head has moved. ``now_s``: as of ``trio.current_time()``."""
        ...


class Feed:
    """A feed that is there: its ticks. A :class:`StepFeed` is the same of its bars.

    Attributes:
        info: what the supervisor says about it.
        sort: of its rows.
        head: the newest cursor that clients may read.
        names: of its instruments; the one at index ``i`` has the row id ``i + 1``.
        ids: row ids by name.
        backends: what its instruments' names end in, with its own backend.
        listeners: who follows it.
        latest: the state of its instruments, once anybody has asked for it.
        retired_s: since when it has been gone from the configuration; None while it is there.
        left: whether it is not followed any more.
    """

    def __init__(self, info: FeedInfo, on_learned: Callable[[Feed], None]) -> None:
        """Attach to a feed's segments.

        Raises:
            SegmentError: one of them is missing or foreign, or there are too many readers.
        """
        self.info = info
        self.sort, ring_path, bells_path = self._parts(info)
        with contextlib.ExitStack() as stack:
            self.ring = stack.enter_context(closing(RingReader(Path(ring_path), of=self.sort.of)))
            self.table = stack.enter_context(closing(TableReader(Path(info.table_path))))
            self._bell = Bell(Path(bells_path))
            stack.pop_all()
        self.head = 0
        self.names: list[str] = []
        self.ids: dict[str, int] = {}
        self.backends = {info.backend}
        self._without_slash: dict[str, str] = {}
        self.listeners: set[Listener] = set()
        self.latest: LatestState | None = None
        self.retired_s: float | None = None
        self.left = False
        self._following = trio.CancelScope()
        self.fanout = Fanout(self.name, self.ring, self.sort)
        self._generation = -1
        self._learning = trio.Lock()
        self._on_learned = on_learned
        self._choices: weakref.WeakValueDictionary[Selection, Choice] = weakref.WeakValueDictionary()

    def _parts(self, info: FeedInfo) -> tuple[RowSort, str, str]:
        """Return what rows are read, and the paths of their ring and its doorbells."""
        return TICK_ROWS, info.ring_path, info.bells_path

    @property
    def name(self) -> str:
        """What it is called in positions and messages: for its ticks, the feed's name."""
        return self.info.name

    @property
    def epoch(self) -> int:
        """What the cursors of this feed belong to."""
        return self.ring.epoch

    async def follow(self) -> None:
        """Move the head as the feed writes, until it is closed."""
        try:
            with self._following:
                while True:
                    await self._bell.wait(self._is_behind)
                    await self.advance()
        finally:
            self.left = True

    async def advance(self) -> None:
        """Move the head to what is published now, and wake everybody who follows."""
        published = self.ring.published
        if self.table.generation != self._generation:
            await self.learn()
        self.head = max(self.head, published)
        if self.latest is not None and self.head - self.latest.cursor >= ROWS_MAX:
            self.update_latest()
        listeners = list(self.listeners)
        for start in range(0, len(listeners), LISTENERS_IN_ONE_GO):
            if start:
                await trio.lowlevel.checkpoint()
            now_s = trio.current_time()
            for listener in listeners[start : start + LISTENERS_IN_ONE_GO]:
                listener.wake_for_rows(now_s)

    def _is_behind(self) -> bool:
        return self.ring.published > self.head or self.table.generation != self._generation

    async def learn(self) -> None:
        """Take in new instruments, if there are any, and what they mean to each selection."""
        if self.table.generation == self._generation:
            return
        async with self._learning:
            generation = self.table.generation
            for instrument in range(len(self.names) + 1, self.table.count + 1):
                name = self.table.fqme(instrument)
                self.names.append(name)
                self.ids[name] = instrument
                plain = name.replace("/", "")
                # Two names that differ in the slash's place only are both out of reach without it.
                self._without_slash[plain] = "" if plain in self._without_slash else name
                self.backends.add(name.rpartition(".")[2])
            for choice in list(self._choices.values()):
                await self._extend(choice)
            self._generation = generation
        self._on_learned(self)

    def find(self, name: str) -> str | None:
        """Return an instrument's name as it is written here; ``name`` is in lower case and may lack the slash."""
        return name if name in self.ids else self._without_slash.get(name) or None

    async def choose(self, selection: Selection) -> Choice:
        """Find out what a selection means here; from now on that is kept up to date."""
        choice = self._choices.get(selection)
        if choice is None:
            choice = Choice(selection)
            await self._extend(choice)
            choice = self._choices.setdefault(selection, choice)
        return choice

    def made(self, choice: Choice) -> bool:
        """Whether a choice is about this feed, and not about one that had its name before."""
        return self._choices.get(choice.selection) is choice

    async def _extend(self, choice: Choice) -> None:
        while choice.examined < len(self.names):
            choice.extend(self.names[choice.examined : choice.examined + NAMES_IN_ONE_GO])
            if choice.examined < len(self.names):
                await trio.lowlevel.checkpoint()

    def concerns(self, choice: Choice) -> bool:
        """Whether a subscription has something to get from here, now or once there are more instruments."""
        if choice.selection.kinds.isdisjoint(self.sort.kinds):
            return False
        if choice.ids:
            return True
        if not self.names:
            return bool(choice.selection.globs)
        return choice.selection.may_select(self.backends)

    async def open_latest(self) -> None:
        """See to it that there is a state of all instruments, from what the ring still holds."""
        if self.latest is not None:
            return
        state = LatestState(self.ring.oldest - 1)
        while state.cursor < self.head:
            self._take_latest(state)
            await trio.lowlevel.checkpoint()
        if self.latest is None:
            self.latest = state

    def update_latest(self) -> LatestState:
        """Bring the state of all instruments up to the head."""
        assert self.latest is not None
        while self.latest.cursor < self.head:
            self._take_latest(self.latest)
        return self.latest

    def _take_latest(self, state: LatestState) -> None:
        first = state.cursor + 1
        try:
            state.take(self.fanout.rows(first, self.fanout.range_last(first, self.head)))
        except Lapped:
            state.skip(self.first_readable(first) - 1)

    def cursor_before(self, time_ns: int) -> int | None:
        """Return the cursor of the newest row that came before a time, 0 if the epoch's first row came later.

        None: the rows of that time are overwritten.
        """
        oldest, newest = self.ring.oldest, self.head
        if newest < oldest or self._came_ns(oldest) >= time_ns:
            return 0 if oldest == 1 else None
        while oldest < newest:  # the row at `oldest` came before
            middle = (oldest + newest + 1) // 2
            try:
                before = self._came_ns(middle) < time_ns
            except Lapped:
                before = True
            oldest, newest = (middle, newest) if before else (oldest, middle - 1)
        return oldest

    def _came_ns(self, cursor: int) -> int:
        row = self.ring.read_range(cursor, cursor)
        return int(row["received_ns" if self.sort is TICK_ROWS else "made_ns"][0])

    def first_readable(self, cursor: int) -> int:
        """Return where to go on when the row at ``cursor`` was found to be overwritten."""
        return max(cursor + 1, min(self.ring.oldest, self.ring.published + 1))

    def leave(self) -> None:
        """Follow no more; once that is so, :attr:`left`, the segments can be let go of."""
        self._following.cancel()

    def close(self) -> None:
        """Let go of the segments."""
        self._bell.close()
        self.ring.close()
        self.table.close()


class StepFeed(Feed):
    """A feed's bars and index events, as the sampler tells them.

    Attributes:
        bars: the segments of its series, by kind.
    """

    def __init__(self, info: FeedInfo, on_learned: Callable[[Feed], None]) -> None:
        """Attach to the segments. Raises: see :class:`Feed`."""
        with contextlib.ExitStack() as stack:
            self.bars = {
                series.kind: stack.enter_context(closing(BarsReader(Path(series.path), pauses_max=0)))
                for series in info.series
            }
            super().__init__(info, on_learned)
            stack.pop_all()

    def _parts(self, info: FeedInfo) -> tuple[RowSort, str, str]:
        return step_rows(info.series), info.steps_path, info.steps_bells_path

    @property
    def name(self) -> str:
        """See :class:`Feed`: ``binance/bars``."""
        return f"{self.info.name}/bars"

    def close(self) -> None:
        """Let go of the segments."""
        for bars in self.bars.values():
            bars.close()
        super().close()

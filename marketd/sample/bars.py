"""All bars of one feed: trades, gaps and the time go in, bars and what has changed of them come out. No I/O.

    take(rows) -> the bars of all periods (kernel.py) -> changes() -> rows of a step ring

The same code makes live bars, in shared memory, and bars of stored trades, in memory of its own. Each row of a tick
ring is taken at its own time: before it, all bars are opened and closed that were due by then. So the bars, and their
states too, do not depend on how the rows were cut into batches, nor on how fast they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from backends.live import BarRow
from marketd.clock import MILLISECOND_NS, SECOND_NS
from marketd.model import Kind
from marketd.periods import Period
from marketd.ring import layout, steps
from marketd.ring.bars import BLOCK
from marketd.sample import bar, kernel, mending
from marketd.sample.feed_time import FeedTime

LATENESS_NS = 500 * MILLISECOND_NS
AHEAD_NS_MAX = 3600 * SECOND_NS  # a trade that claims to be later than that after it came has a wrong time
CHANGES_MAX = 1 << 16
PARTS_MAX = 1 << 14
_NO_SPANS = np.empty((0, 3), np.int64)


@dataclass(frozen=True)
class Level:
    """The bars of one period.

    Attributes:
        period: how long each is.
        words: their slots, shape ``(blocks, rows, 8, 16)`` as in a bar segment; zeros where there is no bar yet.
    """

    period: Period
    words: NDArray[np.int64]


def private_level(period: Period, rows: int, instruments: int) -> Level:
    """Make room for the newest ``rows`` bars of each instrument in this process's own memory."""
    return Level(period, np.zeros((-(-instruments // BLOCK), rows, BLOCK, bar.WORDS), np.int64))


class _Room(NamedTuple):
    """A level as the kernel takes it."""

    ints: NDArray[np.int64]
    floats: NDArray[np.float64]
    rows: int
    period_ns: int

    @classmethod
    def of(cls, level: Level) -> _Room:
        ints = level.words.reshape(-1, bar.WORDS)
        return cls(ints, ints.view(np.float64), level.words.shape[1], level.period.period_ns)


class _Parts:
    """Trades that are put together for bars of one level, and not in them yet.

    Args:
        children: the levels that get these parts as well, later, and how many times as long their bars are.
    """

    def __init__(self, instruments: int, children: Sequence[tuple[int, int]]) -> None:
        self.words = np.zeros((PARTS_MAX, bar.WORDS), np.int64)
        self.floats = self.words.view(np.float64)
        self.count = 0
        self.current = np.full(instruments + 1, -1, np.int64)
        self.children = children


def _children(periods_ns: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Say which levels are made of which: each of the longest one before it that fits into it whole times."""
    children: list[list[tuple[int, int]]] = [[] for _ in periods_ns]
    for n, period_ns in enumerate(periods_ns[1:], 1):
        parent = max(m for m in range(n) if period_ns % periods_ns[m] == 0)
        children[parent].append((n, period_ns // periods_ns[parent]))
    return children


class _Told(NamedTuple):
    """A bar as its venue tells it: prices, the volume in whole units and 10^-15 of one, trades (-1: not known)."""

    open: float
    high: float
    low: float
    close: float
    whole: int
    frac: int
    trade_count: int


def _split(volume: float) -> tuple[int, int]:
    whole, frac = bar.split_volume(volume)
    return int(whole), int(frac)


class BarSet:
    """See the module.

    Args:
        levels: of all periods, the shortest first; the others' are multiples of it.
        lateness_ns: so much after its end a bar is out, if the venue speaks.
        inherited: of how many instruments, from the first, a predecessor may have left bars in the levels; of all that
            there is room for, if nobody knows.

    Attributes:
        time: the feed's.
        opened: by level, the number of the newest bar that has begun.
        closed: by level, the number of the oldest bar that is not out.
        first: by level, the number of the first bar that has begun; 0 before, and where a predecessor has begun.
        misdated: how many trades had an impossible time. A gap stands where they came.
        live: by instrument, whether its data comes now: ``kernel.LIVE`` and others. Set by whoever knows.
    """

    def __init__(
        self, levels: Sequence[Level], *, lateness_ns: int = LATENESS_NS, inherited: int | None = None
    ) -> None:
        instruments = levels[0].words.shape[0] * BLOCK
        self.levels = tuple(levels)
        self.time = FeedTime(lateness_ns)
        self.misdated = 0
        self.opened = np.zeros(len(levels), np.int64)
        self.closed = np.zeros(len(levels), np.int64)
        self.first = np.zeros(len(levels), np.int64)
        self.live = np.zeros(instruments + 1, np.int64)
        self.instruments = 0
        self._inherited = instruments if inherited is None else inherited
        self._rooms = tuple(_Room.of(level) for level in levels)
        self._begun = np.zeros(instruments + 1, np.int64)
        self._covered_ns = np.full(instruments + 1, bar.NEVER_NS, np.int64)
        self._doubted_ns = np.full(instruments + 1, bar.NEVER_NS, np.int64)
        self._calendars = np.zeros(instruments + 1, np.int64)
        self._spans = _NO_SPANS
        self._parts = [_Parts(instruments, made) for made in _children([room.period_ns for room in self._rooms])]
        self._others = np.zeros(PARTS_MAX, np.int64)
        self._composed = np.zeros(PARTS_MAX, np.int64)
        self._postponed: dict[int, set[tuple[int, int]]] = {}
        self._changes = np.zeros((CHANGES_MAX, 3), np.int64)
        self._found = np.zeros(1 + len(levels), np.int64)

    @property
    def capacity(self) -> int:
        """How many instruments there is room for."""
        return len(self.live) - 1

    @property
    def traded(self) -> int:
        """How many instruments ever traded, and so have bars."""
        return int(self._begun.sum())

    @property
    def newest_open_ns(self) -> int:
        """When the newest bar of the shortest period began; 0 if none has."""
        return int(self.opened[0]) * self._rooms[0].period_ns

    @property
    def oldest_open_ns(self) -> int:
        """When the oldest bar of the shortest period began that is not out; 0 if none was."""
        return int(self.closed[0]) * self._rooms[0].period_ns

    # --- what goes in -------------------------------------------------------------------------------------

    def admit(self, count: int) -> None:
        """Know the instruments 1 to ``count``. What the levels hold of them, a predecessor has left."""
        for instrument in range(self.instruments + 1, min(count, self._inherited) + 1):
            block, lane = divmod(instrument - 1, BLOCK)
            if any(level.words[block, :, lane, bar.NUMBER].any() for level in self.levels):
                self._begun[instrument], self._covered_ns[instrument] = 1, 0
        self.instruments = max(self.instruments, count)

    def cover(self, instruments: NDArray[np.intp] | int, from_ns: int) -> None:
        """Note that instruments' data is whole from now on, where that is not known yet."""
        numbers = np.atleast_1d(instruments)
        fresh = numbers[self._covered_ns[numbers] == bar.NEVER_NS]
        self._covered_ns[fresh] = from_ns

    def set_calendars(self, calendars: NDArray[np.int64], spans: NDArray[np.int64]) -> None:
        """Say which instruments have which calendar (0: never closed), and when those are open.

        Args:
            calendars: by instrument, as long as ``live``.
            spans: shape ``(n, 3)``: calendar, begin and end of a session, in order.
        """
        self._calendars, self._spans = calendars, spans

    def take(self, rows: NDArray[np.void]) -> None:
        """Take rows of a tick ring, dtype ``layout.ROW``, each at the time at which it was received."""
        words = np.ascontiguousarray(rows).view(np.int64).reshape(len(rows), layout.ROW_BYTES // 8)
        self.admit(kernel.highest_instrument(words))
        base, start = self._rooms[0], 0
        while start < len(words):
            self.advance(int(words[start, kernel.ROW_RECEIVED]))
            time = self.time
            piece = words[: start + PARTS_MAX // 2]
            end = kernel.scan(
                piece, start, time.words, time.lateness_ns, base.period_ns, self.opened[0], self.closed[0]
            )
            self._take_piece(words[start:end])
            start = end
        self.advance(self.time.now_ns)

    def advance(self, now_ns: int) -> None:
        """Open and close what is due by now, by the feed's clock. It never goes back."""
        if not self.is_due(now_ns):
            return
        now_ns, watermark_ns = self.time.now_ns, self.time.watermark_ns
        for n, room in enumerate(self._rooms):
            opened, closed = now_ns // room.period_ns, watermark_ns // room.period_ns
            if opened > self.opened[n] or closed > self.closed[n]:
                self._flush(n)  # whose shorter ones are due as well, and have had theirs
            if opened > self.opened[n]:
                self._open(n, opened)
            if closed > self.closed[n]:
                self._close(n, closed)

    def is_due(self, now_ns: int) -> bool:
        """Whether :meth:`advance` would open or close anything. The clock goes on."""
        now_ns = self.time.reach(now_ns)
        base_ns = self._rooms[0].period_ns
        return bool(now_ns // base_ns > self.opened[0] or self.time.watermark_ns // base_ns > self.closed[0])

    def flush(self) -> None:
        """Let the bars have all that was taken. Until then it waits in parts, which may grow over many calls."""
        for n in range(len(self._parts)):
            self._flush(n)

    def _flush(self, n: int) -> None:
        """Let one level's bars have what waits for them, and let it wait for those of longer periods."""
        parts, room = self._parts[n], self._rooms[n]
        if not parts.count:
            return
        for m, ratio in parts.children:
            longer = self._parts[m]
            if longer.count + parts.count > PARTS_MAX:
                self._flush(m)
            longer.count = kernel.pass_on(
                parts.words,
                parts.floats,
                parts.count,
                ratio,
                longer.words,
                longer.floats,
                longer.count,
                longer.current,
            )
        kernel.forget(parts.words, parts.count, parts.current)
        composed = kernel.merge_parts(
            parts.words,
            parts.floats,
            parts.count,
            n,
            *room,
            self.opened[n],
            self.closed[n],
            self._covered_ns,
            self._calendars,
            self._spans,
            self._changes,
            self._found,
            self._composed,
        )
        parts.count = 0
        for part in self._composed[:composed]:
            self._compose(n, int(parts.words[part, bar.STATE]), int(parts.words[part, bar.NUMBER]))

    def gap(self, instrument: int, from_ns: int, to_ns: int) -> None:
        """Note that something of an instrument, or of all with 0, is missing in ``[from_ns, to_ns)``."""
        self.flush()
        for number in [instrument] if instrument else range(1, self.instruments + 1):
            decomposed = [n for n in range(len(self._rooms)) if self._gap_in(n, number, from_ns, to_ns)]
            for n in decomposed:
                period_ns = self._rooms[n].period_ns
                for longer in range(from_ns // period_ns, max(from_ns, to_ns - 1) // period_ns + 1):
                    self._compose(n, number, longer)
            if self.live[number] == kernel.LIVE:
                self._doubted_ns[number] = bar.NEVER_NS
                for n, longer in self._postponed.pop(number, ()):
                    self._compose(n, number, longer)

    def _gap_in(self, n: int, instrument: int, from_ns: int, to_ns: int, *, opened: int = 0) -> bool:
        """Note a gap in one level's bars, in those that have begun, or up to ``opened`` if that is more.

        Returns:
            Whether one was made of shorter ones, and is not any more.
        """
        decomposed: bool = kernel.take_gap(
            instrument,
            from_ns,
            to_ns,
            n,
            *self._rooms[n],
            max(int(self.opened[n]), opened),
            self.closed[n],
            self._covered_ns,
            self.live,
            self._doubted_ns[instrument],
            self._calendars,
            self._spans,
            self._changes,
            self._found,
        )
        return decomposed

    def _take_piece(self, words: NDArray[np.int64]) -> None:
        parts = self._parts[0]
        if parts.count + len(words) > PARTS_MAX:
            self._flush(0)
        parts.count, others = kernel.make_parts(
            words,
            words.view(np.float64),
            self._rooms[0].period_ns,
            AHEAD_NS_MAX,
            self._covered_ns,
            self._begun,
            parts.words,
            parts.floats,
            parts.count,
            parts.current,
            self._others,
        )
        if others:
            self._take_others(words[self._others[:others]])

    def _take_others(self, words: NDArray[np.int64]) -> None:
        """Take gaps, and trades of which nobody knows when they were: they are missing where they came.

        A bar in which an outage begins is broken from then on, though only the outage's end says all that is missing.
        """
        for row in words.view(layout.GAP).reshape(-1):
            if row["kind"] == Kind.GAP:
                self.gap(int(row["instrument"]), int(row["from_ns"]), int(row["to_ns"]))
            else:
                self.misdated += int(row["kind"] == Kind.TRADE)
                self.gap(int(row["instrument"]), int(row["received_ns"]), int(row["received_ns"]))

    @property
    def beyond(self) -> list[int]:
        """By level, how many trades were of bars that are older than what is held."""
        return [int(count) for count in self._found[1:]]

    def _open(self, n: int, number: int) -> None:
        if not self.opened[n]:
            self.first[n] = number
        first = self.opened[n] + 1 if self.opened[n] else number
        kernel.open_bars(
            first,
            number,
            self.instruments,
            *self._rooms[n],
            self._covered_ns,
            self._begun,
            self.live,
            self._doubted_ns,
            self._calendars,
            self._spans,
        )
        self.opened[n] = number

    def _close(self, n: int, number: int) -> None:
        room = self._rooms[n]
        first = self.closed[n] or number - room.rows
        kernel.close_bars(n, first, number - 1, self.instruments, room.ints, room.rows, self._changes, self._found)
        self.closed[n] = number

    # --- after a writer that died -------------------------------------------------------------------------

    def distrust(self) -> None:
        """Take nothing for granted that a writer may have left half done after ``opened`` and ``closed``."""
        for n, room in enumerate(self._rooms):
            mending.distrust(self.instruments, *room, self.opened[n], self.closed[n])
        self._found[0] = CHANGES_MAX + 1  # what it had marked as changed was perhaps not told

    def replace(self, instrument: int, events_ns: NDArray[np.int64], fresh: BarSet, from_ns: int) -> None:
        """Take the bars that certain trades belong to from another set, which is whole from ``from_ns`` on.

        Those that begin before that get a gap instead.
        """
        self._begun[instrument] = 1
        self._covered_ns[instrument] = min(self._covered_ns[instrument], fresh._covered_ns[instrument])
        block, lane = divmod(instrument - 1, BLOCK)
        for n, room in enumerate(self._rooms):
            for number in np.unique(events_ns // room.period_ns).tolist():
                if number * room.period_ns < from_ns:
                    begin_ns = number * room.period_ns
                    self._gap_in(n, instrument, begin_ns, begin_ns + room.period_ns, opened=number)
                    continue
                other = fresh.levels[n].words[block, number % room.rows, lane]
                if other[bar.NUMBER] == number:
                    mending.replace_bar(
                        other,
                        number,
                        n,
                        instrument,
                        *room,
                        self.opened[n],
                        self.closed[n],
                        self._covered_ns,
                        self._calendars,
                        self._spans,
                        self._changes,
                        self._found,
                    )
                if self._bar(n, instrument, number)[bar.STATE] & bar.COMPOSED:
                    self._compose(n, instrument, number)

    def tell_again(self, instrument: int, from_ns: int) -> None:
        """Let the bars of an instrument, or of all with 0, that end after ``from_ns`` be told again if they are out."""
        for number in [instrument] if instrument else range(1, self.instruments + 1):
            for n, room in enumerate(self._rooms):
                mending.tell_again(number, from_ns, room.ints, room.rows, room.period_ns, self.closed[n])
        self._found[0] = CHANGES_MAX + 1

    # --- what the venue tells afterwards ------------------------------------------------------------------

    def fill(self, n: int, instrument: int, told: Sequence[BarRow]) -> int:
        """Take bars of one level, of which something was missing, as their venue tells them; return how many.

        Those of longer periods follow where all of them is known by that.
        """
        self.flush()
        filled_ns = []
        for open_ns, open_, high, low, close, volume, count in told:
            values = _Told(open_, high, low, close, *_split(volume), count if volume else 0)
            if self._fill_bar(n, instrument, open_ns // self._rooms[n].period_ns, values, composed=False):
                filled_ns.append(open_ns)
        for m in range(n + 1, len(self._rooms)):
            for number in sorted({open_ns // self._rooms[m].period_ns for open_ns in filled_ns}):
                if self.live[instrument] != kernel.LIVE:
                    # The others may lack something of which only the outage's end will tell.
                    self._postponed.setdefault(instrument, set()).add((m, number))
                else:
                    self._compose_of(n, m, instrument, number)
        return len(filled_ns)

    def _fill_bar(self, n: int, instrument: int, number: int, values: _Told, *, composed: bool) -> bool:
        filled: bool = mending.fill_bar(
            number,
            values.open,
            values.high,
            values.low,
            values.close,
            values.whole,
            values.frac,
            values.trade_count,
            composed,
            n,
            instrument,
            *self._rooms[n],
            self.opened[n],
            self.closed[n],
            self._covered_ns,
            self._calendars,
            self._spans,
            self._changes,
            self._found,
        )
        return filled

    def _bar(self, n: int, instrument: int, number: int) -> NDArray[np.int64]:
        block, lane = divmod(instrument - 1, BLOCK)
        words: NDArray[np.int64] = self.levels[n].words[block, number % self._rooms[n].rows, lane]
        return words

    def _compose(self, m: int, instrument: int, number: int) -> None:
        """Make a bar again that was made of shorter ones, which may have changed."""
        any(self._compose_of(n, m, instrument, number) for n in reversed(range(m)))

    def _compose_of(self, n: int, m: int, instrument: int, number: int) -> bool:
        """Make a longer bar of one level's, if those are all there and whole; return whether they are."""
        ratio, left = divmod(self._rooms[m].period_ns, self._rooms[n].period_ns)
        if left or ratio > self._rooms[n].rows:
            return False
        block, lane = divmod(instrument - 1, BLOCK)
        numbers = np.arange(number * ratio, (number + 1) * ratio)
        words = self.levels[n].words[block, numbers % self._rooms[n].rows, lane]
        states = words[:, bar.STATE] & bar.STATE_MASK
        if not (words[:, bar.NUMBER] == numbers).all() or not np.isin(states, [bar.CLOSED, bar.REVISED]).all():
            return False
        floats, counts = words.view(np.float64), words[:, bar.COUNT]
        carry, frac = divmod(int(words[:, bar.FRAC].sum()), bar.FRACTION)
        values = _Told(
            float(floats[0, bar.OPEN]),
            float(floats[:, bar.HIGH].max()),
            float(floats[:, bar.LOW].min()),
            float(floats[-1, bar.CLOSE]),
            int(words[:, bar.WHOLE].sum()) + carry,
            frac,
            -1 if (counts < 0).any() else int(counts.sum()),
        )
        self._fill_bar(m, instrument, number, values, composed=True)
        return True

    # --- what comes out -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the levels' memory."""
        self.levels = ()
        self._rooms = ()

    def changes(self, made_ns: int, kinds: Sequence[int]) -> NDArray[np.void]:
        """Return the bars that have come out, or have changed afterwards, since the last call, each once.

        Args:
            made_ns: when they were made.
            kinds: of each level.

        Returns:
            Shape ``(n,)``, dtype ``steps.BAR``, without cursors, with the bars as they are now; in the order in which
            it happened, or where there were more than :data:`CHANGES_MAX`, in the order of levels and instruments.
        """
        self.flush()
        count = int(self._found[0])
        changes = self._changes[:count] if count <= CHANGES_MAX else self._all_changes()
        self._found[0] = 0
        rows = np.zeros(len(changes), steps.BAR)
        words = rows.view(np.int64).reshape(len(rows), steps.STEP_BYTES // 8)
        for n, room in enumerate(self._rooms):
            kernel.tell_changes(
                changes,
                n,
                room.ints,
                room.rows,
                made_ns,
                room.period_ns,
                kinds[n],
                words,
                words.view(np.float64),
            )
        return rows[rows["state"] > 0]

    def _all_changes(self) -> NDArray[np.int64]:
        found = []
        for n, room in enumerate(self._rooms):
            changes = np.zeros((room.rows * self.instruments, 3), np.int64)
            found.append(changes[: kernel.find_changes(n, self.instruments, room.ints, room.rows, changes)])
        return np.concatenate(found)

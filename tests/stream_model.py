"""Pure: what a stream has told, held to what there was and to what its contract says of it.

The rules are those of docs/protocol.md, sections 5, 6 and 8. A :class:`History` is the truth: every row that was
written. A log is what one stream's reader saw, in order: :class:`Opened`, each answer of the server to a `subscribe` or
`update`; :class:`Told`, a frame of rows; :class:`Gap`; :class:`News`; and when the stream was paused. :func:`check`
raises :class:`Wrong` where the one does not follow from the other.
"""

from __future__ import annotations

import enum
import fnmatch
import itertools
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from marketd.ring.layout import KINDS_BY_NAME
from marketd.rpc.messages import Position

EVENT_KINDS = ("gap", "status")  # rows of these come with any kind of data
STATE_KINDS = ("trade", "quote")
ALL = "*"  # the name in a row that is about all instruments of a feed


class Wrong(AssertionError):  # noqa: N818 - as it is said: `raise Wrong`
    """A stream has told what is not so, or has not told what is."""


class Row(NamedTuple):
    """A row. ``value`` is what was written into it: its own cursor."""

    cursor: int
    kind: str
    name: str
    value: float


@dataclass
class Epoch:
    """A life of a feed.

    Attributes:
        names: of its instruments, in the order in which they came.
        rows: kind and name of the rows 1, 2, 3 ...
        oldest: the first one that is not overwritten.
        born: how many rows there were when each instrument came.
    """

    names: list[str] = field(default_factory=list)
    rows: list[tuple[str, str]] = field(default_factory=list)
    oldest: int = 1
    born: list[int] = field(default_factory=list)

    @property
    def published(self) -> int:
        """The newest cursor."""
        return len(self.rows)


@dataclass
class History:
    """Every row of every feed: by the feed's name and epoch, oldest epoch first. ``current``: those there are now."""

    epochs: dict[tuple[str, int], Epoch] = field(default_factory=dict)
    current: dict[str, int] = field(default_factory=dict)

    def is_later(self, feed: str, epoch: int, than: int) -> bool:
        """Whether an epoch came after another one."""
        order = [number for name, number in self.epochs if name == feed]
        return epoch in order and than in order and order.index(epoch) > order.index(than)


class Start(NamedTuple):
    """A feed in the server's answer.

    ``names``: the instruments that it named. ``known``: how many the epoch had then. ``current``: whether the epoch was
    the feed's own then, and not that of a feed that has gone. ``oldest``: the first row that was not overwritten then.
    """

    epoch: int
    cursor: int
    names: frozenset[str] = frozenset()
    known: int = 0
    current: bool = True
    oldest: int = 1


class Opened(NamedTuple):
    """The server's answer to a `subscribe`, or to an `update`; ``instruments`` are wanted from there on.

    ``met``: the feeds whose instruments the server had named before, in whatever message.
    """

    instruments: tuple[str, ...]
    feeds: Mapping[str, Start]
    by_update: bool = False
    met: frozenset[str] = frozenset()


class Told(NamedTuple):
    """A frame with rows. When it was taken, the feed's rows from ``oldest`` to ``published`` were there."""

    feed: str
    epoch: int
    first: int
    last: int
    kind: str
    rows: tuple[Row, ...]
    merged: tuple[int, ...] | None = None
    oldest: int = 1
    published: int = 0

    def __str__(self) -> str:
        rows = [f"{row.cursor} {row.name}" for row in self.rows]
        return f"{self.feed} {self.epoch} {self.first}..{self.last} {self.kind}: {', '.join(rows)}; {self.merged}"


class Gap(NamedTuple):
    """A gap that the server or the client has told: no row of a ring."""

    feed: str
    epoch: int
    first: int
    last: int
    reason: str
    lost: int


class News(NamedTuple):
    """News of a feed, or of the connection."""

    state: str
    feed: str = ""


class Paused(NamedTuple):
    """From here on nothing is to come that was not published; by feed and epoch, what was."""

    published: Mapping[tuple[str, int], int]


class Unpaused(NamedTuple):
    """It is to go on."""


Event = Opened | Told | Gap | News | Paused | Unpaused


def check(
    log: Iterable[Event],
    history: History,
    contract: str,
    kinds: Sequence[str],
    *,
    resume: Mapping[str, Position] | None = None,
    token: Mapping[str, Position] | None = None,
    complete: bool = True,
) -> None:
    """Raise Wrong unless this is what such a stream may tell.

    Args:
        log: what it told.
        history: what there was, as it is after all of that.
        contract: the stream's.
        kinds: of rows that it wants.
        resume: the positions that it began with.
        token: the positions that it said to have reached, at the end of the log.
        complete: it must have reached the end of every feed.
    """
    checker = _CHECKERS[contract](history, kinds, contract, resume or {})
    for number, event in enumerate(log):
        try:
            checker.take(event)
        except Wrong as wrong:
            raise Wrong(f"event {number}, {event}: {wrong}") from None
    if token is not None:
        checker.check_token(token)
    if complete:
        checker.finish()


class _Want(enum.Enum):
    NO = enum.auto()
    YES = enum.auto()
    MAYBE = enum.auto()


class _Checker:
    """What all contracts have in common.

    Attributes:
        at: by feed, up to where everything is accounted for.
        starts: by feed, what the newest answer said of the epoch there.
    """

    def __init__(self, history: History, kinds: Sequence[str], contract: str, resume: Mapping[str, Position]) -> None:
        self.history = history
        self.kinds = {*kinds, *EVENT_KINDS}
        self.contract = contract
        self.at = dict(resume)
        self.starts: dict[str, Start] = {}
        self.instruments: tuple[str, ...] | None = None
        self._left: set[str] = set()  # feeds whose epoch was over when a connection was made again
        self._stopped: dict[str, int] = {}  # the epoch that was said to be over; 0 if no row of it was told
        self._met: set[str] = set()  # feeds whose instruments are known
        self._leaving: set[str] = set()  # feeds told to their end, though none of theirs is wanted
        self._unseen: set[str] = set()  # feeds that may have been read before, as long as they had nothing to tell
        self._limits: Mapping[tuple[str, int], int] | None = None
        self._down = False

    def take(self, event: Event) -> None:
        """Look at the next event."""
        if isinstance(event, Told):
            self._check_pause(event)
            self.told(event)
            self._unseen.discard(event.feed)
        elif isinstance(event, Paused | Unpaused):
            self._limits = event.published if isinstance(event, Paused) else None
        else:
            self.between_messages()
            if isinstance(event, Opened):
                self._opened(event)
            elif isinstance(event, Gap):
                self._gap(event)
                self._unseen.discard(event.feed)
            else:
                self._news(event)

    # --- for the contracts to say ---

    def told(self, event: Told) -> None:
        """Look at a frame."""
        raise NotImplementedError

    def between_messages(self) -> None:
        """Note that no message is under way."""

    def opened_at(self, feed: str, start: Start) -> None:
        """Look at the position in an answer, in the epoch that the stream was in."""
        at = self.at[feed]
        if start.cursor < at.cursor:
            raise Wrong(f"{feed} goes on after {start.cursor}, and {at.cursor} was told already")
        self.nothing_between(feed, at.cursor + 1, start.cursor)
        self.at[feed] = Position(start.epoch, start.cursor)

    def lapped(self, gap: Gap) -> None:
        """Look at a gap within an epoch."""
        at = self.at[gap.feed]
        if gap.first <= at.cursor:
            raise Wrong(f"up to {at.cursor} all was told already")
        self.nothing_between(gap.feed, at.cursor + 1, gap.first - 1)
        if gap.lost != gap.last - gap.first + 1:
            raise Wrong("its count of lost rows does not add up")

    def check_token(self, token: Mapping[str, Position]) -> None:
        """Look at the positions that the stream says it has reached."""
        for feed, at in self.at.items():
            position = token.get(feed)
            if (
                feed in self._unseen
                and position is not None
                and self.history.is_later(feed, at.epoch, than=position.epoch)
            ):
                continue  # the new epoch has nothing to tell yet
            begun = None if position is None else self._begun(feed, position.epoch)
            if begun is not None and position is not None and position.cursor >= begun.cursor:
                continue
            if position is None or position.epoch != at.epoch or position.cursor < at.cursor:
                raise Wrong(f"the token has {position} for {feed}, where {at} is reached")
            self.nothing_between(feed, at.cursor + 1, position.cursor)

    def finish(self) -> None:
        """Look whether it has told everything."""
        self.between_messages()
        for feed, number in self.history.current.items():
            epoch = self.history.epochs[feed, number]
            if not epoch.published or not any(self._matches(name) for name in epoch.names):
                continue
            self.check_end(feed, number)
        if self._down and self.instruments:
            raise Wrong("it was never said that the connection was made again")

    def check_end(self, feed: str, number: int) -> None:
        """Look whether it has told everything of a feed that it is about and that has rows."""
        at = self.at.setdefault(feed, Position(number, 0))  # one that has come later, without anything to tell
        at = self.at[feed] = self._begun(feed, number) or at
        if at.epoch != number:
            last = self.history.epochs[feed, number].published
            if _Want.YES not in self.wanted(feed, number, 1, last).values() and self.history.is_later(
                feed, number, than=at.epoch
            ):
                return  # there was nothing to say of it yet
            raise Wrong(f"{feed} is in its epoch {number}, and the stream at {at}")
        self.nothing_between(feed, at.cursor + 1, self.history.epochs[feed, number].published)

    # --- what holds for all ---

    def _check_pause(self, event: Told) -> None:
        if self._limits is not None and event.last > self._limits.get((event.feed, event.epoch), 0):
            raise Wrong("the stream was paused before these rows were there")

    def _opened(self, event: Opened) -> None:
        for feed, start in event.feeds.items():
            if event.by_update and feed in self.at and feed not in self._met | event.met:
                self.at[feed] = Position(start.epoch, start.cursor)  # only the token had named it: it begins there
            elif feed in self.at and self.at[feed].epoch == start.epoch:
                self.opened_at(feed, start)
        if self.instruments is not None:
            self._unseen |= event.feeds.keys() - self.at.keys()
        removed = set(self.instruments or ()) - set(event.instruments)
        had = {feed: self._selected(feed) for feed in self.at}
        before, self.instruments = self.starts.copy(), event.instruments
        self._met |= event.met
        for feed, at in list(self.at.items()):
            start = event.feeds.get(feed)
            away = feed not in self._met or any(self._matches(name) for name in had[feed])
            if away:
                self._leaving.discard(feed)
            elif removed:
                self._leaving.add(feed)
            if start is None and feed in self._leaving:
                # "A feed that is not in it any more is not read any more": nor missed, unless it is only away.
                self._leave(feed)
            elif start is None or (start.epoch != at.epoch and not event.by_update):
                self._left.add(feed)
        self._met |= event.feeds.keys()
        for feed, start in event.feeds.items():
            if start.current and (strangers := [name for name in start.names if not self._matches(name)]):
                raise Wrong(f"{', '.join(strangers)} of {feed} were not asked for")
            self.at.setdefault(feed, Position(start.epoch, start.cursor))
            self.starts[feed] = start
        self.selected(before, event)

    def selected(self, before: Mapping[str, Start], event: Opened) -> None:
        """Note that other instruments are wanted, or that a connection was made again."""

    def _gap(self, gap: Gap) -> None:
        epoch = self.history.epochs.get((gap.feed, gap.epoch))
        at = self.at.get(gap.feed)
        if epoch is None or gap.last > epoch.published:
            raise Wrong("there are no such rows")
        if at is None or (gap.feed in self._unseen and gap.reason == "epoch"):
            at = self.at[gap.feed] = self._begin(gap)
        if gap.reason == "epoch" or gap.epoch != at.epoch:
            self.end_epoch(gap.feed, gap.epoch)
        if gap.reason == "epoch":
            if gap.first != 1 or gap.lost != -1:
                raise Wrong("a gap of this reason begins at 1, and nobody knows how much is lost")
        elif gap.reason != "lapped":
            raise Wrong(f"there is no reason for a gap of reason {gap.reason}")
        else:
            if not gap.first <= gap.last < epoch.oldest:
                raise Wrong(f"the rows from {epoch.oldest} on are not overwritten")
            self.lapped(gap)
        self.at[gap.feed] = Position(gap.epoch, gap.last)

    def _begin(self, gap: Gap) -> Position:
        """Return where a stream stood in a feed that has come later, and of which it has had no frame."""
        if gap.reason != "epoch":
            return Position(gap.epoch, 0)
        before = [epoch for feed, epoch in self.history.epochs if feed == gap.feed]
        before = before[: before.index(gap.epoch)]
        if not before:
            raise Wrong("there was no epoch before")
        self._left.add(gap.feed)
        return Position(before[-1], 0)

    def _begun(self, feed: str, number: int) -> Position | None:
        """Return where a stream may have begun in another epoch without a gap: after the end of the one before."""
        at, start = self.at[feed], self.starts.get(feed)
        if feed not in self._stopped or start is None or start.epoch != number or at.epoch == number:
            return None
        return Position(number, start.cursor)

    def _leave(self, feed: str) -> None:
        self._leaving.discard(feed)
        self.starts.pop(feed, None)
        del self.at[feed]

    def _news(self, news: News) -> None:
        at = self.at.get(news.feed)
        if news.state == "stopped":
            if at is not None and (news.feed in self._left or self._stopped.get(news.feed) == at.epoch):
                at = None  # a later epoch than the one where the stream stands, which had nothing to tell
            if at is not None:
                end = self.history.epochs[news.feed, at.epoch].published
                self.nothing_between(news.feed, at.cursor + 1, end)
                self.at[news.feed] = Position(at.epoch, end)  # what is wanted from now on is of no matter there
            self._stopped[news.feed] = 0 if at is None else at.epoch
            if news.feed in self._leaving:
                self._leave(news.feed)
        elif news.state == "disconnected":
            self._down = True
        elif news.state == "reconnected":
            if not self._down:
                raise Wrong("the connection was not broken")
            self._down = False

    def end_epoch(self, feed: str, number: int) -> None:
        """Go over to another epoch of a feed.

        A stream that was open all the time has had all of the old one, and the word that it is over.
        """
        at = self.at[feed]
        if not self.history.is_later(feed, number, than=at.epoch):
            raise Wrong(f"the stream is at {at}: this epoch is no later one")
        if feed not in self._left and self._stopped.get(feed) not in (0, at.epoch):
            raise Wrong(f"the end of epoch {at.epoch} was not told to a stream that was open")
        self._left.discard(feed)
        self._stopped.pop(feed, None)
        self.at[feed] = Position(number, 0)

    # --- what is wanted ---

    def _matches(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.instruments or ())

    def _selected(self, feed: str) -> list[str]:
        """The instruments of a feed that are wanted where the stream stands in it."""
        number = self.at[feed].epoch
        names = self.history.epochs[feed, number].names
        return [name for name in names if self.wants(feed, number, name) is not _Want.NO]

    def wants(self, feed: str, number: int, name: str) -> _Want:
        """Whether rows of this name are wanted in this epoch of a feed."""
        if name == ALL:
            return _Want.YES
        start = self.starts.get(feed)
        if start is None or start.epoch != number:  # it came later
            return _Want.YES if self._matches(name) else _Want.NO
        if name in start.names:
            return _Want.YES
        if not self._matches(name):
            return _Want.NO
        if not start.current and name in self.history.epochs[feed, number].names[: start.known]:
            return _Want.MAYBE  # the end of a feed goes to who wanted it before
        return _Want.YES

    def wanted(self, feed: str, number: int, first: int, last: int) -> dict[int, _Want]:
        """The cursors in a range, both ends included, of which rows are wanted, and those that may come."""
        found = {}
        begins = self._concerned_from(feed, number)
        for cursor, (kind, name) in enumerate(self.history.epochs[feed, number].rows[first - 1 : last], first):
            if kind in self.kinds and (want := self.wants(feed, number, name)) is not _Want.NO:
                found[cursor] = _Want.MAYBE if name == ALL and cursor <= begins else want
        return found

    def _concerned_from(self, feed: str, number: int) -> int:
        """How many rows a feed had that came later before it had anything that is wanted by name, and by no glob."""
        start, epoch = self.starts.get(feed), self.history.epochs[feed, number]
        came_later = start is None or start.epoch != number
        if not came_later or any("*" in pattern and _may_end(pattern, feed) for pattern in self.instruments or ()):
            return 0
        return min(
            (born for name, born in zip(epoch.names, epoch.born, strict=False) if self._matches(name)), default=0
        )

    def nothing_between(self, feed: str, first: int, last: int) -> None:
        """Raise Wrong if a row is wanted in a range that was passed over without a word."""
        wanted = self.wanted(feed, self.at[feed].epoch, first, last)
        if missing := [cursor for cursor, want in wanted.items() if want is _Want.YES]:
            raise Wrong(f"missing of {feed}: {missing}")

    def check_rows(self, event: Told) -> None:
        """Raise Wrong unless each row is one that there is, and that is wanted."""
        epoch = self.history.epochs.get((event.feed, event.epoch))
        if epoch is None:
            raise Wrong("there is no such epoch")
        for row in event.rows:
            if not 1 <= row.cursor <= epoch.published:
                raise Wrong(f"there is no row {row.cursor}")
            if (row.kind, row.name) != epoch.rows[row.cursor - 1] or row.value != row.cursor:
                raise Wrong(f"{row} was written as {epoch.rows[row.cursor - 1]}")
            if row.kind != event.kind:
                raise Wrong(f"{row} is not of the frame's kind")
            if row.kind not in self.kinds or self.wants(event.feed, event.epoch, row.name) is _Want.NO:
                raise Wrong(f"{row} is not wanted")
        cursors = [row.cursor for row in event.rows]
        if any(later <= earlier for earlier, later in itertools.pairwise(cursors)):
            raise Wrong(f"out of order: {cursors}")

    def enter(self, event: Told) -> None:
        """Look at the place where a message of rows begins."""
        at = self.at.setdefault(event.feed, Position(event.epoch, 0))  # a feed that has come later
        at = self.at[event.feed] = self._begun(event.feed, event.epoch) or at
        if at.epoch != event.epoch:
            raise Wrong(f"the stream is at {at}, and nothing was said of another epoch")
        if event.first <= at.cursor:
            raise Wrong(f"up to {at.cursor} all was told already")
        self.nothing_between(event.feed, at.cursor + 1, event.first - 1)


class _Lossless(_Checker):
    """Each row once, in order, or within a gap."""

    def told(self, event: Told) -> None:
        self.enter(event)
        self.check_rows(event)
        _compare({row.cursor: 1 for row in event.rows}, self.wanted(event.feed, event.epoch, event.first, event.last))
        self.at[event.feed] = Position(event.epoch, event.last)


class _Framed(_Checker):
    """The same rows, or those that stand for them, put by kind: a message is several frames, and the last one moves."""

    def __init__(self, history: History, kinds: Sequence[str], contract: str, resume: Mapping[str, Position]) -> None:
        super().__init__(history, kinds, contract, resume)
        self._parts: list[Told] = []

    def told(self, event: Told) -> None:
        if self._parts:
            before = self._parts[-1]
            if (event.feed, event.epoch, event.first) != (before.feed, before.epoch, before.first):
                raise Wrong(f"the message of {before} has no end")
            if KINDS_BY_NAME[event.kind] <= KINDS_BY_NAME[before.kind]:
                raise Wrong(f"{event.kind} after {before.kind}")
        else:
            self.enter(event)
        self.check_rows(event)
        self._parts.append(event)
        if event.last < event.first:
            return
        found = {}
        for part in self._parts:
            if (part.merged is None) != (self.contract == "frames"):
                raise Wrong(f"merged is {part.merged}")
            outside = [row.cursor for row in part.rows if not event.first <= row.cursor <= event.last]
            if outside:
                raise Wrong(f"outside of {event.first} to {event.last}: {outside}")
            found |= dict(zip([row.cursor for row in part.rows], part.merged or [1] * len(part.rows), strict=True))
        self._parts.clear()
        wanted = self.wanted(event.feed, event.epoch, event.first, event.last)
        counts = dict.fromkeys(wanted, 1)
        if self.contract == "trade_safe":
            newest: dict[str, int] = {}
            for cursor in list(wanted):
                kind, name = self.history.epochs[event.feed, event.epoch].rows[cursor - 1]
                if kind == "quote":
                    if name in newest:
                        counts[cursor] += counts.pop(newest[name])
                        del wanted[newest[name]]
                    newest[name] = cursor
        _compare(found, wanted, counts)
        self.at[event.feed] = Position(event.epoch, event.last)

    def between_messages(self) -> None:
        if self._parts:
            raise Wrong(f"the message of {self._parts[-1]} has no end")

    def check_token(self, token: Mapping[str, Position]) -> None:
        self._parts.clear()  # who has had some of a message has had no cursor of it yet
        super().check_token(token)


class _Latest(_Checker):
    """The newest quote and trade of each instrument, counted, and every gap and status row while the stream is open.

    Attributes:
        newest: the newest cursor that was told, by feed, kind and name.
        counted: those of them from which on counts must add up.
    """

    def __init__(self, history: History, kinds: Sequence[str], contract: str, resume: Mapping[str, Position]) -> None:
        super().__init__(history, kinds, contract, resume)
        self.newest: dict[tuple[str, int, str, str], int] = {}
        self.counted: set[tuple[str, int, str, str]] = set()
        self._forgiven: dict[tuple[str, int, str], int] = {}  # by name: what was overwritten before it was wanted
        self._gaps: dict[tuple[str, int], int] = {}
        self._events_from: dict[str, int] = {}  # gap and status rows up to there may have come before the stream
        self._events_to: dict[tuple[str, int, str], int] = {}
        # Gap and status rows of a message whose last frame, which has its range, is to come.
        self._parts: dict[tuple[str, int], set[int]] = {}

    def between_messages(self) -> None:
        self._parts.clear()

    def opened_at(self, feed: str, start: Start) -> None:
        pass  # it begins with the present state, wherever it was

    def selected(self, before: Mapping[str, Start], event: Opened) -> None:
        if not event.by_update:
            self.counted.clear()
            self._events_from.clear()
        for feed, start in event.feeds.items():
            old = before.get(feed)
            stay = old.names & start.names if old is not None and old.epoch == start.epoch else frozenset()
            known = self.history.epochs[feed, start.epoch].names[: start.known]
            for name in known:
                if name not in stay:
                    self._forgiven[feed, start.epoch, name] = start.oldest - 1
                    self.counted -= {(feed, start.epoch, kind, name) for kind in STATE_KINDS}

    def lapped(self, gap: Gap) -> None:
        if gap.lost != -1 and not 0 < gap.lost <= gap.last - gap.first + 1:
            raise Wrong("its count of lost rows does not add up")

    def _gap(self, gap: Gap) -> None:
        super()._gap(gap)
        where = (gap.feed, gap.epoch)
        self._gaps[where] = max(self._gaps.get(where, 0), gap.last)
        self.counted -= {key for key in self.counted if key[:2] == where}

    def told(self, event: Told) -> None:
        self.check_rows(event)
        where = (event.feed, event.epoch)
        if self.at.setdefault(event.feed, Position(event.epoch, 0)).epoch != event.epoch:
            self.end_epoch(*where)  # each message is whole, so nothing else has to be said of it
        if where not in self._gaps:
            start = self.starts.get(event.feed)
            joined = start is None or start.epoch != event.epoch
            self._gaps[where] = event.oldest - 1 if joined else 0
        if event.first == 1:
            self._events_from[event.feed] = event.published
        if event.merged is None or len(event.merged) != len(event.rows):
            raise Wrong(f"merged is {event.merged}")
        for row, count in zip(event.rows, event.merged, strict=True):
            if row.kind in STATE_KINDS:
                self._state(where, row, count)
            else:
                if count != 1 or row.cursor <= self._events_to.get((*where, row.kind), 0):
                    raise Wrong(f"{row} was told already, or stands for others")
                self._events_to[*where, row.kind] = row.cursor
                self._parts.setdefault(where, set()).add(row.cursor)
        if event.last >= event.first:
            self._check_events(event, self._parts.pop(where, set()))
        self.at[event.feed] = Position(event.epoch, event.last)

    def _state(self, where: tuple[str, int], row: Row, count: int) -> None:
        key = (*where, row.kind, row.name)
        before = self.newest.get(key, 0)
        exact = key in self.counted
        # What a gateway has not seen it does not know, also where another one had told it; a gap has said so.
        unsure = before <= self._gaps.get(where, 0)
        if (row.cursor < before and not unsure) or (exact and row.cursor <= before):
            raise Wrong(f"{row} is no newer than row {before}, which was told")
        most = self.history.epochs[where].rows[before : row.cursor].count((row.kind, row.name))
        if (exact and count != most) or not 1 <= count <= max(1, most):
            raise Wrong(f"{row} stands for {most} rows and says {count}")
        self.newest[key] = row.cursor
        if row.cursor > self._gaps.get(where, 0):  # else some of those that it will stand for next are in the gap
            self.counted.add(key)

    def _check_events(self, event: Told, told: Set[int]) -> None:
        begin = max(event.first, self._events_from.get(event.feed, 0) + 1)
        for cursor, want in self.wanted(event.feed, event.epoch, begin, event.last).items():
            kind, _ = self.history.epochs[event.feed, event.epoch].rows[cursor - 1]
            if kind in EVENT_KINDS and want is _Want.YES and cursor not in told:
                raise Wrong(f"missing: the {kind} row {cursor}")

    def nothing_between(self, feed: str, first: int, last: int) -> None:
        pass  # what the states say is looked at in the end

    def check_token(self, token: Mapping[str, Position]) -> None:
        for feed, at in self.at.items():
            # Messages without rows move the position too, and are no frames.
            epoch = token[feed].epoch if feed in token else 0
            if feed in self._unseen and self.history.is_later(feed, at.epoch, than=epoch):
                continue  # the new epoch has nothing to tell yet
            if epoch != at.epoch and not self.history.is_later(feed, epoch, than=at.epoch):
                raise Wrong(f"the token has {token.get(feed)} for {feed}, where {at} is reached")

    def check_end(self, feed: str, number: int) -> None:
        epoch = self.history.epochs[feed, number]
        newest = {row: cursor for cursor, row in enumerate(epoch.rows, 1)}
        start = self.starts.get(feed)
        if start is None or start.epoch != number:  # it came later, and had no state to tell perhaps
            self._gaps.setdefault((feed, number), epoch.oldest - 1)
        for (kind, name), cursor in newest.items():
            if kind not in STATE_KINDS or kind not in self.kinds or not self._matches(name):
                continue
            told = self.newest.get((feed, number, kind, name), 0)
            excused = max(self._gaps.get((feed, number), 0), self._forgiven.get((feed, number, name), 0))
            if told != cursor and cursor > excused:
                raise Wrong(f"the newest {kind} of {name} is row {cursor}, and {told} was told last")


def _may_end(pattern: str, feed: str) -> bool:
    """Whether a glob could select an instrument of a feed."""
    literal = pattern[pattern.rindex("*") + 1 :]
    return f".{feed}".endswith(literal) or literal.endswith(f".{feed}")


def _compare(found: Mapping[int, int], wanted: Mapping[int, _Want], counts: Mapping[int, int] | None = None) -> None:
    """Raise Wrong unless the rows found, and what each stands for, are those wanted."""
    if missing := [cursor for cursor, want in wanted.items() if want is _Want.YES and cursor not in found]:
        raise Wrong(f"missing: {missing}")
    if strangers := [cursor for cursor in found if cursor not in wanted]:
        raise Wrong(f"these rows should not be there: {strangers}")
    if counts is not None and (wrong := {cursor: n for cursor, n in found.items() if n != counts[cursor]}):
        raise Wrong(f"merged: {wrong}, and not {counts}")


_CHECKERS = {"lossless": _Lossless, "frames": _Framed, "trade_safe": _Framed, "latest": _Latest}

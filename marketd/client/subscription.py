"""One stream, without I/O: the messages of a subscription go in, frames come out.

It outlives connections: it knows what its reader has had, and so where to go on. Whatever a server sends after a
reconnect, each cursor of a feed is told of exactly once, by a frame's rows or as part of a gap.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator, Set
from typing import NamedTuple

import msgspec

from marketd.client.frames import Frame, Source
from marketd.client.sources import ColumnsSource, EventSource, RowsSource, columns_of, is_forming, snapshot_sources
from marketd.fqme import glob_pattern, is_glob
from marketd.ring import layout
from marketd.rpc import messages
from marketd.rpc.messages import Position
from marketd.rpc.positions import format_token

BUFFER_BYTES = 16 << 20
STEPS_SUFFIX = "/bars"  # of the name by which a feed's bars are read

RowMessage = messages.Rows | messages.Columns | messages.TickFrame | messages.Bars
Message = (
    RowMessage | messages.Snapshot | messages.ReplayCompleted | messages.Gap | messages.Instruments | messages.Status
)


class State(enum.Enum):
    """Where a subscription stands with the server."""

    OPENING = enum.auto()  # asked for, not answered yet
    LIVE = enum.auto()
    LOST = enum.auto()  # the connection broke: to be asked for when there is another one
    PARKED = enum.auto()  # its reader was too far behind: closed at the server, opened again when all is read
    REFUSED = enum.auto()  # it was live once, then the server would not have it back: asked again every second
    ENDED = enum.auto()


class Place(NamedTuple):
    """Between two messages: from there on a stream stands elsewhere in a feed; nowhere, if it reads it no more."""

    feed: str
    position: Position | None

    def move(self, positions: dict[str, Position]) -> None:
        """Note it among a stream's positions."""
        if self.position is None:
            positions.pop(self.feed, None)
        else:
            positions[self.feed] = self.position


class Subscription:
    """What the client knows of one stream. Not to be used by two tasks at once."""

    def __init__(self, params: messages.SubscribeParams, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.params = params
        self.state = State.OPENING
        self.id: int | None = None
        self.result: messages.SubscribeResult | None = None
        self.error: Exception | None = None
        self.paused = False
        self.buffered_bytes = 0
        self._buffer_bytes = buffer_bytes
        self._received = dict(params.resume)
        self._delivered = dict(params.resume)
        self._names: dict[str, tuple[int, dict[int, str]]] = {}
        self._kinds = layout.KIND_NAMES
        self._sources: deque[Source | Place] = deque()
        self._source: Source | None = None  # the one whose frames are being taken
        self._frames: Iterator[Frame] = iter(())
        self._frame: Frame | None = None
        self._told_lost = False
        self._removed = False  # instruments, since the server's last answer
        self._leaving: set[str] = set()  # feeds that had some then, until it is seen whether the server reads them on
        self._replayed: set[str] = set()
        self._gone: set[str] = set()  # feeds that were said to have stopped, and not heard of since
        self._untold: set[str] = set()  # feeds whose first states have not come yet
        self._without_snapshot: set[str] = set()  # feeds whose snapshot has not come yet

    # --- the reader's side ------------------------------------------------------------------------------------------

    def next_nowait(self) -> Frame | None:
        """Return the next frame that is here already, or None."""
        while True:
            frame = next(self._frames, None)
            if frame is not None:
                self._frame = frame
                return frame
            if not self._begin_source():
                return None

    def _begin_source(self) -> bool:
        if self._source is not None:
            if self._source.epoch and not self._source.forming:
                self._delivered[self._source.feed] = Position(self._source.epoch, self._source.cursor_last)
            self._source = self._frame = None
        while self._sources:
            source = self._sources.popleft()
            if isinstance(source, Place):
                source.move(self._delivered)
                continue
            self._source = source
            self.buffered_bytes -= source.size_bytes
            self._frames = source.frames()
            return True
        return False

    @property
    def empty(self) -> bool:
        """Whether no message waits to be read."""
        return all(isinstance(source, Place) for source in self._sources)

    @property
    def between_messages(self) -> bool:
        """Whether the next frame begins another message than the last one came from."""
        return self._frame is None or self._source is None or self._frame.cursor_last == self._source.cursor_last

    @property
    def crowded(self) -> bool:
        """Whether so much waits to be read that it is time to let the server wait."""
        return self.buffered_bytes > self._buffer_bytes // 2

    @property
    def positions(self) -> dict[str, Position]:
        """How far the frames that were taken reach, the last one included."""
        reached = dict(self._delivered)
        if self._frame is not None and self._frame.epoch and not self._frame.forming:
            reached[self._frame.feed] = Position(self._frame.epoch, self._frame.cursor_last)
        if self.between_messages:
            for source in self._sources:
                if not isinstance(source, Place):
                    break
                source.move(reached)
        return reached

    @property
    def token(self) -> str:
        """:attr:`positions` as text."""
        return format_token(self.positions)

    # --- the connection's side --------------------------------------------------------------------------------------

    def latest(self, feed: str) -> bool:
        """Whether states come of a feed, which replace each other, and not every row. Of bars every row does."""
        return self.params.contract == "latest" and not feed.endswith(STEPS_SUFFIX)

    def _framed(self, feed: str) -> bool:
        """Whether the rows of a message of a feed are put by kind."""
        return self.params.contract in ("frames", "trade_safe") and not feed.endswith(STEPS_SUFFIX)

    def resume_params(self) -> messages.SubscribeParams:
        """What to subscribe with now, to go on where it stands."""
        return msgspec.structs.replace(self.params, resume=dict(self._received))

    def updated(self, change: messages.UpdateParams, result: messages.SubscribeResult) -> None:
        """Take the server's answer to an update."""
        self.changed(change)
        if self.state is State.LIVE:  # else it was closed meanwhile, and is opened again as it is wanted by now
            self.opened(result)

    def opened(self, result: messages.SubscribeResult) -> None:
        """Take the server's answer to a subscribe."""
        opens = self.state is not State.LIVE
        if opens:
            self._expect_first_messages(result)
        self.state = State.LIVE
        self.id = result.subscription
        self.result = result
        # A daemon has one list of series for all feeds. Frames keep the names of the one that they came from.
        self._kinds = layout.KIND_NAMES
        if self._removed:
            self._removed = False
            self._leaving |= self._received.keys()
        self._forget(self._leaving - {feed.name for feed in result.feeds})
        for feed in result.feeds:
            # A feed that only a token had named, and that an update has brought in, begins there like any other.
            goes_on = feed.name in self._received and (opens or feed.name in self._names)
            self._learn(feed.name, feed.epoch, feed.instruments, feed.kinds)
            if goes_on:
                continue
            self._received[feed.name] = start = Position(feed.epoch, feed.cursor)
            # It may have been read before, and not for a while.
            if self._will_move(feed.name) or self._delivered.setdefault(feed.name, start) is not start:
                self._sources.append(Place(feed.name, start))
        if self._told_lost:
            self._told_lost = False
            self.tell("reconnected")

    def _will_move(self, feed: str) -> bool:
        """Whether the reader has not come yet to where its position in a feed changes without a message."""
        return any(isinstance(source, Place) and source.feed == feed for source in self._sources)

    def _expect_first_messages(self, result: messages.SubscribeResult) -> None:
        names = {feed.name for feed in result.feeds}
        self._untold = {name for name in names if self.latest(name)}
        self._without_snapshot = set()
        if self.params.snapshot:
            ticks = {name for name in names if not name.endswith(STEPS_SUFFIX)}
            self._without_snapshot = ticks - self._untold - self._received.keys()

    def _forget(self, feeds: Set[str]) -> None:
        """Miss nothing any more of feeds that the server does not read for it now, unless they are only away."""
        self._leaving -= feeds
        names = {_key(name) for name in self.params.instruments}
        globs = [glob_pattern(name) for name in names if is_glob(name)]
        for feed in feeds & self._names.keys():  # of others, from a token, nothing is known yet
            _, known = self._names[feed]
            if names and not known and feed in self._gone:
                continue  # its last epoch had nothing to tell, and who knows what the next one has
            if any(_key(name) in names or any(glob.match(name) for glob in globs) for name in known.values()):
                continue
            self._received.pop(feed, None)
            self._sources.append(Place(feed, None))

    def lost(self, reason: str, *, asked: bool) -> None:
        """Note that the connection broke; ``asked``: whether there is a request that opens it again."""
        self.id = None
        for feed in self._without_snapshot:
            self._received.pop(feed, None)  # to begin there once more, with a snapshot
        self._without_snapshot.clear()
        if self.state is State.OPENING and not asked:
            self.state = State.LOST
        if self.state in (State.LIVE, State.REFUSED):
            self.state = State.LOST
            self._told_lost = True
            self.tell("disconnected", reason)

    @property
    def reopens(self) -> bool:
        """Whether it should be asked for as soon as that is possible."""
        return self.wanted and (self.state is State.LOST or (self.state is State.PARKED and self.empty))

    @property
    def wanted(self) -> bool:
        """Whether anything is to come. A stream may be without instruments for a while, but is not opened so."""
        return bool(self.params.instruments) and not self.paused

    def changed(self, change: messages.UpdateParams) -> None:
        """Note a change that the server has made, for the next time that it's asked for."""
        removed = {_key(name) for name in change.remove}
        kept = [name for name in self.params.instruments if _key(name) not in removed]
        added = [name for name in change.add if name not in kept]
        rate_hz = self.params.rate_hz if change.rate_hz is None else change.rate_hz
        self._removed = self._removed or not removed <= {_key(name) for name in kept + added}
        self.params = msgspec.structs.replace(self.params, instruments=kept + added, rate_hz=rate_hz)
        self.paused = self.paused if change.paused is None else change.paused

    def rewind(self) -> None:
        """Forget everything that was received and not taken, so that the server sends it again."""
        self._received = self.positions
        self._sources.clear()
        self._source = self._frame = None
        self._frames = iter(())
        self._delivered = dict(self._received)
        self.buffered_bytes = 0

    def tell(self, state: str, detail: str = "", *, feed: str = "") -> None:
        """Put news between the rows. It is small, rare and always taken."""
        self._put(EventSource.news(state, detail, feed=feed, form=self.params.format))

    def receive(self, message: Message) -> bool:
        """Take a message; return False, and take nothing, when the buffer is full.

        Raises:
            ProtocolError: its bytes are not what the protocol says.
        """
        if isinstance(message, messages.Instruments):
            self._learn(message.feed, message.epoch, message.instruments, message.kinds)
            return True
        if self.buffered_bytes > self._buffer_bytes and not self._must_take(message):
            return False
        if isinstance(message, messages.Status):
            self.tell(message.state, message.detail, feed=message.feed)
            if message.state == "stopped":
                self._untold.discard(message.feed)
                self._gone.add(message.feed)
                self._forget(self._leaving & {message.feed})
        elif isinstance(message, messages.ReplayCompleted):
            if self.params.from_ns is not None and message.feed not in self._replayed:
                self._replayed.add(message.feed)
                self.tell("replay_completed", feed=message.feed)
        elif isinstance(message, messages.GapFilled):
            what = f"{message.fqme} {message.kind} {message.from_ns} {message.to_ns} {message.bars}"
            self.tell("gap_filled", what, feed=message.feed)
        elif isinstance(message, messages.Snapshot):
            self._without_snapshot.discard(message.feed)
            for source in snapshot_sources(message, self._names_of(message.feed, message.epoch)):
                self._put(source)
        elif isinstance(message, messages.Gap):
            self._receive_gap(message)
        else:
            self._receive_rows(message)
        return True

    def _must_take(self, message: Message) -> bool:
        """Whether it is taken though the buffer is full: if opening the stream anew would bring the same once more.

        So it is with what a feed begins with, which is as large as there are instruments, and not as time goes on.
        """
        return message.feed in self._untold or isinstance(message, messages.Snapshot)

    def _receive_rows(self, message: RowMessage) -> None:
        if not isinstance(message, messages.TickFrame) and is_forming(message):
            self._put_rows(message, message.cursor_first)
            return
        first = self._first_new(message)
        if first > message.cursor_last and not self.latest(message.feed):
            return
        for part in columns_of(message, first) if isinstance(message, messages.TickFrame) else [message]:
            self._put_rows(part, part.cursor_first if isinstance(message, messages.TickFrame) else first)
        self._received[message.feed] = Position(message.epoch, message.cursor_last)
        if first <= message.cursor_last or not isinstance(message, messages.Columns):
            self._untold.discard(message.feed)  # of states in columns, the last message of several has the range

    def _put_rows(self, message: messages.Rows | messages.Columns | messages.Bars, first: int) -> None:
        names = self._names_of(message.feed, message.epoch)
        source: Source
        latest = self.latest(message.feed)
        if isinstance(message, messages.Columns):
            source = ColumnsSource(message, names, first, latest=latest)
        else:
            source = RowsSource(
                message, names, first, latest=latest, by_kind=self._framed(message.feed), kinds=self._kinds
            )
        self._put(source)

    def _receive_gap(self, message: messages.Gap) -> None:
        position = self._received.get(message.feed)
        # A gap of reason `epoch` says that the position held means nothing, whatever its numbers are.
        if position is None or position.epoch != message.epoch or message.reason == "epoch":
            self._delivered.setdefault(message.feed, Position(message.epoch, message.cursor_first - 1))
            self._put_gap(message)
            return
        first = self._first_new(message)
        if first <= message.cursor_last:
            self._put_gap(msgspec.structs.replace(message, cursor_first=first))

    def _first_new(self, message: RowMessage | messages.Gap) -> int:
        """Return the message's first cursor that was not had yet. What should have come before it becomes a gap."""
        first = message.cursor_first
        position = self._received.get(message.feed)
        if position is None:
            # A feed that joined later: nothing before its first message was ever promised.
            self._delivered.setdefault(message.feed, Position(message.epoch, first - 1))
            return first
        if self.latest(message.feed):
            return first
        if position.epoch != message.epoch:
            self._put_hole(message, 1, "epoch")
        elif first > position.cursor + 1:
            self._put_hole(message, position.cursor + 1, "sequence")
        else:
            return max(first, position.cursor + 1)
        return first

    def _put_hole(self, message: RowMessage | messages.Gap, first: int, reason: str) -> None:
        last = message.cursor_first - 1
        lost = -1 if reason == "epoch" else last - first + 1  # how much the old epoch had is not known
        self._put_gap(messages.Gap(message.subscription, message.feed, message.epoch, first, last, lost, reason))

    def _put_gap(self, gap: messages.Gap) -> None:
        names = self._names_of(gap.feed, gap.epoch)
        lost = min(gap.lost, max(0, gap.cursor_last - gap.cursor_first + 1))
        self._put(EventSource.gap(msgspec.structs.replace(gap, lost=lost), names, form=self.params.format))
        self._received[gap.feed] = Position(gap.epoch, gap.cursor_last)

    def _put(self, source: Source) -> None:
        self._sources.append(source)
        self.buffered_bytes += source.size_bytes

    def _learn(self, feed: str, epoch: int, instruments: dict[int, str], kinds: dict[int, str]) -> None:
        self._gone.discard(feed)
        self._names_of(feed, epoch).update(instruments)
        self._kinds = self._kinds | kinds

    def _names_of(self, feed: str, epoch: int) -> dict[int, str]:
        """The names of an epoch's ids. Frames keep theirs: another epoch gets another table."""
        known = self._names.get(feed)
        if known is None or known[0] != epoch:
            known = self._names[feed] = (epoch, {})
        return known[1]


def _key(name: str) -> str:
    """What tells names and globs apart: case does not, nor does a name's slash."""
    text = name.strip().lower()
    return text if is_glob(text) else text.replace("/", "")

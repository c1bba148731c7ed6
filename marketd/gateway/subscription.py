"""What one subscription still has to be told, and the messages that tell it.

A `Subscription` reads some feeds; a `Follow` is its place in one of them. Everything here is decided from those and
the feeds' heads at the moment of asking, so that a client that is slow has nothing waiting for it but rows in rings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import trio
from numpy.typing import NDArray

from marketd.clock import SystemClock
from marketd.errors import Lapped
from marketd.gateway.encode import Buffer, encode_notification, encode_tail
from marketd.gateway.fanout import Chunk, NewsKey, column_runs, kind_columns
from marketd.gateway.feed import Feed, StepFeed
from marketd.gateway.forming import FormingBars
from marketd.gateway.latest import Seen
from marketd.gateway.selection import Choice, Selection
from marketd.gateway.shape import by_kind
from marketd.model import Flag, GapReason
from marketd.rpc import messages
from marketd.supervise.messages import FeedInfo

BUSY_S = 0.01  # until one looks again at bars that were being changed
JOIN_MIN = 16  # a system call takes a bounded number of buffers; many small ones are better joined


@dataclass(slots=True)
class Batch:
    """What is to go out next, in order."""

    buffers: list[Buffer] = field(default_factory=list)
    size_bytes: int = 0
    rows: int = 0
    lost: int = 0
    examined: int = 0

    def add(self, *buffers: Buffer) -> None:
        """Append bytes."""
        self.buffers += buffers
        self.size_bytes += sum(map(len, buffers))


@dataclass(slots=True)
class Follow:
    """Where a subscription stands in one feed.

    Attributes:
        cursor: of the last row looked at.
        sent: the client was told everything up to this cursor.
        told: how many of the choice's ids the client knows; -1 when it has not heard of the feed yet.
        state: the feed's state and its detail, as the client knows it.
        info: what the supervisor said when that was looked at.
        resume_gap: what is to be told about the position that the client wanted to resume from.
        fresh: after that, how the instruments stand is to be told.
        past: where it stands while it reads the log, and nothing of the ring.
        silent: the client should hear more although no row has come: how far it is, since rows were passed over, or
            the states of instruments that were added.
        seen: for `latest`, what was told; None until the snapshot was.
        due_s: when the next message of states, the next frame, or the next of forming bars may go out.
        goal: of frames, up to where the one that is under way reaches.
        replay_to: what the feed had when the stream was opened ends there; 0 once that was told, or is of no interest.
        forming: what was told of bars that are still forming; None where there are none, or nobody wants them.
        measured: up to where it was looked how long rows took.
    """

    feed: Feed
    choice: Choice
    cursor: int
    sent: int
    told: int = -1
    state: tuple[str, str] = ("live", "")
    info: FeedInfo | None = None
    resume_gap: messages.Gap | None = None
    fresh: bool = False
    past: messages.Position | None = None
    silent: bool = False
    seen: Seen | None = None
    due_s: float = -math.inf
    goal: int = 0
    replay_to: int = 0
    forming: FormingBars | None = None
    measured: int = 0

    @property
    def knows_the_end(self) -> bool:
        """Whether the client was told all that there is, and the feed's state as it is."""
        return self.past is None and self.sent >= self.feed.head and self.info is self.feed.info

    @property
    def steps(self) -> bool:
        """Whether it is about bars."""
        return isinstance(self.feed, StepFeed)

    @property
    def position(self) -> messages.Position:
        """Where it stands, whatever it reads."""
        return self.past or messages.Position(self.feed.epoch, self.cursor)

    @property
    def kinds(self) -> dict[int, str]:
        """The names of kinds that a client can't know: those of bars and index events."""
        return dict(self.feed.sort.kinds) if self.steps else {}


class Subscription:
    """One subscription of one client.

    Attributes:
        choices: what the selection means in every feed there is.
        follows: the feeds that it reads, by name.
    """

    def __init__(
        self, number: int, selection: Selection, choices: dict[str, Choice], params: messages.SubscribeParams
    ) -> None:
        self.id = number
        self.selection = selection
        self.choices = choices
        self.contract: messages.Contract = params.contract
        self.format: messages.Format = params.format
        self.kinds: list[str] = sorted(set(params.kinds))
        self.rate_hz = params.rate_hz
        self.forming_hz = params.forming_hz
        self._unpaused: trio.Event | None = None
        self.follows: dict[str, Follow] = {}

    @property
    def paused(self) -> bool:
        """Whether nothing is to be sent for now."""
        return self._unpaused is not None

    def pause(self, *, paused: bool) -> None:
        """Send nothing for now, or go on."""
        if paused and self._unpaused is None:
            self._unpaused = trio.Event()
        elif not paused and self._unpaused is not None:
            self._unpaused.set()
            self._unpaused = None

    async def wait_unpaused(self) -> None:
        """Return once it is not paused."""
        while self._unpaused is not None:
            await self._unpaused.wait()

    def join(self, feed: Feed, *, from_first: bool = False) -> bool:
        """Read a feed too from now on, if the selection concerns it; return whether that is new.

        Args:
            from_first: whether the feed has come after the subscription, so that all of its rows belong to it.
        """
        choice = self.choices.get(feed.name)
        if choice is None or not feed.made(choice) or feed.name in self.follows or not feed.concerns(choice):
            return False
        cursor = 0 if from_first else feed.head
        follow = Follow(feed, choice, cursor, cursor, measured=cursor)
        if self.paced(follow):
            follow.cursor = follow.sent = 0
        if isinstance(feed, StepFeed) and self.forming_hz:
            follow.forming = FormingBars(feed.bars)
        self.follows[feed.name] = follow
        return True

    def leave_retired(self) -> bool:
        """Read feeds no more that have gone, once all was told of them; return whether there was one."""
        left = [
            name for name, follow in self.follows.items() if follow.feed.retired_s is not None and follow.knows_the_end
        ]
        for name in left:
            del self.follows[name]
        return bool(left)

    def paced(self, follow: Follow) -> bool:
        """Whether states are told, so many times a second, and not every row."""
        return self.contract == "latest" and not follow.steps

    def framed(self, follow: Follow) -> bool:
        """Whether all rows are told, so many times a second, by kind."""
        return self.contract in ("frames", "trade_safe") and not follow.steps

    def more_s(self, follow: Follow) -> float:
        """When there will be more to tell: minus infinity for now, infinity for once the head has moved."""
        if follow.past is not None:
            return math.inf
        due_s = math.inf if follow.forming is None else follow.due_s
        if follow.cursor >= follow.feed.head and not (follow.silent and self.paced(follow)):
            return due_s
        if self.paced(follow) or (self.framed(follow) and follow.cursor >= follow.goal):
            return min(due_s, follow.due_s)
        return -math.inf

    def lag(self, follow: Follow) -> float:
        """Say which part of what its ring keeps a feed is ahead; 0 where nothing waits, or what waits was asked for."""
        if self.paused or self.paced(follow) or follow.replay_to:
            return 0.0
        return (follow.feed.head - follow.cursor) / follow.feed.ring.rows

    def resume(self, follow: Follow, position: messages.Position, *, snapshot: bool = False) -> None:
        """Go on from where the client stood before; if that means nothing, with a gap and, if wanted, a snapshot."""
        feed = follow.feed
        if position.epoch != feed.epoch or position.cursor > feed.ring.published:
            follow.fresh = snapshot
            follow.resume_gap = self._gap(follow, 1, feed.head, -1, GapReason.EPOCH)
        elif not self.paced(follow):
            follow.cursor = follow.sent = position.cursor
            follow.replay_to = feed.head
        elif feed.latest is not None and position.cursor < (lost_to := feed.update_latest().lost_cursor):
            # Of an instrument whose newest row was among these, the client would keep an old state for the newest.
            follow.resume_gap = self._gap(follow, position.cursor + 1, lost_to, -1, GapReason.LAPPED)

    def replay(self, follow: Follow, from_ns: int) -> None:
        """Begin with what came from a time on; what of that is not here any more is told as a gap."""
        if self.paced(follow):
            return
        feed = follow.feed
        cursor = feed.cursor_before(from_ns)
        follow.replay_to = feed.head
        follow.cursor = follow.sent = cursor or 0
        if cursor == 0:
            follow.resume_gap = self._gap(follow, 1, 0, -1, GapReason.EPOCH)

    def snapshot(self, follow: Follow) -> Buffer | None:
        """Tell how the instruments of a feed stand where the stream begins; None of bars, and of states themselves."""
        feed = follow.feed
        if follow.steps or self.paced(follow):
            return None
        state = feed.update_latest()
        rows, _ = state.changes(follow.choice, state.begin(follow.choice))
        rows["flags"] |= np.uint16(Flag.SNAPSHOT)
        where = (self.id, feed.name, feed.epoch, state.cursor)
        if self.format == "rows":
            return encode_notification("snapshot", messages.Snapshot(*where, data=rows.tobytes()))
        kinds = kind_columns(by_kind(rows)) if len(rows) else []
        return encode_notification("snapshot", messages.Snapshot(*where, kinds=kinds))

    def change(self, selection: Selection, choices: dict[str, Choice]) -> None:
        """Let it be about other instruments from where it stands."""
        self.selection = selection
        self.choices = choices
        for name, follow in list(self.follows.items()):
            if follow.feed.retired_s is not None:
                continue  # the end of it goes to who wanted it
            if follow.seen is not None:
                follow.seen.move(follow.choice, choices[name])
                follow.silent = True  # what is added has a state, also where nothing changes any more
            follow.choice = choices[name]
            # Rows that the old selection passed over may be rows of the new one.
            follow.cursor = follow.sent
            if not follow.feed.concerns(follow.choice):
                del self.follows[name]

    def set_rate(self, rate_hz: float) -> None:
        """Let states go out so many times a second from now on."""
        self.rate_hz = rate_hz
        for follow in self.follows.values():
            follow.due_s = -math.inf

    def describe(self, unmatched: list[str]) -> messages.SubscribeResult:
        """Make the answer of `subscribe` and `update`; it tells all row ids there are now."""
        feeds = []
        for name, follow in self.follows.items():
            follow.told = len(follow.choice.ids)
            names = {i: follow.feed.names[i - 1] for i in follow.choice.ids}
            epoch, cursor = follow.feed.epoch, follow.sent
            if follow.past is not None:
                epoch, cursor, names = follow.past.epoch, follow.past.cursor, {}
            feeds.append(messages.SubscribedFeed(name, epoch, cursor, names, follow.kinds))
        return messages.SubscribeResult(self.id, self.contract, self.format, self.kinds, self.rate_hz, feeds, unmatched)

    def positions(self) -> dict[str, messages.Position]:
        """Where it stands in each feed."""
        return {name: follow.position for name, follow in self.follows.items()}

    # --- messages ---

    def take(self, follow: Follow, batch: Batch, now_s: float) -> None:
        """Add the next messages about one feed: news of it, and one range of rows if there are any."""
        if follow.past is not None:
            return
        feed = follow.feed
        if follow.told < len(follow.choice.ids):
            self._take_instruments(follow, batch)
        if follow.info is not feed.info and feed.retired_s is None:
            self._take_info(follow, batch)
        if follow.resume_gap is not None:
            batch.add(encode_notification("gap", follow.resume_gap))
            follow.resume_gap = None
            if follow.fresh and (found := self.snapshot(follow)):
                batch.add(found)
            follow.fresh = False
        if self.paced(follow):
            if now_s >= follow.due_s and (follow.cursor < feed.head or follow.silent):
                self._take_latest(follow, batch, now_s)
        elif self.framed(follow):
            if follow.cursor >= follow.goal and follow.cursor < feed.head and now_s >= follow.due_s:
                follow.goal = feed.head
                # On a grid, so that all who want the same so often a second share what is made of it.
                follow.due_s = (math.floor(now_s * self.rate_hz) + 1) / self.rate_hz
            if follow.cursor < follow.goal:
                self._take_rows(follow, batch, follow.goal, self.contract)
            elif follow.silent:
                self._take_advance(follow, batch)
        elif follow.cursor < feed.head:
            self._take_rows(follow, batch, feed.head, "lossless")
        elif follow.silent:
            self._take_advance(follow, batch)
        if follow.replay_to and follow.cursor >= follow.replay_to:
            self._take_replay_completed(follow, batch)
        if feed.retired_s is not None and follow.info is not feed.info and follow.cursor >= feed.head:
            self._take_advance(follow, batch)
            self._take_info(follow, batch)  # that it has gone is the last that is heard of it
        if follow.forming is not None and now_s >= follow.due_s:
            self._take_forming(follow, follow.forming, batch, now_s)

    def _take_info(self, follow: Follow, batch: Batch) -> None:
        feed = follow.feed
        follow.info = feed.info
        if follow.state != (feed.info.state, feed.info.detail):
            follow.state = (feed.info.state, feed.info.detail)
            batch.add(encode_notification("status", messages.Status(self.id, feed.name, *follow.state)))

    def plain(self, follow: Follow) -> NewsKey | None:
        """Return what its news depends on if nothing but rows is left to tell of a feed, and each as it comes.

        That stays so until the subscription is changed. See :func:`take_news`.
        """
        if (
            self.contract == "lossless"
            and self._unpaused is None
            and follow.resume_gap is None
            and not follow.replay_to
            and follow.past is None
            and follow.forming is None
        ):
            return follow.choice, self.format, self.id
        return None

    def _take_forming(self, follow: Follow, forming: FormingBars, batch: Batch, now_s: float) -> None:
        """Add the bars that are forming and have changed. They have no cursors, and move nothing."""
        rows = forming.changed(follow.choice, SystemClock().now_ns())
        follow.due_s = now_s + (BUSY_S if forming.busy else 1 / self.forming_hz)
        if not len(rows):
            return
        batch.rows += len(rows)
        where = (self.id, follow.feed.name, follow.feed.epoch, follow.sent + 1, follow.sent)
        if self.format == "rows":
            batch.add(encode_notification("bars", messages.Bars(*where, rows.tobytes())))
            return
        for run in column_runs(rows, follow.feed.sort):
            batch.add(encode_notification("columns", messages.Columns(*where, run.kind, run.columns)))

    def _take_replay_completed(self, follow: Follow, batch: Batch) -> None:
        if follow.sent < follow.cursor:
            self._take_advance(follow, batch)
        follow.replay_to = 0
        where = (self.id, follow.feed.name, follow.feed.epoch, follow.cursor)
        batch.add(encode_notification("replay_completed", messages.ReplayCompleted(*where)))

    def _take_instruments(self, follow: Follow, batch: Batch) -> None:
        ids = follow.choice.ids[max(follow.told, 0) :]
        kinds = follow.kinds if follow.told < 0 else {}
        follow.told = len(follow.choice.ids)
        feed = follow.feed
        names = {i: feed.names[i - 1] for i in ids}
        message = messages.Instruments(self.id, feed.name, feed.epoch, names, kinds)
        batch.add(encode_notification("instruments", message))

    def _take_rows(self, follow: Follow, batch: Batch, until: int, contract: messages.Contract) -> None:
        feed = follow.feed
        first = follow.cursor + 1
        last = feed.fanout.range_last(first, until, self.format, contract)
        try:
            chunk = feed.fanout.chunk(follow.choice, self.format, first, last, contract)
        except Lapped:
            self._take_lapped(follow, batch, feed.first_readable(first))
            return
        follow.cursor = last
        batch.examined += last - first + 1
        if not chunk.rows:
            if follow.silent:
                self._take_advance(follow, batch)
            return
        self.add_chunk(batch, chunk, follow.sent + 1)
        follow.sent = last
        follow.silent = False

    def add_chunk(self, batch: Batch, chunk: Chunk, cursor_first: int) -> None:
        """Add the messages of a range that has any. The first of them also covers what was passed over before it."""
        batch.rows += chunk.rows
        pieces = [chunk.frames[0][1], encode_tail(self.id, cursor_first)]
        for part_first, frame in chunk.frames[1:]:
            pieces += (frame, encode_tail(self.id, part_first))
        batch.add(*pieces) if len(pieces) < JOIN_MIN else batch.add(b"".join(pieces))

    def _take_lapped(self, follow: Follow, batch: Batch, oldest: int) -> None:
        if follow.sent < follow.cursor:
            self._take_advance(follow, batch)
        lost = oldest - 1 - follow.cursor
        gap = self._gap(follow, follow.cursor + 1, oldest - 1, lost, GapReason.LAPPED)
        batch.add(encode_notification("gap", gap))
        batch.lost += lost
        follow.cursor = follow.sent = oldest - 1

    def _take_advance(self, follow: Follow, batch: Batch) -> None:
        """Tell that there is nothing for this subscription up to where it is."""
        follow.silent = False
        if follow.sent >= follow.cursor:
            return
        where = (self.id, follow.feed.name, follow.feed.epoch, follow.sent + 1, follow.cursor)
        if self.format == "columns" and self.framed(follow):
            batch.add(encode_notification("frame", messages.TickFrame(*where, kinds=[])))
        elif self.format == "columns":
            batch.add(encode_notification("columns", messages.Columns(*where, kind=self.kinds[0], columns={})))
        elif follow.steps:
            batch.add(encode_notification("bars", messages.Bars(*where, data=b"")))
        else:
            batch.add(encode_notification("rows", messages.Rows(*where, data=b"")))
        follow.sent = follow.cursor

    def _take_latest(self, follow: Follow, batch: Batch, now_s: float) -> None:
        state = follow.feed.update_latest()
        first_time = follow.seen is None
        if follow.seen is None:
            follow.seen = state.begin(follow.choice)
        elif follow.seen.cursor < state.lost_cursor:
            lost = state.lost - follow.seen.lost
            gap = self._gap(follow, follow.sent + 1, state.lost_cursor, lost or -1, GapReason.LAPPED)
            batch.add(encode_notification("gap", gap))
            batch.lost += lost
            follow.sent = state.lost_cursor
        rows, merged = state.changes(follow.choice, follow.seen)
        follow.cursor = state.cursor
        if len(rows) or first_time:
            self._add_latest(follow, batch, rows, merged)
            follow.due_s = now_s + 1 / self.rate_hz
        elif follow.silent:
            self._take_advance(follow, batch)

    def _add_latest(self, follow: Follow, batch: Batch, rows: NDArray[np.void], merged: list[int]) -> None:
        if self.format == "columns" and not len(rows):
            self._take_advance(follow, batch)
            return
        first, last = follow.sent + 1, follow.cursor
        where = (self.id, follow.feed.name, follow.feed.epoch)
        batch.rows += len(rows)
        follow.sent = follow.cursor
        follow.silent = False
        if self.format == "rows":
            message = messages.Rows(*where, first, last, rows.tobytes(), merged)
            batch.add(encode_notification("rows", message))
            return
        order = np.argsort(rows["kind"], kind="stable")
        merged = [merged[place] for place in order.tolist()]
        runs = column_runs(rows[order])
        for run in runs:
            run_last = last if run is runs[-1] else first - 1  # the range is told with the last of them
            columns = messages.Columns(*where, first, run_last, run.kind, run.columns, merged[run.start : run.end])
            batch.add(encode_notification("columns", columns))

    def _gap(self, follow: Follow, first: int, last: int, lost: int, reason: GapReason) -> messages.Gap:
        feed = follow.feed
        return messages.Gap(self.id, feed.name, feed.epoch, first, last, lost, reason.name.lower())


def take_news(follow: Follow, key: NewsKey) -> tuple[int, bytes] | None:
    """Return how many rows, and the message that tells them, if that is all there is to tell and all that it takes.

    So it is for nearly all clients nearly always; the way around :meth:`Subscription.take` saves most of their cost.

    Args:
        follow: of a subscription that said of it, and has not changed since, that it is plain.
        key: what it said.
    """
    feed = follow.feed
    head = feed.head
    if (
        follow.cursor >= head
        or follow.sent != follow.cursor
        or follow.told != len(follow.choice.ids)
        or follow.info is not feed.info
    ):
        return None
    news = feed.fanout.news(key, follow.cursor + 1, head)
    if news is not None:
        follow.cursor = follow.sent = head
    return news

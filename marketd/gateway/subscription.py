"""What one subscription still has to be told, and the messages that tell it.

A `Subscription` reads some feeds; a `Follow` is its place in one of them. Everything here is decided from those and
the feeds' heads at the moment of asking, so that a client that is slow has nothing waiting for it but rows in rings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from marketd.errors import Lapped
from marketd.gateway.encode import Buffer, encode_notification, encode_tail
from marketd.gateway.fanout import column_runs
from marketd.gateway.feed import Feed
from marketd.gateway.latest import Seen
from marketd.gateway.selection import Choice, Selection
from marketd.model import GapReason
from marketd.rpc import messages

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
        resume_gap: what is to be told about the position that the client wanted to resume from.
        silent: rows were passed over, and the client should hear that it is further on.
        seen: for `latest`, what was told; None until the snapshot was.
        due_s: for `latest`, when the next message may go out.
    """

    feed: Feed
    choice: Choice
    cursor: int
    sent: int
    told: int = -1
    state: tuple[str, str] = ("live", "")
    resume_gap: messages.Gap | None = None
    silent: bool = False
    seen: Seen | None = None
    due_s: float = -math.inf


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
        self.paused = False
        self.follows: dict[str, Follow] = {}

    def join(self, feed: Feed) -> bool:
        """Read a feed too from now on, if the selection concerns it; return whether that is new."""
        choice = self.choices.get(feed.name)
        if choice is None or feed.name in self.follows or not feed.concerns(choice):
            return False
        start = 0 if self.contract == "latest" else feed.head
        self.follows[feed.name] = Follow(feed, choice, start, start)
        return True

    def resume(self, follow: Follow, position: messages.Position) -> None:
        """Go on from where the client stood before, as far as that means anything."""
        feed = follow.feed
        if position.epoch != feed.epoch or position.cursor > feed.ring.published:
            follow.resume_gap = self._gap(follow, 1, feed.head, -1, GapReason.EPOCH)
        elif self.contract == "lossless":
            follow.cursor = follow.sent = position.cursor

    def change(self, selection: Selection, choices: dict[str, Choice]) -> None:
        """Let it be about other instruments from where it stands."""
        self.selection = selection
        self.choices = choices
        for name, follow in list(self.follows.items()):
            if follow.seen is not None:
                follow.seen.move(follow.choice, choices[name])
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
            feeds.append(messages.SubscribedFeed(name, follow.feed.epoch, follow.sent, names))
        return messages.SubscribeResult(self.id, self.contract, self.format, self.kinds, self.rate_hz, feeds, unmatched)

    def positions(self) -> dict[str, messages.Position]:
        """Where it stands in each feed."""
        return {name: messages.Position(f.feed.epoch, f.cursor) for name, f in self.follows.items()}

    # --- messages ---

    def take(self, follow: Follow, batch: Batch, now_s: float) -> None:
        """Add the next messages about one feed: news of it, and one range of rows if there are any."""
        feed = follow.feed
        if follow.told < len(follow.choice.ids):
            self._take_instruments(follow, batch)
        if follow.state != (feed.info.state, feed.info.detail):
            follow.state = (feed.info.state, feed.info.detail)
            batch.add(encode_notification("status", messages.Status(self.id, feed.name, *follow.state)))
        if follow.resume_gap is not None:
            batch.add(encode_notification("gap", follow.resume_gap))
            follow.resume_gap = None
        if self.contract == "latest":
            if now_s >= follow.due_s and (follow.cursor < feed.head or follow.silent):
                self._take_latest(follow, batch, now_s)
        elif follow.cursor < feed.head:
            self._take_rows(follow, batch)
        elif follow.silent:
            self._take_advance(follow, batch)

    def _take_instruments(self, follow: Follow, batch: Batch) -> None:
        ids = follow.choice.ids[max(follow.told, 0) :]
        follow.told = len(follow.choice.ids)
        feed = follow.feed
        names = {i: feed.names[i - 1] for i in ids}
        batch.add(encode_notification("instruments", messages.Instruments(self.id, feed.name, feed.epoch, names)))

    def _take_rows(self, follow: Follow, batch: Batch) -> None:
        feed = follow.feed
        first = follow.cursor + 1
        last = feed.fanout.range_last(first, feed.head, self.format)
        try:
            chunk = feed.fanout.chunk(follow.choice, self.format, first, last)
        except Lapped:
            self._take_lapped(follow, batch, feed.first_readable(first))
            return
        follow.cursor = last
        batch.examined += last - first + 1
        if not chunk.rows:
            if follow.silent:
                self._take_advance(follow, batch)
            return
        batch.rows += chunk.rows
        # The first message of a range also covers what was passed over in front of it.
        pieces = [chunk.frames[0][1], encode_tail(self.id, follow.sent + 1)]
        for cursor_first, frame in chunk.frames[1:]:
            pieces += (frame, encode_tail(self.id, cursor_first))
        batch.add(*pieces) if len(pieces) < JOIN_MIN else batch.add(b"".join(pieces))
        follow.sent = last
        follow.silent = False

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
        if self.format == "rows":
            batch.add(encode_notification("rows", messages.Rows(*where, data=b"")))
        else:
            batch.add(encode_notification("columns", messages.Columns(*where, kind=self.kinds[0], columns={})))
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
        first, last = follow.sent + 1, follow.cursor
        where = (self.id, follow.feed.name, follow.feed.epoch)
        batch.rows += len(rows)
        follow.sent = follow.cursor
        follow.silent = False
        if self.format == "rows":
            message = messages.Rows(*where, first, last, rows.tobytes(), merged)
            batch.add(encode_notification("rows", message))
            return
        for run in column_runs(rows):
            # A state may be older than the range that it is told in: then its part of the range is empty.
            run_last = max(first - 1, run.cursor_last(last))
            columns = messages.Columns(*where, first, run_last, run.kind, run.columns, merged[run.start : run.end])
            batch.add(encode_notification("columns", columns))
            first = run_last + 1

    def _gap(self, follow: Follow, first: int, last: int, lost: int, reason: GapReason) -> messages.Gap:
        feed = follow.feed
        return messages.Gap(self.id, feed.name, feed.epoch, first, last, lost, reason.name.lower())

"""A stream that begins where its ring has no rows any more: what was recorded of them comes first.

    log -> history manager -> pages -> Replay -> Writer.put -> socket; from where that ends the writer follows the ring

Meanwhile new rows wait where they always do, in the ring. A page is asked for when the client has taken most of what
came before, so nobody's pace matters to anybody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import structlog
import trio
from numpy.typing import NDArray

from marketd.gateway.decode import Refusal
from marketd.gateway.encode import encode_notification
from marketd.gateway.feed import Feed
from marketd.gateway.manager import NoHistory
from marketd.gateway.selection import Selection
from marketd.gateway.subscription import Batch, Follow, Subscription
from marketd.history.wire import ReplayQuery, ReplayStartQuery
from marketd.model import RECORDED_KINDS, GapReason
from marketd.ring import layout
from marketd.rpc import messages
from marketd.rpc.messages import Position
from storage.tickreplay import Page, Start

if TYPE_CHECKING:
    from marketd.gateway.session import Session

START_TIMEOUT_S = 5.0
_RECORDED = frozenset(RECORDED_KINDS.values())
_decode = msgspec.msgpack.Decoder(Page).decode

log = structlog.get_logger("marketd.gateway")


async def find_start(
    session: Session, feed: Feed, selection: Selection, position: Position | None, from_ns: int | None
) -> Start | None:
    """Return where the log can go on for a stream whose beginning the ring does not have; None: nowhere, or no need."""
    if not selection.kinds <= _RECORDED or feed.info.recorded:
        return None
    if position is not None:
        if position.epoch == feed.epoch and position.cursor >= feed.ring.oldest - 1:
            return None
        query = ReplayStartQuery(feed.info.name, position.epoch, position.cursor)
    elif from_ns is not None:
        if feed.cursor_before(from_ns):  # not the epoch's first row: there may be another epoch before it
            return None
        query = ReplayStartQuery(feed.info.name, from_ns=from_ns)
    else:
        return None
    try:
        with trio.fail_after(START_TIMEOUT_S):
            found = await session.gateway.history.result(query, list[Start])
            return found[0] if found else None
    except (Refusal, trio.TooSlowError) as error:
        log.debug("replay.not_found", feed=feed.name, error=str(error))
        return None


class Replay:
    """One stream's way through the log of one feed.

    Args:
        from_ns: where the stream is to begin, if that is a time.
    """

    def __init__(
        self, session: Session, subscription: Subscription, follow: Follow, start: Start, from_ns: int | None
    ) -> None:
        self._session = session
        self._subscription = subscription
        self._follow = follow
        self._feed = follow.feed
        self._start = start
        self._epoch = start.epoch
        self._cursor = self._told = start.cursor
        self._lost_from = 0  # the first cursor of what is to be told as a gap, if any
        self._selection = subscription.selection
        self._names: dict[int, str] = {}
        self._others: set[str] = set()  # instruments that are not recorded
        self._whole = True  # none of them is selected
        self._named: dict[int, str] = {}  # that the client was told of
        self._unknown_before = from_ns is not None and not start.cursor
        follow.past = Position(start.epoch, start.cursor)
        follow.replay_to = self._feed.head

    async def run(self) -> None:
        """Send what there is, and let the writer go on in the ring."""
        query = ReplayQuery(self._feed.info.name, self._start)
        try:
            async with aclosing(self._session.gateway.history.answers(query, type(None))) as found:
                async for data in found:
                    if data is None or self._ring_has_the_rest:
                        break
                    await self._session.writer.wait_room()
                    await self._subscription.wait_unpaused()
                    if not self._wanted:
                        return
                    self._tell(_decode(data))
        except (NoHistory, Refusal) as error:
            log.warning("replay.broken", feed=self._feed.name, client=self._session.number, error=str(error))
        if self._wanted:
            self._go_live()

    @property
    def _wanted(self) -> bool:
        session, subscription = self._session, self._subscription
        return (
            not session.ended
            and session.subscriptions.get(subscription.id) is subscription
            and subscription.follows.get(self._feed.name) is self._follow
        )

    @property
    def _ring_has_the_rest(self) -> bool:
        """Whether the ring has it, and not only just."""
        ring = self._feed.ring
        return self._epoch == self._feed.epoch and self._cursor >= ring.oldest + ring.rows // 2

    def _tell(self, page: Page) -> None:
        batch = Batch()
        if self._unknown_before:
            self._unknown_before = False
            self._add_gap(batch, 1, 0, -1, GapReason.EPOCH)
        if self._selection is not self._subscription.selection:
            self._selection = self._subscription.selection
            self._named = {}
            self._whole = self._selects_none_of(self._others)
        if page.begins:
            self._begin_epoch(page.epoch, page.lost or 0, batch)
        self._names |= page.names
        self._others.update(page.others)
        self._whole = self._whole and self._selects_none_of(page.others)
        if page.lost is None and self._whole:
            self._tell_lost(batch)
            self._tell_names(batch)
            self._tell_rows(page, batch)
        elif page.cursor_last >= page.cursor_first:
            self._lost_from = self._lost_from or self._told + 1
        self._cursor = page.cursor_last
        self._follow.past = Position(self._epoch, self._cursor)
        self._session.writer.put_batch(batch)

    def _selects_none_of(self, names: Iterable[str]) -> bool:
        return not any(map(self._selection.selects, names))

    def _begin_epoch(self, epoch: int, lost: int, batch: Batch) -> None:
        self._tell_lost(batch)
        self._epoch = epoch
        self._cursor = self._told = 0
        self._names, self._named = {}, {}
        self._others.clear()
        self._whole = True
        self._add_gap(batch, 1, 0, lost, GapReason.EPOCH)

    def _tell_lost(self, batch: Batch) -> None:
        if self._lost_from:
            self._add_gap(batch, self._lost_from, self._cursor, self._cursor - self._lost_from + 1, GapReason.LAPPED)
            self._told, self._lost_from = self._cursor, 0

    def _add_gap(self, batch: Batch, first: int, last: int, lost: int, reason: GapReason) -> None:
        gap = messages.Gap(self._subscription.id, self._feed.name, self._epoch, first, last, lost, reason.name.lower())
        batch.add(encode_notification("gap", gap))
        batch.lost += max(0, lost)

    def _tell_names(self, batch: Batch) -> None:
        selects = self._selection.selects
        found = {n: name for n, name in self._names.items() if n not in self._named and selects(name)}
        if found:
            self._named |= found
            message = messages.Instruments(self._subscription.id, self._feed.name, self._epoch, found)
            batch.add(encode_notification("instruments", message))

    def _tell_rows(self, page: Page, batch: Batch) -> None:
        subscription, fanout = self._subscription, self._feed.fanout
        contract = subscription.contract
        for rows, cursor_last in self._parts(page):
            first = self._told + 1
            chunk = fanout.encode(rows, subscription.format, first, cursor_last, contract, self._epoch)
            subscription.add_chunk(batch, chunk, first)
            self._told = cursor_last

    def _parts(self, page: Page) -> Iterator[tuple[NDArray[np.void], int]]:
        """Cut a page's rows that are wanted into messages: their rows, and up to where each reaches."""
        rows = np.frombuffer(page.data, layout.ROW)
        kinds, ids = [*self._selection.kinds, *layout.TOLD_ALWAYS], [0, *self._named]
        rows = rows[np.isin(rows["kind"], kinds) & np.isin(rows["instrument"], ids)]
        rows_max = self._feed.fanout.rows_max(self._subscription.format, self._subscription.contract)
        for start in range(0, len(rows), rows_max):
            part = rows[start : start + rows_max]
            yield part, page.cursor_last if start + rows_max >= len(rows) else int(part["cursor"][-1])

    def _go_live(self) -> None:
        follow, batch = self._follow, Batch()
        if self._epoch != self._feed.epoch:
            self._begin_epoch(self._feed.epoch, -1, batch)
        self._tell_lost(batch)
        self._session.writer.put_batch(batch)
        follow.cursor, follow.sent = self._cursor, self._told
        follow.past = None
        follow.told = -1  # the client may have forgotten this epoch's names for another's
        self._session.writer.wake()

"""What is said on one connection, sans I/O: the shell's side of the talk with a venue's protocol.

It keeps the subscriptions as they are wanted, and draws the consequences of what the protocol reports: acks that came,
that are missing, or are refusals; an instrument to be made anew; maintenance; a cut that is announced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from backends.live import (
    AckMissing,
    CutAnnounced,
    Event,
    Fatal,
    LiveProtocol,
    Maintenance,
    Refused,
    Resync,
    Subscribed,
)
from marketd.clock import SECOND_NS
from marketd.feed.lane import Lane
from marketd.model import GapReason, MktPair, Quality

LOOK_NS = SECOND_NS * 9 // 10  # between two looks; the timers run at least every second
RESYNC_NS = 5 * SECOND_NS  # between two attempts to resynchronise one instrument


@dataclass(frozen=True)
class Outcome:
    """How a connection ended.

    Attributes:
        reason: a stable word; ``detail`` is for people.
        gap: what to write of the instruments that it carried.
        hopeless: the next one will hardly fare better.
        asked_s: how long the venue wants to be left alone.
    """

    reason: str
    detail: str = ""
    gap: GapReason = GapReason.DISCONNECT
    hopeless: bool = False
    asked_s: float = 0.0


class Dialogue:
    """One protocol, its lane, and what is wanted of it. Times are the feed's clock.

    Attributes:
        refused: instruments that the venue does not want to give, and why; shared by all connections of the venue.
        outbox: messages to be sent.
        ids: row ids of the instruments asked for on this connection.
        settled: whether every instrument has been acked or refused once.
        expiring: whether the venue has announced that it will cut the connection.
        outcome: set when the connection should be left.
        vouched_ns: when the connection was last looked at and found in order, however quiet it is.
    """

    def __init__(
        self, protocol: LiveProtocol, lane: Lane, refused: dict[str, str], log: structlog.stdlib.BoundLogger
    ) -> None:
        self.protocol = protocol
        self.lane = lane
        self.outbox: deque[bytes] = deque()
        self.ids: dict[str, int] = {}
        self.settled = False
        self.expiring = False
        self.outcome: Outcome | None = None
        self.vouched_ns = 0
        self._refused = refused
        self._log = log
        self._wanted: dict[str, MktPair] = {}
        self._markets: dict[str, MktPair] = {}
        self._in_maintenance = False
        self._asked_again: set[str] = set()
        self._resynced_ns: dict[str, int] = {}
        self._resync_due_ns: dict[str, int] = {}
        self._looked_ns = 0

    def want(self, markets: Sequence[MktPair], now_ns: int) -> None:
        """Ask the venue for what is wanted and not there, and let go of what is there and not wanted."""
        self._wanted = {market.fqme: market for market in markets}
        self._reconcile()
        self._collect(now_ns)

    def receive(self, batch: list[bytes], received_ns: int) -> None:
        """Take the messages of one read, and let readers see what they made."""
        receive, sink = self.protocol.receive, self.lane.sink
        if sink.recording:
            for payload in batch:
                sink.message(payload, received_ns)
        for payload in batch:
            receive(payload, received_ns)
        self._collect(received_ns)
        sink.publish()

    def sent(self, now_ns: int) -> None:
        """Note that the outbox has been sent."""
        self.protocol.timer(now_ns)
        self._collect(now_ns)

    def run_timers(self, now_ns: int) -> int:
        """Do what is due, and return when there is something to do again, at most a second from now."""
        due = [name for name, due_ns in self._resync_due_ns.items() if due_ns <= now_ns]
        for name in due:
            del self._resync_due_ns[name]
        if due:
            self._reconcile()
        self._look(now_ns)
        timer_ns = self.protocol.next_timer_ns
        if timer_ns is not None and timer_ns <= now_ns:
            self.protocol.timer(now_ns)
        self._collect(now_ns)
        timer_ns = self.protocol.next_timer_ns
        return min(now_ns + SECOND_NS if timer_ns is None else timer_ns, now_ns + SECOND_NS)

    @property
    def brought_data(self) -> bool:
        """Whether any message became rows."""
        return any(self.protocol.counts.used.values())

    # --- what the venue does not say ----------------------------------------------------------------------

    def _look(self, now_ns: int) -> None:
        """Look, about once a second, for an instrument whose subscription the venue has dropped without a word."""
        if 0 <= now_ns - self._looked_ns < LOOK_NS:
            return
        self._looked_ns = now_ns
        lane, live = self.lane, self.protocol.live
        names = {
            instrument: name
            for name, instrument in self.ids.items()
            if name in live and instrument not in lane.tracks.outages and instrument not in lane.succeeds
        }
        lost = lane.tracks.habits.look(list(names), lane.kinds, now_ns)
        if lost is not None:
            lane.tracks.begin_silence(lost, now_ns)
            self._take_resync(Resync(names[lost.instrument], GapReason.STALE), now_ns)

    # --- subscriptions ------------------------------------------------------------------------------------

    def _reconcile(self) -> None:
        present = set(self.protocol.pending) | set(self.protocol.live)
        absent = self._wanted.keys() - present - self._refused.keys() - self._resync_due_ns.keys()
        self._unsubscribe(sorted(present - self._wanted.keys()))
        self._subscribe([self._wanted[name] for name in sorted(absent)])

    def _subscribe(self, markets: list[MktPair]) -> None:
        for market in markets:
            self._markets[market.fqme] = market
            self.ids[market.fqme] = self.lane.instrument(market)
            self.lane.join(self.ids[market.fqme])
        if markets:
            self.protocol.subscribe(markets)

    def _unsubscribe(self, names: list[str]) -> None:
        for name in names:
            instrument = self.ids.pop(name, None)
            if instrument is not None:
                self.lane.leave(instrument)
        if names:
            self.protocol.unsubscribe([self._markets[name] for name in names])

    # --- what the protocol reports ------------------------------------------------------------------------

    def _collect(self, now_ns: int) -> None:
        """Take what the protocol has to report and to send."""
        for event in self.protocol.events():
            self._take(event, now_ns)
        self.outbox.extend(self.protocol.data_to_send())
        if not self.settled and not self.protocol.pending and not self._resync_due_ns:
            self._log.info("feed.subscribed", instruments=len(self.protocol.live))
            self.settled = True

    def _take(self, event: Event, now_ns: int) -> None:
        take = _TAKERS.get(type(event))
        if take is not None:  # a pong needs nothing: that it came is a sign of life like any message
            take(self, event, now_ns)

    def _take_subscribed(self, event: Subscribed, now_ns: int) -> None:
        for name in event.fqmes:
            instrument = self.ids.get(name)
            if instrument is None:
                continue
            self.lane.acked(instrument, now_ns)
            if self._in_maintenance:
                self.lane.tracks.begin_outage(instrument, GapReason.MAINTENANCE, now_ns, now_ns)

    def _take_refused(self, event: Refused, now_ns: int) -> None:
        self._log.warning("feed.refused", instrument=event.fqme, reason=event.reason)
        self._refused[event.fqme] = event.reason
        instrument = self.ids.pop(event.fqme, None)
        if instrument is not None:
            self.lane.leave(instrument)
            self.lane.tracks.set_quality(instrument, Quality.CLOSED, now_ns)

    def _take_ack_missing(self, event: AckMissing, now_ns: int) -> None:
        """Ask once more for these alone; a connection that stays silent twice is not worth keeping."""
        again = self._asked_again.intersection(event.fqmes)
        names = list(event.fqmes)
        self._log.error("feed.ack_missing", instruments=names[:8], count=len(names), again=bool(again))
        self._asked_again.update(names)
        if again:
            self.outcome = Outcome("unacked", f"no ack for {len(again)} instruments, twice")
        else:
            self._reconcile()

    def _take_cut(self, event: CutAnnounced, now_ns: int) -> None:
        if not self.expiring:
            in_s = None if event.at_ns is None else round((event.at_ns - now_ns) / SECOND_NS, 1)
            self._log.info("feed.cut_announced", in_s=in_s)
            self.expiring = True

    def _take_maintenance(self, event: Maintenance, now_ns: int) -> None:
        self._log.warning("feed.maintenance", on=event.on)
        self._in_maintenance = event.on
        tracks = self.lane.tracks
        for name in sorted(self.protocol.live & self.ids.keys()):
            if event.on:
                tracks.begin_outage(self.ids[name], GapReason.MAINTENANCE, now_ns, now_ns)
            else:
                tracks.end_outage(self.ids[name], now_ns)

    def _take_fatal(self, event: Fatal, now_ns: int) -> None:
        self.outcome = Outcome("fatal", event.reason, hopeless=True)

    def _take_resync(self, event: Resync, now_ns: int) -> None:
        """Make one instrument anew: at once, but not again and again in no time."""
        instrument = self.ids.get(event.fqme)
        if instrument is None:
            return
        self._log.warning("feed.resync", instrument=event.fqme, reason=event.reason.name.lower())
        self.lane.tracks.begin_outage(instrument, event.reason, now_ns, now_ns)
        self._unsubscribe([event.fqme])
        due_ns = self._resynced_ns.get(event.fqme, now_ns - RESYNC_NS) + RESYNC_NS
        self._resynced_ns[event.fqme] = max(due_ns, now_ns)
        if due_ns > now_ns:
            self._resync_due_ns[event.fqme] = due_ns
        else:
            self._reconcile()


_TAKERS: dict[type, Callable[[Dialogue, Any, int], None]] = {
    Subscribed: Dialogue._take_subscribed,
    Refused: Dialogue._take_refused,
    AckMissing: Dialogue._take_ack_missing,
    CutAnnounced: Dialogue._take_cut,
    Maintenance: Dialogue._take_maintenance,
    Fatal: Dialogue._take_fatal,
    Resync: Dialogue._take_resync,
}

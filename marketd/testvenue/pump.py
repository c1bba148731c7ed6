"""Carries the market's events to the connections that want them, as their time comes."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter

import numpy as np
import trio

from marketd.clock import Clock
from marketd.testvenue import frames
from marketd.testvenue.connection import Connection
from marketd.testvenue.counts import StreamCount, VenueCounts
from marketd.testvenue.faults import Board
from marketd.testvenue.market import Quote, Trade
from marketd.testvenue.venue import SECOND_NS, Channel, Venue

STEP_S = 0.01
SLICE_NS = SECOND_NS // 4  # of time in one go, when the pump is late
BEHIND_NS_MAX = 30 * SECOND_NS  # what is older is never sent

_Routes = dict[int, list[tuple[Channel, StreamCount, list[Connection]]]]


class VenuePump:
    """One venue's part."""

    def __init__(self, venue: Venue, counts: VenueCounts, board: Board) -> None:
        self.connections: dict[int, Connection] = {}
        self._venue = venue
        self._counts = counts
        self._board = board
        self._signature: list[tuple[int, int]] = []
        self._trades: _Routes = {}
        self._quotes: _Routes = {}
        self._polls: list[tuple[Channel, StreamCount, list[Connection]]] = []
        self._polled: dict[Channel, int] = {}
        self._trade_instruments = self._quote_instruments = np.array([], np.int64)

    def step(self, after_ns: int, until_ns: int) -> None:
        """Send what happens in ``[after_ns, until_ns)``."""
        self._update_routes(after_ns)
        happened: list[Trade | Quote] = []
        if len(self._trade_instruments):
            happened += self._venue.market.trades_between(self._trade_instruments, after_ns, until_ns).rows()
        if len(self._quote_instruments):
            happened += self._venue.market.quotes_between(self._quote_instruments, after_ns, until_ns).rows()
        happened.sort(key=itemgetter(2))
        for event in happened:
            if isinstance(event, Trade):
                self._venue.note_trade(event)
                routes = self._trades.get(event.instrument, ())
            else:
                routes = self._quotes.get(event.instrument, ())
            for channel, count, connections in routes:
                self._send(channel, count, connections, event)
        for channel, count, connections in self._polls:
            self._poll(channel, count, connections, until_ns)

    def _send(
        self, channel: Channel, count: StreamCount, connections: Iterable[Connection], event: Trade | Quote
    ) -> None:
        if self._board.busy:
            skew = self._board.find("clock_skew", self._venue.name, channel=channel)
            if skew is not None:
                event = event._replace(time_ns=event.time_ns + int(skew.fault.skew_s * SECOND_NS))
        if isinstance(event, Trade):
            assert channel.on_trade is not None
            payload = channel.on_trade(event)
        else:
            assert channel.on_quote is not None
            payload = channel.on_quote(event)
        frame = frames.text(payload)
        for connection in connections:
            connection.deliver(channel, count, event.number, payload, frame)

    def _poll(self, channel: Channel, count: StreamCount, connections: Iterable[Connection], now_ns: int) -> None:
        last_ns = self._polled[channel]
        if now_ns // channel.every_ns == last_ns // channel.every_ns:
            return
        self._polled[channel] = now_ns
        assert channel.poll is not None
        for payload in channel.poll(last_ns, now_ns):
            frame = frames.text(payload)
            for connection in connections:
                connection.deliver(channel, count, 0, payload, frame)

    def _update_routes(self, now_ns: int) -> None:
        """Find out anew who wants what, when any connection or subscription came or went."""
        signature = [(number, connection.session.version) for number, connection in self.connections.items()]
        if signature == self._signature:
            return
        self._signature = signature
        wanted: dict[Channel, list[Connection]] = {}
        for connection in self.connections.values():
            for channel in connection.session.channels.values():
                wanted.setdefault(channel, []).append(connection)
        self._trades, self._quotes, self._polls = {}, {}, []
        for channel, connections in wanted.items():
            route = (channel, self._counts.stream(channel.name), connections)
            if channel.on_trade is not None:
                self._trades.setdefault(channel.instrument, []).append(route)
            if channel.on_quote is not None:
                self._quotes.setdefault(channel.instrument, []).append(route)
            if channel.poll is not None:
                self._polls.append(route)
        self._polled = {channel: self._polled.get(channel, now_ns) for channel, _, _ in self._polls}
        self._set_instruments({channel.instrument for channel in wanted if channel.needs_trades})

    def _set_instruments(self, need_trades: set[int]) -> None:
        before = set(self._trade_instruments.tolist())
        now = self._trades.keys() | need_trades
        for instrument in before - now:
            self._venue.forget_trades(instrument)
        self._trade_instruments = np.array(sorted(now), np.int64)
        self._quote_instruments = np.array(sorted(self._quotes), np.int64)


class Pump:
    """All venues' parts, on one clock.

    Attributes:
        now_ns: everything before this has been sent.
        skipped_ns: time whose events were never sent, because the machine stood still for too long.
    """

    def __init__(self, parts: Iterable[VenuePump], clock: Clock) -> None:
        self.now_ns = clock.now_ns()
        self.skipped_ns = 0
        self._parts = list(parts)
        self._clock = clock

    async def run(self) -> None:
        """Send events in their time until cancelled."""
        while True:
            now_ns = self._clock.now_ns()
            if now_ns - self.now_ns > BEHIND_NS_MAX:
                self.skipped_ns += now_ns - SLICE_NS - self.now_ns
                self.now_ns = now_ns - SLICE_NS
            while self.now_ns < now_ns:
                until_ns = min(now_ns, self.now_ns + SLICE_NS)
                for part in self._parts:
                    part.step(self.now_ns, until_ns)
                self.now_ns = until_ns
                await trio.lowlevel.checkpoint()
            await trio.sleep(STEP_S)

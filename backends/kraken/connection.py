"""One live connection to Kraken's websocket v2: subscriptions, their acks, pings.

Each channel of an instrument is asked for by a request of its own, many symbols at a time, and each symbol is answered
by itself, with the request's ``req_id``: https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/ticker
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice

import msgspec

from backends.backend import Sink
from backends.kraken import wire
from backends.kraken.book import DEPTH
from backends.kraken.instruments import v2_symbol
from backends.kraken.protocol import KrakenProtocol
from backends.kraken.streams import Instrument
from backends.live import Event, Maintenance, Pong, Resync, TickKind
from backends.subscriptions import Subscriptions
from marketd.clock import SECOND_NS
from marketd.model import GapReason, MktPair

SUBSCRIBE_CHUNK = 100  # Kraken names no limit
# A connection without subscriptions gets no heartbeats, and is closed after about a minute of silence; see
# https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/heartbeat and …/ping .
PING_NS = 30 * SECOND_NS

# - Quotes come with each change of the best prices ("bbo"), by default only with trades; the first at once.
# - Of trades, `snapshot` would send the last 50 again: it is off by default, and is said here because v1's is on.
_PARAMS: dict[TickKind, dict[str, object]] = {
    "trade": {"channel": "trade", "snapshot": False},
    "quote": {"channel": "ticker", "event_trigger": "bbo", "snapshot": True},
    "book": {"channel": "book", "depth": DEPTH, "snapshot": True},
}
_ALREADY = "Already subscribed"
_encode = msgspec.json.Encoder().encode


class KrakenConnection(KrakenProtocol):
    """See :class:`backends.live.LiveProtocol`."""

    def __init__(self, sink: Sink, kinds: Iterable[TickKind]) -> None:
        super().__init__(sink, lambda symbol: None)  # what was not asked for is no instrument of ours
        self._kinds = tuple(dict.fromkeys(kinds))
        self._subscriptions = Subscriptions()
        self._fqmes: dict[str, str] = {}  # by symbol
        self._queue: list[tuple[int, bytes]] = []
        self._number = 0
        self._events: list[Event] = []
        self._maintenance = False
        self._next_ping_ns: int | None = None

    # --- subscriptions ------------------------------------------------------------------------------

    def subscribe(self, markets: Sequence[MktPair]) -> None:
        """See :class:`backends.live.LiveProtocol`."""
        fresh: dict[str, str] = {}
        for market in markets:
            symbol = v2_symbol(market.bs_mktid)
            if self._subscriptions.begin(market.fqme, (_stream(kind, symbol) for kind in self._kinds)):
                fresh[symbol] = market.fqme
                self._rows.add(symbol, market)
        self._fqmes |= fresh
        for kind in self._kinds:
            for symbols in _chunks(fresh):
                number = self._ask("subscribe", kind, symbols)
                self._subscriptions.request(number, {_stream(kind, symbol): fresh[symbol] for symbol in symbols})

    def unsubscribe(self, markets: Sequence[MktPair]) -> None:
        """See :class:`backends.live.LiveProtocol`."""
        symbols = [v2_symbol(market.bs_mktid) for market in markets if self._subscriptions.end(market.fqme)]
        for symbol in symbols:
            self._rows.remove(symbol)
        for kind in self._kinds:
            for chunk in _chunks(symbols):
                self._ask("unsubscribe", kind, chunk)

    @property
    def pending(self) -> AbstractSet[str]:
        """See :class:`backends.live.LiveProtocol`."""
        return self._subscriptions.pending

    @property
    def live(self) -> AbstractSet[str]:
        """See :class:`backends.live.LiveProtocol`."""
        return self._subscriptions.live

    # --- the shell's calls --------------------------------------------------------------------------

    def data_to_send(self) -> list[bytes]:
        """See :class:`backends.live.LiveProtocol`."""
        queue, self._queue = self._queue, []
        for number, _ in queue:
            self._subscriptions.sent(number)
        return [payload for _, payload in queue]

    def timer(self, now_ns: int) -> None:
        """See :class:`backends.live.LiveProtocol`."""
        self._subscriptions.timer(now_ns)
        if self._next_ping_ns is not None and now_ns >= self._next_ping_ns:
            self._number += 1
            self._queue.append((self._number, _encode({"method": "ping", "req_id": self._number})))
        if self._next_ping_ns is None or now_ns >= self._next_ping_ns:
            self._next_ping_ns = now_ns + PING_NS

    @property
    def next_timer_ns(self) -> int | None:
        """See :class:`backends.live.LiveProtocol`."""
        times = (self._subscriptions.next_timer_ns, self._next_ping_ns)
        return min((time for time in times if time is not None), default=None)

    def events(self) -> list[Event]:
        """See :class:`backends.live.LiveProtocol`."""
        events, self._events = self._events + self._subscriptions.events(), []
        return events

    # --- what the venue said ------------------------------------------------------------------------

    def _replied(self, reply: wire.Reply) -> None:
        """Match an answer with its request.

        A refusal names the symbol; one without is of the whole request, and says nothing about its instruments. So
        these count as not answered, and may be asked for again.
        """
        if reply.method != "subscribe" or reply.req_id is None:
            return
        symbol = reply.result.symbol or reply.symbol
        streams = {_stream(kind, symbol) for kind in self._kinds}
        if reply.success or reply.error == _ALREADY:
            if _stream("book", symbol) in self._subscriptions.streams_of(reply.req_id):
                self._rows.expect_book(symbol, DEPTH)
            self._subscriptions.acked(reply.req_id, streams)
        elif not symbol:
            self._subscriptions.missed(reply.req_id)
        elif streams & self._subscriptions.streams_of(reply.req_id).keys():
            self._rows.remove(symbol)
            self._subscriptions.refused(self._fqmes[symbol], reply.error)

    def _lose_book(self, instrument: Instrument, reason: GapReason, received_ns: int) -> None:
        """Have the instrument made anew: with its book it gives up all of its rows, as the port wants it."""
        self._rows.remove(instrument.symbol)
        self._events.append(Resync(self._fqmes[instrument.symbol], reason))

    def _status_changed(self, system: str) -> None:
        """Take the state of the trading engine; in those other than these two there is data, if no trades.

        https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/status
        """
        maintenance = system == "maintenance"
        if maintenance != self._maintenance:
            self._maintenance = maintenance
            self._events.append(Maintenance(maintenance))

    def _ponged(self) -> None:
        self._events.append(Pong())

    def _ask(self, method: str, kind: TickKind, symbols: Sequence[str]) -> int:
        self._number += 1
        params = _PARAMS[kind] | {"symbol": list(symbols)}
        self._queue.append((self._number, _encode({"method": method, "params": params, "req_id": self._number})))
        return self._number


def _stream(kind: str, symbol: str) -> str:
    return f"{kind} {symbol}"


def _chunks(symbols: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(symbols)
    while chunk := list(islice(rest, SUBSCRIBE_CHUNK)):
        yield chunk

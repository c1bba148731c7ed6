"""One live connection to KuCoin's websocket: welcome, subscriptions, acks, pings.

    opened ── welcome ──> requests go out, each answered by an ack or an error with its id, in any order

"Only when the welcome message is received will the connection be available":
https://www.kucoin.com/docs-new/websocket-api/base-info/introduction
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from backends.backend import Sink
from backends.kucoin import wire
from backends.kucoin.protocol import KucoinProtocol
from backends.live import ConnectPlan, Event, Fatal, Pong, TickKind
from backends.subscriptions import Subscriptions
from marketd.clock import SECOND_NS
from marketd.model import MktPair

# "Max topics per single request: 100": https://www.kucoin.com/docs-new/rate-limit
SUBSCRIBE_CHUNK = 100
WELCOME_TIMEOUT_NS = 10 * SECOND_NS

# Quotes come from level 1 and not from the ticker: it is made every 10 ms (the ticker every 100 ms), only when it has
# changed, and it has the time of the quote, where the ticker's `time` is the last trade's.
# https://www.kucoin.com/docs-new/3470067w0 , https://www.kucoin.com/docs-new/3470063w0
_TOPICS: dict[TickKind, str] = {"trade": wire.MATCH, "quote": wire.LEVEL1}
_NOT_FOUND = 404
_PING_S = 15.0  # should the plan not say
_TOPIC_NAMED = re.compile(r"topic (\S+) is not found")
_encode = msgspec.json.Encoder().encode


class _State(enum.Enum):
    OPENED = enum.auto()
    WELCOMED = enum.auto()
    FAILED = enum.auto()


class KucoinConnection(KucoinProtocol):
    """See :class:`backends.live.LiveProtocol`."""

    def __init__(self, sink: Sink, kinds: Iterable[TickKind], plan: ConnectPlan) -> None:
        super().__init__(sink, lambda symbol: None)  # what was not asked for is no instrument of ours
        self._topics = tuple(dict.fromkeys(_TOPICS[kind] for kind in kinds))
        self._ping_ns = round((plan.message_ping_s or _PING_S) * SECOND_NS)
        self._subscriptions = Subscriptions()
        self._state = _State.OPENED
        self._welcome_until_ns: int | None = None
        self._next_ping_ns: int | None = None
        self._queue: list[tuple[int, bytes]] = []
        self._number = 0
        self._events: list[Event] = []

    # --- subscriptions ------------------------------------------------------------------------------

    def subscribe(self, markets: Sequence[MktPair]) -> None:
        """See :class:`backends.live.LiveProtocol`."""
        fresh: dict[str, str] = {}
        for market in markets:
            symbol = market.bs_mktid
            if self._subscriptions.begin(market.fqme, (f"{topic}:{symbol}" for topic in self._topics)):
                fresh[symbol] = market.fqme
                self._add(symbol, market)
        for topic in self._topics:
            self._ask_for({f"{topic}:{symbol}": fqme for symbol, fqme in fresh.items()})

    def unsubscribe(self, markets: Sequence[MktPair]) -> None:
        """See :class:`backends.live.LiveProtocol`."""
        symbols = [market.bs_mktid for market in markets if self._subscriptions.end(market.fqme)]
        for symbol in symbols:
            self._deactivate(symbol)
        for topic in self._topics:
            for begin in range(0, len(symbols), SUBSCRIBE_CHUNK):
                self._ask("unsubscribe", [f"{topic}:{symbol}" for symbol in symbols[begin : begin + SUBSCRIBE_CHUNK]])

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
        """See :class:`backends.live.LiveProtocol`: nothing before the welcome."""
        if self._state is not _State.WELCOMED:
            return []
        queue, self._queue = self._queue, []
        for number, _ in queue:
            self._subscriptions.sent(number)
        return [payload for _, payload in queue]

    def timer(self, now_ns: int) -> None:
        """See :class:`backends.live.LiveProtocol`."""
        if self._state is _State.OPENED:
            if self._welcome_until_ns is None:
                self._welcome_until_ns = now_ns + WELCOME_TIMEOUT_NS
            elif now_ns >= self._welcome_until_ns:
                self._fail("no welcome message came")
        elif self._state is _State.WELCOMED:
            self._subscriptions.timer(now_ns)
            if self._next_ping_ns is not None and now_ns >= self._next_ping_ns:
                self._next_ping_ns = now_ns + self._ping_ns
                self._number += 1
                self._queue.append((self._number, _encode({"id": str(self._number), "type": "ping"})))

    @property
    def next_timer_ns(self) -> int | None:
        """See :class:`backends.live.LiveProtocol`."""
        if self._state is _State.OPENED:
            return self._welcome_until_ns
        times = (self._subscriptions.next_timer_ns, self._next_ping_ns)
        return min((time for time in times if time is not None), default=None)

    def events(self) -> list[Event]:
        """See :class:`backends.live.LiveProtocol`."""
        events, self._events = self._events + self._subscriptions.events(), []
        return events

    # --- what the venue said ------------------------------------------------------------------------

    def _replied(self, probe: wire.Probe, received_ns: int) -> None:
        """Take a welcome, an ack, a pong or an error."""
        if probe.type == "welcome":
            if self._state is _State.OPENED:
                self._state = _State.WELCOMED
                self._next_ping_ns = received_ns + self._ping_ns
        elif probe.type == "pong":
            self._events.append(Pong())
        elif probe.type == "ack":
            number = _number(probe.id)
            self._subscriptions.acked(number, self._subscriptions.streams_of(number))
        else:
            self._refused(_number(probe.id), probe.code, str(probe.data)[:200])

    def _refused(self, number: int, code: object, reason: str) -> None:
        """Find out what an error is about.

        A request is accepted or refused as a whole. One symbol that does not exist spoils it, and the error names only
        the first. So the rest is asked for again, by halves if the error does not name any: only what does not exist is
        refused then. Any other error ("exceed max subscription count limitation") says nothing about the symbols, and
        these count as not answered.
        """
        if self._state is _State.OPENED:  # such as 401, "token is invalid"
            self._fail(f"KuCoin says {code} {reason}")
            return
        if str(code) != str(_NOT_FOUND):
            self._subscriptions.missed(number)
            return
        named = _TOPIC_NAMED.search(reason)
        stream = named[1] if named is not None else ""
        if not self._subscriptions.streams_of(number):  # the id may be the connection's, as the documents have it
            number = self._subscriptions.number_of(stream)
        streams = self._subscriptions.withdraw(number)
        if len(streams) == 1:
            stream = next(iter(streams))
        fqme = streams.get(stream)
        if fqme is not None:
            self._deactivate(stream.partition(":")[2])
            self._subscriptions.refused(fqme, reason)
            self._ask_for({other: owner for other, owner in streams.items() if owner != fqme})
        else:
            halves = list(streams.items())
            self._ask_for(dict(halves[: len(halves) // 2]))
            self._ask_for(dict(halves[len(halves) // 2 :]))

    def _fail(self, reason: str) -> None:
        self._state = _State.FAILED
        self._events.append(Fatal(reason))

    # --- requests -----------------------------------------------------------------------------------

    def _ask_for(self, streams: dict[str, str]) -> None:
        """Queue subscriptions of streams of one topic, each with the instrument it belongs to."""
        items = list(streams.items())
        for begin in range(0, len(items), SUBSCRIBE_CHUNK):
            chunk = dict(items[begin : begin + SUBSCRIBE_CHUNK])
            self._subscriptions.request(self._ask("subscribe", list(chunk)), chunk)

    def _ask(self, kind: str, streams: list[str]) -> int:
        """Queue a request: ``/market/match:BTC-USDT,ETH-USDT``."""
        topic = streams[0].partition(":")[0]
        symbols = ",".join(stream.partition(":")[2] for stream in streams)
        self._number += 1
        request = {"id": str(self._number), "type": kind, "topic": f"{topic}:{symbols}", "response": True}
        self._queue.append((self._number, _encode(request | {"privateChannel": False})))
        return self._number

    def _deactivate(self, symbol: str) -> None:
        instrument = self._instruments.get(symbol)
        if instrument is not None:
            instrument.active = False


def _number(id_: object) -> int:
    """Read the id of a request of ours; -1 for any other. It comes back as text."""
    return int(id_) if isinstance(id_, str) and id_.isdecimal() and len(id_) < 19 else -1

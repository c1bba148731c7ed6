"""The seam between the server and the venues: a venue is a market, sessions and REST answers, and does no I/O.

A *session* is the venue's side of one websocket connection: messages of the client go in, replies come out, and it
says which *channels* it wants. A channel turns the market's events into that venue's messages; sessions that get the
same bytes share one channel object, so that a message is encoded once for all of them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np

from marketd.testvenue.candles import CandleBook
from marketd.testvenue.market import Market, Quote, Trade

SECOND_NS = 1_000_000_000
TIME_NS_MAX = 4_102_444_800 * SECOND_NS

Topic = Literal["trade", "quote", "candle", "book"]
Role = Literal["greeting", "ack", "pong", "heartbeat", "notice", "data"]


@dataclass(frozen=True)
class Say:
    """Send a text message. ``role`` is by what faults choose; ``channel`` is the name of a data message's channel."""

    payload: bytes
    role: Role
    channel: str = ""


@dataclass(frozen=True)
class Ping:
    """Send a websocket ping."""

    payload: bytes


@dataclass(frozen=True)
class Bye:
    """Close the connection."""

    code: int
    reason: str = ""


Reply = Say | Ping | Bye


@dataclass(frozen=True)
class Request:
    """A REST request, or a websocket's opening one. ``path`` is without the venue's prefix; ``host`` is HOST:PORT.

    ``skew_ns``: by so much a fault wants the server's own time to be wrong, where that is asked for.
    """

    path: str
    query: Mapping[str, str]
    method: str = "GET"
    host: str = "127.0.0.1"
    secure: bool = False
    skew_ns: int = 0


@dataclass(frozen=True)
class Response:
    """A REST answer; the body is JSON."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(eq=False)
class Channel:
    """One stream of messages about one instrument.

    Attributes:
        name: the venue's own name of it.
        symbol: the venue's own name of the instrument.
        on_trade, on_quote: make the message for an event.
        needs_trades: its messages about quotes tell the newest trade, too.
        poll: make the messages that are due between two points in time (the first excluded), each ``every_ns``.
    """

    name: str
    topic: Topic
    instrument: int
    symbol: str
    on_trade: Callable[[Trade], bytes] | None = None
    on_quote: Callable[[Quote], bytes] | None = None
    poll: Callable[[int, int], list[bytes]] | None = None
    every_ns: int = SECOND_NS
    needs_trades: bool = False


@dataclass
class Tuning:
    """What a test may want to change of a venue while it runs; see the control endpoint.

    Attributes:
        weight_limit: REST weight in the venue's window; 0 is the venue's own.
        connection_max_s: how long a connection may live.
        ping_interval_ms, ping_timeout_ms: KuCoin's, as told with the token.
    """

    weight_limit: int = 0
    connection_max_s: float = 86_400
    ping_interval_ms: int = 18_000
    ping_timeout_ms: int = 10_000


class Session(abc.ABC):
    """The venue's side of one websocket connection.

    Attributes:
        channels: what is subscribed and has data, by the venue's name.
        silent: names that are subscribed and get nothing, as the venue does with what it doesn't know.
        version: changes whenever ``channels`` did.
    """

    def __init__(self, now_ns: int) -> None:
        self.channels: dict[str, Channel] = {}
        self.silent: dict[str, None] = {}
        self.version = 0
        self.opened_ns = now_ns
        self.heard_ns = now_ns

    @abc.abstractmethod
    def greet(self, now_ns: int) -> list[Reply]:
        """What is said at once."""

    @abc.abstractmethod
    def receive(self, payload: bytes, now_ns: int) -> list[Reply]:
        """Answer one message of the client."""

    @abc.abstractmethod
    def tick(self, now_ns: int, spoke_ns: int) -> list[Reply]:
        """What is said without being asked; called several times a second.

        Args:
            spoke_ns: when the connection last carried a message to the client.
        """

    def pong(self, now_ns: int) -> None:
        """Note a websocket pong."""
        self.heard_ns = now_ns

    def ping(self, now_ns: int) -> list[Reply]:
        """Note a websocket ping; the connection answers it."""
        self.heard_ns = now_ns
        return []

    def add(self, channel: Channel) -> None:
        """Subscribe."""
        self.channels[channel.name] = channel
        self.version += 1

    def remove(self, name: str) -> bool:
        """Unsubscribe; False when there was no such subscription."""
        known = self.channels.pop(name, None) is not None or name in self.silent
        self.silent.pop(name, None)
        self.version += 1
        return known


class Venue(abc.ABC):
    """One simulated venue."""

    name: str
    prefix: str

    def __init__(self, market: Market) -> None:
        self.market = market
        self.candles = CandleBook(market)
        self.tuning = Tuning()
        self.maintenance = False
        self.known_all = False  # recordings: any subscription is fine
        self._channels: dict[object, Channel] = {}
        self._newest: dict[int, Trade] = {}

    @abc.abstractmethod
    def session(self, request: Request, now_ns: int) -> Session | Response:
        """Open a session, or refuse it with an HTTP answer."""

    @abc.abstractmethod
    def rest(self, request: Request, now_ns: int) -> Response:
        """Answer a REST request."""

    @abc.abstractmethod
    def refuse(self, seconds: float, now_ns: int) -> Response:
        """What the venue answers a request over its limit; ``seconds`` until it may be tried again."""

    @abc.abstractmethod
    def ban(self, seconds: float, now_ns: int) -> None:
        """Ban the client from REST."""

    @abc.abstractmethod
    def unavailable(self) -> Response:
        """What the venue answers while it is away."""

    @abc.abstractmethod
    def closing(self, session: Session, now_ns: int) -> list[Reply]:
        """What the venue says before it cuts a connection as announced; nothing where venues don't announce it."""

    @abc.abstractmethod
    def maintained(self, session: Session, now_ns: int) -> list[Reply]:
        """What a connection hears when :attr:`maintenance` has just changed."""

    @abc.abstractmethod
    def usage(self, now_ns: int) -> dict[str, int]:
        """How much of the limits is used."""

    @abc.abstractmethod
    def forgive(self) -> None:
        """Reset limits and bans."""

    def note_trade(self, trade: Trade) -> None:
        """Keep the newest trade of an instrument; told of each one as it happens, or of none."""
        self._newest[trade.instrument] = trade

    def forget_trades(self, instrument: int) -> None:
        """No more trades of this instrument will be told."""
        self._newest.pop(instrument, None)

    def newest_trade(self, instrument: int, time_ns: int) -> Trade:
        """The newest trade before a time (or the first one, if there is none yet)."""
        newest = self._newest.get(instrument)
        if newest is None or newest.time_ns >= time_ns:
            number = max(self.market.trades_before(instrument, time_ns), 1)
            newest = self.market.trade_range(instrument, number, number)[0]
        return newest

    def newest_quote(self, instrument: int, time_ns: int) -> Quote:
        """The quote that holds at a time."""
        return self.market.quote(instrument, max(self.market.quotes_before(instrument, time_ns), 1))

    def shared(self, key: object, make: Callable[[], Channel]) -> Channel:
        """Return the channel for this key, made once."""
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = make()
        return channel


@dataclass(frozen=True)
class Day:
    """Rough statistics of the last 24 hours: from one trade every ten minutes. In ticks."""

    open: int
    high: int
    low: int
    volume: int
    trades: int
    first: int


@dataclass
class Days:
    """Statistics of the last 24 hours, made anew each minute."""

    market: Market
    _known: dict[int, tuple[int, Day]] = field(default_factory=dict)

    def day(self, instrument: int, now_ns: int) -> Day:
        """Estimate the statistics; only the number of trades is exact."""
        # Each instrument has a minute of its own, so that not all are made anew at once.
        minute = (now_ns + instrument * 137_000_000) // (60 * SECOND_NS)
        known = self._known.get(instrument)
        if known is None or known[0] != minute:
            known = self._known[instrument] = (minute, self._estimate(instrument, now_ns))
        return known[1]

    def _estimate(self, instrument: int, now_ns: int) -> Day:
        last = max(self.market.trades_before(instrument, now_ns), 1)
        first = min(self.market.trades_before(instrument, now_ns - 86_400 * SECOND_NS) + 1, last)
        numbers = np.linspace(first, last, 144).astype(np.int64)
        sample = self.market.trades(np.full(len(numbers), instrument), numbers)
        count = last - first + 1
        return Day(
            int(sample.price[0]),
            int(sample.price.max()),
            int(sample.price.min()),
            int(sample.size.mean() * count),
            count,
            first,
        )


def encode(value: object) -> bytes:
    """Encode as JSON."""
    return msgspec.json.encode(value)


def decode_object(payload: bytes) -> dict[str, Any] | None:
    """Decode a JSON object; None for anything else."""
    try:
        value = msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def integer(query: Mapping[str, str], name: str) -> int | None:
    """Read an integer parameter; None when it is not there.

    Raises:
        ValueError: it is no integer, or beyond 64 bits.
    """
    text = query.get(name)
    if not text:
        return None
    value = int(text)
    if abs(value) >= 1 << 63:
        raise ValueError(f"{name} is too large")
    return value


def time_of(value: int, unit_ns: int) -> int:
    """Turn a client's time into ns; one before 1970 or after 2100 is moved there."""
    return min(max(value * unit_ns, 0), TIME_NS_MAX)

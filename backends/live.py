"""The port of live venues: they declare pure parts; the connection shell (`marketd/feed/venue.py`) does the awaiting.

    LiveVenue      one venue, one for the life of a feed: addresses, limits, instruments, a protocol for each connection
    LiveProtocol   one connection, sans I/O: bytes in, rows, replies and events out
    History        pages of the past: what to ask, how to read the answer

Nothing that implements these opens a socket, sleeps, or asks for the time. Who does what:

- The shell connects, reconnects, spreads instruments over connections, waits for the rate budget, decides whether a
  connection is quiet or dead, writes the gap rows DISCONNECT, STALE, RESTART and MAINTENANCE (and those of a Resync),
  sets qualities, and sees to it that no trade comes twice or in the wrong order when one connection follows another.
- The protocol knows the messages. It asks for subscriptions and checks the acks, writes the rows, and the gap rows
  SEQUENCE and MALFORMED of its own connection, and answers and sends the venue's own pings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeAlias

import msgspec
from msgspec import field

from backends.backend import MessageCounts, Sink
from marketd.errors import MarketdError
from marketd.fqme import is_glob, parse
from marketd.model import GapReason, MktPair

if TYPE_CHECKING:
    from marketd.http.messages import Response  # importing it for real would make every client import asks

TickKind = Literal["trade", "quote", "book"]
Period: TypeAlias = "int | Literal['trades']"  # seconds of a bar, or the trades themselves

_Positive = Annotated[float, msgspec.Meta(gt=0)]


class LiveConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every live feed's table has. A backend's own struct inherits from it, ``frozen=True, kw_only=True``.

    Attributes:
        instruments: what is subscribed to for as long as the feed runs: names and globs, such as `*/usdt.spot.binance`.
            What clients want beyond that comes and goes with them.
        kinds: `trade`, `quote`, `book`, or several of them; which a venue has, its backend declares.
        ws_url: base address of the websockets, in place of the venue's own.
        rest_url: base address of the REST requests, in place of the venue's own.
        ca_file: PEM file with the authorities to trust, in place of the system's.
        connect_timeout_s: for one attempt to connect: name, TCP, TLS and handshake.
        msg_recv_timeout_s: how long a connection may bring no message before it is probed.
        reset_after: after so many such timeouts in a row it is given up and made anew.
        linger_s: how long an instrument that no client wants any more stays subscribed.
        refresh_s: how often the venue's list of instruments is asked for again.
    """

    instruments: list[str] = []
    kinds: Annotated[list[TickKind], msgspec.Meta(min_length=1)] = field(default_factory=lambda: ["trade", "quote"])
    ws_url: str = ""
    rest_url: str = ""
    ca_file: str | None = None
    connect_timeout_s: _Positive = 10.0
    msg_recv_timeout_s: _Positive = 10.0
    reset_after: Annotated[int, msgspec.Meta(ge=1)] = 3
    linger_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    refresh_s: _Positive = 3600.0

    def __post_init__(self) -> None:
        for name in self.instruments:
            if not is_glob(name):
                parse(name)
        for key, value, schemes in (
            ("ws_url", self.ws_url, ("ws://", "wss://")),
            ("rest_url", self.rest_url, ("http://", "https://")),
        ):
            if value and not value.startswith(schemes):
                raise ValueError(f"{key} is {value!r}: it must begin with {' or '.join(schemes)}")


# --- what a venue says about itself -----------------------------------------------------------------------


class Bucket(msgspec.Struct, frozen=True):
    """A limit: requests of at most ``capacity`` weight in any ``window_s`` seconds."""

    capacity: int
    window_s: float


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """A venue's limits, with a link to its page beside each number.

    Attributes:
        streams_per_connection: how many streams one connection carries.
        streams_per_instrument: how many of these one instrument takes; follows from the configured kinds.
        subscribe_chunk: how many streams one subscription request names at most. The protocol's to obey.
        messages_per_s: how many messages a connection may send; the shell paces them.
        connections_per_window: how many connections may be opened, and in how many seconds.
        lifetime_s: after so long the venue cuts every connection; the shell opens the next one before. None: never.
        quiet_s: so long a healthy connection may bring no message at all, though pongs come. For a venue with
            heartbeats that is a few of them. Without pongs ``msg_recv_timeout_s`` and ``reset_after`` decide alone.
        overlap_s: for how long two connections run side by side when one takes over from the other: longer than the
            venue's servers are ever apart.
        trade_ids: ``contiguous`` if the rows of an instrument's trades have sequences that go up by one, ``rising`` if
            they only go up. They are the same on every connection, or the overlap could not be merged.
        buckets: of REST weight, by name; requests name theirs. ``connect`` is the shell's own.
    """

    streams_per_connection: int
    streams_per_instrument: int = 2
    subscribe_chunk: int
    messages_per_s: float
    connections_per_window: tuple[int, float]
    lifetime_s: float | None = None
    quiet_s: float = 60.0
    overlap_s: float = 2.0
    trade_ids: Literal["contiguous", "rising"] = "contiguous"
    buckets: Mapping[str, Bucket] = field(default_factory=lambda: {"rest": Bucket(1, 1.0)})


class HttpRequest(msgspec.Struct, frozen=True):
    """A REST request. ``path`` comes after ``rest_url``; ``weight`` is what it takes from its bucket."""

    method: Literal["GET", "POST"]
    path: str
    params: Mapping[str, str] = {}
    weight: int = 1
    bucket: str = "rest"


class ServerTime(msgspec.Struct, frozen=True):
    """How to ask a venue for its time.

    Attributes:
        parse: reads the answer: nanoseconds since the epoch, cut off to ``resolution_ns``; raises WireError if it is
            none.
    """

    request: HttpRequest
    parse: Callable[[bytes], int]
    resolution_ns: int


class ConnectPlan(msgspec.Struct, frozen=True):
    """How to open a websocket.

    Attributes:
        url: all of it, query included.
        ping_interval_s: the shell sends a websocket ping frame this often; None: only when a connection is silent.
        message_ping_s: the venue wants its own ping, which is a message, this often. For the protocol to send, by its
            timer; the shell does not look at it.
        headers: sent with the handshake.
    """

    url: str
    ping_interval_s: float | None = None
    message_ping_s: float | None = None
    headers: Mapping[str, str] = {}


# --- what happens on a connection -------------------------------------------------------------------------


class Subscribed(msgspec.Struct, frozen=True):
    """All streams of these instruments are acked; they are in ``live`` now."""

    fqmes: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True):
    """The venue does not want to give this instrument: no such symbol, delisted. It is not asked for again soon."""

    fqme: str
    reason: str


class AckMissing(msgspec.Struct, frozen=True):
    """No answer came in time to the subscription of these; each is reported once, and no longer ``pending``."""

    fqmes: tuple[str, ...]


class CutAnnounced(msgspec.Struct, frozen=True):
    """The venue will cut this connection, at a time if it says so (our clock, ns)."""

    at_ns: int | None = None


class Maintenance(msgspec.Struct, frozen=True):
    """The venue's market is in maintenance, or open again. Only changes are reported."""

    on: bool


class Pong(msgspec.Struct, frozen=True):
    """The venue answered a ping of ours."""


class Fatal(msgspec.Struct, frozen=True):
    """This connection is of no use and should be left: a protocol error, an authentication the venue wants."""

    reason: str


class Resync(msgspec.Struct, frozen=True):
    """What we have of this one instrument is wrong: a checksum, a hole that only a snapshot heals.

    The protocol writes none of its rows from here on. The shell calls :meth:`LiveProtocol.unsubscribe` and then
    :meth:`LiveProtocol.subscribe` with it, and writes the gap row; its ack (or its snapshot) ends the gap.
    """

    fqme: str
    reason: GapReason = GapReason.SEQUENCE


Event: TypeAlias = Subscribed | Refused | AckMissing | CutAnnounced | Maintenance | Pong | Fatal | Resync


class LiveProtocol(Protocol):
    """One connection to a venue, sans I/O. It lives as long as the connection, and the next one gets a new one.

    How it is called: it is made when the connection is open; ``subscribe``; ``timer``. Then after each read of the
    socket: ``receive`` for every message in it, ``events``, ``data_to_send``. And whenever ``next_timer_ns`` has come:
    ``timer``, ``events``, ``data_to_send``. When ``data_to_send`` gave something, ``timer`` follows as soon as that
    was sent: the deadline of an ack is counted from there, for a protocol has no clock.

    Nothing here raises on a venue's doing, whatever the bytes are.

    Rows go to the sink that it was made with, as ``sink.append(row)``, looked up each time: a bound method must not be
    kept. Row sequences: a trade's is its id (see :attr:`Limits.trade_ids`); a quote's goes up with each update, or is
    0 where the venue has no number. Continuity is judged within this connection only, beginning with the first row.

    Where the venue greets first (KuCoin's welcome), requests are held back in ``data_to_send`` until it has; a greeting
    that does not come in time is :class:`Fatal`.
    """

    def subscribe(self, markets: Sequence[MktPair]) -> None:
        """Queue the requests for all the configured kinds of these, in the venue's chunks; they are pending now.

        May be called at any time, with instruments that were unsubscribed before, and again for those whose ack is
        missing. Those pending or live already are left alone.
        """
        ...

    def unsubscribe(self, markets: Sequence[MktPair]) -> None:
        """Queue the requests to end these. They are neither pending nor live now; what still comes makes no rows."""
        ...

    def receive(self, payload: bytes, received_ns: int) -> None:
        """Take one message and append its rows; an ack must be matched with its request by the venue's ids."""
        ...

    def data_to_send(self) -> list[bytes]:
        """The messages that must go to the venue now, each once, in order. They are sent as text frames."""
        ...

    def timer(self, now_ns: int) -> None:
        """Do what is due by now: a ping, the report of a missing ack. Calling it early or often does no harm."""
        ...

    @property
    def next_timer_ns(self) -> int | None:
        """When :meth:`timer` must be called next, on the clock of ``received_ns``; None: no need."""
        ...

    def events(self) -> list[Event]:
        """What happened since the last call, oldest first."""
        ...

    @property
    def pending(self) -> AbstractSet[str]:
        """FQMEs that are asked for and not wholly acked."""
        ...

    @property
    def live(self) -> AbstractSet[str]:
        """FQMEs all of whose streams are acked."""
        ...

    @property
    def counts(self) -> MessageCounts:
        """Every message so far, accounted for."""
        ...


class LiveVenue(Protocol):
    """A venue, made from the feed's configuration. It keeps nothing that a connection or a request could change."""

    name: str  # for logs: "binance"
    ws_url: str  # base address in use: by it a recording of this feed finds its protocol again
    rest_url: str
    limits: Limits
    kinds: Sequence[TickKind]  # what its connections bring of the configured ones
    history: History | None
    server_time: ServerTime | None  # None: it does not tell

    def instrument_requests(self) -> list[HttpRequest]:
        """What to ask for the list of instruments; the answers come in the same order."""
        ...

    def parse_instruments(self, bodies: list[bytes]) -> list[MktPair]:
        """Read those answers: everything that can be subscribed to now.

        Raises:
            WireError: they are not what they should be.
        """
        ...

    def connect_requests(self) -> list[HttpRequest]:
        """What to ask before each connection (KuCoin's token); mostly nothing."""
        ...

    def connect_plan(self, bodies: list[bytes], markets: Sequence[MktPair]) -> ConnectPlan:
        """Say how to connect, given those answers.

        Raises:
            WireError: they are not what they should be.
        """
        ...

    def open_protocol(self, sink: Sink, markets: Sequence[MktPair], plan: ConnectPlan) -> LiveProtocol:
        """Make the protocol of a new connection. ``markets`` are what it will be asked to subscribe to first."""
        ...

    def weight_used(self, headers: Mapping[str, str]) -> dict[str, int]:
        """How much of a bucket is used by now, if an answer's headers tell (Binance: ``X-MBX-USED-WEIGHT-1M``)."""
        ...

    def throttled(self, response: Response) -> float | None:
        """Return for how many seconds a bucket must rest after this answer (429, 418, "too many requests"), or None.

        Asked of every answer, those with status 200 too (some say it in the body), and of a refused handshake.
        """
        ...


# --- history ----------------------------------------------------------------------------------------------


BarRow: TypeAlias = tuple[int, float, float, float, float, float, int]  # open_ns, open, high, low, close, volume, count
TradeRow: TypeAlias = tuple[int, int, float, float, int]  # event_ns, trade id, price, size, side of the taker


class NoData(MarketdError):  # noqa: N818 - an answer, not a mistake of anyone
    """The venue says that there is nothing in this range, nor will there be."""


class Page(msgspec.Struct, frozen=True):
    """Bars in order of time, whole ones only, each once. A count of -1: the venue does not say."""

    rows: list[BarRow]


class TradesPage(msgspec.Struct, frozen=True):
    """Trades in order. The next page begins at ``next_ns``; None: this was the last."""

    rows: list[TradeRow]
    next_ns: int | None = None


class History(Protocol):
    """A venue's pages of the past, pure.

    Attributes:
        periods_s: of bars that the venue has, in seconds.
        trades: whether it has trades.
        trades_by_time: whether these can be asked for by their time, and not only the newest.
        rows_max: of one page, by period.
    """

    periods_s: tuple[int, ...]
    trades: bool
    trades_by_time: bool

    def rows_max(self, period: Period) -> int:
        """How many rows one page has at most."""
        ...

    def page_request(self, market: MktPair, period: Period, start_ns: int, end_ns: int) -> HttpRequest:
        """Ask for ``[start_ns, end_ns)``, or as much from its end (bars) or beginning (trades) as one page holds."""
        ...

    def parse_page(self, body: bytes, market: MktPair, period: Period) -> Page | TradesPage:
        """Read a page.

        Raises:
            NoData: there is nothing.
            WireError: it is no page.
        """
        ...

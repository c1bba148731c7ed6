"""A venue in memory, for the connection shell: a small protocol of its own, and a network that does as it is told.

client: {"op": "sub" | "unsub", "id": 1, "symbols": ["A"]}  {"op": "ping"}
venue:  {"t": ["A", id, time_ns, price]} {"q": ["A", number, time_ns, bid, ask]} {"ack": 1} {"refused": ["A", "why"]}
        {"cut": at_ns | null} {"maintenance": true} {"fatal": "why"} {"resync": "A"} {"pong": 1} {"welcome": 1}
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from backends.backend import MessageCounts, Sink
from backends.live import (
    AckMissing,
    Bucket,
    ConnectPlan,
    CutAnnounced,
    Event,
    Fatal,
    HttpRequest,
    Limits,
    LiveConfig,
    Maintenance,
    Pong,
    Refused,
    Resync,
    ServerTime,
    Subscribed,
    TickKind,
)
from marketd.clock import SECOND_NS
from marketd.errors import WireError
from marketd.feed.seams import Seams
from marketd.feed.venue import VenueSource
from marketd.feed.websocket import ConnectFailed, HandshakeRefused, WebSocketClosed
from marketd.http import Headers, HttpError, Response
from marketd.model import Asset, Flag, GapReason, Kind, MktPair, Side
from marketd.ring.layout import Row
from tests.fakes import ListSink

BASE_NS = 1_700_000_000 * SECOND_NS
ACK_TIMEOUT_NS = 5 * SECOND_NS
LIMITS = Limits(
    streams_per_connection=100,
    streams_per_instrument=2,
    subscribe_chunk=10,
    messages_per_s=50.0,
    connections_per_window=(1000, 60.0),
    quiet_s=0.0,
    overlap_s=1.0,
    buckets={"rest": Bucket(100, 60.0)},
)


class TrioClock:
    """A :class:`marketd.clock.Clock` that goes with trio's, so that an autojump clock moves both."""

    def now_ns(self) -> int:
        """See :class:`marketd.clock.Clock`."""
        return BASE_NS + round(trio.current_time() * SECOND_NS)

    async def sleep_until(self, deadline_ns: int) -> None:
        """See :class:`marketd.clock.Clock`."""
        await trio.sleep(max(0.0, (deadline_ns - self.now_ns()) / SECOND_NS))


def market(symbol: str) -> MktPair:
    """The instrument of a symbol."""
    return MktPair(dst=Asset(symbol.lower()), src=Asset("usd"), venue="spot", backend="fake", bs_mktid=symbol)


def trade_row(instrument: int, trade_id: int, event_ns: int, price: float = 1.0, received_ns: int = 0) -> Row:
    """A trade as a protocol writes it."""
    return (
        *(event_ns, received_ns or event_ns, trade_id, instrument, int(Kind.TRADE), int(Side.BUY), int(Flag.LAST)),
        *(price, 1.0, 0.0, 0.0),
    )


def quote_row(instrument: int, number: int, event_ns: int, bid: float = 1.0, received_ns: int = 0) -> Row:
    """A quote as a protocol writes it."""
    return (
        *(event_ns, received_ns or event_ns, number, instrument, int(Kind.QUOTE), 0, int(Flag.LAST)),
        *(bid, 1.0, bid + 1, 1.0),
    )


# --- the venue's declaration -------------------------------------------------------------------------------


@dataclass
class FakeVenue:
    """A :class:`backends.live.LiveVenue`."""

    limits: Limits = LIMITS
    name: str = "fake"
    ws_url: str = "ws://fake.test/ws"
    rest_url: str = "http://fake.test"
    history: None = None
    server_time: ServerTime | None = None
    kinds: Sequence[TickKind] = ("trade", "quote")
    token: bool = False
    protocols: list[FakeProtocol] = field(default_factory=list)

    def instrument_requests(self) -> list[HttpRequest]:
        return [HttpRequest("GET", "/symbols", weight=10)]

    def parse_instruments(self, bodies: list[bytes]) -> list[MktPair]:
        try:
            return [market(symbol) for symbol in json.loads(bodies[0])]
        except ValueError as error:
            raise WireError(str(error)) from error

    def connect_requests(self) -> list[HttpRequest]:
        return [HttpRequest("POST", "/token", weight=5)] if self.token else []

    def connect_plan(self, bodies: list[bytes], markets: Sequence[MktPair]) -> ConnectPlan:
        if self.token and not bodies[0].startswith(b'"'):
            raise WireError(f"no token: {bodies[0]!r}")
        return ConnectPlan(self.ws_url)

    def open_protocol(self, sink: Sink, markets: Sequence[MktPair], plan: ConnectPlan) -> FakeProtocol:
        self.protocols.append(FakeProtocol(sink, self.limits.subscribe_chunk))
        return self.protocols[-1]

    def weight_used(self, headers: Mapping[str, str]) -> dict[str, int]:
        return {"rest": int(headers["X-Used"])} if "X-Used" in headers else {}

    def throttled(self, response: Response) -> float | None:
        return float(response.headers.get("Retry-After", "1")) if response.status in (418, 429) else None


class FakeProtocol:
    """A :class:`backends.live.LiveProtocol`."""

    def __init__(self, sink: Sink, chunk: int) -> None:
        self.pending: dict[str, MktPair] = {}  # type: ignore[assignment]
        self.live: dict[str, MktPair] = {}  # type: ignore[assignment]
        self.counts = MessageCounts()
        self.greeted = True
        self._sink = sink
        self._chunk = chunk
        self._requests = 0
        self._outbox: list[bytes] = []
        self._asked: dict[int, list[MktPair]] = {}
        self._unclocked: list[int] = []
        self._deadlines: dict[int, int] = {}
        self._events: list[Event] = []
        self._numbers: dict[str, int] = {}

    def subscribe(self, markets: Sequence[MktPair]) -> None:
        fresh = [m for m in markets if m.fqme not in self.pending and m.fqme not in self.live]
        for begin in range(0, len(fresh), self._chunk):
            chunk = fresh[begin : begin + self._chunk]
            self._requests += 1
            self._asked[self._requests] = chunk
            self._say("sub", chunk)
            for m in chunk:
                self.pending[m.fqme] = m
                self._numbers[m.bs_mktid] = self._sink.instrument(m)

    def unsubscribe(self, markets: Sequence[MktPair]) -> None:
        self._requests += 1
        self._say("unsub", markets)
        for m in markets:
            self.pending.pop(m.fqme, None)
            self.live.pop(m.fqme, None)
            self._numbers.pop(m.bs_mktid, None)

    def _say(self, op: str, markets: Sequence[MktPair]) -> None:
        said = {"op": op, "id": self._requests, "symbols": [m.bs_mktid for m in markets]}
        self._outbox.append(json.dumps(said).encode())

    def data_to_send(self) -> list[bytes]:
        if not self.greeted:
            return []
        said, self._outbox = self._outbox, []
        self._unclocked += [m["id"] for m in map(json.loads, said) if m["id"] in self._asked]
        return said

    def timer(self, now_ns: int) -> None:
        self._deadlines |= dict.fromkeys(self._unclocked, now_ns + ACK_TIMEOUT_NS)
        self._unclocked = []
        for request in [request for request, due_ns in self._deadlines.items() if due_ns <= now_ns]:
            del self._deadlines[request]
            late = [m.fqme for m in self._asked.pop(request) if self.pending.pop(m.fqme, None)]
            if late:
                self._events.append(AckMissing(tuple(late)))

    @property
    def next_timer_ns(self) -> int | None:
        return min(self._deadlines.values(), default=None)

    def events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def receive(self, payload: bytes, received_ns: int) -> None:
        ((what, value),) = json.loads(payload).items()
        self._count(what)
        getattr(self, f"_take_{what}")(value, received_ns)

    def _count(self, what: str) -> None:
        counts = self.counts.used if what in ("t", "q") else self.counts.unused
        counts[what] = counts.get(what, 0) + 1

    def _take_t(self, value: list, received_ns: int) -> None:
        symbol, trade_id, time_ns, price = value
        if symbol in self._numbers:
            self._sink.append(trade_row(self._numbers[symbol], trade_id, time_ns, price, received_ns))

    def _take_q(self, value: list, received_ns: int) -> None:
        symbol, number, time_ns, bid, _ask = value
        if symbol in self._numbers:
            self._sink.append(quote_row(self._numbers[symbol], number, time_ns, bid, received_ns))

    def _take_ack(self, request: int, received_ns: int) -> None:
        self._deadlines.pop(request, None)
        acked = [m for m in self._asked.pop(request, []) if self.pending.pop(m.fqme, None)]
        self.live |= {m.fqme: m for m in acked}
        if acked:
            self._events.append(Subscribed(tuple(m.fqme for m in acked)))

    def _take_refused(self, value: list, received_ns: int) -> None:
        name = market(value[0]).fqme
        self.pending.pop(name, None)
        self._events.append(Refused(name, value[1]))

    def _take_cut(self, at_ns: int | None, received_ns: int) -> None:
        self._events.append(CutAnnounced(at_ns))

    def _take_maintenance(self, on: bool, received_ns: int) -> None:
        self._events.append(Maintenance(on))

    def _take_fatal(self, reason: str, received_ns: int) -> None:
        self._events.append(Fatal(reason))

    def _take_resync(self, symbol: str, received_ns: int) -> None:
        self._numbers.pop(symbol, None)
        self._events.append(Resync(market(symbol).fqme, GapReason.CHECKSUM))

    def _take_pong(self, _value: int, received_ns: int) -> None:
        self._events.append(Pong())

    def _take_welcome(self, _value: int, received_ns: int) -> None:
        self.greeted = True


# --- the network -------------------------------------------------------------------------------------------


class FakeSocket:
    """A :class:`marketd.feed.connection.Socket`, and the venue's end of it."""

    def __init__(self, server: FakeServer) -> None:
        self.heard_s = trio.current_time()
        self.opened_s = trio.current_time()
        self.subscribed: list[str] = []
        self.received: list[dict] = []
        self.pings = 0
        self.dead = False  # nothing arrives, in either direction
        self._server = server
        self._incoming: deque[bytes] = deque()
        self._arrived = trio.Event()
        self._closed: WebSocketClosed | None = None

    # the client's end

    async def receive(self) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        while True:
            if self._incoming:
                batch = list(self._incoming)
                self._incoming.clear()
                self.heard_s = trio.current_time()
                return batch
            if self._closed is not None:
                raise self._closed
            await self._arrived.wait()

    async def send(self, message: str | bytes) -> None:
        await trio.lowlevel.checkpoint()
        assert isinstance(message, str), "venues want text frames"
        if self._closed is not None:
            raise self._closed
        if not self.dead:
            self.received.append(json.loads(message))
            self._server.answer(self, self.received[-1])

    async def ping(self, payload: bytes = b"") -> None:
        await trio.lowlevel.checkpoint()
        if self._closed is not None:
            raise self._closed
        self.pings += 1
        if self._server.pongs and not self.dead:
            self.heard_s = trio.current_time()

    # the venue's end

    def say(self, **message: object) -> None:
        """Send a message to the client."""
        if not self.dead and self._closed is None:
            self._incoming.append(json.dumps(message).encode())
            self._wake()

    def cut(self, code: int = 1006) -> None:
        """End the connection; what was said before still arrives."""
        self._closed = WebSocketClosed(code, "cut by the test")
        self._wake()

    @property
    def open(self) -> bool:
        """Whether neither side has ended it."""
        return self._closed is None

    def _wake(self) -> None:
        self._arrived.set()
        self._arrived = trio.Event()


@dataclass
class FakeServer:
    """The venue's side: it acks, and tells its trades to whoever is subscribed.

    Attributes:
        sockets: every connection ever made, in order.
        acks: whether subscriptions are acked by themselves.
        refusing: the next connections fail with these.
        respond: what comes of a REST request; the default knows the list of symbols and a token.
    """

    symbols: list[str] = field(default_factory=lambda: ["A", "B", "C"])
    sockets: list[FakeSocket] = field(default_factory=list)
    acks: bool = True
    pongs: bool = True
    refusing: deque[Exception] = field(default_factory=deque)
    unreachable: bool = False
    connect_s: float = 0.0
    trade_ids: dict[str, int] = field(default_factory=dict)
    quote_numbers: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[float, str]] = field(default_factory=list)
    respond: Callable[[str], Response | HttpError] | None = None
    attempts_s: list[float] = field(default_factory=list)
    clients: int = 0
    clients_closed: int = 0

    # websockets

    @contextlib.asynccontextmanager
    async def dial(self, plan: ConnectPlan) -> AsyncIterator[FakeSocket]:
        self.attempts_s.append(trio.current_time())
        await trio.sleep(self.connect_s)
        if self.refusing:
            raise self.refusing.popleft()
        if self.unreachable:
            raise ConnectFailed("unreachable, says the test")
        socket = FakeSocket(self)
        self.sockets.append(socket)
        try:
            yield socket
        finally:
            if socket.open:
                socket.cut(1000)

    def answer(self, socket: FakeSocket, said: dict) -> None:
        """Do as the client says."""
        if said["op"] == "sub":
            socket.subscribed += said["symbols"]
        elif said["op"] == "unsub":
            socket.subscribed = [symbol for symbol in socket.subscribed if symbol not in said["symbols"]]
        if self.acks:
            socket.say(ack=said["id"])

    def trade(self, symbol: str, *sockets: FakeSocket, count: int = 1) -> None:
        """Let trades happen, and tell those subscribed (or only the given) of them."""
        for _ in range(count):
            self.trade_ids[symbol] = self.trade_ids.get(symbol, 0) + 1
            message = [symbol, self.trade_ids[symbol], TrioClock().now_ns(), 1.0]
            for socket in sockets or self.open_sockets:
                if symbol in socket.subscribed:
                    socket.say(t=message)

    def quote(self, symbol: str) -> None:
        """Let the best bid change."""
        self.quote_numbers[symbol] = number = self.quote_numbers.get(symbol, 0) + 1
        for socket in self.open_sockets:
            if symbol in socket.subscribed:
                socket.say(q=[symbol, number, TrioClock().now_ns(), 1.0, 2.0])

    @property
    def open_sockets(self) -> list[FakeSocket]:
        """Connections that are not over."""
        return [socket for socket in self.sockets if socket.open]

    # REST

    @contextlib.asynccontextmanager
    async def open_client(self) -> AsyncIterator[FakeServer]:
        self.clients += 1
        try:
            yield self
        finally:
            self.clients_closed += 1

    async def request(self, method: str, path: str, **_options: object) -> Response:
        """See :class:`marketd.feed.fetch.Client`."""
        self.requests.append((trio.current_time(), path))
        await trio.sleep(0.05)
        outcome = self.respond(path) if self.respond is not None else self.answer_request(path)
        if isinstance(outcome, HttpError):
            raise outcome
        return outcome

    def answer_request(self, path: str) -> Response:
        """Answer as a healthy venue does."""
        return reply(json.dumps(self.symbols if path == "/symbols" else "token").encode())


def reply(body: bytes = b"", status: int = 200, **headers: str) -> Response:
    """Make a response; ``_`` in a header's name stands for ``-``."""
    return Response(status, Headers((name.replace("_", "-"), value) for name, value in headers.items()), body, 0)


def refusal(status: int, **headers: str) -> HandshakeRefused:
    """Make a handshake's refusal."""
    return HandshakeRefused(status, reply(**headers).headers, b"")


def make_source(
    server: FakeServer,
    *,
    venue: FakeVenue | None = None,
    seed: int = 1,
    state_path: object = None,
    cache_path: object = None,
    **settings: object,
) -> VenueSource:
    """Make a source for a fake venue, with trio's clock."""

    async def parse(function: Callable, bodies: list[bytes]) -> list[MktPair]:
        return function(bodies)

    config = LiveConfig(**({"instruments": ["*.fake"]} | settings))
    return VenueSource(
        [venue or FakeVenue()],
        config,
        TrioClock(),
        state_path=state_path,
        cache_path=cache_path,
        seams=Seams(server.dial, server.open_client, parse, random.Random(seed)),
    )


@contextlib.asynccontextmanager
async def running(source: VenueSource, sink: ListSink) -> AsyncIterator[None]:
    """Run a source while the block runs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, sink)
        yield
        nursery.cancel_scope.cancel()


async def until(ready: Callable[[], object], timeout_s: float = 120.0) -> None:
    """Wait for a state, in the clock's time."""
    with trio.fail_after(timeout_s):
        while not ready():
            await trio.sleep(0.02)

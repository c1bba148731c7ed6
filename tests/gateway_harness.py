"""A gateway within the test's own trio loop: real rings, real sockets, and a supervisor in a few lines."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import trio
from numpy.typing import NDArray

from marketd.errors import RequestRefused
from marketd.gateway.actor import Gateway, run_gateway
from marketd.model import GapReason, Kind, MktPair
from marketd.observe.histogram import HistogramReport
from marketd.ring import layout
from marketd.ring.doorbell import Bells, create_bells
from marketd.ring.table import TableWriter, create_table
from marketd.ring.writer import RingWriter, create_ring
from marketd.rpc import messages
from marketd.rpc.framing import Deframer, frame
from marketd.supervise.handle import ActorHandle
from marketd.supervise.link import Link
from marketd.supervise.messages import (
    ActorSpec,
    Demand,
    FeedInfo,
    GatewayReady,
    GatewayReport,
    GatewaySpec,
    LimitsSpec,
    Measures,
    RouteRecord,
    RouteSearch,
    SecuritySpec,
)

WAIT_S = 10.0  # for anything that should happen at once


class FakeFeed:
    """A feed's segments and the writer's side of them."""

    def __init__(self, folder: Path, name: str, rows: int = 1024, instruments: int = 0) -> None:
        path = {what: folder / f"{name}.{what}" for what in ("ring", "table", "bells")}
        self.epoch = create_ring(path["ring"], rows)
        create_table(path["table"], 1 << 15)
        create_bells(path["bells"])
        self.name = name
        self.info = FeedInfo(name, name, str(path["ring"]), str(path["table"]), str(path["bells"]), "live")
        self.table = TableWriter(path["table"])
        self.bells = Bells(path["bells"])
        self.writer = RingWriter(path["ring"], self.bells)
        for number in range(1, instruments + 1):
            self.add(f"i{number}")

    def add(self, dst: str, src: str = "usd") -> int:
        """Add the instrument ``dst/src.feed``."""
        return self.table.add(MktPair(dst=dst, src=src, backend=self.name))

    def trade(self, instrument: int = 1, price: float = 1.0, *, publish: bool = True) -> int:
        """Append a trade; return its cursor."""
        now_ns = time.time_ns()
        self.writer.append((now_ns, now_ns, 0, instrument, Kind.TRADE, 1, 1, price, 2.0, 0.0, 0.0))
        return self._publish(publish)

    def quote(self, instrument: int = 1, bid: float = 1.0, *, publish: bool = True) -> int:
        """Append a quote; return its cursor."""
        now_ns = time.time_ns()
        self.writer.append((now_ns, now_ns, 0, instrument, Kind.QUOTE, 0, 1, bid, 1.0, bid + 1, 1.0))
        return self._publish(publish)

    def level(self, instrument: int = 1, price: float = 1.0, *, publish: bool = True) -> int:
        """Append a level of a book; return its cursor."""
        now_ns = time.time_ns()
        self.writer.append((now_ns, now_ns, 0, instrument, Kind.LEVEL, 1, 1, price, 2.0, 0.0, 0.0))
        return self._publish(publish)

    def gap(self, instrument: int = 0, *, publish: bool = True) -> int:
        """Append a gap row; return its cursor."""
        self.writer.append_integers((0, 0, 0, instrument, Kind.GAP, 0, 0, 1, 2, GapReason.DISCONNECT, -1))
        return self._publish(publish)

    def trades(self, count: int, instruments: int = 1) -> None:
        """Append many trades, of the instruments 1 to ``instruments`` in turn, whose prices are their cursors."""
        self.writer.append_block(trade_rows(self.writer.cursor + 1, count, instruments))
        self.writer.publish()

    def replace_writer(self) -> None:
        """Let a successor of the feed's process take over."""
        self.writer.close()
        self.writer = RingWriter(Path(self.info.ring_path), self.bells)

    def _publish(self, publish: bool) -> int:
        if publish:
            self.writer.publish()
        return self.writer.cursor

    def close(self) -> None:
        """Let go of the segments."""
        self.writer.close()
        self.table.close()
        self.bells.close()


def trade_rows(cursor_first: int, count: int, instruments: int = 1) -> NDArray[np.void]:
    """Rows as `FakeFeed.trades` writes them."""
    rows = np.zeros(count, layout.ROW)
    rows["cursor"] = np.arange(cursor_first, cursor_first + count)
    rows["kind"] = Kind.TRADE
    rows["instrument"] = 1 + rows["cursor"] % instruments
    rows["v0"] = rows["cursor"]
    return rows


class FakeSupervisor:
    """The other end of the gateway's link."""

    def __init__(self, feeds: list[FakeFeed]) -> None:
        self.infos = {feed.name: feed.info for feed in feeds}
        self.demands: list[dict[str, int]] = []
        self.ready = trio.Event()
        self.addresses: list[str] = []
        self.hits: dict[str, list[messages.SearchHit]] = {}
        self.search_gate = trio.Event()
        self.search_gate.set()
        self.searching = 0
        self.status = messages.StatusResult("0", "test", 1, 1.0, True, 0, [], [], [])
        self.link: Link

    def register(self, link: Link) -> None:
        """Answer the gateway."""
        self.link = link
        link.handle("feeds", None, self._feeds)
        link.handle("status", None, self._status)
        link.handle("measures", None, self._measures)
        link.handle("backends", None, self._backends)
        link.handle("search", RouteSearch, self._search)
        link.handle("record", RouteRecord, self._record)
        link.handle("demand", Demand, self._demand)
        link.handle("actor.ready", GatewayReady, self._ready)
        link.handle("actor.pulse", None, self._pulse)

    async def announce(self, *feeds: FakeFeed, **states: str) -> None:
        """Announce more feeds, and other states of some."""
        self.infos |= {feed.name: feed.info for feed in feeds}
        for name, state in states.items():
            self.infos[name] = msgspec.structs.replace(self.infos[name], state=state)
        await self.link.notify("feeds_changed", list(self.infos.values()))

    async def _feeds(self) -> list[FeedInfo]:
        return list(self.infos.values())

    async def _status(self) -> messages.StatusResult:
        return self.status

    async def _measures(self) -> Measures:
        return Measures(self.status, {}, {}, {}, HistogramReport(), {})

    async def _backends(self) -> list[messages.BackendInfo]:
        return [messages.BackendInfo("sim", "simulated", list(self.infos))]

    async def _search(self, route: RouteSearch) -> list[messages.SearchHit]:
        self.searching += 1
        await self.search_gate.wait()
        if route.feed not in self.hits:
            raise RequestRefused("unavailable", "the feed is down")
        return self.hits[route.feed][: route.limit]

    async def _record(self, route: RouteRecord) -> messages.RecordResult:
        return messages.RecordResult(f"/recordings/{route.name}", 1, 2)

    async def _demand(self, demand: Demand) -> None:
        self.demands.append(demand.subscriptions)

    async def _pulse(self) -> None:
        pass

    async def _ready(self, ready: GatewayReady) -> None:
        self.addresses = ready.addresses
        self.ready.set()


class Handle(ActorHandle):
    """An actor's handle that lets a test see the statistics."""

    def statistics(self, provider: Callable[[], msgspec.Struct]) -> None:
        """See :class:`ActorHandle`."""
        super().statistics(provider)
        self.provider = provider


class Harness:
    """A gateway that runs.

    Attributes:
        supervisor: the one in a few lines.
        actor: the gateway's handle.
        ended: set once `run_gateway` has returned.
    """

    def __init__(self, supervisor: FakeSupervisor, actor: Handle) -> None:
        self.supervisor = supervisor
        self.actor = actor
        self.ended = trio.Event()
        self._clients = contextlib.AsyncExitStack()

    @property
    def address(self) -> str:
        """The first address."""
        return self.supervisor.addresses[0]

    @property
    def http(self) -> str:
        """The address of HTTP, with ``http://``."""
        return next(address for address in self.supervisor.addresses if address.startswith("http://"))

    @property
    def gateway(self) -> Gateway:
        """What run_gateway made."""
        gateway = getattr(self.actor.provider, "__self__", None)
        assert isinstance(gateway, Gateway)
        return gateway

    def report(self) -> GatewayReport:
        """What the gateway says in its pulses."""
        report = self.actor.provider()
        assert isinstance(report, GatewayReport)
        return report

    async def connect(self, *, hello: bool = True, **params: Any) -> RawClient:
        """Connect a client, and let it say hello."""
        client = await self._clients.enter_async_context(open_client(self.address))
        if hello:
            await client.call("hello", **params)
        return client

    async def demand(self, expected: dict[str, int]) -> None:
        """Wait until the supervisor was told so."""
        await until(lambda: bool(self.supervisor.demands) and self.supervisor.demands[-1] == expected)


@contextlib.asynccontextmanager
async def open_gateway(
    *feeds: FakeFeed,
    listen: list[str] | None = None,
    limits: LimitsSpec | None = None,
    http: bool = False,
    history_socket: str = "",
    security: SecuritySpec | None = None,
    web: list[str] | None = None,
    keep_feeds: bool = False,
) -> AsyncIterator[Harness]:
    """Run a gateway; it listens on a free port unless told otherwise, and on another for HTTP if that is wanted.

    The feeds' segments are let go of at the end, but for `keep_feeds`: another gateway is to read them then.
    """
    spec = GatewaySpec(
        "test",
        listen or ["127.0.0.1:0"],
        limits or LimitsSpec(),
        history_socket,
        web or (["127.0.0.1:0"] if http else []),
        ["md.example.com"],
        security=security or SecuritySpec(),
    )
    supervisor = FakeSupervisor(list(feeds))
    to_gateway, at_gateway = trio.open_memory_channel[bytes](1024)
    to_supervisor, at_supervisor = trio.open_memory_channel[bytes](1024)
    near, far = Link(to_supervisor.send, name="supervisor", held=True), Link(to_gateway.send, name="gateway")
    supervisor.register(far)
    config = msgspec.Raw(msgspec.msgpack.encode(spec))
    actor = Handle(ActorSpec("gateway", "marketd.gateway.actor:run_gateway", config), near)
    harness = Harness(supervisor, actor)

    async def run() -> None:
        await run_gateway(actor)
        harness.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.run, at_gateway)
        nursery.start_soon(far.run, at_supervisor)
        nursery.start_soon(run)
        with trio.fail_after(WAIT_S):
            await supervisor.ready.wait()
        async with harness._clients:
            yield harness
        nursery.cancel_scope.cancel()
    for feed in () if keep_feeds else feeds:
        feed.close()


async def until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Wait until something is so."""
    with trio.fail_after(timeout_s):
        while not condition():
            await trio.sleep(0.005)


class RawClient:
    """A client that knows framing and MessagePack and nothing else; messages are plain dicts.

    Attributes:
        received: messages that nobody has asked for yet.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received: list[dict[str, Any]] = []
        self.ended = False
        self._deframer = Deframer(1 << 28)
        self._next_id = 0

    async def send(self, message: object) -> None:
        """Send one message."""
        await self.stream.send_all(frame(msgspec.msgpack.encode(message)))

    async def request(self, method: str, params: object = None, **more: Any) -> int:
        """Send a request; return its id."""
        self._next_id += 1
        await self.send({"id": self._next_id, "method": method, "params": {} if params is None else params} | more)
        return self._next_id

    async def call(self, method: str, **params: Any) -> Any:
        """Send a request and return its result."""
        answer = await self.answer(await self.request(method, params))
        assert "error" not in answer, answer
        return answer["result"]

    async def refused(self, method: str, params: object = None, **more: Any) -> dict[str, Any]:
        """Send a request and return its error."""
        answer = await self.answer(await self.request(method, params, **more))
        assert "error" in answer, answer
        error: dict[str, Any] = answer["error"]
        assert error["data"]["code"] == messages.ErrorCode(error["code"]).name.lower()
        return error

    async def answer(self, request_id: int | str | None) -> dict[str, Any]:
        """Wait for an answer; other messages stay in `received`."""
        return await self.find(lambda message: "method" not in message and message.get("id") == request_id)

    async def told(self, *methods: str) -> dict[str, Any]:
        """Wait for the next message of a stream, of one of these methods, and return it with its method."""
        message = await self.find(lambda message: message.get("method") in methods)
        return {"method": message["method"]} | message["params"]

    async def rows(self, *methods: str) -> dict[str, Any]:
        """Wait for the next message about rows, and make its data an array."""
        message = await self.told("rows", "gap", *methods)
        if "data" in message:
            message["data"] = np.frombuffer(message["data"], layout.ROW)
        return message

    async def find(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for the first message that is wanted."""
        with trio.fail_after(WAIT_S):
            seen = 0
            while True:
                for i in range(seen, len(self.received)):
                    if wanted(self.received[i]):
                        return self.received.pop(i)
                seen = len(self.received)
                assert not self.ended, f"the connection ended; received: {self.received[-3:]}"
                await self.pump()

    async def pump(self) -> None:
        """Read what there is."""
        try:
            data = await self.stream.receive_some(1 << 16)
        except trio.BrokenResourceError:
            data = b""
        self.ended = not data
        self.received += [
            msgspec.msgpack.decode(payload, strict=False) for payload in self._deframer.receive_data(data)
        ]

    async def closed(self) -> None:
        """Wait until the gateway has closed the connection."""
        with trio.fail_after(WAIT_S):
            while not self.ended:
                await self.pump()


@contextlib.asynccontextmanager
async def open_client(address: str) -> AsyncIterator[RawClient]:
    """Connect to ``host:port`` or ``unix:/path``."""
    if address.startswith("unix:"):
        stream = await trio.open_unix_socket(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        # Small, so that a client that does not read is noticed soon.
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        yield RawClient(stream)

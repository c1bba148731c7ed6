"""A flood of Binance's own messages on one core, from a local websocket to rows in a feed's ring.

    python -m benchmarks.flood [--json] [--recording FILE.ws] [--no-cryptofeed] [--python PYTHON]

What runs is a live feed as the daemon runs it, without its process: its list of instruments, connection, protocol,
seams, ring, counts and doorbells. The messages are the aggTrade and bookTicker messages of a recording, again and
again, with ids that go on. Once they come out of a socket, once out of a list.

The baseline, in turns with it, has the same bytes from the same server: cryptofeed 3.0.1, its own connection and its
own BINANCE_FUTURES handler, up to a callback that counts. It needs a Python of 3.13 or later, and lives in an
environment of its own, which is made when there is none yet. All in processor time of the receiver; medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import random
import re
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import structlog
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

from backends.binance import live
from backends.binance.instruments import Host, parse_listed
from backends.live import ConnectPlan
from backends.recording import RECEIVED, RecordingReader, read_companions
from benchmarks.environment import python_with
from benchmarks.ingest import RECORDINGS
from benchmarks.report import Figure, report
from benchmarks.websocket import CLOSE, TEXT, frame
from marketd.clock import SystemClock
from marketd.feed.connection import Socket
from marketd.feed.sink import FeedSink
from marketd.feed.venue import Seams, VenueSource
from marketd.feed.websocket import WebSocketClosed, open_websocket
from marketd.http import Headers, Response
from marketd.ring.doorbell import create_bells, unlink_bells
from marketd.ring.table import create_table
from marketd.ring.writer import create_ring
from marketd.supervise.messages import FeedSpec

CRYPTOFEED = "cryptofeed==3.0.1"
CRYPTOFEED_SIDE = Path(__file__).with_name("cryptofeed_side.py")
MESSAGES = 60_000
ROUNDS = 7
LIST_BATCH = 300  # as many as a full read of the socket gives
RING_ROWS = 1 << 20  # the daemon's default
READ_BYTES = 1 << 16
RUN_TIMEOUT_S = 60.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--recording", type=Path, default=next((path for path in RECORDINGS if path.exists()), None))
    parser.add_argument("--no-cryptofeed", action="store_true", help="our figures alone")
    parser.add_argument("--python", default=">=3.13", help="for cryptofeed's environment: a file, or what uv may find")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    python = None if options.no_cryptofeed else python_with(CRYPTOFEED, "cryptofeed", options.python)
    report(measure(read_flood(options.recording), python), json=options.json)


@dataclass(frozen=True)
class Flood:
    """What both sides get: the messages in order, and the list of instruments that they are of."""

    messages: list[bytes]
    exchange_info: bytes

    def names(self) -> list[str]:
        """The instruments that the messages are of, by our name."""
        symbols = {json.loads(message)["data"]["s"] for message in self.messages}
        markets = parse_listed(self.exchange_info, Host("binance", futures=True))
        return [market.fqme for market in markets if market.bs_mktid in symbols]


def read_flood(recording: Path) -> Flood:
    """Repeat a recording's trades and quotes, with each stream's ids going up by one."""
    received = [entry.payload for entry in RecordingReader(recording) if entry.what == RECEIVED]
    pattern = re.compile(rb'^\{"stream":"\w+@(?:aggTrade|bookTicker)",.*?"[au]":(\d+)')
    matches = [match for payload in received if (match := pattern.match(payload)) is not None]
    (exchange_info,) = (body for url, body in read_companions(recording).items() if url.endswith("exchangeInfo"))
    ids: dict[bytes, int] = {}
    messages = []
    for number in range(MESSAGES):
        match = matches[number % len(matches)]
        stream = match.string[: match.string.index(b",")]
        ids[stream] = ids.get(stream, int(match[1])) + 1
        messages.append(b"%s%d%s" % (match.string[: match.start(1)], ids[stream], match.string[match.end(1) :]))
    return Flood(messages, exchange_info)


def measure(flood: Flood, python: Path | None) -> list[Figure]:
    """Run all in turns; return the medians."""
    rates: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        url = stack.enter_context(server(flood.messages))
        theirs = stack.enter_context(cryptofeed(python, folder, flood, url)) if python else None
        for number in range(ROUNDS):
            for name, dial in {"socket": websocket_dial(url), "handler": list_dial(flood.messages)}.items():
                cpu_s = trio.run(run_feed, folder / f"{name}{number}", flood, url, dial)
                rates.setdefault(name, []).append(MESSAGES / cpu_s)
                if theirs is not None:
                    rates.setdefault(f"cryptofeed.{name}", []).append(MESSAGES / theirs(name))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    name = f"{CRYPTOFEED} to callback" if python else ""
    return [
        Figure("flood.socket_to_ring", medians["socket"], "msg/s", medians.get("cryptofeed.socket"), name),
        Figure("flood.messages_to_ring", medians["handler"], "msg/s", medians.get("cryptofeed.handler"), name),
    ]


# --- our side -----------------------------------------------------------------------------------------------------


class OneAddress(live.BinanceUsdm):
    """USD-M futures with all streams at one address, as it was when the messages were recorded."""

    def __init__(self, config: live.BinanceConfig) -> None:
        super().__init__(config, "market")
        self._path = ""
        self.kinds = ("trade", "quote")


class Meter:
    """A socket that notes the processor time from the first read, which has the ack, to the end."""

    def __init__(self, inner: Socket) -> None:
        self.send, self.ping = inner.send, inner.ping
        self.cpu_s = 0.0
        self.ended = trio.Event()
        self._inner = inner
        self._began_s = 0.0

    @property
    def heard_s(self) -> float:
        """See :class:`marketd.feed.connection.Socket`."""
        return self._inner.heard_s

    async def receive(self) -> list[bytes]:
        """See :class:`marketd.feed.connection.Socket`."""
        try:
            batch = await self._inner.receive()
        except WebSocketClosed:
            self.cpu_s = time.process_time() - self._began_s
            self.ended.set()
            await trio.sleep_forever()  # nobody shall connect again; whoever waits for the end stops it all
        self._began_s = self._began_s or time.process_time()
        return batch


class ListSocket:
    """Acks the subscription, and has the messages ready."""

    def __init__(self, messages: list[bytes]) -> None:
        self.heard_s = 0.0
        self._messages = messages
        self._position = -1
        self._asked = trio.Event()
        self._request = b"{}"

    async def send(self, message: str | bytes) -> None:
        """See :class:`marketd.feed.connection.Socket`."""
        self._request = message.encode() if isinstance(message, str) else message
        self._asked.set()

    async def ping(self, payload: bytes = b"") -> None:
        """See :class:`marketd.feed.connection.Socket`."""

    async def receive(self) -> list[bytes]:
        """See :class:`marketd.feed.connection.Socket`."""
        await self._asked.wait()
        self.heard_s = trio.current_time()
        if self._position < 0:
            self._position = 0
            return [ack(self._request)]
        await trio.lowlevel.checkpoint()
        batch = self._messages[self._position : self._position + LIST_BATCH]
        self._position += len(batch)
        if not batch:
            raise WebSocketClosed(1000, "")
        return batch


OpenSocket = Callable[[], contextlib.AbstractAsyncContextManager[Socket]]


def websocket_dial(url: str) -> OpenSocket:
    """Open a connection of the feed's own."""
    return lambda: open_websocket(url, timeout_s=10, message_bytes_max=1 << 20)


def list_dial(messages: list[bytes]) -> OpenSocket:
    """Open nothing."""
    return lambda: contextlib.nullcontext(ListSocket(messages))


async def run_feed(path: Path, flood: Flood, url: str, open_socket: OpenSocket) -> float:
    """Run a feed until the flood is over; return the processor seconds that it took."""
    meters: list[Meter] = []

    @contextlib.asynccontextmanager
    async def dial(_plan: ConnectPlan):
        async with open_socket() as connection:
            meters.append(Meter(connection))
            dialled.set()
            yield meters[-1]

    async def parse(parse_bodies, bodies):
        return parse_bodies(bodies)

    dialled = trio.Event()
    config = live.BinanceConfig(market="usdm", instruments=flood.names(), ws_url=url)
    seams = Seams(dial, lambda: contextlib.nullcontext(Answers(flood.exchange_info)), parse, random.Random(1))
    with feed_sink(path) as sink:
        source = VenueSource([OneAddress(config)], config, SystemClock(), seams=seams)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.run, sink)
            with trio.fail_after(RUN_TIMEOUT_S):
                await dialled.wait()
                await meters[0].ended.wait()
            nursery.cancel_scope.cancel()
        sink.tally()
        rows = sink.rows_by_kind
    assert rows.get("trade", 0) + rows.get("quote", 0) == MESSAGES, f"{rows} of {source.counts().flat()}"
    return meters[0].cpu_s


@contextlib.contextmanager
def feed_sink(path: Path) -> Iterator[FeedSink]:
    """Make the segments of a feed, and its way into them."""
    ring, table, bells = (path.with_suffix(suffix) for suffix in (".ring", ".table", ".bells"))
    create_ring(ring, RING_ROWS)
    create_table(table, 64)
    create_bells(bells)
    try:
        with FeedSink(FeedSpec("flood", "binance", {}, str(ring), str(table), str(bells), "")) as sink:
            yield sink
    finally:
        ring.unlink()
        table.unlink()
        unlink_bells(bells)


class Answers:
    """A REST interface that knows one answer."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def request(self, method: str, path: str, **_options: object) -> Response:
        """See :class:`marketd.feed.fetch.Client`."""
        await trio.lowlevel.checkpoint()
        return Response(200, Headers({}), self._body, time.time_ns())


def ack(request: bytes) -> bytes:
    """Answer a SUBSCRIBE."""
    return json.dumps({"result": None, "id": json.loads(request).get("id")}).encode()


# --- cryptofeed's side --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cryptofeed(python: Path, folder: Path, flood: Flood, url: str) -> Iterator[Callable[[str], float]]:
    """Run cryptofeed's process; give what asks it for a run and returns the processor seconds."""
    (folder / "exchangeInfo.json").write_bytes(flood.exchange_info)
    (folder / "messages.jsonl").write_bytes(b"\n".join(flood.messages))
    arguments = [python, CRYPTOFEED_SIDE, folder / "exchangeInfo.json", folder / "messages.jsonl", url]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(name: str) -> float:
            print(name, file=process.stdin, flush=True)
            count, cpu_s = process.stdout.readline().split()
            assert int(count) == MESSAGES, f"cryptofeed had {count} messages"
            return float(cpu_s)

        try:
            yield run
        finally:
            process.stdin.close()


# --- the server: a process of its own -----------------------------------------------------------------------------


@contextlib.contextmanager
def server(messages: list[bytes]) -> Iterator[str]:
    """Run the server; give its address."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, messages), daemon=True)
    process.start()
    try:
        yield f"ws://localhost:{here.recv()}"
    finally:
        process.kill()
        process.join()


def serve(pipe: Pipe, messages: list[bytes]) -> None:
    """Serve one connection after the other."""
    flood = b"".join(frame(TEXT, message) for message in messages) + frame(CLOSE)
    listener = socket.create_server(("localhost", 0))
    pipe.send(listener.getsockname()[1])
    while True:
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError):
            serve_connection(peer, flood)


def serve_connection(peer: socket.socket, flood: bytes) -> None:
    """Agree, ack the first request, send everything, and wait until the other side leaves or says goodbye."""
    websocket = WSConnection(ConnectionType.SERVER)
    while True:
        data = peer.recv(READ_BYTES)
        if not data:
            return
        websocket.receive_data(data)
        for event in websocket.events():
            if isinstance(event, Request):
                peer.sendall(websocket.send(AcceptConnection()))
            elif isinstance(event, TextMessage):
                asked = json.loads(event.data)
                if "id" in asked:
                    peer.sendall(frame(TEXT, ack(event.data.encode())))
                peer.sendall(flood)
            elif isinstance(event, CloseConnection):
                return


if __name__ == "__main__":
    main()

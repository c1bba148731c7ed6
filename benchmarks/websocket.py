"""Websocket messages on one core: from a local socket to payloads, and on to rows in a ring.

A flood of messages as Binance sends them comes over loopback from another process; with TLS each in a record of its
own, as venues send them. In turns with it, the same flood through trio-websocket. And 5,000 messages a second, each
sent alone, where the wake-up is what costs. All in processor time of the receiver; medians of the rounds.

    python -m benchmarks.websocket [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import socket
import ssl
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import trio
import trio_websocket
import trustme
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import AcceptConnection, Request

from backends.binance import BACKEND
from benchmarks.ingest import RING_ROWS, RingSink
from benchmarks.report import Figure, report
from marketd.feed.frames import FrameParser
from marketd.feed.websocket import WebSocketClosed, open_websocket
from marketd.ring.writer import RingWriter, create_ring

MESSAGES = 60_000
PACED_MESSAGES = 5_000
PACED_RATE_HZ = 5_000
ROUNDS = 5
READ_BYTES = 1 << 16
STREAMS = [f"{symbol}@{kind}" for symbol in ("btcusdt", "ethusdt", "solusdt") for kind in ("aggTrade", "bookTicker")]
VENUE_URL = "wss://fstream.binance.com/stream?streams=" + "/".join(STREAMS)
AGG_TRADE = (
    b'{"stream":"%(symbol)s@aggTrade","data":{"e":"aggTrade","E":1626992741017,"a":%(id)d,"s":"%(SYMBOL)s",'
    b'"p":"32190.11","q":"0.019","f":%(id)d,"l":%(id)d,"T":1626992741012,"m":true}}'
)
BOOK_TICKER = (
    b'{"stream":"%(symbol)s@bookTicker","data":{"e":"bookTicker","u":%(id)d,"s":"%(SYMBOL)s","b":"32190.10",'
    b'"B":"2.104","a":"32190.11","A":"0.297","T":1626992741012,"E":1626992741017}}'
)
TEXT, CLOSE = 0x81, 0x88

# Connects to an address, trusting a certificate authority, hands over batches of payloads until the server closes, and
# returns the processor seconds from the first wait to the end.
Receiver = Callable[[str, str, Callable[[list[bytes]], None]], Awaitable[float]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    report([parser_figure(), *socket_figures()], json=options.json)


def make_messages(count: int) -> list[bytes]:
    """Make the payloads of one connection; the ids of each stream go up by one."""
    payloads = []
    for number in range(count):
        symbol, _, kind = STREAMS[number % len(STREAMS)].encode().partition(b"@")
        template = AGG_TRADE if kind == b"aggTrade" else BOOK_TICKER
        fields = {b"symbol": symbol, b"SYMBOL": symbol.upper(), b"id": 600_859_600_000 + number // len(STREAMS)}
        payloads.append(template % fields)
    return payloads


def frame(head: int, payload: bytes = b"") -> bytes:
    """Make a server's frame."""
    size = len(payload)
    return bytes([head, size]) + payload if size < 126 else bytes([head, 126]) + size.to_bytes(2, "big") + payload


# --- the parser alone ---


def parser_figure() -> Figure:
    """Frames of 200 bytes, in reads of 64 KiB, through our parser and through wsproto's."""
    stream = frame(TEXT, b"x" * 200) * MESSAGES
    reads = [stream[start : start + READ_BYTES] for start in range(0, len(stream), READ_BYTES)]
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(parse_ours(reads))
        theirs.append(parse_theirs(reads))
    return Figure("websocket.parser", statistics.median(ours), "msg/s", statistics.median(theirs), "wsproto")


def parse_ours(reads: list[bytes]) -> float:
    """Return messages a second."""
    parser = FrameParser(1 << 20)
    began_s = time.process_time()
    count = sum(len(parser.receive_data(read)) for read in reads)
    elapsed_s = time.process_time() - began_s
    assert count == MESSAGES
    return count / elapsed_s


def parse_theirs(reads: list[bytes]) -> float:
    """Return messages a second."""
    connection = Connection(ConnectionType.CLIENT)
    parts = 0
    began_s = time.process_time()
    for read in reads:
        connection.receive_data(read)
        parts += sum(1 for _ in connection.events())
    elapsed_s = time.process_time() - began_s
    assert parts >= MESSAGES
    return MESSAGES / elapsed_s


# --- through a socket ---


def socket_figures() -> list[Figure]:
    """Flood and trickle, with TLS and without, as payloads and as rows; ours and trio-websocket in turns."""
    rates: dict[tuple[str, Receiver], list[float]] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, server(Path(folder)) as (plain, secure, ca_file):
        sink = make_sink(Path(folder) / "ring")
        runs: dict[str, tuple[str, Callable[[], Callable[[list[bytes]], None]]]] = {
            "flood": (f"{plain}/flood", lambda: lambda batch: None),
            "flood_tls": (f"{secure}/flood", lambda: lambda batch: None),
            "flood_to_ring": (f"{plain}/flood", lambda: to_ring(sink)),
            "flood_tls_to_ring": (f"{secure}/flood", lambda: to_ring(sink)),
            "paced": (f"{plain}/paced", lambda: lambda batch: None),
        }
        for _ in range(ROUNDS):
            for name, (url, make_taker) in runs.items():
                for receiver in (receive_ours, receive_theirs):
                    count, cpu_s = trio.run(measure, receiver, url, ca_file, make_taker())
                    rates.setdefault((name, receiver), []).append(count / cpu_s)
    return [
        Figure(
            f"websocket.{name}",
            statistics.median(rates[name, receive_ours]),
            "msg/s",
            statistics.median(rates[name, receive_theirs]),
            "trio-websocket",
        )
        for name in runs
    ]


async def measure(receiver: Receiver, url: str, ca_file: str, take: Callable[[list[bytes]], None]) -> tuple[int, float]:
    """Return how many messages came, and the processor seconds they took."""
    count = 0

    def counting(batch: list[bytes]) -> None:
        nonlocal count
        count += len(batch)
        take(batch)

    cpu_s = await receiver(url, ca_file, counting)
    assert count in (MESSAGES, PACED_MESSAGES), f"{count} messages came"
    return count, cpu_s


async def receive_ours(url: str, ca_file: str, take: Callable[[list[bytes]], None]) -> float:
    """See ``Receiver``."""
    async with open_websocket(url, timeout_s=10, message_bytes_max=1 << 20, ca_file=ca_file) as websocket:
        began_s = time.process_time()
        with contextlib.suppress(WebSocketClosed):
            while True:
                take(await websocket.receive())
        return time.process_time() - began_s


async def receive_theirs(url: str, ca_file: str, take: Callable[[list[bytes]], None]) -> float:
    """See ``Receiver``."""
    context = ssl.create_default_context(cafile=ca_file)
    async with trio_websocket.open_websocket_url(url, context if url.startswith("wss") else None) as websocket:
        began_s = time.process_time()
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            while True:
                take([(await websocket.get_message()).encode()])
        return time.process_time() - began_s


def make_sink(path: Path) -> RingSink:
    """Make a ring to write to."""
    create_ring(path, RING_ROWS)
    return RingSink(RingWriter(path))


def to_ring(sink: RingSink) -> Callable[[list[bytes]], None]:
    """Return what writes a new connection's batches to the ring."""
    assert BACKEND.open_protocol is not None
    protocol = BACKEND.open_protocol(VENUE_URL, {}, sink)

    def take(batch: list[bytes]) -> None:
        received_ns = time.time_ns()
        for payload in batch:
            protocol.receive(payload, received_ns)
        sink.publish()

    return take


# --- the server: a process of its own ---


@contextlib.contextmanager
def server(folder: Path):
    """Run the server; give its two addresses and the file of the authority that vouches for the second."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(there, str(folder / "server.pem")), daemon=True
    )
    process.start()
    try:
        plain, secure = here.recv()
        yield f"ws://localhost:{plain}", f"wss://localhost:{secure}", str(folder / "ca.pem")
    finally:
        process.kill()
        process.join()


def serve(pipe: Pipe, certificate: str) -> None:
    """Flood whoever connects: one port without TLS, one with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    frames = [frame(TEXT, payload) for payload in make_messages(MESSAGES)]
    listeners = [socket.create_server(("localhost", 0)) for _ in range(2)]
    threads = [
        threading.Thread(target=serve_port, args=(listener, channel, frames))
        for listener, channel in zip(listeners, (Plain, lambda peer: Secure(peer, context)), strict=True)
    ]
    for thread in threads:
        thread.start()
    pipe.send([listener.getsockname()[1] for listener in listeners])


def serve_port(listener: socket.socket, channel, frames: list[bytes]) -> None:
    """Serve one connection after the other."""
    while True:
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            serve_connection(channel(peer), frames)


def serve_connection(channel, frames: list[bytes]) -> None:
    """Agree, send what the address says, and close."""
    websocket = WSConnection(ConnectionType.SERVER)
    websocket.receive_data(channel.receive())
    request = next(websocket.events())
    assert isinstance(request, Request)
    channel.send([websocket.send(AcceptConnection())])
    if request.target == "/flood":
        channel.send([*frames, frame(CLOSE)])
    else:
        begun_s = time.monotonic()
        for number, message in enumerate(frames[:PACED_MESSAGES]):
            while time.monotonic() < begun_s + number / PACED_RATE_HZ:
                time.sleep(20e-6)
            channel.send([message])
        channel.send([frame(CLOSE)])
    channel.receive()  # the other side's close frame; after that it is for the server to end the connection


class Plain:
    """A connection without TLS."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer

    def send(self, parts: list[bytes]) -> None:
        self._peer.sendall(b"".join(parts))

    def receive(self) -> bytes:
        return self._peer.recv(READ_BYTES)


class Secure:
    """A connection with TLS. Each part is a record; all of them are encrypted before the first is sent."""

    def __init__(self, peer: socket.socket, context: ssl.SSLContext) -> None:
        self._peer = peer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                peer.sendall(self._outgoing.read())
                self._incoming.write(peer.recv(READ_BYTES))

    def send(self, parts: list[bytes]) -> None:
        for part in parts:
            self._tls.write(part)
        self._peer.sendall(self._outgoing.read())

    def receive(self) -> bytes:
        while True:
            try:
                return self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                data = self._peer.recv(READ_BYTES)
                if not data:
                    return b""
                self._incoming.write(data)


if __name__ == "__main__":
    main()

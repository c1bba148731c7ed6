"""Servers on loopback that do what a test wants, down to single bytes."""

from __future__ import annotations

import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import h11
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection

Handler = Callable[[trio.abc.Stream], Awaitable[None]]


@contextlib.asynccontextmanager
async def serve(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run ``handler`` for each connection and give the port. Errors of connections are theirs, not the test's."""

    async def handle(stream: trio.abc.Stream) -> None:
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
                await handler(stream)

    async with trio.open_nursery() as nursery:
        if context is None:
            serve_here = partial(trio.serve_tcp, handle, 0, host="127.0.0.1")
        else:
            serve_here = partial(
                trio.serve_ssl_over_tcp, handle, 0, ssl_context=context, host="127.0.0.1", https_compatible=True
            )
        listeners = await nursery.start(serve_here)
        listener = listeners[0] if context is None else listeners[0].transport_listener
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def read_all(stream: trio.abc.Stream) -> bytes:
    """Read until the other side ends or breaks the connection."""
    received = b""
    with contextlib.suppress(trio.BrokenResourceError):
        async for data in stream:
            received += data
    return received


def reset(stream: trio.abc.Stream) -> None:
    """Break a plain connection with an RST."""
    assert isinstance(stream, trio.SocketStream)
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


# --- websockets ---


async def accept_websocket(stream: trio.abc.Stream, and_send: bytes = b"") -> list[tuple[bytes, bytes]]:
    """Take a handshake, agree, and send ``and_send`` in the same write; return the request's headers."""
    connection = WSConnection(ConnectionType.SERVER)
    while True:
        connection.receive_data(await stream.receive_some())
        for request in connection.events():
            await stream.send_all(connection.send(AcceptConnection()) + and_send)
            return list(request.extra_headers)  # type: ignore[union-attr]


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes = b"",
    size: int | None = None,
) -> bytes:
    """Make a frame, also one that no server should send. ``size`` is what its header says."""
    length = len(payload) if size is None else size
    head = bytes([fin << 7 | reserved << 4 | opcode])
    masked = 0x80 if mask else 0
    if length < 126:
        head += bytes([masked | length])
    elif length < 1 << 16:
        head += bytes([masked | 126]) + length.to_bytes(2, "big")
    else:
        head += bytes([masked | 127]) + length.to_bytes(8, "big")
    return head + mask + payload


# --- HTTP ---


@dataclass
class Exchange:
    """One request, and what to answer it with."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int  # which it came by, from 0
    stream: trio.abc.Stream
    http: h11.Connection

    async def answer(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        """Send a whole response; ``Retry_After="1"`` is a header."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if "Transfer-Encoding" not in fields:
            fields.setdefault("Content-Length", str(len(body)))
        await self.send(h11.Response(status_code=status, headers=list(fields.items())))
        if body:
            await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())

    async def send(self, event: h11.Event) -> None:
        """Send a part of a response."""
        await self.stream.send_all(self.http.send(event) or b"")


@dataclass
class HttpServer:
    """A small HTTP/1.1 server; what it was asked is in ``exchanges``.

    The handler answers a request, or returns without an answer to have the connection closed.
    """

    handler: Callable[[Exchange], Awaitable[None]]
    exchanges: list[Exchange] = field(default_factory=list)
    connections: int = 0
    requests_per_connection_max: int = 1_000_000

    async def handle(self, stream: trio.abc.Stream) -> None:
        number = self.connections
        self.connections += 1
        http = h11.Connection(h11.SERVER)
        for _ in range(self.requests_per_connection_max):
            exchange = await self._receive(stream, http, number)
            if exchange is None:
                return
            self.exchanges.append(exchange)
            await self.handler(exchange)
            if http.our_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def _receive(self, stream: trio.abc.Stream, http: h11.Connection, number: int) -> Exchange | None:
        request: h11.Request | None = None
        body = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                headers = {name.decode(): value.decode() for name, value in request.headers}
                method, target = request.method.decode(), request.target.decode()
                return Exchange(method, target, headers, body, number, stream, http)
            else:
                return None

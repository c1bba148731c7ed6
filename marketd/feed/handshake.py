"""Opening a websocket: TCP, TLS, and the handshake of RFC 6455, 4.

The handshake's request and the checks of its answer are trio-websocket's. How the stream changes hands afterwards:
through the public ``wrap_client_stream`` trio-websocket gets a stream of ours, :class:`_Wire`, that lets it have the
answer's head and not a byte more. So when its reader task is cancelled, that does nothing but wait, and no byte is
lost. To take its own stream away from it would need private fields, and lose the messages that came in one read with
the answer, which it has parsed by then.

The wire also mends what trio-websocket 0.12.2 does about answers that are none: after one that ends too early it waits
for ever, as it does for the end of a refusal whose body has no length; one that makes no sense raises errors of h11.
"""

from __future__ import annotations

import contextlib
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import cast

import h11
import trio
import trio_websocket
from wsproto.utilities import ProtocolError

from marketd.errors import ConfigError, MarketdError, reason_of
from marketd.feed.tls_stream import TlsStream
from marketd.http.messages import Headers

READ_BYTES = 1 << 16

_SWITCHING = 101
_REFUSAL_BYTES_MAX = 4096
_REFUSAL_BODY_TIMEOUT_S = 1.0
_URL_SAFE = "/%:=&?@!$'()*+,;~"
_UPGRADE = [("Host", "localhost"), ("Connection", "Upgrade"), ("Upgrade", "websocket")]


class WebSocketError(MarketdError):
    """A connection can't be had, or is gone."""


class ConnectFailed(WebSocketError):  # noqa: N818 - the field's word, as those below
    """There is no connection: unknown name, refused, bad certificate, no time left, or an answer that is none."""


class HandshakeRefused(WebSocketError):  # noqa: N818
    """The server answered, and not with a websocket. Its reasons may be a 429 or 418 with a Retry-After."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(f"the handshake was answered with status {status}: {body[:200].decode(errors='replace')!r}")
        self.status = status
        self.headers = headers
        self.body = body


class Target:
    """An address, taken apart.

    Raises:
        ConfigError: it is no websocket's.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{url!r}: {error}") from error
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ConfigError(f"{url!r} is no address of a websocket, such as wss://stream.example.com/ws")
        self.secure = parts.scheme == "wss"
        self.hostname = parts.hostname
        self.port = port or (443 if self.secure else 80)
        self.host = parts.netloc.rpartition("@")[2]
        # What is not ASCII, such as some names of instruments, is sent as in a browser.
        path = urllib.parse.quote(parts.path or "/", safe=_URL_SAFE)
        query = urllib.parse.quote(parts.query, safe=_URL_SAFE)
        self.resource = f"{path}?{query}" if query else path

    def __str__(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.host}"


async def connect(
    target: Target, context: ssl.SSLContext | None, headers: Mapping[str, str], timeout_s: float
) -> tuple[trio.abc.Stream, HandshakeReply]:
    """Open a connection up to the first frame; ``timeout_s`` is for all of it.

    Raises:
        ConnectFailed: no connection; the cause says why.
        HandshakeRefused: the server doesn't want to.
    """
    with trio.move_on_after(timeout_s), _translated(target):
        stream = await _open_stream(target, context)
        try:
            return stream, await _shake_hands(stream, target, headers)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
    raise ConnectFailed(f"{target}: no connection within {timeout_s:g} s")


class HandshakeReply:
    """The server's answer, sans I/O: where it ends, and what comes after it.

    Attributes:
        status: 0 until there is one. Whoever gets 101 must still check the rest of ``head`` (4.1).
        head: of a 101, the bytes up to the first frame.
        leftover: of a 101, the bytes of frames that came along.
        body: of a refusal, as much as anybody will read.
        complete: whether all of it is there.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers = Headers()
        self.head = b""
        self.leftover = b""
        self.body = b""
        self.complete = False
        self._http = h11.Connection(h11.CLIENT)
        # h11 must believe that we asked, or a 101 would be no end to it. The bytes go nowhere.
        self._http.send(h11.Request(method="GET", target="/", headers=_UPGRADE))

    def receive_data(self, data: bytes) -> None:
        """Take what was read; ``b""`` says that the server has closed the connection.

        Raises:
            h11.RemoteProtocolError: it is no HTTP answer, or it ended before its head was whole.
        """
        self.head += data
        self._http.receive_data(data)
        try:
            while not self.complete and (event := self._http.next_event()) is not h11.NEED_DATA:
                self._take(event)
        except h11.RemoteProtocolError:
            if not self.status:
                raise
            self.complete = True  # a refusal whose body is cut is a refusal

    def _take(self, event: object) -> None:
        if isinstance(event, (h11.InformationalResponse, h11.Response)):
            self.status = event.status_code
            self.headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
            if isinstance(event, h11.InformationalResponse):
                self.leftover = self._http.trailing_data[0]
                self.head = self.head[: len(self.head) - len(self.leftover)]
                self.complete = True
        elif isinstance(event, h11.Data):
            self.body += bytes(event.data)
            self.complete = len(self.body) >= _REFUSAL_BYTES_MAX
        else:
            self.complete = True


async def _open_stream(target: Target, context: ssl.SSLContext | None) -> trio.abc.Stream:
    transport = await trio.open_tcp_stream(target.hostname, target.port)
    if context is None:
        return transport
    stream = TlsStream(transport, context, target.hostname)
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def _shake_hands(stream: trio.abc.Stream, target: Target, headers: Mapping[str, str]) -> HandshakeReply:
    wire = _Wire(stream)
    async with trio.open_nursery(strict_exception_groups=False) as nursery:
        await trio_websocket.wrap_client_stream(
            nursery,
            cast(trio.SocketStream, wire),  # any stream will do, as its documentation says
            target.host,
            target.resource,
            extra_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
        )
        nursery.cancel_scope.cancel()  # its reader task
    return wire.reply


class _Wire(trio.abc.Stream):
    """What trio-websocket takes for the connection, until the handshake is done."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.reply = HandshakeReply()
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the whole head of an answer that agrees; from then on nothing.

        Raises:
            HandshakeRefused: the answer does not agree.
            ConnectFailed: it is none.
        """
        reply = self.reply
        if reply.complete:
            await trio.sleep_forever()
        while not reply.status:
            await self._read()
        if reply.status == _SWITCHING:
            return reply.head
        with trio.move_on_after(_REFUSAL_BODY_TIMEOUT_S):
            while not reply.complete:
                await self._read()
        raise HandshakeRefused(reply.status, reply.headers, reply.body)

    async def send_all(self, data: bytes | memoryview) -> None:
        """See :class:`trio.abc.SendStream`."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See :class:`trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """See :class:`trio.abc.AsyncResource`."""
        await self._stream.aclose()

    async def _read(self) -> None:
        # Any error that trio-websocket knows would make it wait for ever.
        try:
            data = await self._stream.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectFailed("the connection broke during the handshake") from error
        if not data and not self.reply.status:
            raise ConnectFailed("the server closed the connection during the handshake")
        self.reply.receive_data(data)


@contextlib.contextmanager
def _translated(target: Target) -> Iterator[None]:
    """Turn the errors of what is below into ours."""
    try:
        yield
    except ConnectFailed as error:
        raise ConnectFailed(f"{target}: {error}") from error.__cause__
    except (h11.ProtocolError, ProtocolError) as error:
        raise ConnectFailed(f"{target}: the handshake's answer is wrong: {error}") from error
    except (OSError, trio.BrokenResourceError) as error:  # ssl.SSLError is an OSError
        raise ConnectFailed(f"{target}: {reason_of(error)}") from error

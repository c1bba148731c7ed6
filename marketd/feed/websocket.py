"""A websocket client for hot feeds: whatever is readable comes out at once, as whole messages.

trio-websocket 0.12.2 makes the opening handshake, and the protocol engine below it, wsproto, every frame that we send:
messages, pings, pongs, close. Frames that arrive never reach either: they are read here and parsed in `frames.py`.

Why, in processor time for each message of a flood (`benchmarks/websocket.py`): 22 us through trio-websocket, with
wsproto's objects for each frame, and a memory channel and two task switches for each message; 0.4 us when all frames of
a read are parsed at once and handed over as a list, 2 us with decoding and the ring behind it. With TLS 34 and 1.2 us.
Messages that come alone cost 35 us in place of 70; there the wake-up is what costs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Mapping

import trio
from wsproto.frame_protocol import FrameProtocol

from marketd.feed.frames import ABNORMAL, NORMAL, FrameParser
from marketd.feed.handshake import (
    READ_BYTES,
    ConnectFailed,
    HandshakeRefused,
    HandshakeReply,
    Target,
    WebSocketError,
    connect,
)
from marketd.tls import client_context

__all__ = ["ConnectFailed", "HandshakeRefused", "WebSocket", "WebSocketClosed", "WebSocketError", "open_websocket"]


class WebSocketClosed(WebSocketError):  # noqa: N818
    """The connection has ended, in whatever way.

    ``code`` is the server's, or 1006 when it left without one (end of stream, reset), or what we failed the connection
    with: 1002 for a broken protocol, 1009 for a message that is too big.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


@contextlib.asynccontextmanager
async def open_websocket(
    url: str,
    *,
    timeout_s: float,
    message_bytes_max: int,
    ca_file: str | None = None,
    headers: Mapping[str, str] | None = None,
    close_timeout_s: float = 1.0,
) -> AsyncIterator[WebSocket]:
    """Connect, and close in the end. There is no task and no cancel scope behind it while it is open.

    Args:
        url: ``ws:`` or ``wss:``.
        timeout_s: for name, TCP, TLS and handshake together.
        message_bytes_max: longer messages end the connection with 1009.
        ca_file: PEM file with the authorities to trust, in place of the system's.
        headers: sent with the handshake's request.
        close_timeout_s: how long to wait for the server's goodbye; no goodbye is said when leaving by cancellation.

    Raises:
        ConfigError: the address or ``ca_file`` can't be used.
        ConnectFailed: no connection; the cause says why.
        HandshakeRefused: the server doesn't want to.
    """
    parser = FrameParser(message_bytes_max)
    target = Target(url)
    context = client_context(ca_file) if target.secure else None
    stream, reply = await connect(target, context, headers or {}, timeout_s)
    websocket = WebSocket(stream, parser, reply)
    try:
        yield websocket
    finally:
        await websocket.aclose(close_timeout_s)


class WebSocket:
    """An open connection. One task receives; any may send.

    Attributes:
        headers: of the server's answer to the handshake.
        heard_s: ``trio.current_time()`` when bytes last came, of whatever kind.
    """

    def __init__(self, stream: trio.abc.Stream, parser: FrameParser, reply: HandshakeReply) -> None:
        self._stream = stream
        self._parser = parser
        self._leftover = reply.leftover
        self._frames = FrameProtocol(client=True, extensions=[])
        self._send_lock = trio.StrictFIFOLock()
        self._half_sent = False
        self._broken = ""  # how it ended, if it did so without a close frame
        self.headers = reply.headers
        self.heard_s = trio.current_time()

    @property
    def pongs(self) -> int:
        """How many pongs came."""
        return self._parser.pongs

    async def receive(self) -> list[bytes]:
        """Wait for messages and return all that one read gave, oldest first, at least one.

        A ping is answered at the next call, so that cancelling this one never loses a message.

        Raises:
            WebSocketClosed: the connection has ended; all messages before that have been returned.
        """
        while True:
            self._check_open()
            if self._parser.ping is not None:
                ping, self._parser.ping = self._parser.ping, None
                with contextlib.suppress(WebSocketClosed):  # there may still be messages to read
                    await self._send(self._frames.pong(ping))
            messages = self._parser.receive_data(await self._read())
            if messages:
                return messages

    async def send(self, message: str | bytes) -> None:
        """Send one message: ``str`` as text, which is what venues want for JSON, ``bytes`` as binary.

        Raises:
            WebSocketClosed: the connection has ended, or a send before this was cancelled half-way.
        """
        self._check_open()
        await self._send(self._frames.send_data(message))

    async def ping(self, payload: bytes = b"") -> None:
        """Ask for a sign of life, without waiting for it: ``pongs`` and ``heard_s`` will show it.

        Args:
            payload: at most 125 bytes.

        Raises:
            WebSocketClosed: as :meth:`send`.
        """
        self._check_open()
        await self._send(self._frames.ping(payload))

    async def aclose(self, timeout_s: float = 1.0) -> None:
        """Say goodbye, wait for the server's at most ``timeout_s``, and close. Closing twice is fine.

        A server that broke the protocol is told so (7.1.7). A task that is being cancelled says nothing.
        """
        if not self._broken and trio.current_effective_deadline() > -math.inf:
            # Shielded: a Cancelled from here would hide the error for which the caller leaves.
            limit = trio.CancelScope(deadline=trio.current_time() + timeout_s, shield=True)
            with limit, contextlib.suppress(WebSocketClosed):
                await self._say_goodbye()
        self._broken = self._broken or "closed by us"
        await trio.aclose_forcefully(self._stream)

    async def _say_goodbye(self) -> None:
        ending = self._parser.ending
        if ending is None:
            await self._send(self._frames.close(NORMAL))
        elif ending.violation:
            await self._send(self._frames.close(ending.code, ending.reason))
        else:
            await self._send(self._frames.close(ending.code))  # an echo (5.5.1)
            return
        # Until the server's close frame, or its end of the stream: closing with bytes unread would reset the
        # connection, and the reset may overtake our frame.
        while self._parser.ending is None or self._parser.ending.violation:
            self._parser.receive_data(await self._read())

    async def _read(self) -> bytes:
        """Return what can be read.

        Raises:
            WebSocketClosed: nothing ever will be.
        """
        if self._leftover:
            await trio.lowlevel.checkpoint()
            data, self._leftover = self._leftover, b""
            return data
        try:
            data = bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._broken = self._broken or "the connection broke"
            raise WebSocketClosed(ABNORMAL, self._broken) from error
        if not data:
            self._broken = "the server left without a goodbye"
            raise WebSocketClosed(ABNORMAL, self._broken)
        self.heard_s = trio.current_time()
        return data

    async def _send(self, frame: bytes | bytearray) -> None:
        async with self._send_lock:
            if self._half_sent:
                raise WebSocketClosed(ABNORMAL, "a frame was sent in part only: its sender was cancelled")
            self._half_sent = True
            try:
                await self._stream.send_all(bytes(frame))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise WebSocketClosed(ABNORMAL, self._broken or "the connection broke") from error
            self._half_sent = False

    def _check_open(self) -> None:
        ending = self._parser.ending
        if ending is not None:
            raise WebSocketClosed(ending.code, ending.reason)
        if self._broken:
            raise WebSocketClosed(ABNORMAL, self._broken)

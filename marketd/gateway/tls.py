"""TLS in front of a session: a session has a plain socket, the other end of a pair, and what goes over it is encrypted
here on its way to the client.

Nothing is kept in between but one piece each way: as long as the client takes no more, no more is read from the
session, so that its watchdog sees what it would see without TLS.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

import trio

from marketd.feed.tls_stream import TlsStream

PIECE_BYTES = 1 << 16
HANDSHAKE_TYPE = 0x16  # the first byte of every TLS connection: RFC 8446, 5.1


class NoTls(Exception):  # noqa: N818 - what a client did
    """What comes is not TLS."""


async def shake_hands(sock: socket.socket, context: ssl.SSLContext) -> TlsStream:
    """Agree on keys with a client that has just connected.

    Raises:
        NoTls: it speaks something else; nothing was read or written.
        ssl.SSLError: it does not want our certificate, or we have nothing in common.
        OSError, trio.BrokenResourceError: it has left.
    """
    await trio.lowlevel.wait_readable(sock.fileno())
    first = sock.recv(1, socket.MSG_PEEK)
    if first and first[0] != HANDSHAKE_TYPE:
        raise NoTls
    stream = TlsStream(trio.SocketStream(trio.socket.from_stdlib_socket(sock)), context, server_side=True)
    await stream.do_handshake()
    return stream


async def carry(client: TlsStream, session: trio.SocketStream) -> None:
    """Carry bytes both ways until the session has ended and all that it said is with the client, or that has left."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_carry_requests, client, session)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await session.receive_some(PIECE_BYTES):
                await client.send_all(data)
            await client.send_farewell()
        nursery.cancel_scope.cancel()


async def _carry_requests(client: TlsStream, session: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        try:
            while data := await client.receive_some(PIECE_BYTES):
                await session.send_all(data)
        finally:
            with trio.CancelScope(shield=True):
                await session.send_eof()  # takes no time

"""The HTTP server: hypercorn on sockets that this process accepts and watches over.

Hypercorn shields what it writes from cancellation: a client that reads nothing would keep a connection, and a daemon
that wants to stop, for ever. Its streams are therefore given up on here, from inside.
"""

from __future__ import annotations

import socket
import warnings
from typing import TYPE_CHECKING, Any, cast, get_args

import h11
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from marketd.gateway.listen import prepare, undrained_bytes
from marketd.gateway.tls import HANDSHAKE_TYPE
from marketd.security.doors import Door
from marketd.web.app import make_app

if TYPE_CHECKING:
    from marketd.gateway.actor import Entrance, Gateway

IDLE_S = 30.0  # for the next request of a connection, and for the head of the first one
WRITE_BYTES = 1 << 18
HEAD_BYTES_MAX = 1 << 16
TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 5\r\nconnection: close\r\n\r\n"
NO_TLS = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 48\r\nconnection: close\r\n\r\n"
    b"this address speaks TLS: ask https:// or wss://\n"
)

# anyio, which starlette uses, on this version of trio
warnings.filterwarnings("ignore", "trio.MultiError is deprecated", module=r"anyio\._backends\._trio")

log = structlog.get_logger("marketd.web")


class WebServer:
    """Serves HTTP clients, each in a task of its own.

    Args:
        gateway: what they ask.
        hosts: names by which browsers may reach it.
    """

    def __init__(self, gateway: Gateway, hosts: list[str]) -> None:
        self._gateway = gateway
        self._streams: set[GuardedStream] = set()
        self._context = WorkerContext(None)
        self._config = Config()
        self._config.accesslog = self._config.errorlog = None
        self._config.include_server_header = False
        self._config.keep_alive_timeout = IDLE_S
        self._config.h11_max_incomplete_size = HEAD_BYTES_MAX
        self._config.websocket_max_message_size = gateway.limits.frame_bytes_max
        self._guard = gateway.guard
        self._apps = {door: ASGIWrapper(cast("Any", make_app(gateway, hosts, door))) for door in get_args(Door)}

    def let_in(self, clients: trio.Nursery, entrance: Entrance, sock: socket.socket) -> None:
        """Take a client that has just connected."""
        try:
            prepare(sock)
            if len(self._streams) >= self._gateway.limits.clients_max:
                log.warning("http.turned_away", clients=len(self._streams))
                sock.send(TOO_MANY)
                sock.close()
                return
        except OSError:  # it has left again
            sock.close()
            return
        stream = GuardedStream(sock, self._gateway.limits.stall_timeout_s)
        clients.start_soon(self._serve, stream, entrance)

    async def _serve(self, stream: GuardedStream, entrance: Entrance) -> None:
        self._streams.add(stream)
        app = self._apps[entrance.door]
        try:
            spoken = await self._with_tls(stream) if entrance.tls else stream
            if spoken is not None:
                await TCPServer(app, self._config, self._context, ConnectionState({}), cast("Any", spoken)).run()
        except OSError as error:  # it has left before it was served; ssl.SSLError is one
            log.debug("http.client_left", error=str(error))
        except h11.ProtocolError as error:  # a client that speaks out of turn, say
            log.info("http.client_confused", error=str(error))
        except Exception:
            log.exception("http.client_failed")
        finally:
            self._streams.discard(stream)
            stream.cut()

    async def _with_tls(self, stream: GuardedStream) -> trio.SSLStream | None:
        """Put TLS on a stream; hypercorn shakes hands. None if the client has none, and was told."""
        assert self._guard.certificate is not None  # the configuration has one if an address is to speak TLS
        sock = stream.socket
        with trio.move_on_after(self._gateway.limits.hello_timeout_s):
            first = await sock.recv(1, socket.MSG_PEEK)
            if first and first[0] != HANDSHAKE_TYPE:
                self._guard.tell_no_tls(str(sock.getpeername()), "it does not speak TLS")
                await sock.send(NO_TLS)
                await stream.send_eof()
                return None
            # Browsers and curl do not wait for each other's farewell; an answer's length tells whether it is whole.
            return trio.SSLStream(stream, self._guard.certificate.context, server_side=True, https_compatible=True)
        return None

    async def stop(self, within_s: float) -> None:
        """Let answers that have begun be finished, but no connection wait for another request. Cut the rest."""
        await self._context.terminated.set()
        await trio.sleep(within_s)
        for stream in list(self._streams):
            stream.cut()


class GuardedStream(trio.abc.HalfCloseableStream):
    """A client's socket, whose writes fail once the client has taken nothing for a while.

    Args:
        sock: connected, not blocking; it is closed with the stream.
        stall_timeout_s: how long nothing may be taken.
    """

    def __init__(self, sock: socket.socket, stall_timeout_s: float) -> None:
        self.socket = trio.socket.from_stdlib_socket(sock)
        self._stream = trio.SocketStream(self.socket)
        self._stall_timeout_s = stall_timeout_s

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything. Raises trio.BrokenResourceError: the client has left, or takes nothing."""
        view = memoryview(data)
        while len(view):
            undrained = self._undrained_bytes()
            with trio.move_on_after(self._stall_timeout_s) as scope:
                try:
                    view = view[await self.socket.send(view[:WRITE_BYTES]) :]
                except OSError as error:
                    raise trio.BrokenResourceError(str(error)) from error
            # The kernel takes more only when a good part of what it has is gone: less is progress, too.
            if scope.cancelled_caught and self._undrained_bytes() >= undrained:
                log.warning("http.stalled", undrained=undrained)
                self.cut()
                raise trio.BrokenResourceError(f"the client took nothing for {self._stall_timeout_s:g} s")

    async def wait_send_all_might_not_block(self) -> None:
        """See :class:`trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See :class:`trio.abc.ReceiveStream`."""
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        """See :class:`trio.abc.HalfCloseableStream`."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()

    def cut(self) -> None:
        """Close the socket now; whoever waits for it is told."""
        self.socket.close()

    def _undrained_bytes(self) -> int:
        try:
            return undrained_bytes(self.socket)
        except OSError:
            return 0

"""The sockets that clients connect to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import stat
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import structlog
import trio

from marketd.errors import ConfigError
from marketd.security.doors import TLS_PREFIX, UNIX_PREFIX
from marketd.trouble import lacks_descriptors

BACKLOG = 512
PORT_MAX = 65535
SEND_BUFFER_BYTES = 256 * 1024  # Linux doubles it. More would only let a slow client's rows grow old in the kernel.
KEEPALIVE_IDLE_S = 60
ACCEPT_RETRY_S = 0.1

log = structlog.get_logger("marketd.gateway")


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


@contextlib.contextmanager
def open_listeners(
    addresses: list[str],
    key: str = "gateway.listen",
    *,
    shared: bool = False,
    passed: Mapping[str, int] | None = None,
) -> Iterator[list[socket.socket]]:
    """Listen on ``host:port``, ``tls://host:port`` and ``unix:/path`` addresses.

    Leaving it closes them and removes the socket files.

    Args:
        key: of the configuration, where the addresses are.
        shared: let other gateways listen at the TCP addresses too; the kernel spreads connections over them.
        passed: addresses whose sockets were inherited, and their descriptors. Those listen already, and go on when we
            have closed ours; their files are not ours.

    Raises:
        ConfigError: one of them can't be listened on; the text says which and why.
    """
    inherited = passed or {}
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                _inherit(inherited[address.removeprefix(TLS_PREFIX)])
                if address.removeprefix(TLS_PREFIX) in inherited
                else _open_unix(address, key)
                if address.startswith(UNIX_PREFIX)
                else _open_tcp(address, key, shared=shared)
            )
            for address in addresses
        ]


async def accept(listener: socket.socket, let_in: Callable[[socket.socket], None]) -> None:
    """Let clients in, until cancelled.

    Without descriptors they wait in the socket's backlog: that there are none each actor says of itself.
    """
    failing = False
    while True:
        await trio.lowlevel.wait_readable(listener.fileno())
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            continue
        except OSError as error:
            # A client that left again, or no file descriptors: the next moment may be better.
            if not failing and not lacks_descriptors(error):
                log.warning("accept.failed", error=str(error))
            failing = True
            await trio.sleep(ACCEPT_RETRY_S)
            continue
        failing = False
        let_in(sock)


def raise_file_limit(files: int) -> None:
    """Let this process have so many files open, or as many as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files if hard == resource.RLIM_INFINITY else min(files, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def address_of(listener: socket.socket) -> str:
    """Return the address that is really listened on."""
    name = listener.getsockname()
    return f"{UNIX_PREFIX}{name}" if listener.family == socket.AF_UNIX else _host_port(name)


def peer_of(sock: socket.socket) -> str:
    """Return a client's address: ``host:port``, or the process at the other end of a Unix socket."""
    if sock.family != socket.AF_UNIX:
        return _host_port(sock.getpeername())
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return f"{UNIX_PREFIX}pid {int.from_bytes(credentials[:4], 'little')}"


def prepare(sock: socket.socket) -> None:
    """Set a client's socket up: small messages leave at once, and a peer that vanished is noticed some day."""
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)


def undrained_bytes(sock: _HasFileno) -> int:
    """Return how many bytes were given to a socket and not taken by the other end yet."""
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def _host_port(name: tuple[str, int]) -> str:
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refusal(address: str, key: str, error: OSError | str) -> ConfigError:
    reason = error if isinstance(error, str) else os.strerror(error.errno) if error.errno else str(error)
    return ConfigError(
        f"{key}: can't listen on {address}: {reason}; give host:port (port 0 takes a free one) or unix:/path, "
        "none of them in use by another program"
    )


@contextlib.contextmanager
def _inherit(descriptor: int) -> Iterator[socket.socket]:
    os.set_inheritable(descriptor, False)
    with socket.socket(fileno=descriptor) as listener:
        listener.setblocking(False)
        yield listener


@contextlib.contextmanager
def _open_tcp(address: str, key: str, *, shared: bool) -> Iterator[socket.socket]:
    host, _, port = address.removeprefix(TLS_PREFIX).rpartition(":")
    if not port.isdecimal() or int(port) > PORT_MAX:  # getaddrinfo would take it modulo 65536
        raise _refusal(address, key, f"{port!r} is no port from 0 to {PORT_MAX}")
    try:
        family, kind, protocol, _, name = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise _refusal(address, key, str(error)) from error
    with socket.socket(family, kind, protocol) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
            listener.bind(name)
            listener.listen(BACKLOG)
        except OSError as error:
            raise _refusal(address, key, error) from error
        listener.setblocking(False)
        yield listener


@contextlib.contextmanager
def _open_unix(address: str, key: str) -> Iterator[socket.socket]:
    path = Path(address.removeprefix(UNIX_PREFIX))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            _remove_stale(path)
            # Linux gives the file the mode of the socket: it is never open to others, not even for a moment.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(str(path))
            listener.listen(BACKLOG)
        except OSError as error:
            raise _refusal(address, key, error if error.errno else str(error)) from error
        listener.setblocking(False)
        inode = path.stat().st_ino
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == inode:
                    path.unlink()


def _remove_stale(path: Path) -> None:
    """Remove the socket file of a daemon that is gone; leave anything else, for `bind` to stumble on."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return  # its backlog is full: somebody is very much alive

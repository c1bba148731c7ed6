"""Sockets that a service manager has opened for us: sd_listen_fds(3).

They stay open while the daemon, or a gateway, is replaced: whoever connects meanwhile waits in the kernel's queue and
is not refused. The supervisor keeps them and never accepts; each gateway, and each successor, inherits them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping, Sequence
from typing import NamedTuple

from marketd.errors import ConfigError
from marketd.gateway.listen import address_of

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
HTTP_NAME = "http"


class PassedSocket(NamedTuple):
    """A listening socket that is open in this process.

    ``name``: its ``FileDescriptorName=``; ``http`` are for HTTP, all others for the protocol. ``address``: as the
    configuration would write it.
    """

    name: str
    address: str
    descriptor: int


def take_sockets(
    env: MutableMapping[str, str] = os.environ, pid: int | None = None, first: int = FIRST_DESCRIPTOR
) -> list[PassedSocket]:
    """Take the sockets that were passed to this process, and the variables that told of them out of the environment.

    Raises:
        ConfigError: one of them is nothing that clients can connect to.
    """
    count, whose = env.pop("LISTEN_FDS", ""), env.pop("LISTEN_PID", "")
    names = env.pop("LISTEN_FDNAMES", "").split(":")
    if whose != str(os.getpid() if pid is None else pid) or not (count.isascii() and count.isdecimal()):
        return []
    return [_take(first + number, names[number] if number < len(names) else "unknown") for number in range(int(count))]


def _take(descriptor: int, name: str) -> PassedSocket:
    what = f"the socket {name!r} (descriptor {descriptor}) that was passed to the daemon"
    try:
        os.set_inheritable(descriptor, False)  # but for gateways, to which it is given by number
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            address = address_of(sock) if listens else ""
    except OSError as error:
        raise ConfigError(
            f"{what} is of no use: {error.strerror}; see FileDescriptorName= in the socket unit"
        ) from error
    if not listens:
        raise ConfigError(f"{what} does not listen for connections: ListenStream= makes one that does, and Accept=no")
    return PassedSocket(name, address, descriptor)


def http_addresses(passed: Sequence[PassedSocket]) -> list[str]:
    """The addresses for HTTP."""
    return [sock.address for sock in passed if sock.name == HTTP_NAME]


def protocol_addresses(passed: Sequence[PassedSocket]) -> list[str]:
    """The addresses for the protocol."""
    return [sock.address for sock in passed if sock.name != HTTP_NAME]

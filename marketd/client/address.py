"""Where the daemon is: ``host:port``, ``[v6]:port``, ``tls://host:port`` or ``unix:/path``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from marketd.paths import Paths
from marketd.security.doors import TLS_PREFIX, UNIX_PREFIX

DEFAULT_TCP = "127.0.0.1:7600"
_EXAMPLES = "127.0.0.1:7600, [::1]:7600, tls://md.example.com:7600 or unix:/run/marketd/marketd.sock"


@dataclass(frozen=True)
class Address:
    """Either ``path`` (a Unix socket) or ``host`` and ``port``, perhaps with ``tls``."""

    host: str = ""
    port: int = 0
    path: str = ""
    tls: bool = False

    def __str__(self) -> str:
        if self.path:
            return f"{UNIX_PREFIX}{self.path}"
        where = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return TLS_PREFIX + where if self.tls else where


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        ValueError: with what is wrong and examples of what is right.
    """
    text = text.strip()
    if text.startswith(UNIX_PREFIX):
        if text == UNIX_PREFIX:
            raise ValueError(f"{text!r} names no socket; addresses are like {_EXAMPLES}")
        return Address(path=text.removeprefix(UNIX_PREFIX))
    if text.startswith(("ws://", "wss://")):
        raise ValueError(f"{text!r}: this client speaks no WebSocket; addresses are like {_EXAMPLES}")
    tls = text.startswith(TLS_PREFIX)
    host, colon, port = text.removeprefix(TLS_PREFIX).rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address goes in brackets; addresses are like {_EXAMPLES}")
    # `isdigit` alone would take digits of other scripts, `int` alone signs and underscores.
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536) or "/" in host:
        raise ValueError(f"{text!r} is no address: they are like {_EXAMPLES}")
    return Address(host=host, port=int(port), tls=tls)


def default_address(env: Mapping[str, str] = os.environ) -> str:
    """Say where to look when no address is given.

    In this order: ``$MARKETD_ADDRESS``; the Unix socket of the instance ``$MARKETD_INSTANCE`` (else ``default``) if
    it is there; the daemon's usual TCP port on this machine.
    """
    if env.get("MARKETD_ADDRESS"):
        return env["MARKETD_ADDRESS"]
    socket = Paths.for_instance(env.get("MARKETD_INSTANCE") or "default", env=env).socket
    return f"{UNIX_PREFIX}{socket}" if socket.is_socket() else DEFAULT_TCP

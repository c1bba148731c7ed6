"""Pure: by which door a client comes in, and what is asked of it there.

A door is an address that the gateway listens at. Nobody but the daemon's own user can open its Unix socket; loopback
addresses are for all users of the machine; all others are for whoever has a wire to it.
"""

from __future__ import annotations

import ipaddress
from typing import Literal

Door = Literal["unix", "loopback", "open"]

TLS_PREFIX = "tls://"
UNIX_PREFIX = "unix:"


def door_of(address: str) -> Door:
    """Say what kind of door a listening address is: ``unix:/path``, ``host:port`` or ``tls://host:port``."""
    if address.startswith(UNIX_PREFIX):
        return "unix"
    host = host_of(address)
    if host == "localhost":
        return "loopback"
    try:
        return "loopback" if ipaddress.ip_address(host).is_loopback else "open"
    except ValueError:
        return "open"


def host_of(address: str) -> str:
    """Return the host of ``host:port``, without the brackets of an IPv6 address."""
    host, _, _ = address.removeprefix(TLS_PREFIX).rpartition(":")
    return host.removeprefix("[").removesuffix("]")


def demands_token(door: Door, *, defined: bool, required: bool) -> bool:
    """Whether who comes in here needs a token.

    Args:
        defined: there is a file of tokens, even if there is none in it any more.
        required: the configuration wants one everywhere.
    """
    return required or door == "open" or (door == "loopback" and defined)


def with_tls(address: str, *, plaintext: bool) -> str:
    """Write an address as the gateway wants it: with ``tls://`` if it speaks TLS.

    Args:
        plaintext: the configuration lets addresses that other machines reach do without.
    """
    if address.startswith((TLS_PREFIX, UNIX_PREFIX)) or plaintext or door_of(address) != "open":
        return address
    return TLS_PREFIX + address

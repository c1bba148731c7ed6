"""Which pages may talk to us through a browser that runs on this machine, or can reach it.

A browser opens a WebSocket to any address for any page, and a page's name can be made to mean this machine (DNS
rebinding); the rules that it has for pages do not protect a service on the loopback interface. It does say from which
page a WebSocket comes, ``Origin``, and which name it was told, ``Host``: both have to be ours.
https://datatracker.ietf.org/doc/html/rfc6455#section-10.2
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocketClose

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class OriginGuard:
    """Lets requests through to an ASGI application.

    Args:
        app: the application.
        hosts: names by which browsers may reach it, besides IP addresses and ``localhost``.
    """

    def __init__(self, app: App, hosts: list[str]) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            return
        problem = self._problem(dict(scope["headers"]))
        if not problem:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(1008, problem)(scope, receive, send)
        else:
            await PlainTextResponse(f"{problem}\n", 403)(scope, receive, send)

    def _problem(self, headers: dict[bytes, bytes]) -> str:
        host = _host_of("//" + headers.get(b"host", b"").decode("latin1"))
        if host not in self._hosts and host != "localhost" and _address(host) is None:
            return f"{host!r} is no name of this daemon; gateway.hosts has those that are"
        origin = headers.get(b"origin", b"").decode("latin1")
        page = _host_of(origin)
        if origin and page not in self._hosts and page not in ("localhost", host) and not _is_loopback(page):
            return f"pages of {origin!r} may not talk to this daemon; gateway.hosts has those that may"
        return ""


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None

"""Who may ask what over HTTP: ``Authorization: Bearer <token>``, scopes by path, and the token's quotas.

``/ws`` is let through to its hello, which is judged as everybody's; a token in the header of its handshake counts as if
it stood there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection
from starlette.responses import Response

from marketd.clock import SystemClock
from marketd.gateway.decode import Refusal
from marketd.gateway.guard import spent
from marketd.rpc.messages import ErrorCode
from marketd.security.access import Access
from marketd.security.doors import Door
from marketd.security.scopes import Unlisted, scope_of_path

if TYPE_CHECKING:
    from marketd.gateway.actor import Gateway
    from marketd.gateway.guard import Guard

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BEARER = "bearer "


class TokenGuard:
    """Lets requests through to an application.

    Sets ``state.access``, None where a client has shown no good token and none was needed; ``state.door``;
    ``state.bearer``, the token as it is.

    Args:
        app: what is guarded.
        gateway: whose guard decides.
        door: by which the requests come in.
        refuse: makes the answer for who is refused.
    """

    def __init__(self, app: App, gateway: Gateway, door: Door, refuse: Callable[[Refusal], Response]) -> None:
        self._app = app
        self._refuse = refuse
        self._guard: Guard = gateway.guard
        self._door: Door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            return
        connection = HTTPConnection(scope)
        bearer = bearer_of(connection)
        client = connection.client
        peer = f"http:{client.host}:{client.port}" if client is not None else "http"
        state = scope.setdefault("state", {})
        state |= {"door": self._door, "bearer": bearer, "access": None}
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        try:
            wanted = scope_of_path(scope["path"])
        except Unlisted:
            await self._app(scope, receive, send)  # to be told what there is; a test sees to it that nothing else is
            return
        if wanted is None:
            with contextlib.suppress(Refusal):  # open to everybody; who shows a good token may see more
                state["access"] = self._guard.admit(bearer, self._door, peer, quietly=True)
            await self._app(scope, receive, send)
            return
        try:
            access = state["access"] = self._guard.admit(bearer, self._door, peer)
            self._guard.check_rate(access)
            self._guard.check_scope(access, scope["path"], wanted, peer)
            self._guard.enter(access)
        except Refusal as refusal:
            await self._refuse(refusal)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, _counted(send, access))
        finally:
            self._guard.leave(access)


def bearer_of(connection: HTTPConnection) -> str | None:
    """Return the token in the header; None if there is none."""
    given = connection.headers.get("authorization", "")
    return given[len(_BEARER) :].strip() if given.lower().startswith(_BEARER) else None


def _counted(send: Send, access: Access) -> Send:
    """Count what is sent; an answer whose token has had its bytes is cut, as any that can't be finished."""

    async def counted(message: MutableMapping[str, Any]) -> None:
        now_ns = SystemClock().now_ns()
        access.usage.add_bytes(len(message.get("body", b"")), now_ns)
        await send(message)
        if message.get("more_body") and access.usage.spent(now_ns):
            raise spent(access, now_ns)

    return counted


def access_of(connection: HTTPConnection) -> Access:
    """Return what the client of a request may do.

    Raises:
        Refusal: it did not say who it is.
    """
    access: Access | None = connection.state.access
    if access is None:
        raise Refusal(ErrorCode.UNAUTHORIZED, "this needs a token: send the header Authorization: Bearer <token>")
    return access

"""Which address answers what. The handlers are in the modules that are named after what they serve."""

from __future__ import annotations

import importlib
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
import structlog
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from marketd.gateway.decode import Refusal
from marketd.rpc.messages import ErrorCode
from marketd.security.doors import Door
from marketd.web.guarded import TokenGuard
from marketd.web.health import healthz, metrics, readyz
from marketd.web.origin import OriginGuard
from marketd.web.websocket import conversation

if TYPE_CHECKING:
    from marketd.gateway.actor import Gateway

Handler = Callable[[Request], Awaitable[Response]]


def _later(module: str, name: str) -> Handler:
    """Return a handler whose module is imported when it is first asked for: polars and pyarrow take their time."""

    async def handle(request: Request) -> Response:
        # In a thread, for without a pulse for so long the gateway would be killed.
        handler: Handler = getattr(await trio.to_thread.run_sync(importlib.import_module, module), name)
        return await handler(request)

    return handle


ROUTES = (
    Route("/v1/bars", _later("marketd.web.rows", "bars")),
    Route("/v1/ticks", _later("marketd.web.rows", "ticks")),
    Route("/v1/instruments", _later("marketd.web.instruments", "instruments")),
    Route("/v1/instruments/{fqme:path}", _later("marketd.web.instruments", "instrument")),
    Route("/healthz", healthz),
    Route("/readyz", readyz),
    Route("/metrics", metrics),
    WebSocketRoute("/ws", conversation),
    Mount("/client", StaticFiles(packages=[("marketd.client", "javascript")])),
)
_STATUS = {
    ErrorCode.INVALID_PARAMS: 400,
    ErrorCode.LIMIT_EXCEEDED: 400,
    ErrorCode.UNKNOWN_INSTRUMENT: 404,
    ErrorCode.UNKNOWN_FEED: 404,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
}

log = structlog.get_logger("marketd.web")


def make_app(gateway: Gateway, hosts: list[str], door: Door) -> OriginGuard:
    """Return the application.

    Args:
        gateway: what the handlers find as ``request.app.state.gateway``.
        hosts: names by which browsers may reach it, besides this machine's own addresses.
        door: by which its requests come in.
    """
    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(TokenGuard, gateway=gateway, door=door, refuse=_refusal)],
        exception_handlers={Refusal: _refused, HTTPException: _http_error, Exception: _failed},
    )
    app.state.gateway = gateway
    return OriginGuard(app, hosts)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _refusal(error)


def _refusal(error: Refusal) -> Response:
    status, headers = _STATUS.get(error.code, 500), {}
    if error.code is ErrorCode.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="marketd"'  # RFC 9110, 11.6.1
    if "retry_after_ms" in error.data or error.reason == "quota":  # more than the token may have
        status = 429
    if "retry_after_ms" in error.data:
        headers["Retry-After"] = str(math.ceil(error.data["retry_after_ms"] / 1000))
    return _problem(status, error.code.name.lower(), str(error), headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = error.detail
    if error.status_code == 404:
        sentence = f"there is no {request.url.path}; there are {', '.join(route.path for route in ROUTES)}"
    return _problem(error.status_code, "not_found" if error.status_code == 404 else "invalid_request", sentence)


async def _failed(request: Request, error: Exception) -> Response:
    if isinstance(error.__cause__, Refusal):  # it came when the answer had begun, which is cut therefore
        log.warning("http.cut", path=request.url.path, reason=str(error.__cause__))
    else:
        log.error("http.failed", path=request.url.path, exc_info=error)
    return _problem(500, "internal", "it failed for a reason of the daemon's own; its log has it")


def _problem(status: int, code: str, sentence: str, headers: dict[str, str] | None = None) -> Response:
    body = msgspec.json.encode({"error": {"code": code, "message": sentence}}) + b"\n"
    return Response(body, status, headers, media_type="application/json")

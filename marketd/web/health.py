"""``/healthz``, ``/readyz`` and ``/metrics``: for service managers, load balancers and Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from marketd.gateway.routed import daemon_measures, daemon_status
from marketd.security.access import Access
from marketd.web.metrics import CONTENT_TYPE, exposition

if TYPE_CHECKING:
    from marketd.gateway.actor import Gateway


class Readiness(msgspec.Struct, frozen=True):
    """Whether everything is as it should be, and in sentences what is not."""

    ready: bool
    problems: list[str]


async def healthz(_request: Request) -> Response:
    """Say that this process answers at all; what it serves may be in any state."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """Answer 200 when every feed is live and read, and no actor is down, else 503, with reasons for who may read."""
    gateway: Gateway = request.app.state.gateway
    status = await daemon_status(gateway.link)
    access: Access | None = request.state.access
    may_read = access is not None and access.may("read")  # a load balancer needs no reasons
    found = Readiness(status.ready, status.problems if may_read else [])
    return Response(msgspec.json.encode(found), 200 if found.ready else 503, media_type="application/json")


async def metrics(request: Request) -> Response:
    """Answer in Prometheus' text format."""
    gateway: Gateway = request.app.state.gateway
    certificate = gateway.guard.certificate
    expires_ns = certificate.expires_ns if certificate is not None else 0
    return Response(exposition(await daemon_measures(gateway.link), expires_ns), media_type=CONTENT_TYPE)

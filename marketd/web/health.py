"""``/healthz``, ``/readyz`` and ``/metrics``: for service managers, load balancers and Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from marketd.gateway.routed import daemon_status
from marketd.rpc.messages import StatusResult
from marketd.security.access import Access
from marketd.web.metrics import CONTENT_TYPE, exposition

if TYPE_CHECKING:
    from marketd.gateway.actor import Gateway

_GOOD = ("live", "finished")


class Readiness(msgspec.Struct, frozen=True):
    """Whether everything is live, and in sentences what is not."""

    ready: bool
    problems: list[str]


async def healthz(_request: Request) -> Response:
    """Say that this process answers at all; what it serves may be in any state."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """Answer 200 when every feed is live and no actor is down, else 503; both with the reasons for who may read."""
    gateway: Gateway = request.app.state.gateway
    found = readiness(await daemon_status(gateway.link))
    access: Access | None = request.state.access
    if access is None or not access.may("read"):  # a load balancer needs no more
        found = Readiness(found.ready, [])
    return Response(msgspec.json.encode(found), 200 if found.ready else 503, media_type="application/json")


async def metrics(request: Request) -> Response:
    """Answer in Prometheus' text format."""
    gateway: Gateway = request.app.state.gateway
    status = await daemon_status(gateway.link)
    return Response(exposition(status), media_type=CONTENT_TYPE)


def readiness(status: StatusResult) -> Readiness:
    """Say what keeps a daemon from being ready."""
    problems = [
        f"feed {feed.name} is {feed.state}" + (f": {feed.detail}" if feed.detail else "")
        for feed in status.feeds
        if feed.state not in _GOOD
    ]
    problems += [
        f"{actor.name} is {actor.state}" + (f": {actor.detail}" if actor.detail else "")
        for actor in status.actors
        if actor.state not in _GOOD and not actor.name.startswith("feed.")
    ]
    return Readiness(status.ready, problems)

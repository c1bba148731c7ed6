"""The methods for operators; the supervisor answers them all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from marketd.gateway.routed import ask
from marketd.rpc.messages import METHODS, EmptyParams, Params, Request, Result

if TYPE_CHECKING:
    from marketd.gateway.session import Session

TIMEOUTS_S = {
    "services.list": 5.0,
    "services.restart": 60.0,  # an actor may take a while to stop, and to be there again
    "services.stop": 30.0,
    "services.start": 60.0,
    "services.cancel": 30.0,
    "clients.list": 5.0,
    "clients.kick": 5.0,
    "log.level": 5.0,
    "reload": 120.0,  # several actors, one after the other
}

Handler = Callable[["Session", Params, Request], Awaitable[Result]]


def _forward(method: str) -> Handler:
    _, result = METHODS[method]

    async def answer(session: Session, params: Params, _request: Request) -> Result:
        told = None if isinstance(params, EmptyParams) else params
        return await ask(session.gateway.link, method, told, result, TIMEOUTS_S[method])

    return answer


HANDLERS: dict[str, Handler] = {method: _forward(method) for method in TIMEOUTS_S}

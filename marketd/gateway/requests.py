"""Requests in, answers out: what a client may ask for, and what each method does."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import structlog
import trio

from marketd import __version__
from marketd.clock import SystemClock
from marketd.gateway import admin
from marketd.gateway.bars import bars
from marketd.gateway.debug import debug
from marketd.gateway.decode import Refusal, decode_params, decode_request, shown, unknown_method
from marketd.gateway.encode import Buffer, encode_answer
from marketd.gateway.history import backfill, coverage, gaps, history, ticks
from marketd.gateway.names import check_permitted, suggest
from marketd.gateway.routed import backends, record, search, status
from marketd.gateway.streams import subscribe, unsubscribe, update
from marketd.gateway.why import why
from marketd.ring import layout, steps
from marketd.rpc import messages
from marketd.rpc.messages import ErrorCode, Request
from marketd.security.access import Access
from marketd.security.scopes import Unlisted, scope_of

if TYPE_CHECKING:
    from marketd.gateway.actor import Gateway
    from marketd.gateway.session import Session

HEARTBEAT_S_MIN = 0.25

Handler = Callable[["Session", Any, Request], Awaitable[messages.Result]]

log = structlog.get_logger("marketd.gateway")


async def serve(session: Session, payload: bytes | bytearray) -> str:
    """Answer one message of a client, or see to it that it is answered.

    Returns:
        Why the connection has to end now; empty if it may go on.
    """
    request = None
    try:
        request = decode_request(payload)
        if request is None:
            return ""
        handler = _find_handler(session, request)
        _check_allowed(session, request)
        params = decode_params(request)
        if isinstance(params, messages.HelloParams):
            session.put(encode_answer(request.id, await hello(session, params, request)))
        elif request.method in _IN_BACKGROUND:
            _start(session, request, handler, params)
        else:
            session.put(await _answer(session, request, handler, params))
    except Refusal as refusal:
        session.put(refusal.frame(refusal.request_id if request is None else request.id))
        return refusal.reason if refusal.closing else ""
    return ""


def _find_handler(session: Session, request: Request) -> Handler:
    handler = _AT_ONCE.get(request.method) or _IN_BACKGROUND.get(request.method)
    if handler is None:
        raise unknown_method(request.method)
    if session.hello is None and request.method != "hello":
        raise Refusal(ErrorCode.HELLO_REQUIRED, f"say hello before {request.method}: it settles the protocol's version")
    return handler


def _check_allowed(session: Session, request: Request) -> None:
    """Refuse what is not in the client's token. Raises Refusal."""
    if session.access is None:
        return  # it is hello, which finds out
    guard = session.gateway.guard
    guard.check_rate(session.access)
    try:
        guard.check_scope(session.access, request.method, scope_of(request.method), session.address)
    except Unlisted:
        raise Refusal(ErrorCode.FORBIDDEN, f"nobody may call {request.method}: it has no scope") from None


def _start(session: Session, request: Request, handler: Handler, params: messages.Params) -> None:
    """Answer a request that takes its time, while others are served."""
    limit = session.gateway.limits.requests_max
    if session.requests_running >= limit:
        raise Refusal(
            ErrorCode.LIMIT_EXCEEDED, f"{limit} requests are under way, as many as a client may have", limit=limit
        )
    session.requests_running += 1
    session.nursery.start_soon(_answer_later, session, request, handler, params)


async def _answer_later(session: Session, request: Request, handler: Handler, params: messages.Params) -> None:
    try:
        frame = await _answer(session, request, handler, params)
        await session.writer.wait_room()
        session.put(frame)
    finally:
        session.requests_running -= 1


async def _answer(session: Session, request: Request, handler: Handler, params: messages.Params) -> Buffer:
    """Run a method within the request's deadline. Whatever goes wrong in it is an answer and no one else's trouble."""
    try:
        with trio.CancelScope() as scope:
            if request.deadline_ms is not None:
                scope.deadline = trio.current_time() + request.deadline_ms / 1000
            return encode_answer(request.id, await _do(session, request, handler, params))
        sentence = f"{request.method} was not done within its deadline of {request.deadline_ms} ms"
        refusal = Refusal(ErrorCode.DEADLINE_EXCEEDED, sentence, deadline_ms=request.deadline_ms)
    except Refusal as error:
        refusal = error
    except Exception:
        log.exception("request.failed", method=request.method, client=session.number)
        sentence = f"{request.method} failed for a reason of the daemon's own; its log has it"
        refusal = Refusal(ErrorCode.INTERNAL, sentence)
    return refusal.frame(request.id)


async def _do(session: Session, request: Request, handler: Handler, params: messages.Params) -> messages.Result:
    """Run a method, and note what came of it if it is the operator's."""
    if scope_of(request.method) != "admin":
        return await handler(session, params, request)
    result = "cancelled"
    try:
        answer = await handler(session, params, request)
    except Refusal as refusal:
        result = refusal.code.name.lower()
        raise
    except Exception:
        result = "internal"
        raise
    else:
        result = "done"
        return answer
    finally:
        audit, token = session.gateway.guard.audit, session.rights.name
        audit.write(request.method, token=token, peer=session.address, result=result, detail=params)


# --- the methods that need nobody else ---


async def hello(session: Session, params: messages.HelloParams, _request: Request) -> messages.HelloResult:
    """Settle the version and the heartbeat."""
    if session.hello is not None:
        raise Refusal(ErrorCode.INVALID_REQUEST, "hello was said already; it is said once, at the beginning")
    if params.version != messages.PROTOCOL_VERSION:
        raise Refusal(
            ErrorCode.UNSUPPORTED_VERSION,
            f"version {params.version} of the protocol is not spoken here; version {messages.PROTOCOL_VERSION} is",
            versions=[messages.PROTOCOL_VERSION],
        )
    guard = session.gateway.guard
    access = guard.admit(params.token or session.bearer, session.door, session.address)
    guard.enter(access)
    session.begin(access, params, max(params.heartbeat_s, HEARTBEAT_S_MIN) if params.heartbeat_s else math.inf)
    limits = session.gateway.limits
    return messages.HelloResult(
        version=messages.PROTOCOL_VERSION,
        server=f"marketd {__version__}",
        instance=session.gateway.instance,
        heartbeat_s=session.heartbeat_s if params.heartbeat_s else 0.0,
        limits=messages.Limits(
            limits.frame_bytes_max, limits.subscriptions_max, limits.instruments_max, limits.requests_max
        ),
        row_bytes=layout.ROW_BYTES,
        row_hash=f"{layout.dtype_hash():016x}",
        step_bytes=steps.STEP_BYTES,
        step_hash=f"{steps.STEPS.hash():016x}",
    )


async def ping(_session: Session, params: messages.PingParams, _request: Request) -> messages.PingResult:
    """Echo."""
    return messages.PingResult(params.payload, SystemClock().now_ns())


async def instrument(session: Session, params: messages.InstrumentParams, _request: Request) -> messages.Result:
    """See :func:`look_up`."""
    return await look_up(session.gateway, session.rights, params.fqme)


async def look_up(gateway: Gateway, access: Access, fqme: str) -> messages.InstrumentResult:
    """Look an instrument up in the feeds' tables, and then in the lists of what their venues offer besides.

    Raises:
        Refusal: nobody has it, or it is not for this client.
    """
    feeds = gateway.feeds
    await feeds.learn()
    found = feeds.find(fqme)
    check_permitted(access, [fqme if found is None else found[1]])
    if found is None and (offered := await gateway.find([fqme])):
        market = offered[0].market
        feed = feeds.by_name.get(offered[0].feed)
        epoch = feed.epoch if feed is not None else 0
        return messages.InstrumentResult(market.fqme, offered[0].feed, 0, epoch, "unknown", market)
    if found is None:
        close = await suggest(feeds, [fqme], access.permits)
        raise Refusal(
            ErrorCode.UNKNOWN_INSTRUMENT,
            f"no feed has an instrument {shown(fqme)}" + (f"; close to it: {', '.join(close)}" if close else ""),
            unknown=[fqme],
            close=close,
        )
    feed, name = found
    number = feed.ids[name]
    quality = feed.table.quality(number).name.lower()
    return messages.InstrumentResult(name, feed.name, number, feed.epoch, quality, feed.table.entry(number))


_AT_ONCE: dict[str, Handler] = {
    "hello": hello,
    "ping": ping,
    "instrument": instrument,
    "subscribe": subscribe,
    "update": update,
    "unsubscribe": unsubscribe,
}
_IN_BACKGROUND: dict[str, Handler] = {
    "status": status,
    "backends": backends,
    "search": search,
    "why": why,
    "debug": debug,
    "record": record,
    "bars": bars,
    "history": history,
    "ticks": ticks,
    "coverage": coverage,
    "gaps": gaps,
    "backfill": backfill,
    **admin.HANDLERS,
}

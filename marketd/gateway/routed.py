"""The methods that somebody else answers: the supervisor, or a feed through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio

from marketd.errors import ActorError, RequestRefused
from marketd.gateway.decode import Refusal, shown
from marketd.gateway.encode import encode_notification
from marketd.rpc import messages
from marketd.rpc.messages import ErrorCode, Request
from marketd.supervise.link import Link
from marketd.supervise.messages import DebugParts, Measures, RouteRecord, RouteSearch

if TYPE_CHECKING:
    from marketd.gateway.session import Session

ANSWER_TIMEOUT_S = 5.0
DEBUG_TIMEOUT_S = 25.0
SEARCH_HITS_MAX = 10_000
ROUTE_MARGIN_S = 1.0  # the supervisor has a deadline of its own, and says more when that passes

R = TypeVar("R")

_CODES = {
    "unknown_feed": ErrorCode.UNKNOWN_FEED,
    "invalid_params": ErrorCode.INVALID_PARAMS,
    "internal": ErrorCode.INTERNAL,
    "unknown_service": ErrorCode.UNKNOWN_SERVICE,
    "unknown_client": ErrorCode.UNKNOWN_CLIENT,
    "invalid_config": ErrorCode.INVALID_CONFIG,
}


async def status(session: Session, _params: messages.EmptyParams, _request: Request) -> messages.StatusResult:
    """Ask the supervisor. Who is no operator sees of the clients only those of its own token."""
    found = await daemon_status(session.gateway.link)
    rights = session.rights
    if rights.may("admin"):
        return found
    return msgspec.structs.replace(found, clients=[each for each in found.clients if each.token == rights.name])


async def daemon_status(link: Link) -> messages.StatusResult:
    """Ask the supervisor for the state of the whole daemon. Raises Refusal: it does not answer."""
    return await ask(link, "status", None, messages.StatusResult, ANSWER_TIMEOUT_S)


async def daemon_measures(link: Link) -> Measures:
    """Ask the supervisor for all that metrics show. Raises Refusal: it does not answer."""
    return await ask(link, "measures", None, Measures, ANSWER_TIMEOUT_S)


async def daemon_debug(link: Link) -> DebugParts:
    """Ask the supervisor for all that helps in trouble. Raises Refusal: it does not answer."""
    return await ask(link, "debug", None, DebugParts, DEBUG_TIMEOUT_S)


async def backends(session: Session, _params: messages.EmptyParams, _request: Request) -> messages.BackendsResult:
    """Ask the supervisor."""
    found = await ask(session.gateway.link, "backends", None, list[messages.BackendInfo], ANSWER_TIMEOUT_S)
    return messages.BackendsResult(found)


async def record(session: Session, params: messages.RecordParams, _request: Request) -> messages.RecordResult:
    """Ask the feed; takes as long as the recording does."""
    feeds = session.gateway.feeds.by_name
    if params.feed not in feeds:
        raise Refusal(
            ErrorCode.UNKNOWN_FEED,
            f"there is no feed {shown(params.feed)}; there are: {', '.join(feeds) or 'none'}",
            feeds=list(feeds),
        )
    route = RouteRecord(params.feed, params.name, params.duration_s)
    timeout_s = params.duration_s + ANSWER_TIMEOUT_S + ROUTE_MARGIN_S
    return await ask(session.gateway.link, "record", route, messages.RecordResult, timeout_s)


async def search(session: Session, params: messages.SearchParams, request: Request) -> messages.SearchResult:
    """Ask all feeds at once, and pass on what each finds as soon as it answers."""
    count = 0
    failed: list[str] = []
    rights = session.rights

    async def ask(feed: str) -> None:
        nonlocal count
        # What is not for this client is left out here, so that there have to be some more.
        limit = SEARCH_HITS_MAX if rights.within else params.limit
        route = RouteSearch(feed, params.text, limit)
        try:
            hits = await session.gateway.link.request(
                "search", route, result=list[messages.SearchHit], timeout_s=ANSWER_TIMEOUT_S + ROUTE_MARGIN_S
            )
        except ActorError:
            failed.append(feed)
            return
        hits = [hit for hit in hits if rights.permits(hit.fqme)][: params.limit - count]
        count += len(hits)
        if hits:
            await session.writer.wait_room()
            session.put(encode_notification("search.hits", messages.SearchHits(request.id, hits)))

    # Hits are the largest answers; what one client has waiting in memory is bounded by letting few run at a time.
    async with session.searching, trio.open_nursery() as nursery:
        for feed in session.gateway.feeds.by_name:
            nursery.start_soon(ask, feed)
    return messages.SearchResult(count, sorted(failed))


async def ask(link: Link, method: str, params: object, result: type[R], timeout_s: float) -> R:
    """Ask the supervisor. Raises Refusal: it said no, or does not answer."""
    try:
        return await link.request(method, params, result=result, timeout_s=timeout_s)
    except RequestRefused as error:
        lines = str(error).splitlines()
        facts: dict[str, Any] = {"problems": lines[1:] or lines} if error.code == "invalid_config" else {}
        raise Refusal(_CODES.get(error.code, ErrorCode.UNAVAILABLE), str(error), **facts) from error
    except ActorError as error:
        raise Refusal(ErrorCode.UNAVAILABLE, f"{method} can't be answered right now: {error}") from error

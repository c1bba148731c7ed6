"""What the history manager answers: bars of any time that is held, what is known of them, and asking for more.

Batches go to the client as it takes them: the manager waits for the slowest reader of one request, and nobody else
does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import trio
from numpy.typing import NDArray

from marketd.clock import SystemClock
from marketd.fqme import glob_pattern
from marketd.gateway.decode import Refusal, shown
from marketd.gateway.encode import encode_batch, encode_notification
from marketd.gateway.feeds import Feeds
from marketd.gateway.names import check_permitted
from marketd.gateway.selection import split
from marketd.history.wire import BarsQuery, CoverageQuery, GapsQuery, Left, LeftQuery, TicksQuery, WantQuery
from marketd.periods import parse_period
from marketd.ring.steps import BAR
from marketd.rpc import messages
from marketd.rpc.messages import ErrorCode, Request
from marketd.security.access import Access

if TYPE_CHECKING:
    from marketd.gateway.session import Session

PROGRESS_S = 0.25


async def history(session: Session, params: messages.HistoryParams, request: Request) -> messages.HistoryResult:
    """Stream bars of some instruments, one after the other."""
    period = parse_period(_period(params.period))

    def query(fqme: str) -> BarsQuery:
        return BarsQuery(
            fqme, params.period, params.start_ns, params.end_ns, params.limit, params.order, params.columns
        )

    return messages.HistoryResult(period.name, period.period_ns, await _stream(session, params, request, query))


async def ticks(session: Session, params: messages.TicksParams, request: Request) -> messages.TicksResult:
    """Stream ticks of some instruments, one after the other."""

    def query(fqme: str) -> TicksQuery:
        return TicksQuery(fqme, params.kind, params.start_ns, params.end_ns, params.limit, params.order, params.columns)

    return messages.TicksResult(params.kind, await _stream(session, params, request, query))


async def _stream(
    session: Session,
    params: messages.HistoryParams | messages.TicksParams,
    request: Request,
    query: Callable[[str], BarsQuery | TicksQuery],
) -> list[messages.HistorySeries]:
    check_range(params.start_ns, params.end_ns, request.method)
    series = []
    feeds = session.gateway.feeds
    await feeds.learn()
    names, globs = split(params.instruments)
    for fqme in [*permitted(feeds, names, session.rights), *matching(feeds, globs, session.rights)]:
        try:
            async for found in session.gateway.history.ask(query(fqme), messages.HistorySeries):
                if isinstance(found, messages.HistorySeries):
                    series.append(found)
                    continue
                await session.writer.wait_room()
                session.writer.put(encode_batch(request.id, fqme, len(found)), found)
        except Refusal as refusal:
            nothing = refusal.code in (ErrorCode.INVALID_PARAMS, ErrorCode.UNKNOWN_INSTRUMENT)
            if not nothing or not globs or fqme in names:
                raise
    return series


async def coverage(session: Session, params: messages.CoverageParams, _request: Request) -> messages.CoverageResult:
    """Say what is known of a stored series."""
    fqme, period = await _one(session, params.fqme), _period(params.period)
    query = CoverageQuery(fqme, period, params.start_ns, params.end_ns)
    return messages.CoverageResult(
        fqme, period, await session.gateway.history.result(query, list[messages.CoverageSpan])
    )


async def gaps(session: Session, params: messages.CoverageParams, _request: Request) -> messages.GapsResult:
    """Say which bars a stored series lacks."""
    fqme, period = await _one(session, params.fqme), _period(params.period)
    query = GapsQuery(fqme, period, params.start_ns, params.end_ns)
    return messages.GapsResult(fqme, period, await session.gateway.history.result(query, list[messages.GapSpan]))


async def backfill(session: Session, params: messages.BackfillParams, request: Request) -> messages.BackfillResult:
    """Let a range be asked of the venue, and tell how far that is until it is there."""
    end_ns = SystemClock().now_ns() if params.end_ns is None else params.end_ns
    check_range(params.start_ns, end_ns, "backfill")
    fqme, period = await _one(session, params.fqme), _period(params.period)
    left = await session.gateway.history.result(WantQuery(fqme, period, params.start_ns, end_ns), Left)
    while not left.over:
        progress = messages.BackfillProgress(request.id, left.bars, left.missing, left.detail)
        await session.writer.wait_room()
        session.put(encode_notification("backfill.progress", progress))
        await trio.sleep(PROGRESS_S)
        left = await session.gateway.history.result(LeftQuery(fqme, period, params.start_ns, end_ns), Left)
    return messages.BackfillResult(fqme, period, left.bars, left.missing, left.detail)


async def stored_rows(
    session: Session, fqme: str, params: messages.BarsParams
) -> tuple[NDArray[np.void], messages.HistorySeries]:
    """Return bars of all that is held as rows of a step ring: dtype ``steps.BAR``, with the kind and instrument 0.

    Raises:
        NoHistory: there is no history manager, or it is not there now.
        Refusal: nothing is held.
    """
    query = BarsQuery(fqme, params.period, params.start_ns, params.end_ns, params.limit, params.order, None, rows=True)
    data = bytearray()
    series: messages.HistorySeries | None = None
    async for found in session.gateway.history.answers(query, messages.HistorySeries):
        if isinstance(found, messages.HistorySeries):
            series = found
        else:
            data += found
    assert series is not None
    return np.frombuffer(bytes(data), BAR), series


# --- what is asked for ------------------------------------------------------------------------------------------------


async def _one(session: Session, name: str) -> str:
    await session.gateway.feeds.learn()
    return permitted(session.gateway.feeds, [name], session.rights)[0]


def permitted(feeds: Feeds, names: Iterable[str], access: Access) -> list[str]:
    """Write names as the feeds do; those that none has may still be stored.

    Raises:
        Refusal: FORBIDDEN, one is not for this client.
    """
    found = ((feeds.find(name), name) for name in names)
    written = sorted(name if known is None else known[1] for known, name in found)
    check_permitted(access, written)
    return written


def matching(feeds: Feeds, globs: Iterable[str], access: Access) -> list[str]:
    """Return the names of the feeds' instruments that globs mean, sorted, of those that the client may see."""
    patterns = [glob_pattern(glob) for glob in globs]
    names = {name for feed in feeds.by_name.values() for name in feed.names if access.permits(name)}
    return sorted(name for name in names if any(pattern.match(name) for pattern in patterns))


def check_range(start_ns: int | None, end_ns: int | None, method: str) -> None:
    """Raise Refusal for a range that ends before it begins."""
    if start_ns is not None and end_ns is not None and end_ns < start_ns:
        raise Refusal(ErrorCode.INVALID_PARAMS, f"{method}: end_ns is before start_ns", key="params.end_ns")


def _period(text: str) -> str:
    try:
        return parse_period(text).name
    except ValueError as error:
        raise Refusal(ErrorCode.INVALID_PARAMS, f"{shown(text)}: {error}", key="params.period") from error

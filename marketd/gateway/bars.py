"""The request `bars`: those of one instrument in a range of time, as one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import trio
from numpy.typing import NDArray

from marketd.errors import SegmentError
from marketd.gateway.decode import Refusal, shown
from marketd.gateway.fanout import plain
from marketd.gateway.history import permitted, stored_rows
from marketd.gateway.manager import NoHistory
from marketd.gateway.names import resolve
from marketd.periods import parse_any, parse_period
from marketd.ring.bars import BarsReader, rows_of
from marketd.ring.steps import BAR, BarState
from marketd.rpc import messages
from marketd.rpc.messages import ErrorCode, Request

if TYPE_CHECKING:
    from marketd.gateway.feed import Feed, StepFeed
    from marketd.gateway.session import Session

SLOTS_IN_ONE_GO = 2048  # made rows of between two turns of the event loop
TRIES_MAX = 1000  # to read what a sampler is changing, or has left half done until its successor has mended it
TRY_EVERY_S = 0.005
SAMPLER_TIMEOUT_S = 20.0
_WHOLE = (BarState.CLOSED, BarState.REVISED)


async def bars(session: Session, params: messages.BarsParams, _request: Request) -> messages.BarsResult:
    """Answer from the sampler's segments where they have it all, and else with what is on disk as well."""
    if params.start_ns is not None and params.end_ns is not None and params.end_ns < params.start_ns:
        raise Refusal(ErrorCode.INVALID_PARAMS, "bars: end_ns is before start_ns", key="params.end_ns")
    await session.gateway.feeds.learn()
    permitted(session.gateway.feeds, [params.fqme], session.rights)
    try:
        held = await _held(session, params)
    except Refusal as refusal:
        if refusal.code is ErrorCode.FORBIDDEN:
            raise
        stored = await _stored(session, None, params)
        if stored is None:
            raise
        return stored
    wanted = held.missing or not (params.start_ns is not None or (held.result.limited and params.order == "newest"))
    stored = await _stored(session, held, params) if wanted else None
    return held.result if stored is None else stored


class _Held(NamedTuple):
    """What the segments have: the answer that is made of that."""

    result: messages.BarsResult
    instrument: int
    kind: int

    @property
    def missing(self) -> bool:
        return bool(self.result.missing)


async def _stored(session: Session, held: _Held | None, params: messages.BarsParams) -> messages.BarsResult | None:
    """Answer from everything that is held, on disk too; None if nothing more is."""
    fqme = params.fqme.lower() if held is None else held.result.fqme
    try:
        rows, series = await stored_rows(session, fqme, params)
        period = parse_period(params.period)
    except (NoHistory, ValueError, Refusal):
        return None
    rows = rows.copy()
    rows["period_ns"], rows["number"] = period.period_ns, rows["open_ns"] // period.period_ns
    if held is not None:
        rows["kind"], rows["instrument"] = held.kind, held.instrument
    result = messages.BarsResult(
        fqme=fqme,
        feed="" if held is None else held.result.feed,
        period=period.name,
        period_ns=period.period_ns,
        complete_until_ns=series.complete_until_ns,
        missing=series.missing,
        limited=series.limited,
    )
    return _with_rows(result, rows, params.format)


async def _held(session: Session, params: messages.BarsParams) -> _Held:
    """Answer from the segments."""
    feeds = session.gateway.feeds
    [fqme] = await resolve(feeds, [params.fqme], session.gateway.carry, session.rights)
    found = feeds.find(fqme)
    assert found is not None
    feed = feeds.steps.get(found[0].name)
    segment, kind = _series(feed, params.period)
    instrument = found[0].ids[fqme]
    await _wait_for_sampler(found[0], segment)
    for attempt in range(TRIES_MAX):
        try:
            slots = _read(segment, instrument, params)
            break
        except SegmentError as error:
            if attempt == TRIES_MAX - 1:
                raise Refusal(ErrorCode.UNAVAILABLE, f"bars: {error}") from error
            await trio.sleep(TRY_EVERY_S)
    complete_ns, missing = find_missing(segment, slots, params)
    limited = len(slots) > params.limit
    slots = slots[-params.limit :] if params.order == "newest" else slots[: params.limit]
    rows = await _rows(slots, instrument, kind, segment.header.period_ns)
    result = messages.BarsResult(
        fqme=fqme,
        feed=found[0].name,
        period=parse_any(params.period).name,
        period_ns=segment.header.period_ns,
        complete_until_ns=complete_ns,
        missing=missing,
        limited=limited,
    )
    return _Held(_with_rows(result, rows, params.format), instrument, kind)


async def _wait_for_sampler(feed: Feed, segment: BarsReader) -> None:
    """Return once the bars know every tick that there is now: mostly at once, but not while a sampler starts.

    Raises:
        Refusal: UNAVAILABLE, it takes too long.
    """
    published = feed.ring.published
    with trio.move_on_after(SAMPLER_TIMEOUT_S):
        while segment.progress.applied < published:  # noqa: ASYNC110 - another process changes it, in shared memory
            await trio.sleep(TRY_EVERY_S)
        return
    behind = published - segment.progress.applied
    raise Refusal(
        ErrorCode.UNAVAILABLE,
        f"bars: the sampler has not seen the newest {behind} rows of {feed.name} yet; it may be starting, or the "
        "machine may be too busy: try again in a moment",
        rows_behind=behind,
    )


def _series(feed: StepFeed | None, period: str) -> tuple[BarsReader, int]:
    """Find the segment of a series and the kind of its bars."""
    names = {name.removeprefix("bar."): kind for kind, name in (feed.sort.kinds if feed else {}).items()}
    try:
        kind = names[parse_any(period).name]
    except (ValueError, KeyError):
        there = [name for name in names if not name.startswith("index.")]
        raise Refusal(
            ErrorCode.INVALID_PARAMS,
            f"bars: there are none of {shown(period)}; there are bars of: {', '.join(there) or 'nothing'}",
            key="params.period",
            periods=there,
        ) from None
    assert feed is not None
    return feed.bars[kind], kind


def _read(segment: BarsReader, instrument: int, params: messages.BarsParams) -> NDArray[np.void]:
    """Return the slots of the bars that begin in the range."""
    period_ns = segment.header.period_ns
    if not period_ns:
        slots = segment.slots(instrument)
        within = (slots["open_ns"] >= (params.start_ns or 0)) & (slots["open_ns"] < (params.end_ns or 2**63 - 1))
        return slots[within]
    newest = segment.progress.opened + segment.header.rows  # a venue's clock may be ahead of ours
    first = 1 if params.start_ns is None else max(1, -(-params.start_ns // period_ns))
    last = newest if params.end_ns is None else min(newest, -(-params.end_ns // period_ns) - 1)
    slots = segment.slots(instrument)
    return slots[(slots["number"] >= first) & (slots["number"] <= last)]


def find_missing(
    segment: BarsReader, slots: NDArray[np.void], params: messages.BarsParams
) -> tuple[int, list[tuple[int, int]]]:
    """Say up to when all is out, and which ranges before that have no whole bars here."""
    period_ns = segment.header.period_ns
    if not period_ns:
        return 0, []
    until = segment.progress.closed
    first = int(slots["number"][0]) if len(slots) else until
    begin = first if params.start_ns is None else -(-params.start_ns // period_ns)
    end = until if params.end_ns is None else min(until, -(-params.end_ns // period_ns))
    whole = slots["number"][np.isin(slots["state"], _WHOLE) & (slots["number"] < end)]
    edges = np.concatenate([[begin - 1], whole, [end]])
    holes = np.flatnonzero(np.diff(edges) > 1)
    missing = [(int(edges[n] + 1) * period_ns, int(edges[n + 1]) * period_ns) for n in holes]
    return until * period_ns, missing


async def _rows(slots: NDArray[np.void], instrument: int, kind: int, period_ns: int) -> NDArray[np.void]:
    pieces = [np.zeros(0, BAR)]
    for start in range(0, len(slots), SLOTS_IN_ONE_GO):
        piece = slots[start : start + SLOTS_IN_ONE_GO]
        pieces.append(rows_of(piece, np.full(len(piece), instrument), kind, period_ns, 0))
        await trio.lowlevel.checkpoint()
    return np.concatenate(pieces)


def _with_rows(result: messages.BarsResult, rows: NDArray[np.void], form: messages.Format) -> messages.BarsResult:
    if form == "rows":
        return msgspec.structs.replace(result, data=rows.tobytes())
    columns = {name: plain(rows[name]) for name in BAR.names or ()}
    return msgspec.structs.replace(result, columns=columns)

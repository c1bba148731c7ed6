"""The request `why`: gathers what `marketd/observe/why.py` decides from. What does not answer in time is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import structlog
import trio

from backends.backend import NAMES
from marketd import calendars
from marketd.clock import SECOND_NS, SystemClock
from marketd.errors import ActorError, ConfigError, Lapped, SegmentError
from marketd.gateway.decode import Refusal
from marketd.gateway.feed import Feed, StepFeed
from marketd.gateway.manager import HistoryManager
from marketd.gateway.names import check_permitted, suggest
from marketd.gateway.routed import daemon_status
from marketd.history.wire import CoverageQuery
from marketd.model import GapReason, Kind, MktPair
from marketd.observe.why import BarsFacts, Facts, HistoryFacts, RingFacts, VenueFacts, explain
from marketd.ring import layout
from marketd.ring.steps import BarState
from marketd.rpc import messages
from marketd.supervise.messages import RouteExplain

if TYPE_CHECKING:
    from marketd.gateway.actor import Gateway
    from marketd.gateway.session import Session
    from marketd.security.access import Access

PART_TIMEOUT_S = 4.0
ROWS_IN_ONE_GO = 65_536  # looked through between two turns of the event loop
DAYS_AHEAD = 30  # looked through for the next opening
STORED_PERIOD = "1m"
_BAD_STATES = ("starting", "down", "failing", "stopped")

log = structlog.get_logger("marketd.gateway")


async def why(session: Session, params: messages.WhyParams, _request: messages.Request) -> messages.WhyResult:
    """Say why an instrument is live, or is not."""
    return explain(await gather(session.gateway, session.rights, params.fqme))


async def gather(gateway: Gateway, access: Access, fqme: str) -> Facts:
    """Find out all that bears on an instrument. Raises Refusal: it is none of the client's business."""
    await gateway.feeds.learn()
    status = await daemon_status(gateway.link)
    facts = {
        "asked": fqme,
        "now_ns": SystemClock().now_ns(),
        "backends": list(NAMES),
        "feeds": status.feeds,
        "host": status.clock,
        "others": {actor.name: actor.state for actor in status.actors if actor.state in _BAD_STATES},
    }
    found = gateway.feeds.find(fqme)
    if found is not None:
        feed, name = found
        check_permitted(access, [name])
        instrument = feed.ids[name]
        market: MktPair = feed.table.entry(instrument)
        facts |= {"feed": feed.name, "recorded": feed.info.recorded, "ring": await ring_facts(feed, instrument)}
        facts |= {"quality": feed.table.quality(instrument).name.lower()}
        facts |= {"bars": _bars_facts(feed, gateway.feeds.steps.get(feed.name), instrument)}
    elif offered := await gateway.find([fqme]):
        market, name = offered[0].market, offered[0].market.fqme
        check_permitted(access, [name])
        facts |= {"feed": offered[0].feed}
    else:
        return Facts(**facts, close=await suggest(gateway.feeds, [fqme], access.permits))  # type: ignore[arg-type]
    facts |= {"fqme": name, "venue": await _venue_facts(gateway, str(facts["feed"]), name)}
    facts |= await _calendar_facts(market, SystemClock().now_ns())
    facts |= {"history": await _history_facts(gateway.history, name)}
    return Facts(**facts)  # type: ignore[arg-type]


async def ring_facts(feed: Feed, instrument: int) -> RingFacts:
    """Look for an instrument's newest rows, from the ring's newest row back."""
    ring, last = feed.ring, feed.ring.published
    data = quality = gap = None
    oldest_ns = 0
    while last >= ring.oldest and (data is None or quality is None or gap is None):
        try:
            rows = ring.read_range(max(ring.oldest, last - ROWS_IN_ONE_GO + 1), last)
        except (Lapped, ValueError):  # the writer has come round to here
            break
        oldest_ns, last = int(rows["received_ns"][0]), int(rows["cursor"][0]) - 1
        mine = rows[(rows["instrument"] == instrument) | ((rows["instrument"] == 0) & (rows["kind"] == Kind.GAP))]
        data = data if data is not None else _newest(mine, mine["kind"] <= Kind.LEVEL)
        quality = quality if quality is not None else _newest(mine, mine["kind"] == Kind.STATUS)
        gap = gap if gap is not None else _newest(mine, mine["kind"] == Kind.GAP)
        await trio.lowlevel.checkpoint()
    told = gap.view(layout.GAP)[0] if gap is not None else None
    return RingFacts(
        event_ns=int(data["event_ns"][0]) if data is not None else 0,
        received_ns=int(data["received_ns"][0]) if data is not None else 0,
        quality_ns=int(quality["received_ns"][0]) if quality is not None else 0,
        gap_reason=GapReason(int(told["reason"])).name.lower() if told is not None else "",
        gap_from_ns=int(told["from_ns"]) if told is not None else 0,
        gap_to_ns=int(told["to_ns"]) if told is not None else 0,
        oldest_ns=oldest_ns,
    )


def _newest(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray | None:
    """Return the last of the rows that are wanted, shape ``(1,)``; None if there are none."""
    found = np.flatnonzero(wanted)
    return rows[found[-1] : found[-1] + 1] if len(found) else None


def _bars_facts(feed: Feed, steps: StepFeed | None, instrument: int) -> BarsFacts | None:
    series = next((each for each in feed.info.series if each.period_ns), None)
    if steps is None or series is None or series.kind not in steps.bars:
        return None
    segment = steps.bars[series.kind]
    behind = max(0, feed.ring.published - segment.progress.applied)
    try:
        slots = segment.slots(instrument)
    except (SegmentError, LookupError) as error:  # left half done by a sampler that died, or not made yet
        log.debug("why.bars", feed=feed.name, error=str(error))
        return BarsFacts(series.name, behind_rows=behind)
    slots = slots[slots["state"] != BarState.FORMING]
    if not len(slots):
        return BarsFacts(series.name, behind_rows=behind)
    newest = slots[-1]
    return BarsFacts(series.name, BarState(int(newest["state"])).name.lower(), int(newest["open_ns"]), behind)


async def _venue_facts(gateway: Gateway, feed: str, fqme: str) -> VenueFacts | None:
    """Ask the feed; None if it is no live venue's, or does not answer."""
    request = RouteExplain(feed, fqme)
    try:
        return await gateway.link.request("explain", request, result=VenueFacts, timeout_s=PART_TIMEOUT_S)
    except ActorError as error:
        log.debug("why.feed", feed=feed, error=str(error))
        return None


async def _calendar_facts(market: MktPair, now_ns: int) -> dict[str, object]:
    facts: dict[str, object] = {"calendar": market.calendar}
    if market.calendar == calendars.ALWAYS:
        return facts | {"market_open": True}
    ahead_ns = now_ns + DAYS_AHEAD * 86_400 * SECOND_NS
    try:  # in a thread: where that calendar is new, it takes seconds
        spans = await trio.to_thread.run_sync(calendars.sessions, market.calendar, now_ns, ahead_ns)
    except ConfigError as error:
        log.debug("why.calendar", calendar=market.calendar, error=str(error))
        return facts
    if not spans:
        return facts | {"market_open": False}
    return facts | {"market_open": spans[0][0] == now_ns, "opens_ns": spans[0][0]}


async def _history_facts(history: HistoryManager, fqme: str) -> HistoryFacts:
    query = CoverageQuery(fqme, STORED_PERIOD, None, None)
    with trio.move_on_after(PART_TIMEOUT_S):
        try:
            spans = await history.result(query, list[messages.CoverageSpan])
        except Refusal as refusal:
            return HistoryFacts(STORED_PERIOD, error=str(refusal))
        return history_facts(spans)
    return HistoryFacts(STORED_PERIOD, error="the history manager does not answer")


def history_facts(spans: list[messages.CoverageSpan]) -> HistoryFacts:
    """Say what is known of a series, from its first span to its last. What no span tells of is missing too."""
    if not spans:
        return HistoryFacts(STORED_PERIOD)
    missing: list[tuple[int, int]] = []
    complete_ns, reached_ns = 0, spans[0].from_ns
    for span in spans:
        if span.from_ns > reached_ns:
            missing.append((reached_ns, span.from_ns))
        if span.state in ("complete", "empty"):
            complete_ns += span.to_ns - span.from_ns
        else:
            missing.append((span.from_ns, span.to_ns))
        reached_ns = max(reached_ns, span.to_ns)
    return HistoryFacts(STORED_PERIOD, spans[0].from_ns, reached_ns, complete_ns, missing)

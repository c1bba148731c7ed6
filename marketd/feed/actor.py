"""The feed actor: one venue's data, from its source into the feed's ring.

The way of a quote begins here: ``source.run`` receives bytes (a socket, a recording, a simulator), its venue protocol
decodes and normalises them to rows, and the sink writes those to the ring and wakes whoever reads it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import trio

from backends.backend import Backend, Source, load
from backends.live import LiveConfig
from backends.recording import RecordingWriter
from backends.validate import validate_backend
from marketd.clock import SteadyClock
from marketd.errors import ConfigError, RequestRefused
from marketd.feed.pages import fetch_page
from marketd.feed.search import search
from marketd.feed.sink import FeedSink
from marketd.model import GapReason, MktPair
from marketd.observe.why import VenueFacts
from marketd.rpc.messages import FeedState, RecordResult, SearchHit
from marketd.supervise.handle import ActorHandle
from marketd.supervise.messages import (
    FeedBegin,
    FeedDeclare,
    FeedDemand,
    FeedFind,
    FeedOutage,
    FeedPage,
    FeedRecord,
    FeedReport,
    FeedSearch,
    FeedSpec,
    PageResult,
)

if TYPE_CHECKING:
    from marketd.feed.venue import VenueSource

BEAT_S = 0.5
PREPARE_TIMEOUT_S = 8.0
SHOWN_MAX = 20

log = structlog.get_logger("marketd.feed")


async def run_feed(actor: ActorHandle) -> None:
    """Run one feed until asked to stop."""
    spec = actor.config(FeedSpec)
    # In a thread: on a busy machine it takes seconds, and the pulses must go on.
    backend = await trio.to_thread.run_sync(load, spec.backend)
    if backend.open_venues is not None:
        await trio.to_thread.run_sync(importlib.import_module, "marketd.feed.venue")
    refuse_invalid(backend)
    clock = SteadyClock()
    live = open_venue(backend, spec, clock) if backend.open_venues is not None else None
    source = live or open_source(backend, spec.settings, clock)
    feed = Feed(spec, source, clock, recorded=backend.recorded)
    with feed.sink:
        feed.note_predecessor()
        actor.statistics(feed.report)
        actor.link.handle("search", FeedSearch, feed.search)
        actor.link.handle("record", FeedRecord, feed.record)
        actor.link.handle("begin", FeedBegin, feed.begin)
        actor.link.handle("outage", FeedOutage, feed.outage)
        if live is None:
            await actor.ready()
        log.debug("feed.started", feed=spec.name, backend=spec.backend, url=source.url, cursor=feed.sink.cursor)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.beat)
            nursery.start_soon(_cancel_when, actor.stopping, nursery.cancel_scope)
            if live is not None:
                feed.watch(live)
                actor.link.handle("demand", FeedDemand, feed.demand)
                actor.link.handle("declare", FeedDeclare, feed.declare)
                actor.link.handle("find", FeedFind, feed.find)
                actor.link.handle("page", FeedPage, feed.page)
                actor.link.handle("explain", str, feed.explain)
                nursery.start_soon(_be_ready, actor, live.prepared)
            await source.run(feed.sink)
            feed.finish()
            await actor.link.notify("finished", feed.report())
            await trio.sleep_forever()


def refuse_invalid(backend: Backend) -> None:
    """Tell a backend's author everything that is wrong with its declaration, in one go.

    Raises:
        ConfigError: there is something; each problem has its own line in the log.
    """
    problems = validate_backend(backend)
    for problem in problems:
        log.error("backend.invalid", problem=problem)
    if problems:
        raise ConfigError(f"the backend {backend.name!r} has {len(problems)} problems; the first: {problems[0]}")


async def _be_ready(actor: ActorHandle, prepared: trio.Event) -> None:
    """Let clients in when the instruments are known, so that they find them; but not never."""
    with trio.move_on_after(PREPARE_TIMEOUT_S):
        await prepared.wait()
    await actor.ready()


def open_venue(backend: Backend, spec: FeedSpec, clock: SteadyClock) -> VenueSource:
    """Make a live venue's source.

    Raises:
        ConfigError: the feed's table does not fit the backend.
    """
    from marketd.feed.venue import VenueSource  # with all of HTTP and websockets, which only live feeds need

    assert backend.open_venues is not None
    try:
        config = msgspec.convert(spec.settings, backend.config)
        assert isinstance(config, LiveConfig)
        return VenueSource(
            backend.open_venues(config),
            config,
            clock,
            state_path=Path(spec.state_path) if spec.state_path else None,
            cache_path=Path(spec.cache_path) if spec.cache_path else None,
        )
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings of the backend {backend.name!r}: {error}") from error


def open_source(backend: Backend, settings: dict[str, Any], clock: SteadyClock) -> Source:
    """Make a feed's source from its table in the configuration.

    Raises:
        ConfigError: the backend has no live source, or the table does not fit it.
    """
    if backend.open_source is None:
        raise ConfigError(f"the backend {backend.name!r} has no live feed in this version: it plays through `replay`")
    try:
        return backend.open_source(msgspec.convert(settings, backend.config), clock)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings of the backend {backend.name!r}: {error}") from error


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class Feed:
    """What the supervisor can ask of a feed while its source runs."""

    def __init__(self, spec: FeedSpec, source: Source, clock: SteadyClock, *, recorded: bool = False) -> None:
        self.spec = spec
        self.source = source
        self._clock = clock
        self.sink = FeedSink(spec, recorded=recorded)
        self.state: FeedState = "live"
        self._live: VenueSource | None = None
        self._reached = False
        self._log = structlog.get_logger(f"marketd.feed.{spec.name}")
        if spec.begun:
            source.begin()

    def note_predecessor(self) -> None:
        """Put a gap row where a predecessor's rows end: what the venue said in between is not here."""
        if not self.sink.succeeds:
            return
        from_ns = self.sink.last_received_ns
        to_ns = max(from_ns, self.source.now_ns())
        self.sink.gap(0, GapReason.RESTART, from_ns, to_ns)
        self.sink.forget_qualities()
        self.sink.publish()
        self._log.warning("feed.succeeds", from_ns=from_ns, to_ns=to_ns)

    def finish(self) -> None:
        """Note that the source has ended and that no row will ever follow."""
        self.sink.publish()
        self.sink.tally()
        self.state = "finished"
        self._log.info("feed.finished", rows=self.sink.rows_by_kind, messages=self.source.counts().flat())

    def report(self) -> FeedReport:
        """Count what has come so far."""
        self.sink.tally()
        meters, venue = self.sink.meters, None if self._live is None else self._live.report()
        self._reached = self._reached or venue is None or venue.reached
        return FeedReport(
            state=self.state,
            instruments=self.sink.instruments,
            rows_by_kind=dict(self.sink.rows_by_kind),
            messages=self.source.counts().flat(),
            gaps=self.sink.rows_by_kind.get("gap", 0),
            last_event_ns=self.sink.last_event_ns,
            last_received_ns=self.sink.last_received_ns,
            detail="" if venue is None else venue.trouble(self.source.now_ns()),
            reached=self._reached,
            quiet=self.source.quiet(),
            gaps_by_reason=dict(meters.gaps_by_reason),
            rows_per_s=meters.rows_per_s(),
            lag_ms=meters.lag_ms(),
            qualities=self.sink.qualities(),
            venue=None if venue is None else venue.status(),
            clock=None if venue is None else meters.clock(),
            event_lag=meters.event_lag.report(),
            publish_lag=meters.publish_lag.report(),
        )

    def watch(self, live: VenueSource) -> None:
        """Report how a live venue's connections are, and pass on what clients want of it."""
        self._live = live
        self.sink.meters.server_times = live.server_times

    async def demand(self, request: FeedDemand) -> None:
        """Note what somebody wants of a live feed."""
        if self._live is not None:
            self._live.demand(request.owner, request.names)

    async def declare(self, request: FeedDeclare) -> None:
        """Carry what the configuration says from now on, and no more what it said before."""
        if self._live is not None:
            self._live.declare(request.instruments)
            self._log.info(
                "instruments.declared", names=request.instruments[:SHOWN_MAX], count=len(request.instruments)
            )

    async def find(self, request: FeedFind) -> list[MktPair]:
        """Look instruments up in a live venue's list; with ``carry``, let the table have them."""
        assert self._live is not None
        found = [market for name in request.names if (market := self._live.find(name)) is not None]
        if request.carry:
            for market in found:
                self.sink.instrument(market)
        return found

    async def explain(self, fqme: str) -> VenueFacts:
        """Say what is known of one instrument."""
        assert self._live is not None
        return self._live.explain(fqme)

    async def page(self, request: FeedPage) -> PageResult:
        """Ask a live venue for a page of the past, after everything else that is asked of it."""
        assert self._live is not None
        return await fetch_page(self._live, request)

    async def beat(self) -> None:
        """Show readers of the ring that its writer lives, and look whether the clock was set."""
        while True:
            self.sink.beat(self._clock.now_ns())
            self._clock.witness(self.sink.last_event_ns)
            await trio.sleep(BEAT_S)

    async def search(self, request: FeedSearch) -> list[SearchHit]:
        """Find instruments by words or glob, the best first."""
        hits = search(self.source.search_space(), request.text, request.limit, self.spec.name)
        self._log.debug("search.complete", text=request.text, hits=len(hits))
        return hits

    async def record(self, request: FeedRecord) -> RecordResult:
        """Write the venue's raw traffic to a file for a while."""
        if self.sink.recording:
            raise RequestRefused("unavailable", f"the feed {self.spec.name!r} is being recorded already")
        if not self.source.url:
            raise RequestRefused("unavailable", f"the feed {self.spec.name!r} plays saved trades: it has no traffic")
        path = Path(self.spec.recordings_path) / f"{request.name}.ws"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            recorder = RecordingWriter(path, self.source.url, self.source.now_ns())
        except FileExistsError:
            raise RequestRefused("invalid_params", f"there is a recording {request.name!r} already: {path}") from None
        self.sink.start_recording(recorder)
        self._log.info("record.started", path=str(path), duration_s=request.duration_s)
        try:
            await trio.sleep(request.duration_s)
        finally:
            self.sink.stop_recording()
        self._log.info("record.complete", path=str(path), messages=recorder.messages)
        return RecordResult(path=str(path), messages=recorder.messages, bytes=path.stat().st_size)

    async def begin(self, _: FeedBegin) -> None:
        """Somebody has subscribed."""
        self.source.begin()

    async def outage(self, request: FeedOutage) -> None:
        """Let a simulated venue go away for a while."""
        self.source.outage(request.duration_s)

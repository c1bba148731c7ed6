"""The feed actor: one venue's data, from its source into the feed's ring.

The way of a quote begins here: ``source.run`` receives bytes (a socket, a recording, a simulator), its venue protocol
decodes and normalises them to rows, and the sink writes those to the ring and wakes whoever reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from backends.backend import Backend, Source, load
from backends.recording import RecordingWriter
from backends.validate import validate_backend
from marketd.clock import SystemClock
from marketd.errors import ConfigError, RequestRefused
from marketd.feed.search import search
from marketd.feed.sink import FeedSink
from marketd.model import GapReason
from marketd.rpc.messages import FeedState, RecordResult, SearchHit
from marketd.supervise.handle import ActorHandle
from marketd.supervise.messages import FeedBegin, FeedOutage, FeedRecord, FeedReport, FeedSearch, FeedSpec

BEAT_S = 0.5

log = structlog.get_logger("marketd.feed")


async def run_feed(actor: ActorHandle) -> None:
    """Run one feed until asked to stop."""
    spec = actor.config(FeedSpec)
    backend = load(spec.backend)
    refuse_invalid(backend)
    source = open_source(backend, spec.settings)
    feed = Feed(spec, source)
    with feed.sink:
        feed.note_predecessor()
        actor.statistics(feed.report)
        actor.link.handle("search", FeedSearch, feed.search)
        actor.link.handle("record", FeedRecord, feed.record)
        actor.link.handle("begin", FeedBegin, feed.begin)
        actor.link.handle("outage", FeedOutage, feed.outage)
        await actor.ready()
        log.debug("feed.started", feed=spec.name, backend=spec.backend, url=source.url, cursor=feed.sink.cursor)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.beat)
            nursery.start_soon(_cancel_when, actor.stopping, nursery.cancel_scope)
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


def open_source(backend: Backend, settings: dict[str, Any]) -> Source:
    """Make a feed's source from its table in the configuration.

    Raises:
        ConfigError: the backend has no live source, or the table does not fit it.
    """
    if backend.open_source is None:
        raise ConfigError(f"the backend {backend.name!r} has no live feed in this version: it plays through `replay`")
    try:
        return backend.open_source(msgspec.convert(settings, backend.config), SystemClock())
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings of the backend {backend.name!r}: {error}") from error


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class Feed:
    """What the supervisor can ask of a feed while its source runs."""

    def __init__(self, spec: FeedSpec, source: Source) -> None:
        self.spec = spec
        self.source = source
        self.sink = FeedSink(spec)
        self.state: FeedState = "live"
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
        return FeedReport(
            state=self.state,
            instruments=self.sink.instruments,
            rows_by_kind=dict(self.sink.rows_by_kind),
            messages=self.source.counts().flat(),
            gaps=self.sink.rows_by_kind.get("gap", 0),
            last_event_ns=self.sink.last_event_ns,
            last_received_ns=self.sink.last_received_ns,
        )

    async def beat(self) -> None:
        """Show readers of the ring that its writer lives."""
        while True:
            self.sink.beat()
            await trio.sleep(BEAT_S)

    async def search(self, request: FeedSearch) -> list[SearchHit]:
        """Find instruments by words or glob, the best first."""
        return search(self.source.search_space(), request.text, request.limit, self.spec.name)

    async def record(self, request: FeedRecord) -> RecordResult:
        """Write the venue's raw traffic to a file for a while."""
        if self.sink.recording:
            raise RequestRefused("unavailable", f"the feed {self.spec.name!r} is being recorded already")
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

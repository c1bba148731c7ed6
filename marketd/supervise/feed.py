"""A feed as the supervisor knows it: its service, its segments, and the sum of its lives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from backends import backend as backends
from marketd.errors import SegmentError
from marketd.observe.histogram import HistogramReport
from marketd.ring.reader import RingReader
from marketd.rpc.messages import FeedState, FeedStatus, VenueClock
from marketd.supervise.messages import ActorSpec, FeedInfo, FeedReport
from marketd.supervise.reports import sum_reports
from marketd.supervise.segments import make_segments, series_of, sweep
from marketd.supervise.service import Service
from marketd.supervise.specs import feed_spec

if TYPE_CHECKING:
    from marketd.config import Config
    from marketd.paths import Paths
    from marketd.supervise.link import Link


class FeedService:
    """See the module.

    Args:
        name: the feed's.
        config: says what holds now; it may be another one later.
        paths: where its segments are; what is not there is made as soon as there is room for it.
        changed: called when its state has changed.
    """

    def __init__(self, name: str, config: Callable[[], Config], paths: Paths, changed: Callable[[], None]) -> None:
        self.name = name
        self.backend: str = config().feeds[name]["backend"]
        self.live_venue = backends.load(self.backend).open_venues is not None
        self.begun = False
        self.told_to_begin = False
        self.demanded: list[str] = []  # full names that clients want
        self.told_demand: list[str] = []
        self.finished = trio.Event()
        self._paths = paths
        self._config = config
        self._changed = changed
        ring = paths.segment(name, "ring")
        self._reader = RingReader(ring) if ring.exists() else None
        self._past: list[FeedReport] = []  # the last report of each life that is over
        self._present: FeedReport | None = None
        self._final: FeedReport | None = None  # of a present life whose source has ended: newer than any pulse
        self.service = Service(f"feed.{name}", self._spec, self._handlers, changed, prepare=self._find_room)

    @property
    def has_room(self) -> bool:
        """Whether its segments are there."""
        return self._reader is not None

    def _find_room(self) -> None:
        """Make its segments, if they are not there. Raises SegmentError: there is no room."""
        if self._reader is not None:
            return
        try:
            make_segments(self._config(), self._paths, self.name)
            self._reader = RingReader(self._paths.segment(self.name, "ring"))
        except SegmentError:
            with contextlib.suppress(OSError):  # without descriptors there is no looking; it will be tried again
                sweep(self._paths, self.name)
            raise
        self._changed()

    def _spec(self) -> ActorSpec:
        self._bury_report()
        self.told_to_begin = self.begun
        self.told_demand = []
        return feed_spec(self._config(), self._paths, self.name, begun=self.begun)

    def _handlers(self, link: Link) -> None:
        async def finished(report: FeedReport) -> None:
            self._final = report
            self.finished.set()
            self._changed()

        link.handle("finished", FeedReport, finished)

    def _bury_report(self) -> None:
        report = self._report()
        if report is not None:
            self._past.append(report)
            self._past = [sum_reports(self._past)]
        self._present = self._final = None

    def _report(self) -> FeedReport | None:
        """The newest report of the present life."""
        if self._final is not None:
            return self._final
        self._present = self.service.report(FeedReport) or self._present
        return self._present

    @property
    def state(self) -> FeedState:
        """``finished`` once its source has ended, else what its service says."""
        return "finished" if self._final is not None and self.service.state == "live" else self.service.state

    @property
    def unreached(self) -> str | None:
        """Why it has not reached its venue in this life, though it is live; None if it has."""
        report = self._report()
        return report.detail if self.state == "live" and report is not None and not report.reached else None

    @property
    def quiet(self) -> bool:
        """Whether it has said why nothing comes."""
        report = self._report()
        return report is not None and report.quiet

    def info(self) -> FeedInfo:
        """What a gateway and the sampler need to read it, once it has room."""
        assert self._reader is not None
        path = self._paths.segment
        return FeedInfo(
            name=self.name,
            backend=self.backend,
            ring_path=str(path(self.name, "ring")),
            table_path=str(path(self.name, "table")),
            bells_path=str(path(self.name, "bells")),
            state=self.state,
            detail=self.service.detail,
            recorded=backends.load(self.backend).recorded,
            series=series_of(self._config().bars, self.name, self._paths),
            steps_path=str(path(self.name, "steps")),
            steps_bells_path=str(path(self.name, "steps-bells")),
            epoch=self._reader.epoch,
            epochs_path=str(self._paths.epochs(self.name)),
        )

    def status(self, bars: dict[str, int]) -> FeedStatus:
        """What an operator wants to know of it; ``bars`` is what the sampler has counted."""
        total = self._total()
        return FeedStatus(
            name=self.name,
            backend=self.backend,
            state=self.state,
            instruments=total.instruments,
            epoch=0 if self._reader is None else self._reader.epoch,
            cursor=0 if self._reader is None else self._reader.published,
            ring_rows=0 if self._reader is None else self._reader.rows,
            gaps=total.gaps,
            rows_by_kind=total.rows_by_kind,
            messages=total.messages,
            last_event_ns=total.last_event_ns,
            last_received_ns=total.last_received_ns,
            detail=self.service.detail or total.detail,
            bars=bars,
            gaps_by_reason=total.gaps_by_reason,
            rows_per_s=total.rows_per_s,
            lag_ms=total.lag_ms,
            qualities=total.qualities,
            venue=total.venue,
            clock=total.clock,
        )

    @property
    def clock(self) -> VenueClock | None:
        """What it knows of its venue's clock."""
        return self._total().clock

    @property
    def last_event_ns(self) -> int:
        """The venue's time of its newest event."""
        return self._total().last_event_ns

    def delays(self) -> tuple[HistogramReport, HistogramReport]:
        """From the venue's time of events to ours, and from then until readers could see them."""
        total = self._total()
        return total.event_lag, total.publish_lag

    def behind(self, cursor: int) -> int:
        """How many rows its ring has after this one."""
        return 0 if self._reader is None else max(0, self._reader.published - cursor)

    def _total(self) -> FeedReport:
        """The sum of its lives."""
        report = self._report()
        return sum_reports([*self._past, report] if report is not None else self._past)

    async def stop(self, why: str = "") -> None:
        """Stop its actor, and keep what that has reported."""
        self._report()
        await self.service.stop(why)
        self.finished.set()

    async def retire(self, why: str) -> None:
        """Stop its actor for good."""
        await self.service.retire(why)
        self.finished.set()

    def close(self) -> None:
        """Let go of its segments."""
        if self._reader is not None:
            self._reader.close()

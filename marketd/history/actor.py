"""The history manager: what came out live goes to disk, and what is missing there is asked of the venues.

    step ring -> LiveBars (live.py) -> keeping.py -> the store
    coverage -> paging.py -> the feed's page -> keeping.py -> the store

For each feed one task follows its bars, one writes what has come out, and one asks for what is missing, newest first, a
page at a time, each on disk before the next is asked for. What is known of each series is in its ledger: this process
may be killed at any time, and its successor goes on from there.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog
import trio

from marketd.clock import SteadyClock
from marketd.errors import ActorError, SegmentError
from marketd.fqme import is_glob
from marketd.history.feed import FeedHistory
from marketd.history.live import LiveBars
from marketd.history.names import Names
from marketd.history.progress import Progress
from marketd.history.recorder import Recorder
from marketd.history.serve import serve
from marketd.history.tick_reading import Recent, TickView, read_log_of, read_ring_of, view_of
from marketd.periods import DAY_NS
from marketd.ring.reader import RingReader
from marketd.ring.table import TableReader
from marketd.rpc.messages import HistoryStatus
from marketd.supervise.epochs import read_ends
from marketd.supervise.handle import ActorHandle
from marketd.supervise.link import Link
from marketd.supervise.messages import (
    ROUTE_S,
    FeedInfo,
    FeedPage,
    FilledBars,
    FilledRange,
    HistorySpec,
    PageResult,
    RoutePage,
)
from marketd.trouble import Unreadable
from storage.client import StorageClient, open_storage_client
from storage.layout import Series
from storage.names import LOG

TEND_EVERY_S = 3600.0
VERIFY_EVERY = 24
MATCH_EVERY_S = 5.0

log = structlog.get_logger("marketd.history")


async def run_history(actor: ActorHandle) -> None:
    """Keep history until asked to stop; then write what is not on disk yet."""
    spec = actor.config(HistorySpec)
    with open_storage_client(Path(spec.store_path)) as store, contextlib.ExitStack() as stack:
        history = History(spec, store, actor.link)
        stack.callback(history.close)
        actor.statistics(history.report)
        actor.trouble(history.troubles, history.unreadable)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(history.progress.keep_backfill)
            nursery.start_soon(history.progress.keep_store)
            nursery.start_soon(history.keep_matched)
            for info in spec.feeds:
                history.attach(info, nursery)
            actor.link.handle("feeds_changed", list[FeedInfo], partial(history.take_feeds, nursery))
            nursery.start_soon(serve, Path(spec.socket_path), history, actor.ready)
            await actor.stopping.wait()
            nursery.cancel_scope.cancel()
        for feed in history.feeds.values():
            await feed.flush(last=True)
        for recorder in history.recorders.values():
            await recorder.finish()


@dataclass(frozen=True)
class Working:
    """What is done for one feed: how to end it, and whether it has ended."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    over: trio.Event = field(default_factory=trio.Event)


class History:
    """See the module.

    Attributes:
        feeds: those that have bars and are not recordings, by name.
        recorders: of those whose ticks are stored.
        unreadable: feeds that could not be attached to.
        progress: what is left to do, and how large the store is.
        store: where everything is kept.
        periods: of the bars that are stored.
    """

    def __init__(self, spec: HistorySpec, store: StorageClient, link: Link) -> None:
        self.feeds: dict[str, FeedHistory] = {}
        self.recorders: dict[str, Recorder] = {}
        self.progress = Progress(self.feeds, Path(spec.store_path))
        self._infos: dict[str, FeedInfo] = {}
        self._tables: dict[str, Names] = {}
        self._working: dict[str, Working] = {}
        self.store = store
        self.periods = spec.periods
        self._spec = spec
        self._link = link
        self._clock = SteadyClock()
        self.unreadable = Unreadable(log, "history.unreadable", "history.readable")
        self._unmatched: list[str] = []  # names of ticks to be recorded that no feed has

    def attach(self, info: FeedInfo, nursery: trio.Nursery) -> None:
        """Attach to a feed's segments, and keep its history. One that can't be is left out, and said so, until it is
        announced again."""
        if info.recorded:
            return
        try:
            with contextlib.ExitStack() as stack:
                table = stack.enter_context(closing(TableReader(Path(info.table_path))))
                live = LiveBars(info, self._spec.periods) if info.series else None
                if live is not None:
                    stack.callback(live.close)
                if self._spec.record_ticks:
                    self._attach_ticks(info)
                stack.pop_all()
        except SegmentError as error:
            self.unreadable.note(info.name, error)
            return
        self.unreadable.forget(info.name)
        self._tables[info.name] = Names(table)
        self._infos[info.name] = info
        if live is not None:
            self._attach_bars(info, live)
        working = self._working[info.name] = Working()
        nursery.start_soon(self._keep, info.name, working)

    async def _keep(self, name: str, working: Working) -> None:
        """Do all that there is to do for a feed, until it has gone."""
        feed, recorder = self.feeds.get(name), self.recorders.get(name)
        with working.scope:
            async with trio.open_nursery() as nursery:
                if recorder is not None:
                    nursery.start_soon(recorder.run)
                if feed is not None:
                    nursery.start_soon(feed.live.follow)
                    nursery.start_soon(self.keep_flushed, feed)
                    nursery.start_soon(self.keep_tended, feed)
                    if feed.can_ask:
                        nursery.start_soon(feed.backfill)
                        nursery.start_soon(self.keep_verified, feed)
        working.over.set()

    async def _detach(self, name: str) -> None:
        """Write what has come out of a feed that has gone, and let go of its segments."""
        feed, recorder = self.feeds.pop(name, None), self.recorders.pop(name, None)
        table, working = self._tables.pop(name, None), self._working.pop(name)
        del self._infos[name]
        working.scope.cancel()
        await working.over.wait()
        if feed is not None:
            await feed.flush(last=True)
            feed.live.close()
        if recorder is not None:
            await recorder.finish()
        if table is not None:
            table.table.close()

    def _attach_bars(self, info: FeedInfo, live: LiveBars) -> None:
        depth_ns = round(self._spec.depth_days * DAY_NS)
        self.feeds[info.name] = FeedHistory(
            info, live, self.store, self._asker(info.name), self._fill, self._clock, depth_ns, self._announce
        )

    def _attach_ticks(self, info: FeedInfo) -> None:
        wanted, flush_s = self._spec.record_ticks, self._spec.flush_s
        self.recorders[info.name] = Recorder(
            info,
            self.log_of(info.name),
            self.store,
            wanted,
            flush_s,
            self._clock,
            file_s=self._spec.file_ticks_s,
            kept_bytes=self._spec.replay_bytes,
        )

    def log_of(self, feed: str) -> Path:
        """The folder of the log of a feed's ticks."""
        return Path(self._spec.store_path) / LOG / feed

    def ends_of(self, feed: str) -> dict[int, int]:
        """The last cursors of the epochs of a feed's ring, as far as they are known."""
        return read_ends(Path(self._infos[feed].epochs_path))

    def close(self) -> None:
        """Let go of all segments."""
        for feed in self.feeds.values():
            feed.live.close()
        for recorder in self.recorders.values():
            recorder.close()
        for names in self._tables.values():
            names.table.close()

    async def keep_flushed(self, feed: FeedHistory) -> None:
        """Write what has come out, again and again."""
        while True:
            await feed.flush()
            await trio.sleep(self._spec.flush_s)

    async def keep_tended(self, feed: FeedHistory) -> None:
        """Put small files together now and then; and at the start and once a day, look whether any is damaged."""
        for hour in itertools.count():
            await feed.tend(verify=hour % VERIFY_EVERY == 0)
            await trio.sleep(TEND_EVERY_S)

    async def keep_verified(self, feed: FeedHistory) -> None:
        """Compare something that is stored with the venue's own bars, now and then."""
        while self._spec.verify_every_s > 0:
            await trio.sleep(self._spec.verify_every_s)
            await feed.verify()

    async def take_feeds(self, nursery: trio.Nursery, infos: list[FeedInfo]) -> None:
        """Take over the supervisor's list: feeds come and go; and which of them can be asked now."""
        epochs = {info.name: info.epoch for info in infos}
        self.unreadable.keep(epochs)
        for name, known in list(self._infos.items()):
            if epochs.get(name) != known.epoch:
                await self._detach(name)
        for info in infos:
            if info.name not in self._infos:
                self.attach(info, nursery)
                continue
            self._infos[info.name] = info
            if info.name in self.recorders:
                self.recorders[info.name].info = info
            if info.name in self.feeds:
                self.feeds[info.name].info = info
                self.feeds[info.name].wake()

    def find(self, fqme: str) -> tuple[FeedHistory, int] | None:
        """Look an instrument up in the feeds' tables."""
        for feed in self.feeds.values():
            if (instrument := feed.live.find(fqme)) is not None:
                return feed, instrument
        return None

    def sources(self, fqme: str) -> tuple[str, list[tuple[FeedInfo, int]]]:
        """Return an instrument's name as the feeds write it, and those that carry it with its ids there."""
        found = [(name, tables.find(fqme)) for name, tables in self._tables.items()]
        carried = [(self._infos[name], instrument) for name, instrument in found if instrument is not None]
        if carried:
            info, instrument = carried[0]
            fqme = self._tables[info.name].table.fqme(instrument)
        return fqme, carried

    def tick_view(self, series: Series, carried: list[tuple[FeedInfo, int]]) -> TickView | None:
        """Find all ticks of an instrument; None if there are none. Blocks.

        Raises:
            StorageError, SegmentError: what is held can't be read.
        """
        ids = {info.name: (info, instrument) for info, instrument in carried}
        recents: list[Recent] = []
        for name in list(self._infos):
            logged, place = read_log_of(self.log_of(name), series.fqme)
            if logged.spans:
                recents.append(logged)
            if name not in ids:
                continue
            info, instrument = ids[name]
            with contextlib.closing(RingReader(Path(info.ring_path))) as ring:
                goes_on = place is not None and place.epoch == ring.epoch and bool(logged.spans)
                cursor, since_ns = (place.cursor, place.at_ns) if place is not None and goes_on else (0, 0)
                recents.append(read_ring_of(ring, instrument, cursor, since_ns, self._clock.now_ns()))
        if not recents and not self.store.span(series):
            return None
        return view_of(self.store, series, recents)

    def report(self) -> HistoryStatus:
        """What every pulse tells."""
        feeds = self.feeds.values()
        return HistoryStatus(
            series=sum(len(feed.stored) for feed in feeds),
            bars=sum(feed.bars for feed in feeds),
            pages=sum(feed.pages for feed in feeds),
            pages_failed=sum(feed.pages_failed for feed in feeds),
            verified=sum(feed.verified for feed in feeds),
            differing=sum(feed.differing for feed in feeds),
            trouble=self._troubles(),
            backfill=self.progress.backfill,
            store=self.progress.store,
        )

    def troubles(self) -> list[str]:
        """What is not kept at the moment, and why."""
        return [f"{name}: {text}" for name, text in self._troubles().items()]

    def _troubles(self) -> dict[str, str]:
        """Say by feed why its ticks or bars are not stored, or its pages do not come, and which names no feed has."""
        every: list[tuple[str, Recorder | FeedHistory]] = [*self.recorders.items(), *self.feeds.items()]
        texts = {name: [one.trouble for owner, one in every if owner == name and one.trouble] for name, _ in every}
        found = {name: "; ".join(dict.fromkeys(told)) for name, told in texts.items() if told}
        if self._unmatched:
            found["record_ticks"] = f"no feed has {', '.join(self._unmatched)}"
        return found

    async def keep_matched(self) -> None:
        """Look again and again whether there is an instrument of each name that `record_ticks` has."""
        suspected: list[str] = []
        while True:
            await trio.sleep(MATCH_EVERY_S)
            names = [text for text in self._spec.record_ticks if not is_glob(text)]
            settled = all(info.state == "live" for info in self._infos.values())
            unmatched = [text for text in names if not any(one.records(text) for one in self.recorders.values())]
            before, self._unmatched = self._unmatched, [text for text in unmatched if text in suspected]
            if new := [text for text in self._unmatched if text not in before]:
                log.warning("ticks.unknown_names", names=new)
            if settled:  # a feed that is live by now may yet have its instruments to learn
                suspected = unmatched

    async def _fill(self, told: FilledBars) -> None:
        with contextlib.suppress(ActorError):  # then the supervisor is gone, and so are we in a moment
            await self._link.notify("fill", told)

    async def _announce(self, told: FilledRange) -> None:
        with contextlib.suppress(ActorError):
            await self._link.notify("filled", told)

    def _asker(self, feed: str) -> Callable[[FeedPage], Awaitable[PageResult]]:
        async def ask(page: FeedPage) -> PageResult:
            timeout_s = page.timeout_s + 2 * ROUTE_S
            try:
                return await self._link.request("page", RoutePage(feed, page), result=PageResult, timeout_s=timeout_s)
            except ActorError as error:
                return PageResult("failed", detail=str(error))

        return ask

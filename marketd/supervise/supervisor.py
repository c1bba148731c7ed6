"""The root of the tree: starts feeds, sampler, history manager and gateway, keeps them running, and stops them all.

Start and stop on one page: :func:`run`. What one actor may ask of another goes through here and has a deadline; the
supervisor itself waits for nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial, reduce

import msgspec
import structlog
import trio

from backends import backend as backends
from marketd import __version__
from marketd.clock import SteadyClock, SystemClock
from marketd.config import Config
from marketd.errors import ActorError, RequestRefused
from marketd.gateway.totals import add
from marketd.model import MktPair
from marketd.observe.histogram import merged
from marketd.observe.stacks import prepare
from marketd.observe.vitals import VitalsWatch
from marketd.paths import Paths
from marketd.rpc.messages import (
    BackendInfo,
    FeedStatus,
    HistoryStatus,
    RecordResult,
    SearchHit,
    Served,
    StatusResult,
)
from marketd.supervise.activation import PassedSocket
from marketd.supervise.actor import Child, Tree, open_tree
from marketd.supervise.admin import ROOT, Admin
from marketd.supervise.announce import Announcer
from marketd.supervise.clocks import ClockWatch
from marketd.supervise.dump import collect
from marketd.supervise.epochs import note_ends
from marketd.supervise.feed import FeedService
from marketd.supervise.handle import PULSE_S, configure_log
from marketd.supervise.levels import LogLevels
from marketd.supervise.link import Link
from marketd.supervise.messages import (
    ROUTE_S,
    DebugParts,
    Demand,
    FeedBegin,
    FeedDemand,
    FeedFind,
    FeedInfo,
    FeedRecord,
    FeedSearch,
    FilledBars,
    FilledRange,
    Found,
    GatewayReady,
    GatewayReport,
    Measures,
    RouteExplain,
    RouteFind,
    RoutePage,
    RouteRecord,
    RouteSearch,
    SamplerReport,
)
from marketd.supervise.notify import Notifier
from marketd.supervise.progress import ActorLook, FeedLook, Look
from marketd.supervise.readiness import problems as readiness_problems
from marketd.supervise.reloader import Loaded, Reloader
from marketd.supervise.segments import instance_lock, open_segments, sweep
from marketd.supervise.service import Service, actor_status
from marketd.supervise.specs import (
    gateway_name,
    gateway_spec,
    history_spec,
    log_spec,
    sampler_spec,
    stores_history,
)

GATEWAY_GRACE_S = 1.6
HISTORY_GRACE_S = 5.0  # to write what is not on disk yet
SEARCH_TIMEOUT_S = 5.0
NOTIFY_TIMEOUT_S = 1.0
TELL_AGAIN_S = 1.0
CLOCKS_S = 2.0  # between two looks at what the feeds say of their venues' clocks
FIND_TIMEOUT_S = 3.0
SETTLE_TIMEOUT_S = 10.0

log = structlog.get_logger("marketd.supervise")


async def run(
    config: Config,
    paths: Paths,
    *,
    on_ready: Callable[[list[str]], None] | None = None,
    exit_when_done: bool = False,
    read_again: Callable[[], Loaded] | None = None,
    notifier: Notifier | None = None,
    passed: Sequence[PassedSocket] = (),
) -> list[FeedStatus]:
    """Run the daemon until SIGINT, SIGTERM or, with ``exit_when_done``, until every feed's source has ended.

    Args:
        config: the whole configuration.
        paths: the instance's folders.
        on_ready: called once with the addresses that clients can connect to.
        exit_when_done: for replays.
        read_again: reads the configuration as it is by then, and says from where; in a thread, for each SIGHUP and
            request to reload. None where there is no file: then SIGHUP ends the daemon, as SIGTERM does.
        notifier: to the service manager, if there is one.
        passed: sockets that it has opened; the configuration names their addresses.

    Returns:
        The last status of each feed.

    Raises:
        InstanceRunningError: a daemon of this instance runs already.
        SegmentError: there is no room for the rings.
    """
    notifier = notifier or Notifier()
    paths.create()
    prepare()
    levels = LogLevels(log_spec(config))
    with instance_lock(paths, config.instance), open_segments(config, paths), _announcement(paths):
        async with open_tree(config.instance, levels.of) as tree:
            supervisor = Supervisor(config, paths, levels, on_ready, notifier, passed)
            announcer = Announcer(notifier, supervisor.look, supervisor.status)
            reloader = Reloader(supervisor, read_again)
            supervisor.admit(Admin(supervisor, reloader))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.stop_on_signal)
                nursery.start_soon(reloader.reload_on_signal)
                nursery.start_soon(announcer.run)
                nursery.start_soon(supervisor.watch_vitals)
                nursery.start_soon(supervisor.watch_clocks)
                nursery.start_soon(supervisor.watch_readers)
                if exit_when_done:
                    nursery.start_soon(supervisor.stop_when_finished)
                async with trio.open_nursery() as services:
                    supervisor.begin(services, tree)
                    log.info("daemon.started", instance=config.instance, version=__version__, pid=os.getpid())
                    await supervisor.stopping.wait()
                    await supervisor.stop()
                    services.cancel_scope.cancel()
                nursery.cancel_scope.cancel()
            statuses = supervisor.feed_statuses()
        note_ends(paths, [name for name, feed in supervisor.feeds.items() if feed.has_room])
    log.info("daemon.stopped", instance=config.instance)
    return statuses


@contextlib.contextmanager
def _announcement(paths: Paths) -> Iterator[None]:
    """See to it that the file of addresses is there only while somebody listens at them."""
    paths.addresses.unlink(missing_ok=True)
    try:
        yield
    finally:
        paths.addresses.unlink(missing_ok=True)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _pulse_age_s(service: Service) -> float | None:
    pulse = service.child.last_pulse if service.child is not None else None
    return None if pulse is None else time.monotonic() - pulse.received_monotonic


class Supervisor:
    """The running tree's state and what its actors may ask.

    Attributes:
        config: what holds now.
        paths: the instance's folders.
        levels: how each actor's log speaks.
        stopping: set once the daemon is to end.
        notifier: to the service manager.
        feeds: by name. ``sampler`` and ``history`` are None where they have nothing to do.
    """

    def __init__(
        self,
        config: Config,
        paths: Paths,
        levels: LogLevels | None = None,
        on_ready: Callable[[list[str]], None] | None = None,
        notifier: Notifier | None = None,
        passed: Sequence[PassedSocket] = (),
    ) -> None:
        self.stopping = trio.Event()
        self.notifier = notifier or Notifier()
        self._passed = {sock.address: sock.descriptor for sock in passed}
        self.config = config
        self.paths = paths
        self.levels = levels or LogLevels(log_spec(config))
        self._on_ready = on_ready
        self._vitals = VitalsWatch()
        self._clocks = ClockWatch()
        self._clock = SteadyClock()
        self._started_s = trio.current_time()
        self._changed = trio.Event()
        self._addresses: list[str] = []
        self.feeds = {name: self._feed_service(name) for name in config.feeds}
        self.sampler = self._sampler_service() if config.bars.periods else None
        self.history = self._history_service() if stores_history(config) else None
        self._demands: dict[int, Demand] = {}
        self._listening = trio.Event()
        self._admin: Admin | None = None
        self._nursery: trio.Nursery
        self._tree: Tree
        self.gateways = [self._gateway_service(number) for number in range(config.gateway.processes)]

    def admit(self, admin: Admin) -> None:
        """Let clients ask this one for what only an operator may want."""
        self._admin = admin

    def begin(self, nursery: trio.Nursery, tree: Tree) -> None:
        """Start everything, in this nursery."""
        self._nursery, self._tree = nursery, tree
        for feed in self.feeds.values():
            nursery.start_soon(feed.service.keep, tree)
        for service in (self.sampler, self.history):
            if service is not None:
                nursery.start_soon(service.keep, tree)
        nursery.start_soon(self.keep_gateways, tree)
        nursery.start_soon(self.tell_actors)

    @property
    def services(self) -> list[Service]:
        """All services in the order of their start."""
        others = [service for service in (self.sampler, self.history) if service is not None]
        return [*(feed.service for feed in self.feeds.values()), *others, *self.gateways]

    def in_background(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do something for which nobody waits."""
        self._nursery.start_soon(work)

    async def start(self, service: Service) -> None:
        """Start a service again that was stopped."""
        await service.start(self._nursery, self._tree)

    # --- what comes and goes with the configuration ---

    def add_feed(self, name: str) -> None:
        """Start a feed that is new in :attr:`config`, as soon as there is room for it."""
        feed = self.feeds[name] = self._feed_service(name)
        feed.begun = any(any(demand.subscriptions.values()) for demand in self._demands.values())
        self._nursery.start_soon(feed.service.keep, self._tree)
        self.feeds_changed()

    async def remove_feed(self, name: str) -> None:
        """Stop a feed for good, while it is still in :attr:`config`.

        Readers hear of it soon. Their maps of its segments last until they have let go, so the names can go at once.
        """
        feed = self.feeds[name]
        await feed.retire("no longer configured")
        if feed.has_room:
            note_ends(self.paths, [name])
        del self.feeds[name]
        feed.close()
        sweep(self.paths, name)
        self.feeds_changed()

    async def keep_history(self) -> None:
        """Start the history manager if there is something to store now, and let it go if there is not any more."""
        wanted = stores_history(self.config)
        if wanted and self.history is None:
            self.history = self._history_service()
            self._nursery.start_soon(self.history.keep, self._tree)
        elif not wanted and self.history is not None:
            service, self.history = self.history, None
            await service.retire()

    async def keep_gateways(self, tree: Tree) -> None:
        """Let clients in once every feed is live or has failed for the first time, so that names are known by then."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, self.stopping, nursery.cancel_scope)
            with trio.move_on_after(SETTLE_TIMEOUT_S):
                for feed in list(self.feeds.values()):
                    await feed.service.settled.wait()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            first, *others = self.gateways
            nursery.start_soon(first.keep, tree)
            if others:
                async with trio.open_nursery() as waiting:  # for the addresses that the first one has
                    waiting.start_soon(_cancel_when, self.stopping, waiting.cancel_scope)
                    await self._listening.wait()
                    waiting.cancel_scope.cancel()
            for gateway in others:
                nursery.start_soon(gateway.keep, tree)

    async def stop(self) -> None:
        """Stop the feeds, then who reads them; the gateway first gives its clients what the others had written."""
        self.notifier.stopping()
        async with trio.open_nursery() as nursery:
            for feed in self.feeds.values():
                nursery.start_soon(feed.stop)
        for service in (self.sampler, self.history):
            if service is not None:
                await service.stop()
        async with trio.open_nursery() as nursery:
            for gateway in self.gateways:
                nursery.start_soon(gateway.stop)

    async def stop_on_signal(self) -> None:
        """Turn the first SIGINT or SIGTERM into an orderly stop; a second one is not needed and changes nothing."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                log.info("daemon.stopping", signal=signal.Signals(number).name)
                self.stopping.set()

    async def stop_when_finished(self) -> None:
        """Stop once every feed's source has ended."""
        for feed in list(self.feeds.values()):
            await feed.finished.wait()
        self.stopping.set()

    # --- telling actors ---

    def feeds_changed(self) -> None:
        """Note that some feed has another state now, or is wanted, or that an actor is new that knows its feeds only as
        they were when its start began; whom it concerns is told soon."""
        self._changed.set()

    async def tell_actors(self) -> None:
        """After each change, tell who reads feeds their states, and those feeds to begin that wait for a client.

        Several changes may go in one message.
        """
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            for service in (*self.gateways, self.sampler, self.history):
                if service is not None:
                    # As they are by then: telling one may take a while, and what is told last has to be true.
                    await self.tell(service, "feeds_changed", self.feed_infos())
            for feed in list(self.feeds.values()):
                if feed.service.state == "live":
                    await self._tell_demand(feed)

    async def _tell_demand(self, feed: FeedService) -> None:
        """Tell a feed that is live what clients want of it, once in each of its lives and at each change."""
        if feed.begun and not feed.told_to_begin:
            feed.told_to_begin = True
            await self.tell(feed.service, "begin", FeedBegin())
        if feed.live_venue and feed.demanded != feed.told_demand:
            feed.told_demand = feed.demanded
            await self.tell(feed.service, "demand", FeedDemand("gateway", feed.demanded))

    async def tell(self, service: Service, method: str, params: object) -> None:
        """Notify one actor, if it is there. One that does not listen is found by its watch and not here."""
        if service.child is None:
            return
        with trio.move_on_after(NOTIFY_TIMEOUT_S):
            try:
                await service.child.link.notify(method, params)
            except ActorError as error:
                log.debug("notify.failed", service=service.name, method=method, error=str(error))

    async def tell_levels(self, actor: str | None = None) -> None:
        """Let one actor's log, or all, speak as :attr:`levels` says. Who does not answer will, when it is replaced."""
        if actor in (None, ROOT):
            configure_log(self.levels.of(ROOT), ROOT)
        async with trio.open_nursery() as nursery:
            for service in self.services:
                if actor in (None, service.name):
                    nursery.start_soon(self._tell_level, service)

    async def _tell_level(self, service: Service) -> None:
        if service.child is None:
            return
        spec = self.levels.of(service.name)
        try:
            await service.child.link.request("actor.log", spec, result=type(None), timeout_s=NOTIFY_TIMEOUT_S)
        except ActorError as error:
            log.warning("log.not_told", service=service.name, error=str(error))

    # --- its services ---

    def _feed_service(self, name: str) -> FeedService:
        return FeedService(name, lambda: self.config, self.paths, self.feeds_changed)

    def _sampler_service(self) -> Service:
        return Service(
            "sampler", lambda: sampler_spec(self.config, self.feed_infos()), lambda link: None, self.feeds_changed
        )

    def _history_service(self) -> Service:
        return Service(
            "history",
            lambda: history_spec(self.config, self.paths, self.feed_infos()),
            self._history_handlers,
            self.feeds_changed,
            grace_s=HISTORY_GRACE_S,
        )

    def _gateway_service(self, number: int) -> Service:
        return Service(
            gateway_name(number),
            lambda: gateway_spec(self.config, self.paths, number, self._addresses, self._passed),
            partial(self._gateway_handlers, number),
            self.feeds_changed,
            on_ready=partial(self._gateway_ready, number),
            grace_s=GATEWAY_GRACE_S,
        )

    def feed_infos(self) -> list[FeedInfo]:
        """What readers of feeds need to know of them."""
        return [feed.info() for feed in self.feeds.values() if feed.has_room]

    # --- what the history manager may ask ---

    def _history_handlers(self, link: Link) -> None:
        link.handle("page", RoutePage, self._route_page)
        link.handle("fill", FilledBars, self._route_fill)
        link.handle("filled", FilledRange, self._route_filled)

    async def _route_fill(self, told: FilledBars) -> None:
        if self.sampler is not None:
            await self.tell(self.sampler, "fill", told)

    async def _route_filled(self, told: FilledRange) -> None:
        for gateway in self.gateways:
            await self.tell(gateway, "filled", told)

    async def _route_page(self, request: RoutePage) -> msgspec.Raw:
        link = self._feed_link(request.feed)
        timeout_s = request.page.timeout_s + ROUTE_S
        return await link.request("page", request.page, result=msgspec.Raw, timeout_s=timeout_s)

    # --- what a gateway may ask ---

    def _gateway_handlers(self, number: int, link: Link) -> None:
        link.handle("feeds", None, self._answer_feeds)
        link.handle("status", None, self.status)
        link.handle("measures", None, self.measures)
        link.handle("debug", None, self.debug)
        link.handle("backends", None, self._answer_backends)
        link.handle("search", RouteSearch, self._route_search)
        link.handle("find", RouteFind, self._route_find)
        link.handle("explain", RouteExplain, self._route_explain)
        link.handle("record", RouteRecord, self._route_record)
        link.handle("demand", Demand, partial(self._note_demand, number))
        if self._admin is not None:
            self._admin.register(link, self.gateways[number])

    def _gateway_ready(self, number: int, child: Child) -> None:
        if number:
            return
        first = not self._addresses
        self._addresses = msgspec.msgpack.decode(child.info, type=GatewayReady).addresses
        self._listening.set()
        try:
            whole = self.paths.addresses.with_suffix(".new")  # whoever waits for the file must not see half of it
            whole.write_text(json.dumps(self._addresses))
            whole.replace(self.paths.addresses)
        except OSError as error:  # no reason to end a daemon that serves
            log.warning("addresses.unwritten", file=str(self.paths.addresses), error=str(error))
        log.info("daemon.ready", addresses=self._addresses)
        if first and self._on_ready is not None:
            self._on_ready(self._addresses)

    async def _answer_feeds(self) -> list[FeedInfo]:
        return self.feed_infos()

    async def _answer_backends(self) -> list[BackendInfo]:
        return [
            BackendInfo(
                name=name,
                description=backends.load(name).description,
                feeds=[feed.name for feed in self.feeds.values() if feed.backend == name],
            )
            for name in backends.NAMES
        ]

    async def _route_search(self, request: RouteSearch) -> list[SearchHit]:
        link = self._feed_link(request.feed)
        params = FeedSearch(text=request.text, limit=request.limit)
        return await link.request("search", params, result=list[SearchHit], timeout_s=SEARCH_TIMEOUT_S)

    async def _route_find(self, request: RouteFind) -> list[Found]:
        """Ask all live feeds at once; one that does not answer in time has nothing."""
        found: list[Found] = []

        async def ask(feed: FeedService, link: Link) -> None:
            params = FeedFind(request.names, request.carry)
            try:
                markets = await link.request("find", params, result=list[MktPair], timeout_s=FIND_TIMEOUT_S)
            except ActorError as error:
                log.debug("find.failed", feed=feed.name, error=str(error))
                return
            found.extend(Found(feed.name, market) for market in markets)

        async with trio.open_nursery() as nursery:
            for feed in self.feeds.values():
                if feed.live_venue and feed.service.child is not None:
                    nursery.start_soon(ask, feed, feed.service.child.link)
        return found

    async def _route_explain(self, request: RouteExplain) -> msgspec.Raw:
        link = self._feed_link(request.feed)
        return await link.request("explain", request.fqme, result=msgspec.Raw, timeout_s=FIND_TIMEOUT_S)

    async def _route_record(self, request: RouteRecord) -> RecordResult:
        link = self._feed_link(request.feed)
        params = FeedRecord(name=request.name, duration_s=request.duration_s)
        return await link.request("record", params, result=RecordResult, timeout_s=request.duration_s + 5.0)

    def _feed_link(self, name: str) -> Link:
        feed = self.feeds.get(name)
        if feed is None:
            raise RequestRefused("unknown_feed", f"there is no feed {name!r}; there are: {', '.join(self.feeds)}")
        if feed.service.child is None:
            raise RequestRefused("unavailable", f"the feed {name!r} is {feed.state} right now")
        return feed.service.child.link

    async def _note_demand(self, number: int, demand: Demand) -> None:
        """Pass on what clients want; at the first subscription of all, let the replays begin that wait for it."""
        self._demands[number] = demand
        wanted = any(demand.subscriptions.values())
        for feed in self.feeds.values():
            feed.begun = feed.begun or wanted
            feed.demanded = sorted({name for each in self._demands.values() for name in each.names.get(feed.name, [])})
        self.feeds_changed()

    # --- status ---

    async def status(self) -> StatusResult:
        """The whole daemon, from what its actors last said: nobody is waited for."""
        reports = self.gateway_reports()
        problems = self._problems(reports)
        own = actor_status(
            name=ROOT,
            state="live",
            pid=os.getpid(),
            restarts=0,
            uptime_s=trio.current_time() - self._started_s,
            vitals=self._vitals.read(),
            trouble=self._vitals.trouble,
        )
        return StatusResult(
            version=__version__,
            instance=self.config.instance,
            pid=os.getpid(),
            uptime_s=own.uptime_s,
            ready=not problems,
            now_ns=SystemClock().now_ns(),
            actors=[own, *(service.status() for service in self.services)],
            feeds=self.feed_statuses(),
            clients=[client for report in reports.values() for client in report.clients],
            history=self.history.report(HistoryStatus) if self.history is not None else None,
            served=reduce(add, (report.served for report in reports.values()), Served()),
            problems=problems,
            clock=self._clocks.status(self._clock.jumps, self._clock.ahead_ns),
        )

    async def measures(self) -> Measures:
        """The status, and what only metrics show of the last pulses."""
        delays = {feed.name: feed.delays() for feed in self.feeds.values()}
        return Measures(
            status=await self.status(),
            vitals={ROOT: self._vitals.read()} | {service.name: service.vitals for service in self.services},
            event_lag={name: event for name, (event, _) in delays.items()},
            publish_lag={name: publish for name, (_, publish) in delays.items()},
            delivery_lag=merged(report.delivery_lag for report in self.gateway_reports().values()),
            reader_lag_rows={
                reader: {
                    name: self.feeds[name].behind(cursor) for name, cursor in cursors.items() if name in self.feeds
                }
                for reader, cursors in self._read_cursors().items()
            },
        )

    async def debug(self) -> DebugParts:
        """Collect everything that helps in trouble."""
        return await collect(self.config, self.paths, {service.name: service.child for service in self.services})

    async def watch_vitals(self) -> None:
        """See how promptly our own event loop runs, for ever."""
        while True:
            await self._vitals.sleep(PULSE_S)

    async def watch_clocks(self) -> None:
        """See whether the machine's clock is right, for ever."""
        while True:
            await trio.sleep(CLOCKS_S)
            self._clock.witness(max((feed.last_event_ns for feed in self.feeds.values()), default=0))
            self._clocks.look({feed.name: feed.clock for feed in self.feeds.values()})

    async def watch_readers(self) -> None:
        """Tell of the feeds again while anybody could not attach to one, for ever."""
        while True:
            await trio.sleep(TELL_AGAIN_S)
            if any(service.lacks_feeds for service in self.services):
                self.feeds_changed()

    def feed_statuses(self) -> list[FeedStatus]:
        """What an operator wants to know of each feed."""
        report = self.sampler.report(SamplerReport) if self.sampler is not None else None
        sampled = {name: msgspec.structs.asdict(counts) for name, counts in report.feeds.items()} if report else {}
        return [feed.status(sampled.get(feed.name, {})) for feed in self.feeds.values()]

    def look(self) -> Look:
        """What tells whether the daemon does its work."""
        return Look(
            at_s=trio.current_time(),
            actors=[ActorLook(service.name, service.state, _pulse_age_s(service)) for service in self.services],
            feeds=[
                FeedLook(feed.name, feed.state, status.cursor, sum(status.messages.values()), feed.quiet)
                for feed, status in zip(self.feeds.values(), self.feed_statuses(), strict=True)
            ],
            readers=self._read_cursors(),
        )

    def _read_cursors(self) -> dict[str, dict[str, int]]:
        """How far gateways and sampler have read each feed, by reader and feed."""
        read = {name: report.cursors for name, report in self.gateway_reports().items()}
        if self.sampler is not None and (sampled := self.sampler.report(SamplerReport)):
            read[self.sampler.name] = sampled.cursors
        return read

    def gateway_reports(self) -> dict[str, GatewayReport]:
        """What each gateway has last said."""
        found = {gateway.name: gateway.report(GatewayReport) for gateway in self.gateways}
        return {name: report for name, report in found.items() if report is not None}

    def _problems(self, reports: dict[str, GatewayReport]) -> list[str]:
        """Say what keeps the daemon from being ready."""
        live = {gateway.name for gateway in self.gateways if gateway.state == "live"}
        read = {name: report.feeds for name, report in reports.items() if name in live}
        sampled = None
        if self.sampler is not None and self.sampler.state == "live" and (told := self.sampler.report(SamplerReport)):
            sampled = told.feeds
        unreached = {name: why for name, feed in self.feeds.items() if (why := feed.unreached) is not None}
        return readiness_problems(self.feed_infos(), self.services, read, sampled, unreached)

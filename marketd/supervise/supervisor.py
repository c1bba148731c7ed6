"""The root of the tree: starts feeds, sampler, history manager and gateway, keeps them running, and stops them all.

Start and stop on one page: :func:`run`. What one actor may ask of another goes through here and has a deadline; the
supervisor itself waits for nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial, reduce

import msgspec
import psutil
import structlog
import trio

from backends import backend as backends
from marketd import __version__
from marketd.clock import SystemClock
from marketd.config import Config
from marketd.errors import ActorError, RequestRefused
from marketd.gateway.totals import add
from marketd.model import MktPair
from marketd.paths import Paths
from marketd.ring.reader import RingReader
from marketd.rpc.messages import (
    ActorStatus,
    BackendInfo,
    FeedState,
    FeedStatus,
    HistoryStatus,
    RecordResult,
    SearchHit,
    Served,
    StatusResult,
)
from marketd.security.doors import TLS_PREFIX, with_tls
from marketd.supervise.actor import Child, Tree, open_tree
from marketd.supervise.epochs import note_ends
from marketd.supervise.link import Link
from marketd.supervise.messages import (
    HTTP_PREFIX,
    HTTPS_PREFIX,
    ROUTE_S,
    ActorSpec,
    Demand,
    FeedBegin,
    FeedDemand,
    FeedFind,
    FeedInfo,
    FeedRecord,
    FeedReport,
    FeedSearch,
    FeedSpec,
    FilledBars,
    FilledRange,
    Found,
    GatewayReady,
    GatewayReport,
    GatewaySpec,
    HistorySpec,
    LogSpec,
    RouteFind,
    RoutePage,
    RouteRecord,
    RouteSearch,
    SamplerReport,
    SamplerSpec,
    SecuritySpec,
)
from marketd.supervise.segments import instance_lock, open_segments, series_of
from marketd.supervise.service import Service

GATEWAY_GRACE_S = 1.6
HISTORY_GRACE_S = 5.0  # to write what is not on disk yet
SEARCH_TIMEOUT_S = 5.0
NOTIFY_TIMEOUT_S = 1.0
FIND_TIMEOUT_S = 3.0
SETTLE_TIMEOUT_S = 10.0
CLIENTS_OF_A_GATEWAY = 1_000_000  # numbers of clients

log = structlog.get_logger("marketd.supervise")


async def run(
    config: Config,
    paths: Paths,
    *,
    on_ready: Callable[[list[str]], None] | None = None,
    exit_when_done: bool = False,
) -> list[FeedStatus]:
    """Run the daemon until SIGINT, SIGTERM or, with ``exit_when_done``, until every feed's source has ended.

    Args:
        config: the whole configuration.
        paths: the instance's folders.
        on_ready: called once with the addresses that clients can connect to.
        exit_when_done: for replays.

    Returns:
        The last status of each feed.

    Raises:
        InstanceRunningError: a daemon of this instance runs already.
        SegmentError: there is no room for the rings.
    """
    paths.create()
    with instance_lock(paths, config.instance), open_segments(config, paths), _announcement(paths):
        async with open_tree(config.instance, _log_spec(config)) as tree:
            supervisor = Supervisor(config, paths, on_ready)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.stop_on_signal)
                if exit_when_done:
                    nursery.start_soon(supervisor.stop_when_finished)
                async with trio.open_nursery() as services:
                    for feed in supervisor.feeds.values():
                        services.start_soon(feed.service.keep, tree)
                    if supervisor.sampler is not None:
                        services.start_soon(supervisor.sampler.keep, tree)
                    if supervisor.history is not None:
                        services.start_soon(supervisor.history.keep, tree)
                    services.start_soon(supervisor.keep_gateways, tree)
                    services.start_soon(supervisor.tell_actors)
                    log.info("daemon.started", instance=config.instance, version=__version__, pid=os.getpid())
                    await supervisor.stopping.wait()
                    await supervisor.stop()
                    services.cancel_scope.cancel()
                nursery.cancel_scope.cancel()
            statuses = [feed.status() for feed in supervisor.feeds.values()]
        note_ends(paths, config.feeds)
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


def _log_spec(config: Config) -> LogSpec:
    return LogSpec(level=config.log.level, format=config.log.format)


class FeedService:
    """A feed as the supervisor knows it: its service, its segments, and the sum of its lives."""

    def __init__(self, name: str, config: Config, paths: Paths, supervisor: Supervisor) -> None:
        settings = config.feeds[name]
        self.name = name
        self.backend: str = settings["backend"]
        self.live_venue = backends.load(self.backend).open_venues is not None
        self.begun = False
        self.told_to_begin = False
        self.demanded: list[str] = []  # full names that clients want
        self.told_demand: list[str] = []
        self.finished = trio.Event()
        self._paths = paths
        self._config = config
        self._settings = {key: value for key, value in settings.items() if key != "backend"}
        self._supervisor = supervisor
        self._reader = RingReader(paths.segment(name, "ring"))
        self._past: list[FeedReport] = []  # the last report of each life that is over
        self._present: FeedReport | None = None
        self._final: FeedReport | None = None  # of a present life whose source has ended: newer than any pulse
        self.service = Service(f"feed.{name}", self._spec, self._handlers, supervisor.feeds_changed)

    def _spec(self) -> ActorSpec:
        self._bury_report()
        self.told_to_begin = self.begun
        self.told_demand = []
        spec = FeedSpec(
            name=self.name,
            backend=self.backend,
            settings=self._settings,
            ring_path=str(self._paths.segment(self.name, "ring")),
            table_path=str(self._paths.segment(self.name, "table")),
            bells_path=str(self._paths.segment(self.name, "bells")),
            recordings_path=str(self._paths.recordings),
            state_path=str(self._paths.state / "feeds" / self.name),
            cache_path=str(self._paths.cache / "feeds" / self.name),
            begun=self.begun,
        )
        return _actor_spec(self.service.name, "marketd.feed.actor:run_feed", spec, self._config)

    def _handlers(self, link: Link) -> None:
        async def finished(report: FeedReport) -> None:
            self._final = report
            self.finished.set()
            self._supervisor.feeds_changed()

        link.handle("finished", FeedReport, finished)

    def _bury_report(self) -> None:
        report = self._report()
        if report is not None:
            self._past.append(report)
            self._past = [_sum(self._past)]
        self._present = self._final = None

    def _report(self) -> FeedReport | None:
        """The newest report of the present life."""
        if self._final is not None:
            return self._final
        child = self.service.child
        if child is not None and child.last_pulse is not None and len(child.last_pulse.statistics):
            self._present = msgspec.msgpack.decode(child.last_pulse.statistics, type=FeedReport)
        return self._present

    @property
    def state(self) -> FeedState:
        """``finished`` once its source has ended, else what its service says."""
        return "finished" if self._final is not None and self.service.state == "live" else self.service.state

    def info(self) -> FeedInfo:
        """What a gateway and the sampler need to read it."""
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
            series=series_of(self._config.bars, self.name, self._paths),
            steps_path=str(path(self.name, "steps")),
            steps_bells_path=str(path(self.name, "steps-bells")),
        )

    def status(self) -> FeedStatus:
        """What an operator wants to know of it."""
        report = self._report()
        total = _sum([*self._past, report] if report is not None else self._past)
        return FeedStatus(
            name=self.name,
            backend=self.backend,
            state=self.state,
            instruments=total.instruments,
            epoch=self._reader.epoch,
            cursor=self._reader.published,
            ring_rows=self._reader.rows,
            gaps=total.gaps,
            rows_by_kind=total.rows_by_kind,
            messages=total.messages,
            last_event_ns=total.last_event_ns,
            last_received_ns=total.last_received_ns,
            detail=self.service.detail or total.detail,
            bars=self._supervisor.sampled(self.name),
        )

    def keep_last_report(self) -> None:
        """Take the newest report over before the actor goes."""
        self._report()


def addresses_for_gateway(announced: list[str]) -> tuple[list[str], list[str]]:
    """Split what a gateway listens at into what its successor is to listen at: for the protocol, and for HTTP."""
    schemes = {HTTP_PREFIX: "", HTTPS_PREFIX: TLS_PREFIX}
    http = [
        prefix + address.removeprefix(scheme)
        for address in announced
        for scheme, prefix in schemes.items()
        if address.startswith(scheme)
    ]
    return [address for address in announced if not address.startswith(tuple(schemes))], http


def _gateway_name(number: int) -> str:
    return f"gateway.{number + 1}" if number else "gateway"


def _actor_spec(name: str, run: str, config: msgspec.Struct, whole: Config) -> ActorSpec:
    return ActorSpec(name=name, run=run, config=msgspec.Raw(msgspec.msgpack.encode(config)), log=_log_spec(whole))


def _sum(reports: list[FeedReport]) -> FeedReport:
    """Add the counts of several lives of one feed; what is no count is the newest."""
    rows: dict[str, int] = {}
    messages: dict[str, int] = {}
    for report in reports:
        for totals, counts in ((rows, report.rows_by_kind), (messages, report.messages)):
            for key, count in counts.items():
                totals[key] = totals.get(key, 0) + count
    newest = reports[-1] if reports else FeedReport("starting", 0, {}, {}, 0, 0, 0)
    return msgspec.structs.replace(
        newest,
        rows_by_kind=rows,
        messages=messages,
        gaps=rows.get("gap", 0),
        last_event_ns=max((report.last_event_ns for report in reports), default=0),
        last_received_ns=max((report.last_received_ns for report in reports), default=0),
    )


class Supervisor:
    """The running tree's state and what its actors may ask."""

    def __init__(self, config: Config, paths: Paths, on_ready: Callable[[list[str]], None] | None) -> None:
        self.stopping = trio.Event()
        self._config = config
        self._paths = paths
        self._on_ready = on_ready
        self._process = psutil.Process()
        self._started_s = trio.current_time()
        self._changed = trio.Event()
        self._addresses: list[str] = []
        self.feeds = {name: FeedService(name, config, paths, self) for name in config.feeds}
        self.sampler = self._sampler_service() if config.bars.periods else None
        self.history = self._history_service()
        self._demands: dict[int, Demand] = {}
        self._listening = trio.Event()
        self.gateways = [self._gateway_service(number) for number in range(config.gateway.processes)]

    @property
    def services(self) -> list[Service]:
        """All services in the order of their start."""
        others = [service for service in (self.sampler, self.history) if service is not None]
        return [*(feed.service for feed in self.feeds.values()), *others, *self.gateways]

    async def keep_gateways(self, tree: Tree) -> None:
        """Let clients in once every feed is live or has failed for the first time, so that names are known by then."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, self.stopping, nursery.cancel_scope)
            with trio.move_on_after(SETTLE_TIMEOUT_S):
                for feed in self.feeds.values():
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
        async with trio.open_nursery() as nursery:
            for feed in self.feeds.values():
                feed.keep_last_report()
                nursery.start_soon(feed.service.stop)
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
        for feed in self.feeds.values():
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
            infos = [feed.info() for feed in self.feeds.values()]
            for gateway in self.gateways:
                await self._tell(gateway, "feeds_changed", infos)
            for service in (self.sampler, self.history):
                if service is not None:
                    await self._tell(service, "feeds_changed", infos)
            for feed in self.feeds.values():
                if feed.service.state == "live":
                    await self._tell_demand(feed)

    async def _tell_demand(self, feed: FeedService) -> None:
        """Tell a feed that is live what clients want of it, once in each of its lives and at each change."""
        if feed.begun and not feed.told_to_begin:
            feed.told_to_begin = True
            await self._tell(feed.service, "begin", FeedBegin())
        if feed.live_venue and feed.demanded != feed.told_demand:
            feed.told_demand = feed.demanded
            await self._tell(feed.service, "demand", FeedDemand("gateway", feed.demanded))

    async def _tell(self, service: Service, method: str, params: object) -> None:
        """Notify one actor, if it is there. One that does not listen is found by its watch and not here."""
        if service.child is None:
            return
        with trio.move_on_after(NOTIFY_TIMEOUT_S):
            try:
                await service.child.link.notify(method, params)
            except ActorError as error:
                log.debug("notify.failed", service=service.name, method=method, error=str(error))

    def _sampler_service(self) -> Service:
        return Service("sampler", self._sampler_spec, lambda link: None, self.feeds_changed)

    def _sampler_spec(self) -> ActorSpec:
        bars = self._config.bars
        spec = SamplerSpec(
            feeds=[feed.info() for feed in self.feeds.values()],
            lateness_ms=bars.lateness_ms,
            lateness_ms_by_feed=bars.lateness_ms_by_feed,
            activity=bars.activity,
        )
        return _actor_spec("sampler", "marketd.sample.actor:run_sampler", spec, self._config)

    # --- history ---

    def _history_service(self) -> Service | None:
        """Make the history manager's service, if there is anything for it to store."""
        stored = any(not backends.load(feed.backend).recorded for feed in self.feeds.values())
        bars = set(self._config.history.periods) & set(self._config.bars.periods)
        if not stored or not (bars or self._config.history.record_ticks):
            return None
        return Service(
            "history", self._history_spec, self._history_handlers, self.feeds_changed, grace_s=HISTORY_GRACE_S
        )

    def _history_spec(self) -> ActorSpec:
        history = self._config.history
        spec = HistorySpec(
            feeds=[feed.info() for feed in self.feeds.values()],
            periods=history.periods,
            store_path=history.store or str(self._paths.store),
            socket_path=str(self._paths.history_socket),
            depth_days=history.depth_days,
            flush_s=history.flush_s,
            verify_every_s=history.verify_every_s,
            record_ticks=history.record_ticks,
            replay_bytes=history.replay_mib << 20,
            epochs_paths={feed: str(self._paths.epochs(feed)) for feed in self.feeds},
        )
        return _actor_spec("history", "marketd.history.actor:run_history", spec, self._config)

    def _history_handlers(self, link: Link) -> None:
        link.handle("page", RoutePage, self._route_page)
        link.handle("fill", FilledBars, self._route_fill)
        link.handle("filled", FilledRange, self._route_filled)

    async def _route_fill(self, told: FilledBars) -> None:
        if self.sampler is not None:
            await self._tell(self.sampler, "fill", told)

    async def _route_filled(self, told: FilledRange) -> None:
        for gateway in self.gateways:
            await self._tell(gateway, "filled", told)

    async def _route_page(self, request: RoutePage) -> msgspec.Raw:
        link = self._feed_link(request.feed)
        timeout_s = request.page.timeout_s + ROUTE_S
        return await link.request("page", request.page, result=msgspec.Raw, timeout_s=timeout_s)

    # --- what a gateway may ask ---

    def _gateway_service(self, number: int) -> Service:
        return Service(
            _gateway_name(number),
            partial(self._gateway_spec, number),
            partial(self._gateway_handlers, number),
            self.feeds_changed,
            on_ready=partial(self._gateway_ready, number),
            grace_s=GATEWAY_GRACE_S,
        )

    def _gateway_spec(self, number: int) -> ActorSpec:
        """Make the spec of one gateway: the first one takes the addresses of the configuration and the Unix socket, and
        every other one, and each successor, the addresses that it really had."""
        gateway = self._config.gateway
        security = self._config.security
        listen, http = addresses_for_gateway(self._addresses)
        if not self._addresses:
            listen = [with_tls(address, plaintext=security.allow_plaintext) for address in gateway.listen]
            http = [with_tls(address, plaintext=security.allow_plaintext) for address in gateway.http]
        unix = f"unix:{self._paths.socket}"
        if number:
            listen = [address for address in listen if not address.startswith("unix:")]
        elif gateway.unix and unix not in listen:
            listen.append(unix)
        spec = GatewaySpec(
            instance=self._config.instance,
            listen=listen,
            limits=gateway.limits,
            history_socket=str(self._paths.history_socket) if self.history is not None else "",
            http=http,
            hosts=gateway.hosts,
            shared=gateway.processes > 1,
            first_client=1 + number * CLIENTS_OF_A_GATEWAY,
            security=SecuritySpec(
                tokens_path=security.tokens or str(self._paths.tokens),
                audit_path=str(self._paths.audit),
                require_token=security.require_token,
                certificate=security.certificate,
                key=security.key,
            ),
        )
        return _actor_spec(_gateway_name(number), "marketd.gateway.actor:run_gateway", spec, self._config)

    def _gateway_handlers(self, number: int, link: Link) -> None:
        link.handle("feeds", None, self._answer_feeds)
        link.handle("status", None, self.status)
        link.handle("backends", None, self._answer_backends)
        link.handle("search", RouteSearch, self._route_search)
        link.handle("find", RouteFind, self._route_find)
        link.handle("record", RouteRecord, self._route_record)
        link.handle("demand", Demand, partial(self._note_demand, number))

    def _gateway_ready(self, number: int, child: Child) -> None:
        if number:
            return
        first = not self._addresses
        self._addresses = msgspec.msgpack.decode(child.info, type=GatewayReady).addresses
        self._listening.set()
        whole = self._paths.addresses.with_suffix(".new")  # whoever waits for the file must not see half of it
        whole.write_text(json.dumps(self._addresses))
        whole.replace(self._paths.addresses)
        log.info("daemon.ready", addresses=self._addresses)
        if first and self._on_ready is not None:
            self._on_ready(self._addresses)

    async def _answer_feeds(self) -> list[FeedInfo]:
        return [feed.info() for feed in self.feeds.values()]

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
        feeds = [feed.status() for feed in self.feeds.values()]
        reports = self._gateway_reports()
        running = all(service.state == "live" for service in self.services)
        with self._process.oneshot():
            cpu = self._process.cpu_times()
            own = ActorStatus(
                name="supervisor",
                state="live",
                pid=os.getpid(),
                restarts=0,
                uptime_s=round(trio.current_time() - self._started_s, 3),
                rss_bytes=self._process.memory_info().rss,
                cpu_s=cpu.user + cpu.system,
            )
        return StatusResult(
            version=__version__,
            instance=self._config.instance,
            pid=os.getpid(),
            uptime_s=own.uptime_s,
            ready=running,
            now_ns=SystemClock().now_ns(),
            actors=[own, *(service.status() for service in self.services)],
            feeds=feeds,
            clients=[client for report in reports for client in report.clients],
            history=self._stored(),
            served=reduce(add, (report.served for report in reports), Served()),
        )

    def sampled(self, feed: str) -> dict[str, int]:
        """What the sampler has last counted of a feed; nothing if it has not said anything yet."""
        child = self.sampler.child if self.sampler is not None else None
        if child is None or child.last_pulse is None or not len(child.last_pulse.statistics):
            return {}
        report = msgspec.msgpack.decode(child.last_pulse.statistics, type=SamplerReport)
        return msgspec.structs.asdict(report.feeds[feed]) if feed in report.feeds else {}

    def _stored(self) -> HistoryStatus | None:
        child = self.history.child if self.history is not None else None
        if child is None or child.last_pulse is None or not len(child.last_pulse.statistics):
            return None
        return msgspec.msgpack.decode(child.last_pulse.statistics, type=HistoryStatus)

    def _gateway_reports(self) -> list[GatewayReport]:
        pulses = [gateway.child.last_pulse for gateway in self.gateways if gateway.child is not None]
        return [
            msgspec.msgpack.decode(pulse.statistics, type=GatewayReport)
            for pulse in pulses
            if pulse is not None and len(pulse.statistics)
        ]

"""A live venue as a feed's source: what is to be subscribed to, on which connections, and the list it is chosen from.

    configuration, clients' demand -> names and globs -> (venue's list) -> instruments -> shards -> connections

Everything on the left may change at any time; the right follows. Nothing that the venue does ends this task.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import structlog
import trio

from backends.backend import MessageCounts, Sink
from backends.live import Bucket, LiveConfig, LiveVenue, Page, Period, TradesPage
from marketd.clock import SECOND_NS, Clock
from marketd.errors import MarketdError, SegmentError, WireError
from marketd.feed.budget import Priority
from marketd.feed.connection import Surroundings
from marketd.feed.explain import venue_facts
from marketd.feed.fetch import Fetcher
from marketd.feed.gate import RateGate
from marketd.feed.markets import MarketCache, MarketList
from marketd.feed.qualities import Qualities
from marketd.feed.route import Route
from marketd.feed.seams import Seams, real_seams
from marketd.feed.shard import ShardReport
from marketd.feed.tracks import Tracks
from marketd.feed.venue_report import VenueReport
from marketd.feed.venue_time import keep_asking
from marketd.feed.wanted import Wanted
from marketd.model import GapReason, MktPair
from marketd.observe.venue_clock import ServerTimes
from marketd.observe.why import VenueFacts
from marketd.retry import backoff_s

LIST_TIMEOUT_S = 60.0
LIST_RETRY_S = 60.0  # at most, between two attempts to get the list
CONNECT_BUCKET = "connect"
VOUCHED_TIMEOUTS = 3  # a connection is looked at once in each timeout
SHOWN_MAX = 20


class VenueSource:
    """See :class:`backends.backend.Source`.

    Args:
        venues: mostly one; more where a venue has its streams at several addresses. The first has the REST interface.
        state_path, cache_path: the feed's folders; None keeps nothing.

    Attributes:
        prepared: set once the declared instruments are in the sink, or can't be known soon.
        server_times: what the venue answered when it was asked for its time.
    """

    def __init__(
        self,
        venues: Sequence[LiveVenue],
        config: LiveConfig,
        clock: Clock,
        *,
        state_path: Path | None = None,
        cache_path: Path | None = None,
        seams: Seams | None = None,
    ) -> None:
        self.prepared = trio.Event()
        self.server_times = ServerTimes()
        self._venue = venues[0]
        self._venues = venues
        self._config = config
        self._clock = clock
        self._seams = seams or real_seams(self._venue, config, clock)
        self._wanted = Wanted(config.instruments, round(config.linger_s * SECOND_NS))
        self._cache = MarketCache(
            cache_path / "instruments.json" if cache_path else None, f"{self._venue.name} {self._venue.rest_url}"
        )
        connections, window_s = self._venue.limits.connections_per_window
        buckets = {**self._venue.limits.buckets, CONNECT_BUCKET: Bucket(connections, window_s)}
        self._gate = RateGate(buckets, clock, state_path / "budget.json" if state_path else None)
        self._list = MarketList()
        self._changed = trio.Event()
        self._markets: dict[str, MktPair] = {}
        self._unknown: list[str] = []
        self._overfull = False
        self._routes: list[Route] = []
        self._fetcher: Fetcher | None = None
        self._sink: Sink | None = None
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("marketd.feed").bind(venue=self._venue.name)

    # --- backends.backend.Source --------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """See :class:`backends.backend.Source`."""
        return self._venue.ws_url

    def now_ns(self) -> int:
        """See :class:`backends.backend.Source`."""
        return self._clock.now_ns()

    def search_space(self) -> Sequence[MktPair]:
        """See :class:`backends.backend.Source`: the venue's list as it was fetched last, this run or an earlier one."""
        return self._list.markets

    def begin(self) -> None:
        """Do nothing: the venue does not wait."""

    def outage(self, duration_s: float) -> None:
        """Refuse: a real venue can't be told to go away."""
        raise NotImplementedError("only a simulated venue can be away on demand")

    def counts(self) -> MessageCounts:
        """See :class:`backends.backend.Source`."""
        total = MessageCounts()
        for route in self._routes:
            total.add(route.around.counts())
        return total

    def quiet(self) -> bool:
        """See :class:`backends.backend.Source`: whatever is not in order is told by the report already."""
        now_ns = self._clock.now_ns()
        oldest_ns = now_ns - round(VOUCHED_TIMEOUTS * self._config.msg_recv_timeout_s * SECOND_NS)
        open_ones = [dialogue for route in self._routes for dialogue in route.around.dialogues]
        return bool(self.report().trouble(now_ns)) or all(one.vouched_ns >= oldest_ns for one in open_ones)

    async def run(self, sink: Sink) -> None:
        """See :class:`backends.backend.Source`. Never returns."""
        self._sink = sink
        self._list = self._cache.load() or self._list
        async with self._seams.open_client() as client, trio.open_nursery() as nursery:
            self._fetcher = Fetcher(self._venue, client, self._gate, self._clock, self._seams.rng)
            fetcher = self._fetcher
            qualities = Qualities(sink, len(self._venues))
            self._routes = [
                Route(self._surroundings(venue, sink, fetcher, Tracks(sink, qualities, number)), nursery)
                for number, venue in enumerate(self._venues)
            ]
            nursery.start_soon(self._gate.keep_saved)
            nursery.start_soon(self._keep_list)
            if self._venue.server_time is not None:
                nursery.start_soon(keep_asking, self._venue.server_time, fetcher, self.server_times)
            await self._keep_markets(sink)

    # --- what else can be asked of it ---------------------------------------------------------------------

    def find(self, name: str) -> MktPair | None:
        """Look an instrument up in the venue's list, in any case, with or without the slash."""
        return self._list.find(name)

    def declare(self, names: Iterable[str]) -> None:
        """Let the configuration say these names and globs from now on."""
        self._wanted.declare(names)
        self._changed.set()

    def demand(self, owner: str, names: Iterable[str]) -> None:
        """Let somebody want these names and globs from now on, in place of those that they wanted before."""
        self._wanted.demand(owner, names, self._clock.now_ns())
        self._changed.set()

    async def page(
        self, name: str, period: Period, start_ns: int, end_ns: int, *, priority: Priority, timeout_s: float
    ) -> Page | TradesPage:
        """Ask the venue for a page of the past, through the one budget.

        Raises:
            LookupError: there is no such instrument, or the venue has no history.
            NoData: there is nothing in that range.
            FetchFailed: the venue could not be asked in time.
            WireError: its answer is of no use.
        """
        market, history = self._list.find(name), self._venue.history
        if market is None or history is None or self._fetcher is None:
            raise LookupError(f"no history of {name!r}")
        request = history.page_request(market, period, start_ns, end_ns)
        body = await self._fetcher.fetch(request, priority, timeout_s=timeout_s)
        return history.parse_page(body, market, period)

    def page_rows_max(self, period: Period) -> int:
        """Return how many rows a page of a range of time has at most.

        Raises:
            LookupError: the venue has no history, or none of this period.
        """
        history = self._venue.history
        if history is None or not (history.trades_by_time if period == "trades" else period in history.periods_s):
            raise LookupError(f"{self._venue.name} has no pages of {period}")
        return history.rows_max(period)

    def report(self) -> VenueReport:
        """Say how the feed stands with its venue."""
        total = ShardReport()
        for route in self._routes:
            for report in (route.past, *(shard.report for shard in route.shards)):
                total.add(report)
        now_ns = self._clock.now_ns()
        open_ones = [dialogue for route in self._routes for dialogue in route.around.dialogues]
        return VenueReport(
            wanted=len(self._markets),
            live=len(set.intersection(*(route.around.live() for route in self._routes))) if self._routes else 0,
            pending=sum(len(dialogue.protocol.pending) for dialogue in open_ones),
            unknown=self._unknown[:SHOWN_MAX],
            refused={name: why for route in self._routes for name, why in route.around.refused.items()},
            connections=len(open_ones),
            connects=total.connects,
            losses=total.losses,
            handovers=total.handovers,
            duplicates=sum(route.around.tracks.duplicates for route in self._routes),
            resting_until_ns=self._gate.budget.resting(now_ns),
            listed_ns=self._list.fetched_ns,
            used={name: self._gate.budget.used(name, now_ns) for name in self._gate.budget.capacities},
            capacity=self._gate.budget.capacities,
            rests=self._gate.rests,
            lost=next((shard.lost for route in self._routes for shard in route.shards if shard.lost), ""),
        )

    def explain(self, name: str) -> VenueFacts:
        """Say what is known of one instrument."""
        return venue_facts(name, self._list, self._wanted, self._markets, self._routes, self._sink)

    # --- the list of instruments --------------------------------------------------------------------------

    async def _keep_list(self) -> None:
        """Fetch the list when it is old, for ever."""
        attempt = 0
        while True:
            if self._list.fetched_ns:
                fetched_ns = min(self._list.fetched_ns, self._clock.now_ns())  # a clock may have been wrong
                await self._clock.sleep_until(fetched_ns + round(self._config.refresh_s * SECOND_NS))
            try:
                await self._fetch_list()
                attempt = 0
            except MarketdError as error:
                retry_s = backoff_s(attempt, first_s=1.0, cap_s=LIST_RETRY_S, rng=self._seams.rng)
                self._log.warning("instruments.failed", error=str(error), retry_s=round(retry_s, 1))
                self.prepared.set()
                attempt += 1
                await trio.sleep(retry_s)

    async def _fetch_list(self) -> None:
        """Ask the venue for its list.

        Raises:
            FetchFailed: there is no answer.
            WireError: the answer is of no use; a venue without any instrument is one that is not well.
        """
        assert self._fetcher is not None
        requests = self._venue.instrument_requests()
        priority = Priority.BACKFILL if self._list.markets else Priority.SUBSCRIPTION
        bodies = await self._fetcher.fetch_all(requests, priority, timeout_s=LIST_TIMEOUT_S)
        markets = await self._seams.parse(self._venue.parse_instruments, bodies)
        if not markets:
            raise WireError("the venue's list of instruments is empty")
        self._list = MarketList(markets, self._clock.now_ns())
        self._log.info("instruments.fetched", count=len(markets))
        for route in self._routes:
            route.around.refused.clear()
        self._changed.set()
        await self._cache.save(self._list)

    # --- from names to connections ------------------------------------------------------------------------

    async def _keep_markets(self, sink: Sink) -> None:
        """Let the connections carry what is wanted, whenever that changes."""
        while True:
            self._changed = trio.Event()
            if self._list.markets:
                self._apply(sink)
                self.prepared.set()
            change_ns = self._wanted.next_change_ns
            pause_s = math.inf if change_ns is None else (change_ns - self._clock.now_ns()) / SECOND_NS
            with trio.move_on_after(max(0.0, pause_s)):
                await self._changed.wait()

    def _apply(self, sink: Sink) -> None:
        now_ns = self._clock.now_ns()
        resolution = self._list.resolve(self._wanted.names(now_ns))
        if resolution.unknown != self._unknown:
            self._unknown = resolution.unknown
            names = self._unknown[:SHOWN_MAX]
            self._log.warning("instruments.unknown", names=names, count=len(self._unknown))
        first = not self._markets
        before, self._markets = self._markets, self._register(sink, resolution.markets)
        if first and sink.last_received_ns:
            self._succeed(sink, now_ns)
        for name in sorted(before.keys() - self._markets.keys()):
            for route in self._routes:
                route.drop(sink.instrument(before[name]), listed=self._list.find(name) is not None, now_ns=now_ns)
        for route in self._routes:
            route.carry(self._markets)
        sink.publish()

    def _register(self, sink: Sink, markets: dict[str, MktPair]) -> dict[str, MktPair]:
        """Give each instrument its row id; leave out those for which the table has no room."""
        registered = {}
        for name, market in markets.items():
            try:
                sink.instrument(market)
            except SegmentError as error:
                if not self._overfull:
                    self._log.error("instruments.no_room", error=str(error), wanted=len(markets))
                self._overfull = True
            else:
                registered[name] = market
        return registered

    def _succeed(self, sink: Sink, now_ns: int) -> None:
        """Note that what a predecessor had is missing until it is subscribed to again."""
        for market in self._markets.values():
            for route in self._routes:
                route.around.tracks.begin_outage(
                    sink.instrument(market), GapReason.RESTART, sink.last_received_ns, now_ns
                )

    def _surroundings(self, venue: LiveVenue, sink: Sink, fetcher: Fetcher, tracks: Tracks) -> Surroundings:
        return Surroundings(
            venue=venue,
            config=self._config,
            dial=self._seams.dial,
            fetcher=fetcher,
            clock=self._clock,
            rng=self._seams.rng,
            sink=sink,
            tracks=tracks,
        )

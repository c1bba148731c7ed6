"""The connection shell over real sockets, with each live backend, against the test venue and its faults.

What is checked of every story: no trade twice, none out of order, and none missing without a gap row that covers it.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import structlog
import trio

from backends.backend import load
from backends.live import Bucket, LiveVenue
from marketd.clock import SECOND_NS, SystemClock
from marketd.feed.budget import Priority
from marketd.feed.fetch import FetchFailed
from marketd.feed.venue import VenueSource
from marketd.model import GapReason, Kind
from marketd.testvenue.server import Settings, VenueServer, serve
from tests.fakes import ListSink
from tests.rebuilt_book import RebuiltBook, venue_book

DEADLINE_S = 30.0
VENUES = ("binance", "binance-futures", "kraken", "kucoin")


@dataclass
class Feed:
    """A running source, and what it has written."""

    name: str
    server: VenueServer
    venues: list[LiveVenue]
    source: VenueSource
    sink: ListSink

    def fault(self, **table: object) -> None:
        """Let something go wrong."""
        self.server.inject(venue=self.name, **table)

    @property
    def live(self) -> bool:
        """Whether all that is wanted is there."""
        report = self.source.report()
        return report.wanted > 0 and report.live == report.wanted

    def trades(self, instrument: int) -> list[int]:
        return [row[2] for row in self.sink.of_kind(Kind.TRADE) if row[3] == instrument]

    async def flows(self) -> None:
        """Wait until everything is subscribed and every instrument has a new trade."""
        await until(lambda: self.live)
        begin = len(self.sink.rows)
        count = len(self.sink.markets)
        await until(lambda: len({row[3] for row in self.sink.rows[begin:] if row[4] == Kind.TRADE}) == count)

    def reasons(self) -> set[GapReason]:
        return {GapReason(int(row[9])) for row in self.sink.gaps}

    def check_nothing_is_lost_in_silence(self) -> None:
        """Between two trades whose ids do not follow each other there is a gap row that covers the hole."""
        contiguous = self.venues[0].limits.trade_ids == "contiguous"
        for instrument in range(1, len(self.sink.markets) + 1):
            rows = [row for row in self.sink.rows if row[3] in (0, instrument) and row[4] in (Kind.TRADE, Kind.GAP)]
            trades = [(place, row) for place, row in enumerate(rows) if row[4] == Kind.TRADE]
            for (here, before), (there, after) in itertools.pairwise(trades):
                assert after[2] > before[2], "each trade once, in order"
                if contiguous and after[2] != before[2] + 1:
                    between = [row for row in rows[here : there + 1] if row[4] == Kind.GAP]
                    assert any(row[7] <= before[0] + SECOND_NS and row[8] >= before[0] for row in between), (
                        before,
                        after,
                    )


@contextlib.asynccontextmanager
async def run_feed(
    name: str, *, listed: int = 4, rate: float = 200, state: Path | None = None, **settings: object
) -> AsyncIterator[Feed]:
    """Start a test venue and a source that knows nothing else."""
    async with trio.open_nursery() as nursery:
        server: VenueServer = await nursery.start(serve, Settings(instruments=listed, rate=rate))
        async with feed_of(name, server, state=state, **settings) as feed:
            yield feed
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def feed_of(
    name: str,
    server: VenueServer,
    *,
    state: Path | None = None,
    limits: dict[str, object] | None = None,
    **settings: object,
) -> AsyncIterator[Feed]:
    """Run a source against a test venue."""
    backend = load(name.partition("-")[0])
    table = {
        "ws_url": server.ws_url(name),
        "rest_url": server.rest_url(name),
        "instruments": ["*"],
        "msg_recv_timeout_s": 5.0,
        "connect_timeout_s": 2.0,
    } | ({"market": "usdm"} if name == "binance-futures" else {})
    config = msgspec.convert(table | settings, backend.config)
    assert backend.open_venues is not None
    venues = backend.open_venues(config)
    # Kraken's one request a second would make most of these stories wait for its two lists.
    hasty: dict[str, object] = {"buckets": {"rest": Bucket(10, 1.0)}} if name == "kraken" else {}
    for venue in venues:
        venue.limits = msgspec.structs.replace(venue.limits, **({"overlap_s": 0.3} | hasty | (limits or {})))
    source = VenueSource(venues, config, SystemClock(), state_path=state, cache_path=state)
    sink = ListSink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, sink)
        yield Feed(name, server, venues, source, sink)
        nursery.cancel_scope.cancel()


async def until(ready: Callable[[], object], timeout_s: float = DEADLINE_S) -> None:
    with trio.fail_after(timeout_s):
        while not ready():
            await trio.sleep(0.02)


async def let_pass(seconds: float) -> None:
    """Let things happen for a while: what is tested is that they go well for so long."""
    await trio.sleep(seconds)


@pytest.mark.parametrize("name", VENUES)
async def test_data_flows_and_every_message_is_accounted_for(name):
    """R30, R82: no account, no waiting for a first quote: the instruments, then trades and quotes."""
    async with run_feed(name) as feed:
        with trio.fail_after(DEADLINE_S):
            await feed.source.prepared.wait()
        await feed.flows()
        assert len(feed.sink.markets) == 4
        assert feed.sink.of_kind(Kind.QUOTE)
        assert feed.sink.gaps == []
        counts = feed.source.counts()
        assert (counts.bad, counts.unknown) == (0, 0), counts
        assert feed.source.report().trouble(0) == ""
        feed.check_nothing_is_lost_in_silence()


@pytest.mark.parametrize(
    ("name", "fault"), [*((name, "cut") for name in VENUES), ("binance", "close"), ("kucoin", "malformed_frame")]
)
async def test_lost_connection_is_a_gap_of_its_instruments_and_is_mended(name, fault):
    """R46, R48: a reset, a close frame, a frame that makes no sense: again, and again."""
    async with run_feed(name) as feed:
        await feed.flows()
        for _ in range(3):
            connects = feed.source.report().connects
            feed.fault(fault=fault)
            await until(lambda connects=connects: feed.source.report().connects > connects)
            await feed.flows()
        assert feed.reasons() == {GapReason.DISCONNECT}
        assert {row[3] for row in feed.sink.gaps} <= {1, 2, 3, 4}
        feed.check_nothing_is_lost_in_silence()
        attempts = feed.server.state(name)["attempts"]
        assert len(attempts) <= 14, "no storm"


@pytest.mark.parametrize(
    ("name", "fault"), [*((name, "stall") for name in VENUES), ("binance", "blackhole"), ("kucoin", "blackhole")]
)
async def test_silence_is_found_out_and_becomes_a_stale_gap(name, fault):
    """R47, R48: pings are answered or not, the data has stopped either way."""
    async with run_feed(name, msg_recv_timeout_s=0.5, reset_after=2, limits={"quiet_s": 1.5}) as feed:
        await feed.flows()
        begun_s = time.monotonic()
        if fault == "stall":
            for connection in feed.server.state(name)["connections"]:
                feed.fault(fault=fault, connection=connection["connection"], for_s=60)
        else:
            feed.fault(fault=fault, for_s=2)
        await until(lambda: feed.source.report().losses > 0)
        assert time.monotonic() - begun_s < 8
        await feed.flows()
        assert GapReason.STALE in feed.reasons()
        feed.check_nothing_is_lost_in_silence()


@pytest.mark.parametrize("name", VENUES)
async def test_connection_is_replaced_without_a_gap(name):
    """Make before break at the end of a connection's life: every trade once, and no gap row at all."""
    async with run_feed(name, limits={"lifetime_s": 2.0}) as feed:
        await feed.flows()
        await until(lambda: feed.source.report().handovers >= len(feed.venues))
        await feed.flows()
        assert feed.sink.gaps == []
        assert feed.source.report().losses == 0
        assert feed.source.report().duplicates > 0
        feed.check_nothing_is_lost_in_silence()


async def test_books_go_over_to_the_next_connection():
    """They begin anew there; at no moment does a reader have another book than the venue."""
    async with run_feed("kraken", limits={"lifetime_s": 2.0}, kinds=["trade", "book"]) as feed:
        await feed.flows()
        await until(lambda: feed.source.report().handovers >= 1)
        await feed.flows()
        assert feed.sink.gaps == []
        assert feed.source.report().losses == 0
        market = feed.server.engine.venues["kraken"].market
        symbols = [instrument.symbol.replace("BTC", "XBT") for instrument in market.instruments]
        books = {number: RebuiltBook() for number in range(1, len(feed.sink.markets) + 1)}
        for row in feed.sink.of_kind(Kind.LEVEL):
            book = books[row[3]]
            book.take(row[5], row[6], row[7], row[8])
            if book.whole:
                instrument = symbols.index(feed.sink.markets[row[3] - 1].bs_mktid)
                number = market.quotes_before(instrument, row[0] + 1_000)  # it says its times in microseconds
                assert book.sides() == venue_book(market, instrument, number, depth=10)
        assert all(book.whole and book.beginnings >= 2 for book in books.values())
        feed.check_nothing_is_lost_in_silence()


async def test_announced_cut_is_forestalled():
    """Binance spot says when it goes."""
    async with run_feed("binance") as feed:
        await feed.flows()
        feed.fault(fault="announced_cut", delay_s=3)
        await until(lambda: feed.source.report().handovers == 1)
        await let_pass(3)
        await feed.flows()
        assert feed.sink.gaps == []
        feed.check_nothing_is_lost_in_silence()


@pytest.mark.parametrize("name", VENUES)
async def test_holes_in_the_venues_numbers_are_gap_rows(name):
    """Dropped, doubled and reordered messages."""
    async with run_feed(name) as feed:
        await feed.flows()
        for fault in ("drop", "duplicate", "reorder"):
            feed.fault(fault=fault, stream="trade", count=3)
            await let_pass(0.5)
            await feed.flows()
        feed.check_nothing_is_lost_in_silence()
        assert feed.source.report().losses == 0


@pytest.mark.parametrize("name", VENUES)
async def test_late_acks_hold_nobody_up(name):
    """R49: subscriptions are complete only with all acks; that takes a while."""
    async with run_feed(name) as feed:
        await feed.flows()
        feed.fault(fault="slow_acks", delay_s=1.2)
        feed.fault(fault="cut")
        await until(lambda: not feed.live)
        await feed.flows()
        assert all(row[8] - row[7] > SECOND_NS for row in feed.sink.gaps), "a gap ends with the ack"
        feed.check_nothing_is_lost_in_silence()


@pytest.mark.parametrize("name", VENUES)
async def test_maintenance_is_survived(name):
    """Told of by Kraken, by closing and refusing at the others."""
    async with run_feed(name) as feed:
        await feed.flows()
        feed.fault(fault="maintenance", for_s=2)
        await until(lambda: not feed.live or feed.sink.of_kind(Kind.STATUS))
        await let_pass(2)
        await until(lambda: len({row[3] for row in feed.sink.gaps}) >= 4)
        await feed.flows()
        assert feed.reasons() <= {GapReason.MAINTENANCE, GapReason.DISCONNECT}
        feed.check_nothing_is_lost_in_silence()


@pytest.mark.parametrize("name", VENUES)
async def test_refused_handshakes_are_tried_again_with_patience(name):
    """R83, R87: resets, 503 and 429."""
    async with run_feed(name) as feed:
        await feed.flows()
        feed.fault(fault="refuse", status=0, count=2)
        feed.fault(fault="refuse", status=503, count=1)
        feed.fault(fault="cut")
        await until(lambda: feed.source.report().losses >= 4)
        await feed.flows()
        feed.check_nothing_is_lost_in_silence()


async def test_ban_leaves_the_streams_alone_and_outlives_a_restart(tmp_path):
    """R83: requests fail within their bound; the successor does not even try."""
    async with run_feed("binance", state=tmp_path) as feed:
        await feed.flows()
        await until(lambda: (tmp_path / "instruments.json").exists())
        feed.fault(fault="ban", for_s=60)
        with pytest.raises(FetchFailed) as failure:
            await ask_page(feed)
        assert 50 < failure.value.retry_s <= 70
        await feed.flows()
        assert feed.source.report().losses == 0
        asked = len(feed.server.state("binance")["recent_requests"])
        async with feed_of("binance", feed.server, state=tmp_path) as successor:
            await successor.flows()
            with pytest.raises(FetchFailed):
                await ask_page(successor)
            assert successor.source.search_space()
            assert "throttled" in successor.source.report().trouble(successor.source.now_ns())
        assert len(feed.server.state("binance")["recent_requests"]) == asked


async def ask_page(feed: Feed) -> object:
    """Ask for the newest bars of an instrument."""
    name = feed.sink.markets[0].fqme
    now_ns = feed.source.now_ns()
    begin_ns = now_ns - 3600 * SECOND_NS
    return await feed.source.page(name, 60, begin_ns, now_ns, priority=Priority.BACKFILL, timeout_s=10)


@pytest.mark.parametrize("name", VENUES)
async def test_pages_of_history_come_through_the_same_budget(name):
    """While the streams run."""
    async with run_feed(name) as feed:
        await feed.flows()
        page = await ask_page(feed)
        assert 50 <= len(page.rows) <= 61
        assert page.rows == sorted(page.rows)


@pytest.mark.parametrize("name", VENUES)
async def test_demand_adds_to_a_running_feed_and_takes_away(name):
    """Without a new connection, and the others go on."""
    async with run_feed(name) as feed:
        await feed.flows()
        everything = [market.fqme for market in feed.source.search_space()]
    async with run_feed(name, instruments=everything[:1], linger_s=0.2) as feed:
        await feed.flows()
        feed.source.demand("me", [everything[1]])
        await until(lambda: feed.source.report().live == 2)
        await feed.flows()
        connects = feed.source.report().connects
        feed.source.demand("me", [])
        await until(lambda: feed.source.report().live == 1)
        assert feed.source.report().connects == connects
        feed.check_nothing_is_lost_in_silence()


async def test_instruments_are_spread_over_connections_and_a_cut_hits_one(tmp_path):
    """Only the instruments of the lost connection get a gap row."""
    async with run_feed("binance", listed=6, limits={"streams_per_connection": 4}) as feed:
        await feed.flows()
        assert feed.source.report().connections == 3
        feed.fault(fault="cut", count=1)
        await until(lambda: feed.source.report().losses == 1)
        await feed.flows()
        assert len({row[3] for row in feed.sink.gaps}) == 2
        feed.check_nothing_is_lost_in_silence()


async def test_log_has_a_line_for_each_change_and_none_for_messages():
    """However much flows."""
    with structlog.testing.capture_logs() as logs:
        async with run_feed("binance", rate=2000) as feed:
            await feed.flows()
            await let_pass(1)
            feed.fault(fault="cut")
            await until(lambda: feed.source.report().losses == 1)
            await feed.flows()
    events = [entry["event"] for entry in logs if entry["event"].startswith("feed.")]
    assert events.count("feed.connected") == 2
    assert events.count("feed.subscribed") == 2
    assert events.count("feed.disconnected") == 1
    assert len(logs) < 20

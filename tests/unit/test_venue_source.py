"""The connection shell, against a venue in memory and on a clock that jumps: R46 to R49 and their neighbours."""

from __future__ import annotations

import itertools
import math

import msgspec
import pytest
import structlog
import trio
import trio.testing

from backends.live import Bucket
from marketd.clock import SECOND_NS
from marketd.errors import ConfigError
from marketd.feed.budget import Priority
from marketd.feed.habits import SILENCE_MIN
from marketd.feed.venue import VenueSource
from marketd.feed.websocket import ConnectFailed
from marketd.http import HttpConnectError
from marketd.model import GapReason, Kind, Quality
from tests.fake_venue import BASE_NS, LIMITS, FakeServer, FakeVenue, make_source, market, refusal, reply, running, until
from tests.fakes import ListSink


def ids(sink: ListSink, instrument: int = 1) -> list[int]:
    """Trade ids in the order in which they were written."""
    return [row[2] for row in sink.of_kind(Kind.TRADE) if row[3] == instrument]


def seconds(time_ns: int) -> float:
    """Seconds since the test began."""
    return (time_ns - BASE_NS) / SECOND_NS


async def live(server: FakeServer, source: VenueSource, count: int | None = None, timeout_s: float = 120) -> None:
    """Wait until everything is subscribed."""
    wanted = len(server.symbols) if count is None else count
    await until(lambda: source.report().live == wanted, timeout_s)


# --- R46: reconnecting -------------------------------------------------------------------------------------


def test_a_hundred_drops_in_a_row_under_strict_exception_groups():
    """R46: no misnested scope, nothing raised to the consumer, and every reconnect subscribes again."""
    server, sink = FakeServer(), ListSink()

    async def drop_again_and_again() -> None:
        source = make_source(server)
        async with running(source, sink):
            for drop in range(100):
                await until(lambda drop=drop: len(server.sockets) == drop + 1 and source.report().live == 3)
                socket = server.sockets[-1]
                assert sorted(socket.subscribed) == ["A", "B", "C"]
                server.trade("A", count=3)
                await trio.sleep(0.2)
                socket.cut()
            await until(lambda: len(server.sockets) == 101 and source.report().live == 3)
            server.trade("A")
            await trio.sleep(0.1)

    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(drop_again_and_again, clock=clock, strict_exception_groups=True)
    assert ids(sink) == list(range(1, 302))
    assert [row[3] for row in sink.gaps].count(1) == 100


async def test_each_affected_instrument_gets_one_gap_row(autojump_clock):
    """From its last row (or the connection's last sign of life) to its ack; others are not touched."""
    venue = FakeVenue(limits=msgspec.structs.replace(LIMITS, streams_per_connection=4))
    server, sink = FakeServer(["A", "B", "C", "D"]), ListSink()
    source = make_source(server, venue=venue, msg_recv_timeout_s=1e6)
    async with running(source, sink):
        await live(server, source)
        assert sorted(sorted(socket.subscribed) for socket in server.sockets) == [["A", "B"], ["C", "D"]]
        for symbol in "ABCD":
            server.trade(symbol)
        await trio.sleep(20)
        server.trade("A")
        await trio.sleep(1)
        server.unreachable = True
        cut_s = trio.current_time()
        next(socket for socket in server.sockets if "A" in socket.subscribed).cut()
        await trio.sleep(30)
        server.trade("A", count=5)
        server.trade("C")
        server.unreachable = False
        await live(server, source)
        back_s = trio.current_time()
        server.trade("A")
        await trio.sleep(1)
        names = {market.bs_mktid: number for number, market in enumerate(sink.markets, 1)}
        gaps = {row[3]: row for row in sink.gaps}
        assert sorted(gaps) == sorted([names["A"], names["B"]])
        assert len(sink.gaps) == 2
        for gap in gaps.values():
            assert gap[9] == GapReason.DISCONNECT
            assert seconds(gap[7]) < cut_s + 0.01
            assert back_s - 0.1 < seconds(gap[8]) <= back_s
        assert seconds(gaps[names["A"]][7]) > 20, "from its newest row"
        assert ids(sink, names["A"]) == [1, 2, 8]
        assert ids(sink, names["C"]) == [1, 2]
        order = [row[4] for row in sink.rows if row[3] == names["A"] and row[4] != Kind.STATUS]
        assert order == [Kind.TRADE, Kind.TRADE, Kind.GAP, Kind.TRADE]


async def test_trade_that_was_under_way_when_a_later_quote_came_is_in_the_gap(autojump_clock):
    """Kinds come by ways of their own, and some quotes have no time but ours."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server)
    async with running(source, sink):
        await live(server, source)
        server.trade("A")
        await trio.sleep(0.3)
        lost_s = trio.current_time()
        await trio.sleep(0.2)
        server.quote("A")
        await trio.sleep(0.1)
        server.sockets[0].cut()
        await until(lambda: len(server.sockets) == 2)
        await live(server, source)
    (gap,) = [row for row in sink.gaps if row[3] == 1]
    assert seconds(gap[7]) < lost_s < seconds(gap[8])


async def test_attempts_follow_the_policy(autojump_clock):
    """The first at once, then backoff with jitter and a cap: no storm."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server, msg_recv_timeout_s=1e6)
    async with running(source, sink):
        await live(server, source)
        server.trade("A")
        await trio.sleep(60)
        server.unreachable = True
        server.sockets[0].cut()
        begun_s = trio.current_time()
        await trio.sleep(600)
        attempts = [at - begun_s for at in server.attempts_s[1:]]
        assert attempts[0] < 0.1
        assert 600 / 30 < len(attempts) < 80
        pauses = [later - earlier for earlier, later in itertools.pairwise(attempts)]
        assert max(pauses) <= 30.1
        server.unreachable = False
        await live(server, source)
    assert [row[9] for row in sink.gaps] == [GapReason.DISCONNECT] * 3


async def test_refused_handshake_with_retry_after_is_respected(autojump_clock):
    """R83: a 429 to the handshake keeps all connections away until then."""
    server, sink = FakeServer(), ListSink()
    server.refusing.append(refusal(429, Retry_After="77"))
    source = make_source(server)
    async with running(source, sink):
        await live(server, source)
        assert server.attempts_s[1] - server.attempts_s[0] >= 77


async def test_connect_attempts_are_bounded_and_tried_again(autojump_clock):
    """R87: an attempt that ends after its time is followed by the next."""
    server, sink = FakeServer(), ListSink()
    server.refusing.extend(ConnectFailed("no connection within 1 s") for _ in range(5))
    server.connect_s = 1.0
    source = make_source(server, connect_timeout_s=1.0)
    async with running(source, sink):
        await live(server, source)
        assert len(server.attempts_s) == 6


async def test_useless_connection_is_reported_and_not_made_in_a_loop(autojump_clock):
    """R84: what can't be mended by trying is an error in the log, and rare."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server, msg_recv_timeout_s=1e6)
    with structlog.testing.capture_logs() as logs:
        async with running(source, sink):
            await live(server, source)
            for _ in range(10):
                await until(lambda: server.open_sockets)
                server.open_sockets[0].say(fatal="no such protocol version")
                await trio.sleep(60)
    errors = [entry for entry in logs if entry["log_level"] == "error"]
    assert len(errors) == 10
    assert errors[0]["event"] == "feed.disconnected"
    assert "no such protocol version" in errors[0]["detail"]
    assert len(server.attempts_s) <= 11


# --- R47, R48: silence -------------------------------------------------------------------------------------


async def test_silent_server_is_left_after_reset_after_timeouts(autojump_clock):
    """R47: handled inside; the gap is a stale one."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server, msg_recv_timeout_s=2.0, reset_after=3)
    async with running(source, sink):
        await live(server, source)
        silent_from_s = trio.current_time()
        await until(lambda: len(server.sockets) == 2)
        assert 5.9 <= trio.current_time() - silent_from_s <= 6.6
        await live(server, source)
        assert server.sockets[0].pings >= 2
    assert {row[9] for row in sink.gaps} == {int(GapReason.STALE)}


async def test_message_resets_the_count_of_timeouts(autojump_clock):
    """R47: a venue that says something now and then stays connected."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server, msg_recv_timeout_s=2.0, reset_after=3)
    async with running(source, sink):
        await live(server, source)
        for _ in range(50):
            await trio.sleep(5.5)
            server.trade("A")
        assert len(server.sockets) == 1


async def test_quiet_market_with_pongs_stays_connected(autojump_clock):
    """A quiet channel is no dead one, where the venue's habits allow for it."""
    venue = FakeVenue(limits=msgspec.structs.replace(LIMITS, quiet_s=math.inf))
    server, sink = FakeServer(), ListSink()
    source = make_source(server, venue=venue, msg_recv_timeout_s=2.0, reset_after=3)
    async with running(source, sink):
        await live(server, source)
        for _ in range(3600):
            await trio.sleep(1)
            assert source.quiet(), "it knows that nothing is wrong"
        assert len(server.sockets) == 1
        server.pongs = False
        await until(lambda: len(server.sockets) == 2)


async def test_source_is_quiet_while_its_venue_is_away_or_nothing_is_wanted(autojump_clock):
    server = FakeServer()
    source = make_source(server, msg_recv_timeout_s=2.0, reset_after=3)
    assert source.quiet(), "it has not begun"
    async with running(source, ListSink()):
        await live(server, source)
        server.unreachable = True
        server.sockets[-1].cut()
        for _ in range(600):
            await trio.sleep(1)
            assert source.quiet(), "its report says that the venue is away"
    unwanted = make_source(FakeServer(), instruments=[])
    async with running(unwanted, ListSink()):
        await trio.sleep(600)
        assert unwanted.quiet()


async def test_source_whose_connection_nobody_looks_after_is_not_quiet(autojump_clock, monkeypatch):
    """Such as by a fault of ours: then silence means nothing, and the watchdog is to know."""

    async def hang(*_args: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr("marketd.feed.connection.Connection._watch", hang)
    server = FakeServer()
    source = make_source(server, msg_recv_timeout_s=2.0, reset_after=3)
    async with running(source, ListSink()):
        await live(server, source)
        await trio.sleep(30)
        assert not source.quiet()


async def test_reset_and_blackhole_both_lead_to_a_reconnect_in_time(autojump_clock):
    """R48: RST at once, a silent path within the timeout."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server, msg_recv_timeout_s=2.0, reset_after=2)
    async with running(source, sink):
        await live(server, source)
        server.trade("A")
        await trio.sleep(30 / 20)
        server.sockets[0].cut()
        await until(lambda: len(server.sockets) == 2, timeout_s=1)
        await live(server, source)
        server.sockets[1].dead = True
        await until(lambda: len(server.sockets) == 3, timeout_s=6)
        await live(server, source)
        server.trade("A", server.sockets[2])
        await until(lambda: ids(sink) == [1, 2])
    assert [row[9] for row in sink.gaps if row[3] == 1] == [GapReason.DISCONNECT, GapReason.STALE]


# --- R49: acks ---------------------------------------------------------------------------------------------


async def test_subscription_is_complete_only_with_all_acks(autojump_clock):
    """R49: late welcome, acks out of order, pongs in between, and no warning for any of it."""
    venue = FakeVenue(limits=msgspec.structs.replace(LIMITS, subscribe_chunk=1))
    server, sink = FakeServer(acks=False), ListSink()
    source = make_source(server, venue=venue)
    with structlog.testing.capture_logs() as logs:
        async with running(source, sink):
            await until(lambda: venue.protocols)
            venue.protocols[0].greeted = False
            await trio.sleep(3)
            socket = server.sockets[0]
            sent_early = len(socket.received)
            socket.say(welcome=1)
            await until(lambda: len(socket.received) == 3)
            requests = [said["id"] for said in socket.received]
            for number in reversed(requests):
                assert source.report().live < 3
                assert not any(entry["event"] == "feed.subscribed" for entry in logs)
                socket.say(pong=1)
                socket.say(ack=number)
                await trio.sleep(0.1)
            await live(server, source)
            assert sent_early <= 3
    assert [entry["log_level"] for entry in logs if entry["log_level"] not in ("info", "debug")] == []
    assert sum(entry["event"] == "feed.subscribed" for entry in logs) == 1


async def test_missing_ack_is_asked_for_again_and_then_fails_loudly(autojump_clock):
    """R49: within a bound; the connection is given up only after the second silence."""
    server, sink = FakeServer(acks=False), ListSink()
    source = make_source(server, msg_recv_timeout_s=60.0)
    with structlog.testing.capture_logs() as logs:
        async with running(source, sink):
            await until(lambda: len(server.sockets) == 1)
            begun_s = trio.current_time()
            await until(lambda: len(server.sockets) == 2, timeout_s=30)
            assert 9.9 <= trio.current_time() - begun_s < 15
            assert [said["op"] for said in server.sockets[0].received] == ["sub", "sub"]
            server.acks = True
            await until(lambda: source.report().live == 3 or len(server.sockets) > 3)
            assert source.report().live == 3
    errors = [entry for entry in logs if entry["event"] == "feed.ack_missing"]
    assert [entry["again"] for entry in errors[:2]] == [False, True]
    assert all(entry["log_level"] == "error" for entry in errors)


async def test_ack_that_is_missing_once_costs_one_request(autojump_clock):
    """Only those without an ack are asked for again; the others' data goes on."""
    venue = FakeVenue(limits=msgspec.structs.replace(LIMITS, subscribe_chunk=1))
    server, sink = FakeServer(acks=False), ListSink()
    source = make_source(server, venue=venue, msg_recv_timeout_s=60.0)
    async with running(source, sink):
        await until(lambda: server.sockets and len(server.sockets[0].received) == 3)
        socket = server.sockets[0]
        socket.say(ack=1)
        socket.say(ack=3)
        server.acks = True
        await live(server, source)
        assert [said["symbols"] for said in socket.received] == [["A"], ["B"], ["C"], ["B"]]
        assert len(server.sockets) == 1


async def test_refused_instrument_does_not_hold_up_the_others(autojump_clock):
    """It is reported, closed, and asked for again when the list was fetched anew."""
    server, sink = FakeServer(acks=False), ListSink()
    venue = FakeVenue(limits=msgspec.structs.replace(LIMITS, subscribe_chunk=1))
    source = make_source(server, venue=venue, refresh_s=600.0, msg_recv_timeout_s=3600.0)
    async with running(source, sink):
        await until(lambda: server.sockets and len(server.sockets[0].received) == 3)
        socket = server.sockets[0]
        socket.say(ack=1)
        socket.say(refused=["B", "delisted"])
        socket.say(ack=3)
        await live(server, source, 2)
        assert source.report().refused == {"b/usd.spot.fake": "delisted"}
        assert (2, Quality.CLOSED) in sink.qualities
        assert "delisted" in source.report().trouble(0)
        server.acks = True
        await live(server, source, 3, timeout_s=1000)
        assert trio.current_time() > 600


# --- one instrument ----------------------------------------------------------------------------------------


async def test_resync_touches_one_instrument(autojump_clock):
    """Unsubscribe and subscribe just that one; a gap row for just that one."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server, msg_recv_timeout_s=60.0)
    async with running(source, sink):
        await live(server, source)
        for symbol in "ABC":
            server.trade(symbol)
        await trio.sleep(1)
        before = len(server.sockets[0].received)
        server.sockets[0].say(resync="B")
        await trio.sleep(0.1)
        await live(server, source)
        said = server.sockets[0].received[before:]
        assert [(message["op"], message["symbols"]) for message in said] == [("unsub", ["B"]), ("sub", ["B"])]
        server.trade("B")
        await trio.sleep(0.1)
        assert [row[3] for row in sink.gaps] == [2]
        assert sink.gaps[0][9] == GapReason.CHECKSUM
        assert ids(sink, 2) == [1, 2]
        assert (2, Quality.RESYNCING) in sink.qualities
        assert len(server.sockets) == 1


async def test_instrument_that_is_wrong_again_and_again_is_not_resynced_in_a_loop(autojump_clock):
    """One attempt at once, the others with a pause."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server, msg_recv_timeout_s=600.0)
    async with running(source, sink):
        await live(server, source)
        begun_s = trio.current_time()
        while trio.current_time() < begun_s + 60:
            server.sockets[0].say(resync="B")
            await trio.sleep(0.05)
        subscriptions = [
            said for said in server.sockets[0].received if said["symbols"] == ["B"] and said["op"] == "sub"
        ]
        assert len(subscriptions) <= 13


async def talk_on(server: FakeServer, missing: set[str], *, trades: bool = True) -> None:
    """Let all instruments trade and be quoted every second, but for what is missing until it is subscribed to again."""
    asked = len(server.sockets[-1].received)
    while True:
        if len(server.sockets[-1].received) > asked:
            missing.clear()
        for symbol in server.symbols:
            if trades and f"{symbol} trade" not in missing:
                server.trade(symbol)
            if f"{symbol} quote" not in missing:
                server.quote(symbol)
        await trio.sleep(1)


@pytest.mark.parametrize("lost", [{"B trade"}, {"B quote"}, {"B trade", "B quote"}])
async def test_subscription_that_the_venue_drops_is_noticed_and_made_anew(autojump_clock, lost):
    """That one instrument alone: its gap begins where the lost kind ended, and the connection stays."""
    server, sink, missing = FakeServer(), ListSink(), set()
    source = make_source(server)
    async with running(source, sink), trio.open_nursery() as nursery:
        await live(server, source)
        nursery.start_soon(talk_on, server, missing)
        await trio.sleep(120.5)
        lost_s = trio.current_time()
        missing |= lost
        await until(lambda: not missing, timeout_s=40)
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()
    said = [(message["op"], message["symbols"]) for message in server.sockets[0].received[1:]]
    assert said == [("unsub", ["B"]), ("sub", ["B"])]
    (gap,) = sink.gaps
    assert (gap[3], gap[9]) == (2, GapReason.STALE)
    assert lost_s - 1 <= seconds(gap[7]) <= lost_s
    assert lost_s + SILENCE_MIN <= seconds(gap[8]) <= lost_s + 2 * SILENCE_MIN
    assert sink.qualities[-2:] == [(2, Quality.STALE), (2, Quality.OK)]
    assert len(server.sockets) == 1


async def test_market_that_stops_trading_is_not_asked_for_anew(autojump_clock):
    """Quotes go on, and no instrument is to blame; nor is any when the connection is replaced."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server)
    async with running(source, sink), trio.open_nursery() as nursery:
        await live(server, source)
        async with trio.open_nursery() as trading:
            trading.start_soon(talk_on, server, set())
            await trio.sleep(300)
            server.sockets[0].say(cut=None)
            await until(lambda: source.report().handovers == 1)
            await trio.sleep(300)
            trading.cancel_scope.cancel()
        nursery.start_soon(lambda: talk_on(server, set(), trades=False))
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()
    assert sink.gaps == []
    assert len(server.sockets) == 2
    assert [message["op"] for message in server.sockets[1].received] == ["sub"]


async def test_maintenance_makes_gap_rows_of_its_own_reason(autojump_clock):
    """From its beginning to its end, and status rows tell of both."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server, msg_recv_timeout_s=3600.0)
    async with running(source, sink):
        await live(server, source)
        server.trade("A")
        await trio.sleep(1)
        server.sockets[0].say(maintenance=True)
        begun_s = trio.current_time()
        await trio.sleep(300)
        server.sockets[0].say(maintenance=False)
        await trio.sleep(1)
        assert [row[9] for row in sink.gaps] == [GapReason.MAINTENANCE] * 3
        assert all(seconds(row[7]) <= begun_s + 0.1 for row in sink.gaps)
        assert all(300 <= seconds(row[8]) - begun_s <= 301 for row in sink.gaps)
        codes = [Quality(int(row[7])) for row in sink.of_kind(Kind.STATUS)]
        assert codes == [Quality.CLOSED] * 3 + [Quality.OK] * 3


async def test_reconnect_in_maintenance_keeps_the_reason_and_the_beginning(autojump_clock):
    """The cut that comes with it is part of it."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server, msg_recv_timeout_s=3600.0)
    async with running(source, sink):
        await live(server, source)
        server.sockets[0].say(maintenance=True)
        await trio.sleep(10)
        server.sockets[0].cut()
        await until(lambda: len(server.sockets) == 2)
        await live(server, source)
        assert [row[9] for row in sink.gaps] == [GapReason.MAINTENANCE] * 3


# --- make before break -------------------------------------------------------------------------------------


async def trade_on(server: FakeServer, symbol: str = "A", every_s: float = 0.05) -> None:
    """Let there be trades for ever."""
    while True:
        server.trade(symbol)
        await trio.sleep(every_s)


async def test_announced_cut_loses_and_doubles_nothing(autojump_clock):
    """The next connection is there before the old one goes."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server)
    async with running(source, sink), trio.open_nursery() as nursery:
        await live(server, source)
        nursery.start_soon(trade_on, server)
        await trio.sleep(5)
        server.sockets[0].say(cut=None)
        await until(lambda: len(server.sockets) == 2 and not server.sockets[0].open)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert sink.gaps == []
    assert ids(sink) == list(range(1, len(ids(sink)) + 1))
    assert len(ids(sink)) > 200
    assert source.report().duplicates > 10
    assert source.report().handovers == 1


async def test_connection_is_replaced_before_its_lifetime_is_over(autojump_clock):
    """A venue that cuts after a day never gets to do so."""
    venue = FakeVenue(limits=msgspec.structs.replace(LIMITS, lifetime_s=1000.0))
    server, sink = FakeServer(), ListSink()
    source = make_source(server, venue=venue)
    async with running(source, sink), trio.open_nursery() as nursery:
        await live(server, source)
        nursery.start_soon(trade_on, server, "A", 1.0)
        await trio.sleep(10_000)
        nursery.cancel_scope.cancel()
    assert 10 <= len(server.sockets) <= 13
    assert max(s.opened_s for s in server.sockets) > 9000
    assert sink.gaps == []
    assert ids(sink) == list(range(1, len(ids(sink)) + 1))


async def test_cut_that_comes_before_the_next_connection_is_ready_is_a_gap(autojump_clock):
    """From the old one's last rows to the new one's acks."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server)
    async with running(source, sink), trio.open_nursery() as nursery:
        await live(server, source)
        nursery.start_soon(trade_on, server)
        await trio.sleep(5)
        server.connect_s = 4.0
        server.sockets[0].say(cut=None)
        await trio.sleep(2)
        server.sockets[0].cut()
        await until(lambda: len(server.sockets) == 2 and source.report().live == 3)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert [row[3] for row in sink.gaps] == [1, 2, 3]
    assert {row[9] for row in sink.gaps} == {int(GapReason.DISCONNECT)}
    got = ids(sink)
    assert got == sorted(set(got))
    (gap,) = [row for row in sink.gaps if row[3] == 1]
    assert 1.8 < (gap[8] - gap[7]) / SECOND_NS < 2.3


async def test_successor_that_fails_leaves_the_old_connection_as_it_was(autojump_clock):
    """Attempts go on beside it until one succeeds."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server)
    async with running(source, sink), trio.open_nursery() as nursery:
        await live(server, source)
        nursery.start_soon(trade_on, server)
        await trio.sleep(5)
        server.acks = False
        server.sockets[0].say(cut=None)
        await until(lambda: len(server.sockets) == 2)
        await trio.sleep(1)
        server.sockets[1].cut()
        await trio.sleep(1)
        server.acks = True
        await until(lambda: source.report().handovers == 1)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert sink.gaps == []
    assert ids(sink) == list(range(1, len(ids(sink)) + 1))


async def test_instrument_added_during_a_handover_is_there_afterwards(autojump_clock):
    """It goes to the new connection, or to the old one if that fails."""
    server, sink = FakeServer(["A", "B", "C"]), ListSink()
    source = make_source(server, instruments=["a/usd.spot.fake"])
    async with running(source, sink), trio.open_nursery() as nursery:
        await live(server, source, 1)
        nursery.start_soon(trade_on, server)
        nursery.start_soon(trade_on, server, "B")
        await trio.sleep(5)
        server.sockets[0].say(cut=None)
        await until(lambda: len(server.sockets) == 2)
        source.demand("me", ["b/usd.spot.fake"])
        await until(lambda: source.report().handovers == 1)
        await live(server, source, 2)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert sink.gaps == []
    numbers = ids(sink, 2)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


# --- instruments: list, demand, shards -----------------------------------------------------------------------


async def test_instruments_are_known_before_any_quote_comes(autojump_clock):
    """B13, B15, R30: a venue that lists its instruments and never sends a quote holds nobody up."""
    server, sink = FakeServer(acks=False, unreachable=True), ListSink()
    source = make_source(server)
    async with running(source, sink):
        with trio.fail_after(2):
            await source.prepared.wait()
        assert [m.fqme for m in sink.markets] == ["a/usd.spot.fake", "b/usd.spot.fake", "c/usd.spot.fake"]


async def test_slow_venue_holds_up_nobody(autojump_clock):
    """B22, R34: one venue takes ten seconds for everything, the other is quick; both deliver."""
    slow, quick = FakeServer(connect_s=10.0), FakeServer()
    slow_sink, quick_sink = ListSink(), ListSink()
    slow_source, quick_source = make_source(slow), make_source(quick)
    async with running(slow_source, slow_sink), running(quick_source, quick_sink):
        await live(quick, quick_source)
        assert trio.current_time() < 2
        quick.trade("A", count=100_000)
        await live(slow, slow_source)
        slow.trade("A")
        await trio.sleep(0.1)
    assert len(ids(quick_sink)) == 100_000
    assert ids(slow_sink) == [1]


async def test_venue_without_credentials_is_fine_with_none(autojump_clock):
    """R82: public data needs no account: a feed's table may be empty."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server, instruments=[])
    async with running(source, sink):
        await until(lambda: source.search_space())
        source.demand("me", ["A/USD.spot.fake"])
        await live(server, source, 1)


async def test_server_errors_on_the_list_are_retried_and_reported(autojump_clock):
    """R81: a 5xx, a dead line, and nonsense; the feed starts when the venue is well."""
    server, sink = FakeServer(), ListSink()
    answers = [reply(b"", 503)] * 6 + [HttpConnectError("no")] * 3 + [reply(b"<html>")] + [reply(b"[]")]

    def respond(path: str):
        return answers.pop(0) if answers else server.answer_request(path)

    server.respond = respond
    source = make_source(server)
    with structlog.testing.capture_logs() as logs:
        async with running(source, sink):
            await until(lambda: source.prepared.is_set(), timeout_s=60)
            await live(server, source)
    failures = [entry for entry in logs if entry["event"] == "instruments.failed"]
    assert len(failures) >= 3
    assert all(entry["retry_s"] <= 60 for entry in failures)


async def test_list_on_disk_makes_a_start_without_network_possible(autojump_clock, tmp_path):
    """Search needs no round trip once the list was fetched; it is fetched again in the background when it is old."""
    server, sink = FakeServer(), ListSink()
    async with running(make_source(server, cache_path=tmp_path), sink):
        await until(lambda: (tmp_path / "instruments.json").exists())
    assert [path for _, path in server.requests] == ["/symbols"]
    later = FakeServer(["A", "B", "C", "D"])
    later.respond = lambda path: (
        HttpConnectError("offline") if trio.current_time() < 300 else later.answer_request(path)
    )
    source = make_source(later, cache_path=tmp_path, refresh_s=200.0, msg_recv_timeout_s=1e6)
    async with running(source, ListSink()):
        await trio.sleep(0.1)
        assert len(source.search_space()) == 3
        await live(later, source, 3)
        assert later.requests == []
        await live(later, source, 4, timeout_s=400)
        assert trio.current_time() > 300


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version":1,"key":"x","fetched_ns":1,"markets":[]}', b"\xff\xfe"])
async def test_damaged_list_on_disk_is_ignored(autojump_clock, tmp_path, content):
    """It is fetched anew."""
    (tmp_path / "instruments.json").write_bytes(content)
    server, sink = FakeServer(), ListSink()
    async with running(make_source(server, cache_path=tmp_path), sink):
        await until(lambda: b'"a"' in (tmp_path / "instruments.json").read_bytes())


async def test_globs_are_evaluated_again_when_the_list_changes(autojump_clock):
    """New instruments join, delisted ones leave and are closed."""
    server, sink = FakeServer(["A", "B"]), ListSink()
    source = make_source(server, refresh_s=100.0, msg_recv_timeout_s=1e6)
    async with running(source, sink):
        await live(server, source, 2)
        server.symbols = ["B", "C", "D"]
        await until(lambda: sorted(server.sockets[0].subscribed) == ["B", "C", "D"])
        await live(server, source, 3)
        assert sink.qualities[-1] != (1, Quality.OK)
        assert (1, Quality.CLOSED) in sink.qualities
        assert len(server.sockets) == 1


async def test_unknown_names_are_reported_once_and_taken_up_when_they_appear(autojump_clock):
    """A typing mistake is told; an instrument that is listed next week needs no restart."""
    server, sink = FakeServer(["A"]), ListSink()
    source = make_source(server, instruments=["a/usd.spot.fake", "b/usd.spot.fake"], refresh_s=100.0)
    with structlog.testing.capture_logs() as logs:
        async with running(source, sink):
            await live(server, source, 1)
            await trio.sleep(500)
            assert source.report().unknown == ["b/usd.spot.fake"]
            server.symbols = ["A", "B"]
            await live(server, source, 2)
    assert sum(entry["event"] == "instruments.unknown" and bool(entry["names"]) for entry in logs) == 1


async def test_demand_comes_and_goes_with_clients_and_declared_instruments_stay(autojump_clock):
    """Counted by owner, with time to linger; what was missing in between is a gap."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server, instruments=["a/usd.spot.fake"], linger_s=30.0, msg_recv_timeout_s=1e6)
    async with running(source, sink):
        await live(server, source, 1)
        socket = server.sockets[0]
        source.demand("one", ["a/usd.spot.fake", "BUSD.spot.fake"])
        source.demand("two", ["b/usd.spot.fake"])
        await live(server, source, 2)
        server.trade("B")
        source.demand("one", [])
        await trio.sleep(100)
        assert sorted(socket.subscribed) == ["A", "B"]
        source.demand("two", [])
        await trio.sleep(29)
        assert sorted(socket.subscribed) == ["A", "B"]
        await until(lambda: socket.subscribed == ["A"], timeout_s=2)
        left_s = trio.current_time()
        await trio.sleep(100)
        server.trade("B", count=3)
        source.demand("three", ["b/usd.spot.fake"])
        await live(server, source, 2)
        server.trade("B")
        await trio.sleep(0.1)
        assert ids(sink, 2) == [1, 5]
        (gap,) = sink.gaps
        assert gap[3] == 2
        assert seconds(gap[7]) <= left_s
        assert seconds(gap[8]) >= left_s + 99.9
        assert len(server.sockets) == 1


async def test_connection_without_instruments_is_closed(autojump_clock):
    """And its messages stay counted."""
    venue = FakeVenue(limits=msgspec.structs.replace(LIMITS, streams_per_connection=2))
    server, sink = FakeServer(), ListSink()
    source = make_source(server, venue=venue, instruments=["a/usd.spot.fake"], linger_s=0.0, msg_recv_timeout_s=1e6)
    async with running(source, sink):
        await live(server, source, 1)
        source.demand("me", ["b/usd.spot.fake"])
        await live(server, source, 2)
        assert len(server.open_sockets) == 2
        server.trade("B", count=7)
        await trio.sleep(0.1)
        source.demand("me", [])
        await until(lambda: len(server.open_sockets) == 1)
        assert source.counts().used == {"t": 7}
        assert source.report().connections == 1


async def test_successor_of_a_feed_that_died_notes_what_it_missed(autojump_clock):
    """Starting is recovering: for each instrument, from the predecessor's last row to its ack."""
    server = FakeServer()
    sink = ListSink(last_received_ns=BASE_NS - 5 * SECOND_NS)
    source = make_source(server)
    async with running(source, sink):
        await live(server, source)
    assert sorted(row[3] for row in sink.gaps) == [1, 2, 3]
    assert all(row[9] == GapReason.RESTART and row[7] == BASE_NS - 5 * SECOND_NS for row in sink.gaps)


async def test_recorder_sees_every_message(autojump_clock):
    """In order, with the time that its rows have."""
    server, sink = FakeServer(), ListSink(recording=True)
    source = make_source(server)
    async with running(source, sink):
        await live(server, source)
        server.trade("A", count=3)
        await trio.sleep(0.1)
    trades = [(payload, received_ns) for payload, received_ns in sink.messages if payload.startswith(b'{"t"')]
    assert [received_ns for _, received_ns in trades] == [row[1] for row in sink.of_kind(Kind.TRADE)]
    assert len(trades) == 3


# --- REST: one client, one budget ----------------------------------------------------------------------------


async def test_one_client_serves_everything_and_is_closed_also_on_error(autojump_clock):
    """R79: however many connections ask at once; the next run makes a new one."""
    venue = FakeVenue(limits=msgspec.structs.replace(LIMITS, streams_per_connection=2), token=True)
    server, sink = FakeServer(), ListSink()
    source = make_source(server, venue=venue)
    async with running(source, sink):
        await live(server, source)
        assert server.clients == 1
        assert [path for _, path in server.requests].count("/token") == 3
    assert server.clients_closed == 1

    def explode(*_args: object) -> None:
        raise ZeroDivisionError

    venue.open_protocol = explode
    with pytest.raises(ZeroDivisionError):
        await make_source(server, venue=venue, instruments=["a/usd.spot.fake"]).run(sink)
    assert server.clients_closed == server.clients == 2


async def test_token_that_makes_no_sense_is_asked_for_again(autojump_clock):
    """Nothing that a venue answers ends the feed."""
    server, sink = FakeServer(), ListSink()
    answers = [reply(b"{}"), reply(b"", 500)]
    server.respond = lambda path: answers.pop(0) if path == "/token" and answers else server.answer_request(path)
    source = make_source(server, venue=FakeVenue(token=True))
    async with running(source, sink):
        await live(server, source)


@pytest.mark.parametrize("status", [503, 429])
async def test_each_attempt_to_connect_asks_for_one_token(autojump_clock, status):
    """The reconnect policy alone decides when the venue is asked again, as it does of connections."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server, venue=FakeVenue(token=True), msg_recv_timeout_s=1e6)
    async with running(source, sink):
        await live(server, source)
        server.trade("A")
        await trio.sleep(60)
        asked = len(server.requests)
        server.respond = lambda path: reply(b"", status, Retry_After="2") if path == "/token" else reply(b"[]")
        server.sockets[0].cut()
        await trio.sleep(600)
        server.respond = None
        await live(server, source)
        times_s = [at for at, path in server.requests[asked:] if path == "/token"]
        assert len(times_s) == source.report().connects - 1 == source.report().losses
        assert times_s[0] < 60.2
        assert 600 / 30 < len(times_s) < 80
        assert all(2 <= later - earlier <= 30.1 for earlier, later in itertools.pairwise(times_s))


async def test_ban_does_not_touch_live_streams_and_survives_a_restart(autojump_clock, tmp_path):
    """R83: requests wait until it is over, in bounds; a successor knows of it."""
    server, sink = FakeServer(), ListSink()
    banned_until_s = math.inf

    def respond(path: str):
        if trio.current_time() < banned_until_s:
            return reply(b"", 418, Retry_After=str(math.ceil(banned_until_s - trio.current_time())))
        return server.answer_request(path)

    source = make_source(server, refresh_s=10.0, state_path=tmp_path, cache_path=tmp_path)
    async with running(source, sink):
        await live(server, source)
        await until(lambda: (tmp_path / "instruments.json").exists())
        banned_until_s = trio.current_time() + 300
        server.respond = respond
        await until(lambda: source.report().resting_until_ns)
        asked = len(server.requests)
        server.trade("A", count=5)
        await trio.sleep(20)
        assert ids(sink) == [1, 2, 3, 4, 5]
        assert len(server.requests) == asked
        assert "throttled" in source.report().trouble(source.now_ns())
    successor = make_source(server, refresh_s=10.0, state_path=tmp_path, cache_path=tmp_path)
    async with running(successor, ListSink()):
        await live(server, successor)
        await trio.sleep(30)
        assert len(server.requests) == asked
        await until(lambda: len(server.requests) > asked, timeout_s=600)
        assert trio.current_time() >= banned_until_s


async def test_connections_are_opened_no_faster_than_the_venue_allows(autojump_clock):
    """All of them share one budget."""
    limits = msgspec.structs.replace(LIMITS, streams_per_connection=4, connections_per_window=(3, 60.0))
    server, sink = FakeServer(list("ABCDEFGH")), ListSink()
    source = make_source(server, venue=FakeVenue(limits=limits), msg_recv_timeout_s=1e6)
    async with running(source, sink):
        await live(server, source)
    for begin_s in server.attempts_s:
        assert sum(begin_s <= at < begin_s + 60 for at in server.attempts_s) <= 3


async def test_page_of_history_of_a_venue_without_any_is_a_lookup_error(autojump_clock):
    """And so is one of an instrument that nobody knows."""
    server, sink = FakeServer(), ListSink()
    source = make_source(server)
    async with running(source, sink):
        await live(server, source)
        with pytest.raises(LookupError):
            await source.page("a/usd.spot.fake", 60, 0, 1, priority=Priority.BACKFILL, timeout_s=1)


def test_outage_on_demand_is_refused():
    """A real venue can't be told to go away."""
    with pytest.raises(NotImplementedError):
        make_source(FakeServer()).outage(1.0)


def test_settings_that_make_no_sense_are_refused():
    """Before anything is started."""
    for settings in ({"ws_url": "http://x"}, {"rest_url": "ftp://x"}, {"instruments": ["nonsense"]}):
        with pytest.raises((ValueError, ConfigError)):
            make_source(FakeServer(), **settings)


def test_market_of_the_fake_venue_is_one():
    """The fake is honest."""
    assert market("A").fqme == "a/usd.spot.fake"
    assert Bucket(1, 1.0).capacity == 1

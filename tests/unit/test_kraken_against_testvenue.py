"""Our side of Kraken's protocols against the test venue's, which is written independently. No sockets."""

from __future__ import annotations

import itertools
from collections import defaultdict

import msgspec
import pytest

from backends.kraken.history import TooManyRequestsError
from backends.kraken.instruments import guess
from backends.kraken.live import KrakenSpot
from backends.live import LiveConfig, Maintenance, NoData, Pong, Refused, Resync, Subscribed
from marketd.errors import WireError
from marketd.http import Headers
from marketd.http import Response as HttpResponse
from marketd.model import GapReason, Kind
from marketd.testvenue import listing
from marketd.testvenue.faults import spoil_checksum
from marketd.testvenue.kraken.venue import Kraken
from marketd.testvenue.venue import Request, Say
from tests.fakes import ListSink
from tests.rebuilt_book import RebuiltBook, venue_book
from tests.venue_sides import NOW_NS, market

SECOND_NS = 10**9
MINUTE_NS = 60 * SECOND_NS


@pytest.fixture
def theirs():
    return Kraken(market(listing.KRAKEN))


@pytest.fixture
def ours():
    return KrakenSpot(LiveConfig())


def ask(theirs, request, now_ns=NOW_NS):
    theirs.forgive()
    answer = theirs.rest(Request(request.path, dict(request.params), request.method), now_ns)
    return HttpResponse(answer.status, Headers(answer.headers), answer.body, now_ns)


def listed(theirs, ours):
    return ours.parse_instruments([ask(theirs, request).body for request in ours.instrument_requests()])


def connected(theirs, ours, markets):
    """Open a connection and talk until nothing is left to say."""
    plan = ours.connect_plan([], markets)
    session = theirs.session(Request(plan.url.removeprefix("wss://ws.kraken.com"), {}), NOW_NS)
    sink = ListSink()
    connection = ours.open_protocol(sink, markets, plan)
    connection.subscribe(markets)
    connection.timer(NOW_NS)
    for reply in session.greet(NOW_NS):
        connection.receive(reply.payload, NOW_NS)
    talk(session, connection)
    return session, connection, sink


def talk(session, connection):
    seconds = itertools.count()
    while payloads := connection.data_to_send():
        for payload in payloads:
            now_ns = NOW_NS + next(seconds) * SECOND_NS
            for reply in session.receive(payload, now_ns):
                assert isinstance(reply, Say), reply
                connection.receive(reply.payload, now_ns)


def speak(theirs, session, connection):
    """Let every channel say its newest."""
    for channel in session.channels.values():
        if channel.on_trade is not None:
            number = theirs.market.trades_before(channel.instrument, NOW_NS)
            for trade in theirs.market.trade_range(channel.instrument, number - 1, number):
                connection.receive(channel.on_trade(trade), NOW_NS)
        if channel.on_quote is not None:
            connection.receive(channel.on_quote(theirs.newest_quote(channel.instrument, NOW_NS)), NOW_NS)


def test_every_listed_instrument_is_subscribed_to_and_speaks(theirs, ours):
    markets = listed(theirs, ours)
    assert {"xbt/usd.spot.kraken"} <= {market.fqme for market in markets}
    session, connection, sink = connected(theirs, ours, markets)
    acked = [fqme for event in connection.events() if isinstance(event, Subscribed) for fqme in event.fqmes]
    assert sorted(acked) == sorted(connection.live) == sorted(market.fqme for market in markets)
    assert not session.silent
    speak(theirs, session, connection)
    assert (connection.counts.bad, connection.counts.unknown, sink.gaps) == (0, 0, [])
    kinds = defaultdict(set)
    for row in sink.data:
        kinds[sink.markets[row[3] - 1].fqme].add(row[4])
    assert kinds == {market.fqme: {Kind.TRADE, Kind.QUOTE} for market in markets}


def test_book_is_the_venues_own_after_each_of_its_messages(theirs):
    """Checksums, levels that fall out of the depth, and those that come back."""
    ours = KrakenSpot(LiveConfig(kinds=["book"]))
    markets = listed(theirs, ours)
    session, connection, sink = connected(theirs, ours, markets)
    first = theirs.market.quotes_before(0, NOW_NS) + 1
    channel = session.channels["book-10:BTC/USD"]
    reader = RebuiltBook()
    for number in range(first, first + 200):
        connection.receive(channel.on_quote(theirs.market.quote(0, number)), NOW_NS)
        for row in sink.of_kind(Kind.LEVEL):
            if sink.markets[row[3] - 1].fqme == "xbt/usd.spot.kraken":
                reader.take(row[5], row[6], row[7], row[8])
        sink.rows.clear()
        assert reader.sides() == venue_book(theirs.market, 0, number, 10)
    assert (connection.counts.bad, connection.counts.unknown) == (0, 0)
    assert not any(isinstance(event, Resync) for event in connection.events())


def test_wrong_checksum_is_noticed_and_the_book_asked_for_again_is_right(theirs):
    ours = KrakenSpot(LiveConfig(kinds=["book"]))
    [xbt, *_] = markets = listed(theirs, ours)
    session, connection, sink = connected(theirs, ours, markets)
    connection.events()
    quote = theirs.market.quote(0, theirs.market.quotes_before(0, NOW_NS) + 1)
    connection.receive(spoil_checksum(session.channels["book-10:BTC/USD"].on_quote(quote)), NOW_NS)
    assert connection.events() == [Resync(xbt.fqme, GapReason.CHECKSUM)]
    rows = len(sink.rows)
    connection.unsubscribe([xbt])
    connection.subscribe([xbt])
    talk(session, connection)
    assert connection.events() == [Subscribed((xbt.fqme,))]
    assert len(sink.rows) == rows + 21
    assert connection.live == {market.fqme for market in markets}


def test_unsubscribed_instruments_fall_silent(theirs, ours):
    markets = listed(theirs, ours)
    session, connection, _ = connected(theirs, ours, markets)
    connection.unsubscribe(markets[:-1])
    talk(session, connection)
    assert {channel.instrument for channel in session.channels.values()} == {len(markets) - 1}
    assert connection.live == {markets[-1].fqme}
    assert "error" not in connection.counts.unused


def test_unknown_symbol_is_refused_by_itself(theirs, ours):
    markets = listed(theirs, ours)
    unknown = guess("NOPE/USD")
    _, connection, _ = connected(theirs, ours, [unknown, *markets])
    refused = [event for event in connection.events() if isinstance(event, Refused)]
    assert refused == [Refused(unknown.fqme, "Currency pair not supported NOPE/USD")]
    assert connection.live == {market.fqme for market in markets}


def test_subscribing_again_is_no_error(theirs, ours):
    markets = listed(theirs, ours)
    session, connection, _ = connected(theirs, ours, markets)
    other = ours.open_protocol(ListSink(), markets, ours.connect_plan([], markets))
    other.subscribe(markets)
    other.timer(NOW_NS)
    talk(session, other)
    assert other.live == connection.live


def test_pings_and_maintenance_are_understood(theirs, ours):
    session, connection, _ = connected(theirs, ours, listed(theirs, ours))
    connection.events()
    connection.timer(connection.next_timer_ns)
    talk(session, connection)
    for maintenance in (True, False):
        connection.receive(session.status("notice", maintenance=maintenance).payload, NOW_NS)
    assert connection.events() == [Pong(), Maintenance(on=True), Maintenance(on=False)]


def test_bars_are_whole_and_agree_with_the_trades(theirs, ours):
    """R50, R63: and the venue's own trades make the venue's own bars."""
    xbt = listed(theirs, ours)[0]
    request = ours.history.page_request(xbt, 60, 0, NOW_NS)
    bars = ours.history.parse_page(ask(theirs, request).body, xbt, 60).rows
    end_ns = NOW_NS // MINUTE_NS * MINUTE_NS
    assert [row[0] for row in bars] == list(range(end_ns - len(bars) * MINUTE_NS, end_ns, MINUTE_NS))
    assert len(bars) == ours.history.rows_max(60)
    trades = load_trades(theirs, ours, xbt, end_ns - 20 * MINUTE_NS, end_ns)
    for open_ns, open_, high, low, close, volume, count in bars[-20:]:
        inside = [(price, size) for event_ns, _, price, size, _ in trades if 0 <= event_ns - open_ns < MINUTE_NS]
        prices = [price for price, _ in inside]
        assert count == len(inside)
        assert volume == pytest.approx(sum(size for _, size in inside), rel=1e-12)
        if inside:
            assert (open_, high, low, close) == (prices[0], max(prices), min(prices), prices[-1])


def load_trades(theirs, ours, xbt, begin_ns, end_ns):
    """Page forwards, by time; each trade once."""
    trades, start_ns = {}, begin_ns
    while start_ns is not None and start_ns < end_ns:
        request = ours.history.page_request(xbt, "trades", start_ns, end_ns)
        page = ours.history.parse_page(ask(theirs, request).body, xbt, "trades")
        trades |= {row[1]: row for row in page.rows if row[0] < end_ns}
        start_ns = page.next_ns
    assert sorted(trades) == list(range(min(trades), max(trades) + 1))
    return sorted(trades.values())


def test_bars_of_the_last_minutes_are_asked_for_by_their_begin(theirs, ours):
    xbt = listed(theirs, ours)[0]
    end_ns = NOW_NS // MINUTE_NS * MINUTE_NS
    request = ours.history.page_request(xbt, 60, end_ns - 5 * MINUTE_NS, end_ns)
    rows = ours.history.parse_page(ask(theirs, request).body, xbt, 60).rows
    assert [row[0] for row in rows] == list(range(end_ns - 5 * MINUTE_NS, end_ns, MINUTE_NS))


@pytest.mark.parametrize("period", [60, "trades"])
def test_nothing_is_there_after_now(theirs, ours, period):
    """R61: "no data" is an answer."""
    xbt = listed(theirs, ours)[0]
    answer = ask(theirs, ours.history.page_request(xbt, period, NOW_NS, NOW_NS + 1))
    with pytest.raises(NoData):
        ours.history.parse_page(answer.body, xbt, period)


def test_refusals_are_understood(theirs, ours):
    """R62, R81: a limit, a maintenance, an unknown pair."""
    xbt = listed(theirs, ours)[0]
    refusal = theirs.refuse(1, NOW_NS)
    assert ours.throttled(HttpResponse(refusal.status, Headers(refusal.headers), refusal.body, NOW_NS)) == 15.0
    with pytest.raises(TooManyRequestsError):
        ours.history.parse_page(refusal.body, xbt, 60)
    away = theirs.unavailable()
    assert ours.throttled(HttpResponse(away.status, Headers(), away.body, NOW_NS)) == 5.0
    with pytest.raises(WireError, match="EService:Unavailable"):
        ours.parse_instruments([away.body, away.body])
    unknown = msgspec.structs.replace(xbt, bs_mktid="NOPE/USD")
    answer = ask(theirs, ours.history.page_request(unknown, 60, 0, NOW_NS))
    assert ours.throttled(answer) is None
    with pytest.raises(WireError, match="Unknown asset pair"):
        ours.history.parse_page(answer.body, unknown, 60)

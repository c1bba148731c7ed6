"""Our side of KuCoin's protocols against the test venue's, which is written independently. No sockets."""

from __future__ import annotations

import itertools
from collections import defaultdict
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from backends.kucoin.instruments import guess
from backends.kucoin.live import KucoinSpot
from backends.kucoin.rest import TooManyRequestsError
from backends.live import Fatal, LiveConfig, NoData, Pong, Refused, Subscribed
from marketd.errors import WireError
from marketd.http import Headers
from marketd.http import Response as HttpResponse
from marketd.model import Kind
from marketd.testvenue import listing
from marketd.testvenue.kucoin.venue import Kucoin
from marketd.testvenue.venue import Request, Say
from tests.fakes import ListSink
from tests.venue_sides import NOW_NS, market

SECOND_NS = 10**9
MINUTE_NS = 60 * SECOND_NS


@pytest.fixture
def theirs():
    return Kucoin(market(listing.KUCOIN))


@pytest.fixture
def ours():
    return KucoinSpot(LiveConfig())


def ask(theirs, request, now_ns=NOW_NS):
    theirs.forgive()
    answer = theirs.rest(Request(request.path, dict(request.params), request.method), now_ns)
    return HttpResponse(answer.status, Headers(answer.headers), answer.body, now_ns)


def listed(theirs, ours):
    return ours.parse_instruments([ask(theirs, request).body for request in ours.instrument_requests()])


def opened(theirs, ours, markets):
    """Get a token, open a connection with it, and hear the greeting."""
    plan = ours.connect_plan([ask(theirs, request).body for request in ours.connect_requests()], markets)
    query = {name: values[0] for name, values in parse_qs(urlsplit(plan.url).query).items()}
    session = theirs.session(Request("/", query), NOW_NS)
    sink = ListSink()
    connection = ours.open_protocol(sink, markets, plan)
    connection.subscribe(markets)
    connection.timer(NOW_NS)
    assert connection.data_to_send() == []
    for reply in session.greet(NOW_NS):
        if isinstance(reply, Say):
            connection.receive(reply.payload, NOW_NS)
    return session, connection, sink


def connected(theirs, ours, markets):
    """Open a connection and talk until nothing is left to say."""
    session, connection, sink = opened(theirs, ours, markets)
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
    """Let every topic say its newest."""
    for channel in session.channels.values():
        if channel.on_trade is not None:
            number = theirs.market.trades_before(channel.instrument, NOW_NS)
            for trade in theirs.market.trade_range(channel.instrument, number - 1, number):
                connection.receive(channel.on_trade(trade), NOW_NS)
        if channel.on_quote is not None:
            connection.receive(channel.on_quote(theirs.newest_quote(channel.instrument, NOW_NS)), NOW_NS)


def test_every_listed_instrument_is_subscribed_to_and_speaks(theirs, ours):
    markets = listed(theirs, ours)
    session, connection, sink = connected(theirs, ours, markets)
    assert connection.events() == [Subscribed(tuple(market.fqme for market in markets))]
    assert connection.live == {market.fqme for market in markets}
    assert not session.silent
    speak(theirs, session, connection)
    assert (connection.counts.bad, connection.counts.unknown, sink.gaps) == (0, 0, [])
    kinds = defaultdict(set)
    for row in sink.data:
        kinds[sink.markets[row[3] - 1].fqme].add(row[4])
    assert kinds == {market.fqme: {Kind.TRADE, Kind.QUOTE} for market in markets}


def test_unsubscribed_instruments_fall_silent(theirs, ours):
    markets = listed(theirs, ours)
    session, connection, _ = connected(theirs, ours, markets)
    connection.unsubscribe(markets[:-1])
    talk(session, connection)
    assert {channel.instrument for channel in session.channels.values()} == {len(markets) - 1}
    assert connection.live == {markets[-1].fqme}


def test_unknown_symbol_spoils_no_other(theirs, ours):
    markets = listed(theirs, ours)
    unknown = guess("NOPE-USDT")
    _, connection, _ = connected(theirs, ours, [markets[0], unknown, *markets[1:]])
    refused = [event for event in connection.events() if isinstance(event, Refused)]
    assert [event.fqme for event in refused] == [unknown.fqme]
    assert "not found" in refused[0].reason
    assert connection.live == {market.fqme for market in markets}


def test_wrong_token_is_fatal(theirs, ours):
    theirs.forgive()
    session = theirs.session(Request("/", {"token": "nobody's"}), NOW_NS)
    markets = listed(theirs, ours)
    plan = ours.connect_plan([ask(theirs, request).body for request in ours.connect_requests()], markets)
    connection = ours.open_protocol(ListSink(), markets, plan)
    connection.subscribe(markets)
    for reply in session.greet(NOW_NS):
        if isinstance(reply, Say):
            connection.receive(reply.payload, NOW_NS)
    assert connection.events() == [Fatal("KuCoin says 401 token is invalid")]
    assert connection.data_to_send() == []


def test_pings_keep_the_connection_open(theirs, ours):
    session, connection, _ = connected(theirs, ours, listed(theirs, ours))
    connection.events()
    now_ns = NOW_NS
    for _ in range(20):
        now_ns = connection.next_timer_ns
        connection.timer(now_ns)
        for payload in connection.data_to_send():
            for reply in session.receive(payload, now_ns):
                connection.receive(reply.payload, now_ns)
        assert session.tick(now_ns, now_ns) == []
    pongs = connection.events()
    assert set(pongs) == {Pong()}
    assert now_ns - NOW_NS > 200 * SECOND_NS


def test_bars_are_loaded_backwards_whole_and_agree_with_the_trades(theirs, ours):
    """R50, R51, R54: minutes without a trade are not there, and nothing is asked for twice."""
    btc = listed(theirs, ours)[0]
    end_ns = NOW_NS // MINUTE_NS * MINUTE_NS
    bars, page_end_ns, pages = {}, NOW_NS, 0
    while page_end_ns > end_ns - 4000 * MINUTE_NS and pages < 10:
        request = ours.history.page_request(btc, 60, end_ns - 4000 * MINUTE_NS, page_end_ns)
        try:
            page = ours.history.parse_page(ask(theirs, request).body, btc, 60)
        except NoData:
            break
        assert page.rows[-1][0] < page_end_ns // MINUTE_NS * MINUTE_NS, "the newest is closed"
        assert not bars.keys() & {row[0] for row in page.rows}
        bars |= {row[0]: row for row in page.rows}
        page_end_ns = page.rows[0][0]
        pages += 1
    assert max(bars) == end_ns - MINUTE_NS
    assert len(bars) > 1500
    answer = ask(theirs, ours.history.page_request(btc, "trades", 0, NOW_NS))
    trades = ours.history.parse_page(answer.body, btc, "trades").rows
    assert len(trades) == ours.history.rows_max("trades")
    whole = [open_ns for open_ns in bars if open_ns > trades[0][0]]
    for open_ns in whole:
        inside = [(price, size) for event_ns, _, price, size, _ in trades if 0 <= event_ns - open_ns < MINUTE_NS]
        prices = [price for price, _ in inside]
        _, open_, high, low, close, volume, count = bars[open_ns]
        assert (open_, high, low, close) == (prices[0], max(prices), min(prices), prices[-1])
        assert volume == pytest.approx(sum(size for _, size in inside), rel=1e-12)
        assert count == -1


def test_refusals_are_understood(theirs, ours):
    """R62, R81: a limit with its waiting time, a ban, a maintenance, an unknown symbol."""
    btc = listed(theirs, ours)[0]
    refusal = theirs.refuse(17.5, NOW_NS)
    answer = HttpResponse(refusal.status, Headers(refusal.headers), refusal.body, NOW_NS)
    assert ours.throttled(answer) == 17.5
    with pytest.raises(TooManyRequestsError):
        ours.history.parse_page(refusal.body, btc, 60)
    theirs.ban(60.0, NOW_NS)
    banned = theirs.rest(Request("/api/v2/symbols", {}), NOW_NS)
    assert ours.throttled(HttpResponse(banned.status, Headers(banned.headers), banned.body, NOW_NS)) == 60.0
    away = theirs.unavailable()
    with pytest.raises(WireError, match="503000"):
        ours.parse_instruments([away.body, away.body])
    unknown = msgspec.structs.replace(btc, bs_mktid="NOPE-USDT")
    with pytest.raises(WireError, match="400100"):
        ours.history.parse_page(ask(theirs, ours.history.page_request(unknown, 60, 0, NOW_NS)).body, unknown, 60)


def test_requests_cost_what_they_say(theirs, ours):
    """The budget's weights are the venue's, so that it never has to refuse."""
    btc = listed(theirs, ours)[0]
    requests = [
        *ours.instrument_requests(),
        *ours.connect_requests(),
        ours.history.page_request(btc, 60, 0, NOW_NS),
        ours.history.page_request(btc, "trades", 0, NOW_NS),
    ]
    theirs.forgive()
    used = 0
    for request in requests:
        answer = theirs.rest(Request(request.path, dict(request.params), request.method), NOW_NS)
        used += request.weight
        assert ours.weight_used(Headers(answer.headers)) == {"rest": used}, request

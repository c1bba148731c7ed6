"""Our side of Binance's protocols against the test venue's, which is written independently. No sockets."""

from __future__ import annotations

import itertools
from collections import defaultdict

import msgspec
import pytest

from backends.binance.history import UnknownSymbolError
from backends.binance.live import BinanceConfig, open_venues
from backends.live import CutAnnounced, NoData, Subscribed
from marketd.http import Headers
from marketd.http import Response as HttpResponse
from marketd.model import Kind
from marketd.testvenue import listing
from marketd.testvenue.binance.venue import Binance
from marketd.testvenue.venue import Request, Say
from tests.fakes import ListSink
from tests.venue_sides import NOW_NS, market

MINUTE_NS = 60 * 10**9


@pytest.fixture(params=["spot", "usdm"])
def sides(request):
    """The test venue, and our venues for it."""
    futures = request.param == "usdm"
    theirs = Binance(market(listing.BINANCE_FUTURES if futures else listing.BINANCE), futures=futures)
    return theirs, open_venues(msgspec.convert({"market": request.param}, BinanceConfig))


def ask(theirs, request, now_ns=NOW_NS):
    theirs.forgive()
    answer = theirs.rest(Request(request.path, dict(request.params), request.method), now_ns)
    return HttpResponse(answer.status, Headers(answer.headers), answer.body, now_ns)


def listed(theirs, ours):
    return ours.parse_instruments([ask(theirs, request).body for request in ours.instrument_requests()])


def connected(theirs, ours, markets):
    """Open a connection and talk until nothing is left to say."""
    plan = ours.connect_plan([], markets)
    theirs.forgive()
    session = theirs.session(Request(plan.url.removeprefix(ours.ws_url), {}), NOW_NS)
    sink = ListSink()
    protocol = ours.open_protocol(sink, markets, plan)
    protocol.subscribe(markets)
    seconds = itertools.count()
    while payloads := protocol.data_to_send():
        for payload in payloads:
            now_ns = NOW_NS + next(seconds) * 10**9  # one message a second
            for reply in session.receive(payload, now_ns):
                assert isinstance(reply, Say), reply
                protocol.receive(reply.payload, now_ns)
    return session, protocol, sink


def test_every_listed_instrument_is_subscribed_to_and_speaks(sides):
    theirs, ours = sides
    kinds = defaultdict(set)
    for venue in ours:
        markets = listed(theirs, venue)
        session, protocol, sink = connected(theirs, venue, markets)
        assert protocol.events() == [Subscribed(tuple(market.fqme for market in markets))]
        assert set(protocol.live) == {market.fqme for market in markets}
        assert not session.silent, "asked for at the wrong address"
        for channel in session.channels.values():
            if channel.on_trade is not None:
                number = theirs.market.trades_before(channel.instrument, NOW_NS)
                for trade in theirs.market.trade_range(channel.instrument, number - 1, number):
                    protocol.receive(channel.on_trade(trade), NOW_NS)
            if channel.on_quote is not None:
                protocol.receive(channel.on_quote(theirs.newest_quote(channel.instrument, NOW_NS)), NOW_NS)
        assert (protocol.counts.bad, protocol.counts.unknown, sink.gaps) == (0, 0, [])
        for row in sink.data:
            kinds[sink.markets[row[3] - 1].fqme].add(row[4])
    assert set(kinds) == {market.fqme for market in listed(theirs, ours[0])}
    assert all(seen == {Kind.TRADE, Kind.QUOTE} for seen in kinds.values())


def test_an_announced_end_is_understood(sides):
    theirs, ours = sides
    session, protocol, _ = connected(theirs, ours[0], listed(theirs, ours[0]))
    protocol.events()
    announced = theirs.closing(session, NOW_NS)
    for reply in announced:
        protocol.receive(reply.payload, NOW_NS)
    assert protocol.events() == ([CutAnnounced()] if announced else [])
    assert bool(announced) == (ours[0].name == "binance.spot")


def test_bars_are_loaded_backwards_whole_and_agree_with_the_trades(sides):
    """R50, R51, R54: and the venue's own trades make the venue's own bars."""
    theirs, (ours, *_) = sides
    btc = listed(theirs, ours)[0]
    end_ns = NOW_NS // MINUTE_NS * MINUTE_NS
    begin_ns = end_ns - 4000 * MINUTE_NS
    bars = {}
    page_end_ns = NOW_NS
    while page_end_ns > begin_ns:
        try:
            page = ours.history.parse_page(
                ask(theirs, ours.history.page_request(btc, 60, begin_ns, page_end_ns)).body, btc, 60
            )
        except NoData:
            break
        assert page.rows[-1][0] == page_end_ns // MINUTE_NS * MINUTE_NS - MINUTE_NS, "the latest closed one"
        bars |= {row[0]: row for row in page.rows}
        page_end_ns = page.rows[0][0]
    assert sorted(bars) == list(range(min(bars), end_ns, MINUTE_NS))
    assert len(bars) > 2000
    for open_ns, made in bars_of(load_trades(theirs, ours, btc, end_ns - 30 * MINUTE_NS, end_ns)).items():
        assert bars[open_ns][1:5] == made[:4]
        assert bars[open_ns][5] == pytest.approx(made[4], rel=1e-12)
        assert bars[open_ns][6] == made[5]


def load_trades(theirs, ours, btc, begin_ns, end_ns):
    """Page forwards, by time; each trade once."""
    trades, start_ns = {}, begin_ns
    while start_ns is not None and start_ns < end_ns:
        request = ours.history.page_request(btc, "trades", start_ns, end_ns)
        page = ours.history.parse_page(ask(theirs, request).body, btc, "trades")
        trades |= {row[1]: row for row in page.rows if row[0] < end_ns}
        start_ns = page.next_ns
    assert sorted(trades) == list(range(min(trades), max(trades) + 1))
    return list(trades.values())


def bars_of(trades):
    by_minute = defaultdict(list)
    for event_ns, _, price, size, _ in sorted(trades):
        by_minute[event_ns // MINUTE_NS * MINUTE_NS].append((price, size))
    return {
        open_ns: (
            inside[0][0],
            max(price for price, _ in inside),
            min(price for price, _ in inside),
            inside[-1][0],
            sum(size for _, size in inside),
            len(inside),
        )
        for open_ns, inside in by_minute.items()
    }


def test_trades_by_id_begin_with_that_id(sides):
    theirs, (ours, *_) = sides
    btc = listed(theirs, ours)[0]
    page = ours.history.parse_page(ask(theirs, ours.history.trades_from(btc, 1234)).body, btc, "trades")
    assert [row[1] for row in page.rows[:3]] == [1234, 1235, 1236]
    assert page.next_ns == page.rows[-1][0]


def test_refusals_are_understood(sides):
    """R61, R62: an unknown symbol, a limit with its waiting time, a ban with its end."""
    theirs, (ours, *_) = sides
    btc = listed(theirs, ours)[0]
    unknown = msgspec.structs.replace(btc, bs_mktid="NOPEUSDT")
    answer = ask(theirs, ours.history.page_request(unknown, 60, NOW_NS - 10 * MINUTE_NS, NOW_NS))
    assert answer.status == 400
    with pytest.raises(UnknownSymbolError):
        ours.history.parse_page(answer.body, unknown, 60)
    refusal = theirs.refuse(17.5, NOW_NS)
    assert ours.throttled(HttpResponse(refusal.status, Headers(refusal.headers), refusal.body, NOW_NS)) == 18.0
    theirs.ban(120.0, NOW_NS)
    banned = theirs.rest(Request(ours.instrument_requests()[0].path, {}), NOW_NS)
    assert ours.throttled(HttpResponse(banned.status, Headers(banned.headers), banned.body, NOW_NS)) == 120.0
    assert ours.throttled(HttpResponse(banned.status, Headers(), banned.body, NOW_NS)) == pytest.approx(120.0, abs=1.0)


def test_requests_cost_what_they_say(sides):
    """The budget's weights are the venue's, so that it never has to refuse."""
    theirs, (ours, *_) = sides
    btc = listed(theirs, ours)[0]
    requests = [
        *ours.instrument_requests(),
        ours.history.trades_from(btc, 1),
        *(
            ours.history.page_request(btc, 60, NOW_NS - minutes * MINUTE_NS, NOW_NS)
            for minutes in (2, 101, 300, 501, 999, 1002, 1400, 5000)
        ),
    ]
    theirs.forgive()
    used = 0
    for request in requests:
        answer = theirs.rest(Request(request.path, dict(request.params)), NOW_NS)
        used += request.weight
        assert ours.weight_used(Headers(answer.headers)) == {"rest": used}, request

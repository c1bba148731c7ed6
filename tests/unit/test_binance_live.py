from __future__ import annotations

import json

import msgspec
import pytest

from backends.binance import BACKEND
from backends.binance.live import BinanceConfig, BinanceSpot, BinanceUsdm, open_venues
from backends.live import ConnectPlan, HttpRequest
from backends.validate import validate_backend
from marketd.errors import WireError
from marketd.http import Headers, Response
from marketd.model import Asset
from tests.fakes import ListSink

NOW_NS = 1_767_225_600 * 10**9


def config(**settings):
    return msgspec.convert(settings, BinanceConfig)


def spot(**settings):
    return BinanceSpot(config(**settings))


def listing(*symbols):
    entries = [
        {"symbol": name, "baseAsset": name[:3], "quoteAsset": name[3:], "status": status, "filters": []}
        for name, status in symbols
    ]
    return json.dumps({"symbols": entries}).encode()


def response(status, headers=None, body=b""):
    return Response(status, Headers((headers or {}).items()), body, NOW_NS)


# --- addresses ------------------------------------------------------------------------------------------


def test_the_declaration_is_whole():
    """R41, R82: and needs no credentials."""
    assert validate_backend(BACKEND) == []
    assert BACKEND.live


def test_spot_has_everything_at_one_address():
    (venue,) = open_venues(config())
    assert venue.connect_requests() == []
    assert venue.connect_plan([], []) == ConnectPlan("wss://stream.binance.com:9443/stream")
    assert (venue.rest_url, venue.ws_url) == ("https://api.binance.com", "wss://stream.binance.com:9443")


def test_futures_have_trades_and_quotes_at_two_addresses():
    """Since 2026-04-23; a subscription at the wrong one is acked and silent."""
    market, public = open_venues(config(market="usdm"))
    assert market.connect_plan([], []).url == "wss://fstream.binance.com/market/stream"
    assert public.connect_plan([], []).url == "wss://fstream.binance.com/public/stream"
    assert asked_streams(market) == ["btcusdt@aggTrade"]
    assert asked_streams(public) == ["btcusdt@bookTicker"]
    assert [venue.limits.streams_per_instrument for venue in (market, public)] == [1, 1]


@pytest.mark.parametrize(("kinds", "routes"), [(["trade"], ["market"]), (["quote"], ["public"])])
def test_futures_connect_only_where_something_is_wanted(kinds, routes):
    venues = open_venues(config(market="usdm", kinds=kinds))
    assert [venue.name for venue in venues] == [f"binance.usdm.{route}" for route in routes]


def asked_streams(venue):
    (market,) = venue.parse_instruments([listing(("BTCUSDT", "TRADING"))])
    protocol = venue.open_protocol(ListSink(), [market], venue.connect_plan([], [market]))
    protocol.subscribe([market])
    return json.loads(protocol.data_to_send()[0])["params"]


def test_spot_asks_for_the_configured_kinds():
    assert asked_streams(spot()) == ["btcusdt@aggTrade", "btcusdt@bookTicker"]
    assert asked_streams(spot(kinds=["quote"])) == ["btcusdt@bookTicker"]
    assert asked_streams(spot(kinds=["quote", "quote"])) == ["btcusdt@bookTicker"]
    assert spot(kinds=["trade"]).limits.streams_per_instrument == 1


def test_addresses_can_point_at_a_test_server():
    venue = spot(ws_url="ws://127.0.0.1:1/binance/", rest_url="http://127.0.0.1:1/binance/")
    assert venue.connect_plan([], []).url == "ws://127.0.0.1:1/binance/stream"
    assert venue.rest_url == "http://127.0.0.1:1/binance"
    futures = BinanceUsdm(config(market="usdm", ws_url="ws://h:1/f"), "public")
    assert futures.connect_plan([], []).url == "ws://h:1/f/public/stream"


def test_binance_us_is_another_address_and_another_name():
    venue = spot(ws_url="wss://stream.binance.us:9443", rest_url="https://api.binance.us")
    (market,) = venue.parse_instruments([listing(("BTCUSD", "TRADING"))])
    assert market.fqme == "btc/usd.spot.binanceus"
    assert venue.instrument_requests() == [HttpRequest("GET", "/api/v3/exchangeInfo", {}, weight=20)]
    assert venue.limits.buckets["rest"].capacity == 1200


@pytest.mark.parametrize("settings", [{"market": "coinm"}, {"kinds": []}, {"kinds": ["bar"]}, {"no_such_key": 1}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(msgspec.ValidationError):
        config(**settings)


# --- limits ---------------------------------------------------------------------------------------------


def test_limits_are_the_venues_own():
    limits, futures = spot().limits, BinanceUsdm(config(market="usdm"), "market").limits
    assert limits.streams_per_connection == futures.streams_per_connection == 1024
    assert limits.messages_per_s < 5, "of which pongs take some"
    assert futures.messages_per_s < 10
    assert limits.connections_per_window == (300, 300.0)
    assert limits.lifetime_s == futures.lifetime_s == 86_400
    assert limits.trade_ids == futures.trade_ids == "contiguous"
    assert [(bucket.capacity, bucket.window_s) for bucket in limits.buckets.values()] == [(6000, 60.0)]
    assert [(bucket.capacity, bucket.window_s) for bucket in futures.buckets.values()] == [(2400, 60.0)]


def test_trades_alone_may_be_silent_for_longer_than_quotes():
    assert spot(kinds=["trade"]).limits.quiet_s > spot().limits.quiet_s >= 60


def test_every_request_fits_its_bucket():
    for venue in (spot(), *open_venues(config(market="usdm"))):
        requests = venue.instrument_requests()
        assert all(request.weight <= venue.limits.buckets[request.bucket].capacity for request in requests)


@pytest.mark.parametrize("name", ["X-MBX-USED-WEIGHT-1M", "x-mbx-used-weight-1m", "X-Mbx-Used-Weight-1M"])
def test_used_weight_is_read_in_any_case(name):
    assert spot().weight_used({"X-MBX-USED-WEIGHT": "9", name: "123"}) == {"rest": 123}
    assert spot().weight_used(Headers([(name, "123")])) == {"rest": 123}


@pytest.mark.parametrize("headers", [{}, {"X-MBX-USED-WEIGHT-1M": "x"}, {"X-MBX-USED-WEIGHT-1M": "-1"}, {"Date": "1"}])
def test_without_a_usable_header_nothing_is_learnt(headers):
    assert spot().weight_used(headers) == {}


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (response(200, {"Retry-After": "7"}), None),
        (response(400), None),
        (response(503), None),
        (response(429, {"Retry-After": "7"}), 7.0),
        (response(418, {"retry-after": "259200"}), 259_200.0),
        (response(429, {"Retry-After": "0"}), 1.0),
        (response(429), 60.0),
        (response(429, {"Retry-After": "soon"}), 60.0),
        (response(403), 60.0),
        (response(418, body=b'{"code":-1003,"msg":"Way too much; IP banned until 1767225725500. Please"}'), 125.5),
        (response(418, body=b'{"code":-1003,"msg":"Way too many requests; IP banned until 1600000000000."}'), 1.0),
    ],
)
def test_being_told_off_says_for_how_long(answer, seconds):
    """Retry-After, or the end of the ban in the text, or a minute."""
    assert spot().throttled(answer) == seconds


# --- instruments ----------------------------------------------------------------------------------------


def test_the_list_is_one_request_without_the_permission_sets():
    assert spot().instrument_requests() == [
        HttpRequest("GET", "/api/v3/exchangeInfo", {"showPermissionSets": "false"}, weight=20)
    ]
    futures = BinanceUsdm(config(market="usdm"), "market")
    assert futures.instrument_requests() == [HttpRequest("GET", "/fapi/v1/exchangeInfo", weight=1)]


def test_what_is_not_traded_is_not_listed_and_new_statuses_are():
    body = listing(
        *(("AAAUSDT", "TRADING"), ("BBBUSDT", "BREAK"), ("CCCUSDT", "HALT"), ("DDDUSDT", "CANCEL_ONLY")),
        *(("EEEUSDT", "SETTLING"), ("FFFUSDT", "PENDING_TRADING"), ("GGGUSDT", "SOMETHING_NEW")),
    )
    names = [market.bs_mktid for market in spot().parse_instruments([body])]
    assert names == ["AAAUSDT", "CCCUSDT", "DDDUSDT", "GGGUSDT"]


def test_futures_are_named_as_such_whatever_the_address():
    body = listing(("BTCUSDT", "TRADING"))
    venue = BinanceUsdm(config(market="usdm", rest_url="http://127.0.0.1:1"), "market")
    (market,) = venue.parse_instruments([body])
    assert (market.fqme, market.dst) == ("btc/usdt.perp.binance", Asset("btc", "crypto"))


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"symbol": 5},
        {"symbol": "X", "baseAsset": "", "quoteAsset": "USDT"},
        {"symbol": "X", "baseAsset": "A.B", "quoteAsset": "USDT"},
        {"symbol": "X", "baseAsset": "A B", "quoteAsset": "USDT"},
        {"symbol": "X_1", "baseAsset": "A", "quoteAsset": "B", "contractType": "N", "deliveryDate": 1 << 62},
        None,
    ],
)
def test_an_entry_that_cannot_be_used_does_not_cost_the_others(entry):
    """R81: a venue's mistake in one instrument is no end of the feed."""
    body = json.loads(listing(("BTCUSDT", "TRADING")))
    body["symbols"].insert(0, entry)
    for venue in (spot(), BinanceUsdm(config(market="usdm"), "market")):
        assert [market.bs_mktid for market in venue.parse_instruments([json.dumps(body).encode()])][-1:] == ["BTCUSDT"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"<html>", b'{"symbols":[]}', b'{"symbols":[{}]}', b'{"code":-1003,"msg":"Too many"}', b"\xff"],
)
def test_an_answer_that_is_no_list_is_a_wire_error(body):
    """R81: a server's error on the list is told clearly."""
    with pytest.raises(WireError, match="exchangeInfo"):
        spot().parse_instruments([body])

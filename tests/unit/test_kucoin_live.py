from __future__ import annotations

import json

import pytest

from backends.kucoin import BACKEND
from backends.kucoin.connection import KucoinConnection
from backends.live import LiveConfig
from marketd.errors import WireError
from marketd.http.messages import Headers, Response
from tests.fakes import ListSink


def venue(**settings):
    [only] = BACKEND.open_venues(LiveConfig(**settings))
    return only


def bullet(token="2neAi==.a+b", **changes):
    server = {"endpoint": "wss://ws-api-spot.kucoin.com/", "encrypt": True, "protocol": "websocket"}
    server |= {"pingInterval": 18000, "pingTimeout": 10000} | changes
    return json.dumps({"code": "200000", "data": {"token": token, "instanceServers": [server]}}).encode()


def answer(body=b"", status=200, **headers):
    return Response(status, Headers(headers.items()), body, 0)


def test_token_comes_first_and_says_where_to_connect_and_how_often_to_ping():
    [request] = venue().connect_requests()
    assert (request.method, request.path) == ("POST", "/api/v1/bullet-public")
    plan = venue().connect_plan([bullet()], [])
    assert plan.url == "wss://ws-api-spot.kucoin.com/?token=2neAi%3D%3D.a%2Bb"
    assert plan.message_ping_s == pytest.approx(14.4)


def test_configured_address_goes_before_that_of_the_token():
    plan = venue(ws_url="ws://127.0.0.1:1/kucoin").connect_plan([bullet("t")], [])
    assert plan.url == "ws://127.0.0.1:1/kucoin?token=t"


def test_recording_of_a_live_feed_finds_its_protocol_again():
    assert venue().ws_url.startswith(BACKEND.url_prefixes)
    assert venue().connect_plan([bullet()], []).url.startswith(BACKEND.url_prefixes)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b'{"code":"200000","data":{"token":"t","instanceServers":[]}}', b'{"code":"500000","msg":"no"}'),
        bullet(pingInterval=0),
        bullet(pingInterval="soon"),
    ],
)
def test_unusable_token_is_a_wire_error(body):
    with pytest.raises(WireError, match="token"):
        venue().connect_plan([body], [])


def test_connection_speaks_for_the_configured_kinds():
    opened = venue(kinds=["quote"])
    symbols = {"code": "200000", "data": [{"symbol": "A-B", "baseCurrency": "A", "quoteCurrency": "B"}]}
    markets = opened.parse_instruments([json.dumps(symbols).encode(), b'{"code":"200000","data":[]}'])
    connection = opened.open_protocol(ListSink(), markets, opened.connect_plan([bullet()], markets))
    assert isinstance(connection, KucoinConnection)
    connection.subscribe(markets)
    connection.receive(b'{"id":"x","type":"welcome"}', 1)
    assert [json.loads(payload)["topic"] for payload in connection.data_to_send()] == ["/spotMarket/level1:A-B"]


def test_instruments_need_symbols_and_currencies():
    assert [(request.path, request.weight) for request in venue().instrument_requests()] == [
        ("/api/v2/symbols", 4),
        ("/api/v3/currencies", 3),
    ]


@pytest.mark.parametrize(("kinds", "streams"), [(["trade"], 1), (["trade", "quote"], 2)])
def test_an_instrument_takes_a_topic_for_each_kind(kinds, streams):
    assert venue(kinds=kinds).limits.streams_per_instrument == streams


def test_throttle_lasts_as_long_as_the_header_says():
    """R62: a throttle is told from every other error."""
    body = b'{"code":"429000","msg":"Too many requests"}'
    assert venue().throttled(answer(body, 429, **{"gw-ratelimit-reset": "1489"})) == 1.489
    assert venue().throttled(answer(body, 200)) == 30.0
    assert venue().throttled(answer(b"<html>", 429)) == 30.0
    assert venue().throttled(answer(b"", 429, **{"gw-ratelimit-reset": "9" * 15})) == 3600.0


@pytest.mark.parametrize("body", [b"", b'{"code":"200000","data":"429000"}', b'"429000', b"429000" * 999])
def test_other_answers_are_no_throttle(body):
    assert venue().throttled(answer(body)) is None


def test_used_weight_is_what_is_not_left_of_the_pool():
    headers = Headers([("gw-ratelimit-limit", "2000"), ("gw-ratelimit-remaining", "1990")])
    assert venue().weight_used(headers) == {"rest": 10}
    assert venue().weight_used(Headers([("gw-ratelimit-limit", "2000")])) == {}
    assert venue().weight_used(Headers([("gw-ratelimit-limit", "x"), ("gw-ratelimit-remaining", "-1")])) == {}

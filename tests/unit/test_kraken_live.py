from __future__ import annotations

import json

import pytest

from backends.kraken import BACKEND
from backends.kraken.connection import KrakenConnection
from backends.live import LiveConfig
from marketd.errors import WireError
from marketd.http.messages import Headers, Response
from tests.fakes import ListSink


def venue(**settings):
    [only] = BACKEND.open_venues(LiveConfig(**settings))
    return only


def answer(body=b"", status=200, **headers):
    return Response(status, Headers(headers.items()), body, 0)


def test_addresses_are_krakens_own_unless_the_configuration_says_otherwise():
    assert (venue().ws_url, venue().rest_url) == ("wss://ws.kraken.com/v2", "https://api.kraken.com")
    other = venue(ws_url="ws://127.0.0.1:1/kraken/v2", rest_url="http://127.0.0.1:1/kraken")
    assert (other.ws_url, other.rest_url) == ("ws://127.0.0.1:1/kraken/v2", "http://127.0.0.1:1/kraken")
    assert other.connect_plan([], []).url == other.ws_url
    assert other.connect_requests() == []


def test_recording_of_a_live_feed_finds_its_protocol_again():
    assert venue().ws_url.startswith(BACKEND.url_prefixes)


@pytest.mark.parametrize(
    ("kinds", "streams"),
    [(["trade"], 1), (["trade", "quote"], 2), (["quote", "quote"], 1), (["trade", "quote", "book"], 3)],
)
def test_an_instrument_takes_a_stream_for_each_kind(kinds, streams):
    assert venue(kinds=kinds).limits.streams_per_instrument == streams


def test_connection_speaks_for_the_configured_kinds():
    opened = venue(kinds=["quote"])
    connection = opened.open_protocol(ListSink(), [], opened.connect_plan([], []))
    assert isinstance(connection, KrakenConnection)
    connection.subscribe(opened.parse_instruments(lists()))
    assert [json.loads(payload)["params"]["channel"] for payload in connection.data_to_send()] == ["ticker"]


def lists():
    pair = {"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD", "pair_decimals": 1,
            "lot_decimals": 8}  # fmt: skip
    pairs = {"error": [], "result": {"XXBTZUSD": pair}}
    assets = {"error": [], "result": {"XXBT": {"decimals": 10}, "ZUSD": {"decimals": 4}}}
    return [json.dumps(pairs).encode(), json.dumps(assets).encode()]


def test_instruments_need_pairs_and_assets():
    """F2: of both, public requests without credentials."""
    requests = venue().instrument_requests()
    assert [request.path for request in requests] == ["/0/public/AssetPairs", "/0/public/Assets"]
    assert [market.fqme for market in venue().parse_instruments(lists())] == ["xbt/usd.spot.kraken"]
    with pytest.raises(WireError):
        venue().parse_instruments([lists()[0], b'{"error":["EService:Unavailable"]}'])


@pytest.mark.parametrize(
    ("error", "pause_s"),
    [
        ("EGeneral:Too many requests", 15.0),
        ("EAPI:Rate limit exceeded", 15.0),
        ("EService:Throttled: 1767225600", 15.0),
        ("EService:Unavailable", 5.0),
        ("EService:Busy", 5.0),
        ("EQuery:Unknown asset pair", None),
    ],
)
def test_too_many_requests_are_told_by_the_body_and_not_by_the_status(error, pause_s):
    """R62: a throttle is told from every other error."""
    assert venue().throttled(answer(json.dumps({"error": [error]}).encode())) == pause_s


def test_ban_in_front_of_kraken_is_told_by_the_status():
    assert venue().throttled(answer(b"<html>", 429)) == 600.0
    assert venue().throttled(answer(b"", 429, **{"Retry-After": "90"})) == 90.0
    assert venue().throttled(answer(b"", 429, **{"Retry-After": "9" * 400})) == 3600.0


@pytest.mark.parametrize("body", [b"", b'{"error":[],"result":{}}', b'{"error":["E', b"<html>", b'"E' * 9999])
def test_other_answers_are_no_throttle(body):
    assert venue().throttled(answer(body)) is None
    assert venue().weight_used(Headers()) == {}

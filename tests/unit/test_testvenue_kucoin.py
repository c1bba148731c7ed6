"""KuCoin's side of its protocols, without a socket: shapes as in its documents."""

from __future__ import annotations

import json
import re

import pytest

from marketd.testvenue import listing
from marketd.testvenue.candles import SECOND_NS
from marketd.testvenue.kucoin.venue import Kucoin
from marketd.testvenue.market import Market
from marketd.testvenue.venue import Bye, Request, Say, Session
from tests.venue_sides import (
    NOW_NS,
    ORIGIN_NS,
    ask,
    get,
    last_quote_message,
    last_trade_message,
    market,
    open_session,
    rest,
)


@pytest.fixture
def kucoin() -> Kucoin:
    return Kucoin(market(listing.KUCOIN))


def kucoin_session(kucoin: Kucoin) -> Session:
    token = json.loads(rest(kucoin, "/api/v1/bullet-public", method="POST").body)["data"]["token"]
    return open_session(kucoin, "/", token=token, connectId="c1")


def test_kucoin_gives_a_token_and_welcomes_who_has_it(kucoin: Kucoin):
    answer = json.loads(rest(kucoin, "/api/v1/bullet-public", method="POST").body)
    server = answer["data"]["instanceServers"][0]
    assert (answer["code"], server["protocol"], server["pingInterval"]) == ("200000", "websocket", 18000)
    session = kucoin.session(Request("/", {"token": answer["data"]["token"], "connectId": "c1"}), NOW_NS)
    assert isinstance(session, Session)
    assert session.greet(NOW_NS) == [Say(b'{"id":"c1","type":"welcome"}', "greeting")]


def test_kucoin_refuses_a_token_that_is_unknown_or_old(kucoin: Kucoin):
    token = json.loads(rest(kucoin, "/api/v1/bullet-public", method="POST").body)["data"]["token"]
    for held, now_ns in (("nope", NOW_NS), (token, NOW_NS + 25 * 3600 * SECOND_NS)):
        session = kucoin.session(Request("/", {"token": held}), now_ns)
        assert isinstance(session, Session)
        error, bye = session.greet(now_ns)
        assert isinstance(error, Say)
        assert json.loads(error.payload)["code"] == 401
        assert isinstance(bye, Bye)


def test_kucoin_acknowledges_when_asked_to(kucoin: Kucoin):
    session = kucoin_session(kucoin)
    topic = "/market/match:BTC-USDT,ETH-USDT"
    assert ask(session, {"id": 5, "type": "subscribe", "topic": topic, "response": True}) == [
        {"id": "5", "type": "ack"}
    ]
    assert ask(session, {"id": 6, "type": "subscribe", "topic": "/market/ticker:BTC-USDT"}) == []
    assert set(session.channels) == {
        "/market/match:BTC-USDT",
        "/market/match:ETH-USDT",
        "/market/ticker:BTC-USDT",
    }
    assert ask(session, {"id": 7, "type": "unsubscribe", "topic": topic, "response": True}) == [
        {"id": "7", "type": "ack"}
    ]
    assert set(session.channels) == {"/market/ticker:BTC-USDT"}


def test_kucoin_messages_are_as_documented(kucoin: Kucoin):
    session = kucoin_session(kucoin)
    for topic in ("/market/match:BTC-USDT", "/market/ticker:BTC-USDT", "/spotMarket/level1:BTC-USDT"):
        ask(session, {"id": 1, "type": "subscribe", "topic": topic})
    match = last_trade_message(session, kucoin, "/market/match:BTC-USDT")
    assert (match["type"], match["subject"], match["data"]["type"]) == ("message", "trade.l3match", "match")
    assert re.fullmatch(r"\d{13}000000", match["data"]["time"])
    ticker = last_quote_message(session, kucoin, "/market/ticker:BTC-USDT")
    assert set(ticker["data"]) == {
        "bestAsk", "bestAskSize", "bestBid", "bestBidSize", "price", "sequence", "size", "time",
    }  # fmt: skip
    assert ticker["data"]["price"] == match["data"]["price"]
    level1 = last_quote_message(session, kucoin, "/spotMarket/level1:BTC-USDT")
    assert level1["data"]["bids"][0] == ticker["data"]["bestBid"]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"{", 400),
        (b'{"id":"1","type":"dance"}', 415),
        (b'{"id":"1","type":"subscribe"}', 406),
        (b'{"id":"1","type":"subscribe","topic":"/market/match:NO-USDT"}', 404),
        (b'{"id":"1","type":"subscribe","topic":"/market/nope:BTC-USDT"}', 404),
        (b'{"id":"1","type":"subscribe","topic":"/market/candles:BTC-USDT_7min"}', 404),
        (b'{"id":"1","type":"subscribe","topic":"/market/match:%s"}' % b",".join([b"BTC-USDT"] * 101), 509),
    ],
)
def test_kucoin_refuses_in_its_own_words(kucoin: Kucoin, request_: bytes, code: int):
    [reply] = kucoin_session(kucoin).receive(request_, NOW_NS)
    assert isinstance(reply, Say)
    message = json.loads(reply.payload)
    assert (message["type"], message["code"]) == ("error", code)


def test_kucoin_takes_all_topics_of_a_request_or_none(kucoin: Kucoin):
    session = kucoin_session(kucoin)
    ask(session, {"id": 1, "type": "subscribe", "topic": "/market/match:BTC-USDT,NO-USDT"})
    assert not session.channels


def test_kucoin_closes_who_does_not_ping(kucoin: Kucoin):
    session = kucoin_session(kucoin)
    [pong] = ask(session, {"id": "9", "type": "ping"})
    assert (pong["id"], pong["type"]) == ("9", "pong")
    assert session.tick(NOW_NS + 28 * SECOND_NS, NOW_NS) == []
    assert isinstance(session.tick(NOW_NS + 29 * SECOND_NS, NOW_NS)[0], Bye)


def test_kucoin_limits_messages(kucoin: Kucoin):
    session = kucoin_session(kucoin)
    for _ in range(100):
        ask(session, {"id": "9", "type": "ping"})
    assert ask(session, {"id": "9", "type": "ping"})[0]["code"] == 509


def test_kucoin_candles_are_newest_first_and_without_empty_ones(kucoin: Kucoin):
    start_s = (ORIGIN_NS + 3600 * SECOND_NS) // SECOND_NS
    rows = get(kucoin, "/api/v1/market/candles", symbol="BTC-USDT", type="1min", startAt=start_s, endAt=start_s + 600)[
        "data"
    ]
    assert [int(row[0]) for row in rows] == [start_s + 60 * index for index in reversed(range(10))]
    open_, close, high, low = map(float, rows[0][1:5])
    assert low <= min(open_, close) <= max(open_, close) <= high
    assert len(get(kucoin, "/api/v1/market/candles", symbol="BTC-USDT", type="1min", startAt=1)["data"]) == 1500
    assert len(get(kucoin, "/api/v1/market/candles", symbol="BTC-USDT", type="1min")["data"]) == 100
    rare = Kucoin(Market(listing.instruments(listing.KUCOIN, 14, None), 3, ORIGIN_NS))
    sparse = get(rare, "/api/v1/market/candles", symbol="UNI-USDT", type="1min", startAt=start_s)["data"]
    assert 100 < len(sparse) < 700
    assert all(float(row[5]) > 0 for row in sparse)


def test_kucoin_rest_errors_come_with_status_200(kucoin: Kucoin):
    assert get(kucoin, "/api/v1/market/candles", symbol="NO-USDT", type="1min")["code"] == "400100"
    assert get(kucoin, "/api/v1/market/candles", symbol="BTC-USDT", type="7min")["code"] == "400100"
    assert get(kucoin, "/api/v1/market/candles", symbol="BTC-USDT", type="1min", startAt="x")["code"] == "400100"
    assert rest(kucoin, "/api/v1/nope").status == 404
    assert len(get(kucoin, "/api/v1/market/histories", symbol="BTC-USDT")["data"]) == 100
    assert len(get(kucoin, "/api/v2/symbols")["data"]) == 6
    assert get(kucoin, "/api/v3/currencies")["data"][0]["currency"] == "BTC"


def test_kucoin_counts_weight_from_the_first_request(kucoin: Kucoin):
    kucoin.tuning.weight_limit = 9
    responses = [rest(kucoin, "/api/v1/market/histories", symbol="BTC-USDT") for _ in range(4)]
    assert [response.status for response in responses] == [200, 200, 200, 429]
    assert json.loads(responses[3].body)["code"] == "429000"
    assert dict(responses[3].headers)["gw-ratelimit-reset"] == "30000"
    assert "Retry-After" not in dict(responses[3].headers)
    assert rest(kucoin, "/api/v1/timestamp").headers == ()
    assert rest(kucoin, "/api/v1/status", NOW_NS + 30 * SECOND_NS).status == 200

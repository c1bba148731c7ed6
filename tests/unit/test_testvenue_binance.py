"""Binance's side of its protocols, without a socket: shapes as in its documents."""

from __future__ import annotations

import json
import re

import pytest

from marketd.testvenue import listing
from marketd.testvenue.binance.venue import Binance
from marketd.testvenue.candles import MINUTE_NS, SECOND_NS
from marketd.testvenue.venue import Bye, Ping, Request, Response, Say, Session
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
def binance() -> Binance:
    return Binance(market(listing.BINANCE), futures=False)


@pytest.fixture
def futures() -> Binance:
    return Binance(market(listing.BINANCE_FUTURES), futures=True)


def test_binance_acknowledges_and_sends_trades_as_documented(binance: Binance):
    session = open_session(binance, "/stream")
    assert ask(session, {"method": "SUBSCRIBE", "params": ["btcusdt@trade", "ethusdt@aggTrade"], "id": 1}) == [
        {"result": None, "id": 1}
    ]
    message = last_trade_message(session, binance, "btcusdt@trade")
    assert message["stream"] == "btcusdt@trade"
    assert set(message["data"]) == {"e", "E", "s", "t", "p", "q", "T", "m", "M"}
    assert re.fullmatch(r"\d+\.\d{8}", message["data"]["p"])
    aggregate = last_trade_message(session, binance, "ethusdt@aggTrade")["data"]
    assert set(aggregate) == {"e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M"}
    assert aggregate["f"] == aggregate["l"]


def test_binance_raw_streams_are_bare_and_need_no_request(binance: Binance):
    session = open_session(binance, "/ws/btcusdt@bookTicker/ethusdt@trade")
    assert set(last_quote_message(session, binance, "btcusdt@bookTicker")) == {"u", "s", "b", "B", "a", "A"}
    assert last_trade_message(session, binance, "ethusdt@trade")["s"] == "ETHUSDT"


def test_binance_streams_of_the_address_may_be_in_microseconds(binance: Binance):
    session = open_session(binance, "/stream", streams="btcusdt@trade", timeUnit="MICROSECOND")
    data = last_trade_message(session, binance, "btcusdt@trade")["data"]
    assert len(str(data["T"])) == 16
    assert data["E"] > data["T"]


def test_binance_acknowledges_unknown_streams_and_stays_silent(binance: Binance):
    session = open_session(binance)
    assert ask(session, {"method": "SUBSCRIBE", "params": ["nopeusdt@trade", "BTCUSDT@trade"], "id": "a1"}) == [
        {"result": None, "id": "a1"}
    ]
    assert not session.channels
    assert list(session.silent) == ["nopeusdt@trade", "BTCUSDT@trade"]
    assert ask(session, {"method": "LIST_SUBSCRIPTIONS", "id": 2}) == [
        {"result": ["nopeusdt@trade", "BTCUSDT@trade"], "id": 2}
    ]


def test_binance_unsubscribes(binance: Binance):
    session = open_session(binance, "/ws/btcusdt@trade")
    assert ask(session, {"method": "UNSUBSCRIBE", "params": ["btcusdt@trade"], "id": 3}) == [{"result": None, "id": 3}]
    assert not session.channels


def test_binance_changes_the_form_of_a_connection(binance: Binance):
    session = open_session(binance, "/ws/btcusdt@trade")
    assert ask(session, {"method": "GET_PROPERTY", "params": ["combined"], "id": 1}) == [{"result": False, "id": 1}]
    ask(session, {"method": "SET_PROPERTY", "params": ["combined", True], "id": 2})
    assert "stream" in last_trade_message(session, binance, "btcusdt@trade")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"{", 3),
        (b"[1]", 2),
        (b'{"id":1}', 2),
        (b'{"method":"subscribe","id":1}', 2),
        (b'{"method":"SUBSCRIBE","id":1}', 2),
        (b'{"method":"SUBSCRIBE","params":[1],"id":1}', 2),
        (b'{"method":"SUBSCRIBE","params":[],"id":1.5}', 2),
        (b'{"method":"GET_PROPERTY","params":["nope"],"id":1}', 0),
        (b'{"method":"SET_PROPERTY","params":["combined",1],"id":1}', 1),
    ],
)
def test_binance_refuses_in_its_own_words(binance: Binance, request_: bytes, code: int):
    [reply] = open_session(binance).receive(request_, NOW_NS)
    assert isinstance(reply, Say)
    assert json.loads(reply.payload)["error"]["code"] == code


def test_binance_has_a_limit_of_streams_and_of_messages(binance: Binance):
    session = open_session(binance)
    names = [f"x{number}@trade" for number in range(1025)]
    assert ask(session, {"method": "SUBSCRIBE", "params": names, "id": 1})[0]["error"]["code"] == 4
    for _ in range(4):
        assert ask(session, {"method": "LIST_SUBSCRIPTIONS", "id": 1})[0]["result"] == []
    assert isinstance(ask(session, {"method": "LIST_SUBSCRIPTIONS", "id": 1})[0], Bye)
    assert ask(open_session(binance), {"method": "LIST_SUBSCRIPTIONS", "id": 1}) == [{"result": [], "id": 1}]


def test_binance_pings_and_cuts_who_does_not_answer(binance: Binance):
    session = open_session(binance)
    assert session.tick(NOW_NS + 19 * SECOND_NS, NOW_NS) == []
    [ping] = session.tick(NOW_NS + 20 * SECOND_NS, NOW_NS)
    assert isinstance(ping, Ping)
    session.pong(NOW_NS + 21 * SECOND_NS)
    assert isinstance(session.tick(NOW_NS + 80 * SECOND_NS, NOW_NS)[0], Ping)
    assert isinstance(session.tick(NOW_NS + 82 * SECOND_NS, NOW_NS)[0], Bye)


def test_binance_klines_of_the_stream_equal_those_of_rest(binance: Binance):
    session = open_session(binance, "/ws/btcusdt@kline_1m")
    poll = session.channels["btcusdt@kline_1m"].poll
    assert poll is not None
    minute_ns = NOW_NS // MINUTE_NS * MINUTE_NS
    closed, forming = map(json.loads, poll(minute_ns - SECOND_NS, minute_ns + SECOND_NS))
    assert (closed["k"]["x"], forming["k"]["x"]) == (True, False)
    rows = get(binance, "/api/v3/klines", symbol="BTCUSDT", interval="1m", endTime=minute_ns // 1_000_000 - 1, limit=1)
    names = ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q", "B")
    assert [rows[0][index] for index in range(11)] == [closed["k"][name] for name in names[:11]]


def test_binance_depth_stream_follows_the_snapshot(binance: Binance):
    """As in "How to manage a local order book correctly"."""
    session = open_session(binance, "/ws/btcusdt@depth@100ms")
    poll = session.channels["btcusdt@depth@100ms"].poll
    assert poll is not None
    snapshot = get(binance, "/api/v3/depth", symbol="BTCUSDT", limit=20)
    held = {side: dict(snapshot[side]) for side in ("bids", "asks")}
    last = snapshot["lastUpdateId"]
    for step in range(20):
        for payload in poll(NOW_NS - 1 + step * SECOND_NS, NOW_NS - 1 + (step + 1) * SECOND_NS):
            event = json.loads(payload)
            assert event["U"] == last + 1
            last = event["u"]
            held["bids"].update(event["b"])
            held["asks"].update(event["a"])
    then_ns = NOW_NS + 20 * SECOND_NS
    now = get(binance, "/api/v3/depth", then_ns, symbol="BTCUSDT", limit=20)
    assert now["lastUpdateId"] == last
    for side, best in (("bids", max), ("asks", min)):
        levels = {price: size for price, size in held[side].items() if float(size)}
        assert best(levels, key=float) == now[side][0][0]
        assert all(levels[price] == size for price, size in now[side])


def test_binance_pages_klines_by_start_and_by_end(binance: Binance):
    start_ms = (ORIGIN_NS + 3600 * SECOND_NS) // 1_000_000
    rows = get(binance, "/api/v3/klines", symbol="BTCUSDT", interval="1m", startTime=start_ms, limit=5000)
    assert len(rows) == 1000
    assert [row[0] for row in rows] == [start_ms + 60_000 * index for index in range(1000)]
    again = get(
        binance, "/api/v3/klines", symbol="BTCUSDT", interval="1m", startTime=start_ms, endTime=start_ms + 120_000
    )
    assert again == rows[:3]
    newest = get(binance, "/api/v3/klines", symbol="BTCUSDT", interval="1m")
    assert len(newest) == 500
    assert newest[-1][0] == NOW_NS // MINUTE_NS * 60_000
    before = get(binance, "/api/v3/klines", symbol="BTCUSDT", interval="1m", startTime=0, limit=2)
    assert before[0][0] == ORIGIN_NS // 1_000_000
    assert get(binance, "/api/v3/klines", symbol="BTCUSDT", interval="1M", limit=3)


def test_binance_pages_trades_by_id_and_by_time(binance: Binance):
    page = get(binance, "/api/v3/aggTrades", symbol="BTCUSDT", fromId=100, limit=10)
    assert [row["a"] for row in page] == list(range(100, 110))
    by_time = get(binance, "/api/v3/aggTrades", symbol="BTCUSDT", startTime=page[0]["T"], endTime=page[-1]["T"])
    assert by_time == page
    newest = get(binance, "/api/v3/aggTrades", symbol="BTCUSDT", limit=3)
    assert newest[-1]["a"] == binance.market.trades_before(0, NOW_NS)
    assert rest(binance, "/api/v3/aggTrades", symbol="BTCUSDT", fromId=1, startTime=1).status == 400
    trades = get(binance, "/api/v3/trades", symbol="BTCUSDT", limit=2)
    assert set(trades[0]) == {"id", "price", "qty", "quoteQty", "time", "isBuyerMaker", "isBestMatch"}


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/api/v3/klines", {"symbol": "NOPE", "interval": "1m"}, -1121),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ("/api/v3/klines", {"interval": "1m"}, -1102),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "x"}, -1100),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "-1"}, -1130),
        ("/api/v3/exchangeInfo", {"symbols": "BTCUSDT"}, -1100),
    ],
)
def test_binance_rest_errors(binance: Binance, path: str, query: dict[str, str], code: int):
    response = rest(binance, path, **query)
    assert (response.status, json.loads(response.body)["code"]) == (400, code)


def test_binance_counts_weight_and_answers_429_then_418(binance: Binance):
    assert dict(rest(binance, "/api/v3/exchangeInfo").headers)["X-MBX-USED-WEIGHT-1M"] == "20"
    assert (
        dict(rest(binance, "/api/v3/klines", symbol="BTCUSDT", interval="1m").headers)["X-MBX-USED-WEIGHT-1M"] == "22"
    )
    binance.tuning.weight_limit = 40
    statuses = [rest(binance, "/api/v3/exchangeInfo").status for _ in range(13)]
    assert statuses == [429] * 11 + [418] * 2
    refused = rest(binance, "/api/v3/time", NOW_NS + SECOND_NS)
    assert (refused.status, dict(refused.headers)["Retry-After"]) == (418, "119")
    assert "IP banned until" in json.loads(refused.body)["msg"]
    assert rest(binance, "/api/v3/time", NOW_NS + 121 * SECOND_NS).status == 200


def test_binance_tells_how_long_to_wait(binance: Binance):
    binance.tuning.weight_limit = 10
    refused = rest(binance, "/api/v3/exchangeInfo")  # half a minute into the minute
    assert (refused.status, dict(refused.headers)["Retry-After"]) == (429, "30")
    assert rest(binance, "/api/v3/time", NOW_NS + 30 * SECOND_NS).status == 200


def test_binance_lists_instruments_with_ticks(binance: Binance):
    info = get(binance, "/api/v3/exchangeInfo", symbol="BTCUSDT")
    filters = {entry["filterType"]: entry for entry in info["symbols"][0]["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"
    assert filters["LOT_SIZE"]["stepSize"] == "0.00001000"
    assert len(get(binance, "/api/v3/exchangeInfo")["symbols"]) == 6
    assert len(get(binance, "/api/v3/exchangeInfo", symbols='["BTCUSDT","ETHUSDT"]')["symbols"]) == 2
    assert rest(binance, "/api/v3/nope").status == 404


def test_binance_limits_how_often_one_may_connect(binance: Binance):
    outcomes = [binance.session(Request("/ws", {}), NOW_NS) for _ in range(301)]
    assert isinstance(outcomes[299], Session)
    assert isinstance(outcomes[300], Response)
    assert outcomes[300].status == 429


@pytest.mark.parametrize(
    ("route", "data"),
    [
        ("/public", {"btcusdt@bookTicker", "btcusdt@trade", "btcusdt@depth"}),
        ("/market", {"btcusdt@aggTrade", "btcusdt@kline_1m"}),
        ("", {"btcusdt@bookTicker", "btcusdt@trade", "btcusdt@depth"}),
        ("/private", set()),
    ],
)
def test_futures_send_only_what_belongs_to_the_route(futures: Binance, route: str, data: set[str]):
    names = ["btcusdt@bookTicker", "btcusdt@trade", "btcusdt@depth", "btcusdt@aggTrade", "btcusdt@kline_1m"]
    session = open_session(futures, f"{route}/stream")
    assert ask(session, {"method": "SUBSCRIBE", "params": names, "id": 1}) == [{"result": None, "id": 1}]
    assert set(session.channels) == data
    assert set(session.silent) == set(names) - data


def test_futures_messages_are_as_documented(futures: Binance):
    session = open_session(futures, "/public/stream", streams="btcusdt@bookTicker/btcusdt@trade")
    quote = last_quote_message(session, futures, "btcusdt@bookTicker")["data"]
    assert list(quote) == ["e", "u", "E", "T", "s", "b", "B", "a", "A", "st", "ps"]
    session = open_session(futures, "/market/ws/btcusdt@aggTrade")
    trade = last_trade_message(session, futures, "btcusdt@aggTrade")
    assert set(trade) == {"e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "st"}
    assert re.fullmatch(r"\d+\.\d0", trade["p"])  # the tick is 0.10
    symbol = get(futures, "/fapi/v1/exchangeInfo")["symbols"][0]
    assert (symbol["contractType"], symbol["filters"][0]["tickSize"]) == ("PERPETUAL", "0.10")


def test_futures_weigh_klines_by_their_number_and_refuse_too_many(futures: Binance):
    used = []
    for limit in (99, 499, 1000, 1500):
        response = rest(futures, "/fapi/v1/klines", symbol="BTCUSDT", interval="1m", limit=limit)
        used.append(int(dict(response.headers)["X-MBX-USED-WEIGHT-1M"]))
    assert used == [1, 3, 8, 18]
    assert rest(futures, "/fapi/v1/klines", symbol="BTCUSDT", interval="1m", limit=1501).status == 400

"""Kraken's side of its protocols, without a socket: shapes as in its documents."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from marketd.testvenue import listing
from marketd.testvenue.candles import MINUTE_NS, SECOND_NS
from marketd.testvenue.kraken.venue import Kraken
from marketd.testvenue.venue import Request, Say, Session
from tests.kraken_book import KrakenBook
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
def kraken() -> Kraken:
    return Kraken(market(listing.KRAKEN))


def test_kraken_greets_with_its_status(kraken: Kraken):
    session = kraken.session(Request("/v2", {}), NOW_NS)
    assert isinstance(session, Session)
    [status] = session.greet(NOW_NS)
    assert isinstance(status, Say)
    message = json.loads(status.payload)
    assert (message["channel"], message["type"]) == ("status", "update")
    assert message["data"][0]["system"] == "online"
    assert message["data"][0]["connection_id"] > 1 << 53


def test_kraken_acknowledges_each_symbol_by_itself(kraken: Kraken):
    session = open_session(kraken)
    params = {"channel": "trade", "symbol": ["BTC/USD", "XBT/USD", "ETH/USD"]}
    first, second, third = ask(session, {"method": "subscribe", "params": params, "req_id": 7})
    assert first["result"] == {"channel": "trade", "snapshot": False, "symbol": "BTC/USD"}
    assert (first["success"], first["req_id"]) == (True, 7)
    assert {"time_in", "time_out"} < set(first)
    assert second["error"] == "Currency pair not supported XBT/USD"
    assert (second["success"], second["symbol"], "result" in second) == (False, "XBT/USD", False)
    assert third["success"]
    assert ask(session, {"method": "subscribe", "params": params})[0]["error"] == "Already subscribed"


def test_kraken_sends_trades_as_documented(kraken: Kraken):
    session = open_session(kraken)
    params = {"channel": "trade", "symbol": ["BTC/USD"], "snapshot": True}
    _, snapshot = ask(session, {"method": "subscribe", "params": params})
    assert (snapshot["channel"], snapshot["type"], len(snapshot["data"])) == ("trade", "snapshot", 50)
    ids = [row["trade_id"] for row in snapshot["data"]]
    assert ids == list(range(ids[0], ids[0] + 50))
    message = last_trade_message(session, kraken, "trade:BTC/USD")
    assert set(message["data"][0]) == {"symbol", "side", "price", "qty", "ord_type", "trade_id", "timestamp"}
    assert message["data"][0]["trade_id"] == ids[-1]


@pytest.mark.parametrize(("trigger", "source"), [("bbo", last_quote_message), ("trades", last_trade_message)])
def test_kraken_ticker_follows_its_trigger(kraken: Kraken, trigger: str, source: Any):
    session = open_session(kraken)
    params = {"channel": "ticker", "symbol": ["BTC/USD"], "event_trigger": trigger}
    ack, snapshot = ask(session, {"method": "subscribe", "params": params})
    assert ack["result"]["event_trigger"] == trigger
    assert snapshot["type"] == "snapshot"
    row = source(session, kraken, "ticker:BTC/USD")["data"][0]
    assert row["bid"] < row["ask"]
    assert set(row) >= {"symbol", "bid", "bid_qty", "ask", "ask_qty", "last", "volume", "vwap", "low", "high", "change"}


def test_kraken_numbers_keep_their_zeros(kraken: Kraken):
    session = open_session(kraken)
    ask(session, {"method": "subscribe", "params": {"channel": "trade", "symbol": ["BTC/USD"]}})
    channel = session.channels["trade:BTC/USD"]
    assert channel.on_trade is not None
    text = channel.on_trade(kraken.market.trade_range(0, 10, 10)[0]).decode()
    assert re.search(r'"price":\d+\.\d,"qty":\d\.\d{8},', text)


def test_kraken_unsubscribes_and_says_what_it_does_not_know(kraken: Kraken):
    session = open_session(kraken)
    params = {"channel": "ohlc", "symbol": ["BTC/USD"], "interval": 5}
    ask(session, {"method": "subscribe", "params": params})
    assert list(session.channels) == ["ohlc-5:BTC/USD"]
    [reply] = ask(session, {"method": "unsubscribe", "params": params, "req_id": 2})
    assert (reply["method"], reply["success"], reply["req_id"]) == ("unsubscribe", True, 2)
    [reply] = ask(session, {"method": "unsubscribe", "params": params})
    assert reply["error"] == "Subscription Not Found"


@pytest.mark.parametrize(
    "request_",
    [
        b"{",
        b'{"method":"dance"}',
        b'{"method":"subscribe","params":{"channel":"nope","symbol":["BTC/USD"]}}',
        b'{"method":"subscribe","params":{"channel":"trade"}}',
        b'{"method":"subscribe","params":{"channel":"ohlc","symbol":["BTC/USD"],"interval":7}}',
        b'{"method":"subscribe","params":{"channel":"book","symbol":["BTC/USD"],"depth":11}}',
    ],
)
def test_kraken_refuses_what_it_does_not_understand(kraken: Kraken, request_: bytes):
    [reply] = open_session(kraken).receive(request_, NOW_NS)
    assert isinstance(reply, Say)
    assert json.loads(reply.payload)["success"] is False


def test_kraken_answers_pings_and_beats_when_nothing_else_is_said(kraken: Kraken):
    session = open_session(kraken)
    [pong] = ask(session, {"method": "ping", "req_id": 42})
    assert (pong["method"], pong["req_id"]) == ("pong", 42)
    assert session.tick(NOW_NS + 2 * SECOND_NS, NOW_NS) == []  # nothing is subscribed
    ask(session, {"method": "subscribe", "params": {"channel": "trade", "symbol": ["BTC/USD"]}})
    assert session.tick(NOW_NS + 2 * SECOND_NS, NOW_NS + 2 * SECOND_NS) == []
    [beat] = session.tick(NOW_NS + 2 * SECOND_NS, NOW_NS + SECOND_NS)
    assert isinstance(beat, Say)
    assert beat.payload == b'{"channel":"heartbeat"}'


def test_kraken_book_checksums_follow_the_published_rule(kraken: Kraken):
    session = open_session(kraken)
    _, snapshot = ask(session, {"method": "subscribe", "params": {"channel": "book", "symbol": ["BTC/USD"]}})
    update = session.channels["book-10:BTC/USD"].on_quote
    assert update is not None
    held = KrakenBook(10, (1, 8))
    assert held.apply(snapshot["data"][0])
    number = kraken.market.quotes_before(0, NOW_NS)
    for step in range(1, 60):
        assert held.apply(json.loads(update(kraken.market.quote(0, number + step)))["data"][0])


def test_kraken_candles_of_the_stream_equal_those_of_rest(kraken: Kraken):
    session = open_session(kraken)
    ask(session, {"method": "subscribe", "params": {"channel": "ohlc", "symbol": ["BTC/USD"], "interval": 1}})
    poll = session.channels["ohlc-1:BTC/USD"].poll
    assert poll is not None
    minute_ns = NOW_NS // MINUTE_NS * MINUTE_NS
    row = json.loads(poll(minute_ns - MINUTE_NS, minute_ns - 1)[0])["data"][0]
    answer = get(kraken, "/0/public/OHLC", pair="XBTUSD", interval=1)["result"]
    assert answer["last"] == minute_ns // SECOND_NS - 60
    rest_row = answer["XXBTZUSD"][-2]
    assert rest_row[0] == answer["last"]
    assert [float(rest_row[index]) for index in (1, 2, 3, 4, 5, 6)] == [
        row[name] for name in ("open", "high", "low", "close", "vwap", "volume")
    ]
    assert rest_row[7] == row["trades"]


def test_kraken_keeps_720_candles_and_pages_trades_by_time(kraken: Kraken):
    rows = get(kraken, "/0/public/OHLC", pair="XBTUSD")["result"]["XXBTZUSD"]
    assert len(rows) == 720
    newer = get(kraken, "/0/public/OHLC", pair="BTC/USD", since=rows[-3][0])["result"]["BTC/USD"]
    assert newer == rows[-2:]
    since, ids = ORIGIN_NS, []
    for _ in range(3):
        page = get(kraken, "/0/public/Trades", pair="XBTUSD", since=since, count=100)["result"]
        ids += [row[6] for row in page["XXBTZUSD"]]
        since = page["last"]
    assert ids == list(range(1, 301))


def test_kraken_rest_takes_all_names_but_those_of_websocket_v1(kraken: Kraken):
    for name in ("XXBTZUSD", "XBTUSD", "BTC/USD"):
        assert get(kraken, "/0/public/Depth", pair=name, count=1)["error"] == []
    assert get(kraken, "/0/public/Depth", pair="XBT/USD")["error"] == ["EQuery:Unknown asset pair"]
    assert get(kraken, "/0/public/Nope")["error"] == ["EGeneral:Unknown method"]
    pairs = get(kraken, "/0/public/AssetPairs")["result"]
    assert pairs["XXBTZUSD"]["wsname"] == "XBT/USD"
    assert pairs["SOLUSD"]["base"] == "SOL"
    assert get(kraken, "/0/public/Assets")["result"]["XXBT"]["altname"] == "XBT"


def test_kraken_limits_requests_by_pair_and_answers_with_status_200(kraken: Kraken):
    answers = [get(kraken, "/0/public/OHLC", pair="XBTUSD")["error"] for _ in range(9)]
    assert answers == [[]] * 8 + [["EGeneral:Too many requests"]]
    assert get(kraken, "/0/public/OHLC", pair="ETHUSD")["error"] == []
    assert get(kraken, "/0/public/OHLC", NOW_NS + SECOND_NS, pair="XBTUSD")["error"] == []


def test_kraken_tells_maintenance(kraken: Kraken):
    session = open_session(kraken)
    kraken.maintenance = True
    [reply] = kraken.maintained(session, NOW_NS)
    assert isinstance(reply, Say)
    assert json.loads(reply.payload)["data"][0]["system"] == "maintenance"
    assert get(kraken, "/0/public/SystemStatus")["result"]["status"] == "maintenance"
    assert rest(kraken, "/0/public/Time").status == 503

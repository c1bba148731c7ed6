from __future__ import annotations

import json

import pytest

from backends.kraken.connection import PING_NS, SUBSCRIBE_CHUNK, KrakenConnection
from backends.kraken.instruments import guess
from backends.live import AckMissing, Maintenance, Pong, Refused, Subscribed
from backends.subscriptions import ACK_TIMEOUT_NS
from marketd.model import GapReason
from tests.fakes import ListSink
from tests.unit.test_kraken_protocol import RECEIVED_NS, T_NS, ack, encode, feed, flat, said, ticker, trade

XBT, ETH = guess("XBT/USD"), guess("ETH/XBT")


def connected(*markets, kinds=("trade", "quote")):
    """Open a connection, and let it ask for these; return what it sends as well."""
    sink = ListSink()
    connection = KrakenConnection(sink, kinds)
    connection.subscribe(markets)
    connection.timer(T_NS)
    sent = [json.loads(payload) for payload in connection.data_to_send()]
    connection.timer(T_NS)
    return connection, sink, sent


def acked(connection, sent):
    """Answer all that was sent, the last first."""
    for request in reversed(sent):
        params = request["params"]
        for symbol in params["symbol"]:
            result = {"channel": params["channel"], "symbol": symbol}
            feed(connection, encode({"method": request["method"], "req_id": request["req_id"], "result": result,
                                     "success": True}))  # fmt: skip


def live(*markets, **settings):
    connection, sink, sent = connected(*markets, **settings)
    acked(connection, sent)
    connection.events()
    return connection, sink


def test_each_kind_is_asked_for_in_the_names_of_websocket_v2():
    _, _, sent = connected(XBT, ETH)
    assert [request["method"] for request in sent] == ["subscribe", "subscribe"]
    assert [request["params"] for request in sent] == [
        {"channel": "trade", "snapshot": False, "symbol": ["BTC/USD", "ETH/BTC"]},
        {"channel": "ticker", "event_trigger": "bbo", "snapshot": True, "symbol": ["BTC/USD", "ETH/BTC"]},
    ]
    assert len({request["req_id"] for request in sent}) == 2


@pytest.mark.parametrize(("kind", "channel"), [("trade", "trade"), ("quote", "ticker")])
def test_only_the_configured_kinds_are_asked_for(kind, channel):
    _, _, sent = connected(XBT, kinds=[kind])
    assert [request["params"]["channel"] for request in sent] == [channel]


def test_many_symbols_are_asked_for_in_chunks():
    markets = [guess(f"A{number}/USD") for number in range(2 * SUBSCRIBE_CHUNK + 1)]
    connection, sink, sent = connected(*markets)
    sizes = [len(request["params"]["symbol"]) for request in sent]
    assert sizes == [SUBSCRIBE_CHUNK, SUBSCRIBE_CHUNK, 1] * 2
    acked(connection, sent)
    assert connection.live == {market.fqme for market in markets} == {market.fqme for market in sink.markets}
    assert not connection.pending


def test_instrument_is_live_after_the_acks_of_all_its_channels_in_any_order():
    connection, _, sent = connected(XBT, ETH)
    assert connection.pending == {XBT.fqme, ETH.fqme}
    for request, symbol in ((1, "ETH/BTC"), (0, "BTC/USD"), (0, "ETH/BTC")):
        channel = sent[request]["params"]["channel"]
        feed(connection, encode(ack(channel, symbol, req_id=sent[request]["req_id"])))
    assert connection.events() == [Subscribed((ETH.fqme,))]
    assert (set(connection.pending), set(connection.live)) == ({XBT.fqme}, {ETH.fqme})
    feed(connection, encode(ack("ticker", "BTC/USD", req_id=sent[1]["req_id"])))
    assert connection.events() == [Subscribed((XBT.fqme,))]


def test_rows_before_the_ack_are_rows_and_nobody_else_gets_any():
    connection, sink, _ = connected(XBT)
    feed(connection, said("trade", trade(1)), said("trade", trade(1, symbol="ETH/BTC")))
    assert [row[3] for row in sink.data] == [1]
    assert flat(connection) == {"used.trade": 1, "unknown": 1}
    assert [market.fqme for market in sink.markets] == [XBT.fqme]


def test_refused_symbol_is_reported_once_and_the_others_go_on():
    connection, _, sent = connected(XBT, ETH)
    for request in sent:
        error = {"error": "Currency pair not supported ETH/BTC", "method": "subscribe", "success": False}
        feed(connection, encode(error | {"symbol": "ETH/BTC", "req_id": request["req_id"]}))
        feed(connection, encode(ack(request["params"]["channel"], "BTC/USD", req_id=request["req_id"])))
    reason = "Currency pair not supported ETH/BTC"
    assert connection.events() == [Refused(ETH.fqme, reason), Subscribed((XBT.fqme,))]
    assert not connection.pending


def test_refusal_of_a_whole_request_says_nothing_about_its_instruments():
    connection, _, sent = connected(XBT, ETH)
    error = {"error": "Internal error", "method": "subscribe", "success": False, "req_id": sent[0]["req_id"]}
    feed(connection, encode(error))
    assert connection.events() == [AckMissing((XBT.fqme, ETH.fqme))]
    assert connection.pending == connection.live == set()


def test_subscription_that_is_there_already_is_as_good_as_a_new_one():
    connection, _, sent = connected(XBT, kinds=["trade"])
    error = {"error": "Already subscribed", "method": "subscribe", "success": False, "symbol": "BTC/USD"}
    feed(connection, encode(error | {"req_id": sent[0]["req_id"]}))
    assert connection.events() == [Subscribed((XBT.fqme,))]


def test_missing_acks_are_reported_and_can_be_asked_for_again():
    """R49: an absent ack fails loudly within a bound."""
    connection, _, sent = connected(XBT, ETH, kinds=["trade"])
    feed(connection, encode(ack("trade", "BTC/USD", req_id=sent[0]["req_id"])))
    assert connection.next_timer_ns == T_NS + ACK_TIMEOUT_NS
    connection.timer(T_NS + ACK_TIMEOUT_NS)
    assert connection.events() == [Subscribed((XBT.fqme,)), AckMissing((ETH.fqme,))]
    connection.subscribe([XBT, ETH])
    assert [json.loads(payload)["params"]["symbol"] for payload in connection.data_to_send()] == [["ETH/BTC"]]


def test_unsubscribed_instrument_makes_no_rows_and_can_come_back_with_a_fresh_count():
    connection, sink = live(XBT, ETH)
    feed(connection, said("trade", trade(1)))
    connection.unsubscribe([XBT])
    sent = [json.loads(payload) for payload in connection.data_to_send()]
    assert [(request["method"], request["params"]["symbol"]) for request in sent] == [("unsubscribe", ["BTC/USD"])] * 2
    assert connection.live == {ETH.fqme}
    feed(connection, said("trade", trade(2)), said("ticker", ticker()))
    acked(connection, sent)
    assert len(sink.data) == 1
    assert connection.counts.unused["unsubscribed"] == 2
    connection.subscribe([XBT])
    acked(connection, [json.loads(payload) for payload in connection.data_to_send()])
    feed(connection, said("trade", trade(9)))
    assert [row[2:4] for row in sink.data] == [(1, 1), (9, 1)]
    assert sink.gaps == []
    assert connection.events()[-1] == Subscribed((XBT.fqme,))


def test_ping_is_sent_now_and_then_and_its_pong_is_an_event():
    connection, _ = live(XBT)
    assert connection.next_timer_ns == T_NS + PING_NS
    connection.timer(T_NS + PING_NS - 1)
    assert connection.data_to_send() == []
    connection.timer(T_NS + PING_NS)
    connection.timer(T_NS + PING_NS)
    [ping] = [json.loads(payload) for payload in connection.data_to_send()]
    assert ping["method"] == "ping"
    feed(connection, encode({"method": "pong", "req_id": ping["req_id"]}))
    assert connection.events() == [Pong()]
    assert connection.next_timer_ns == T_NS + 2 * PING_NS


def test_only_changes_of_maintenance_are_events():
    connection, _ = live(XBT)
    for system in ("online", "post_only", "maintenance", "maintenance", "cancel_only", "online"):
        feed(connection, said("status", {"system": system}))
    assert connection.events() == [Maintenance(on=True), Maintenance(on=False)]


def test_connection_that_opens_during_maintenance_says_so():
    connection, _, _ = connected(XBT)
    feed(connection, said("status", {"system": "maintenance"}))
    assert connection.events() == [Maintenance(on=True)]


def test_malformed_trade_is_a_gap_from_the_one_before_it():
    connection, sink = live(XBT)
    feed(connection, said("trade", trade(1)), said("trade", trade(2, price="?")))
    assert [(gap[3], *gap[7:10]) for gap in sink.gaps] == [(1, T_NS, RECEIVED_NS, GapReason.MALFORMED)]


def test_gap_of_a_broken_message_begins_with_the_newest_row_of_what_it_may_have_held():
    connection, sink = live(XBT, ETH)
    feed(connection, said("trade", trade(1)), said("ticker", ticker(ms=2)))
    feed(connection, said("trade", trade(1, ms=4, symbol="ETH/BTC")))
    feed(connection, said("trade", trade(2))[:-9], said("ticker", ticker())[:-9])
    feed(connection, b'{"data":[{"symbol":"BTC/USD"', b"garbage")
    begins = [(1, T_NS), (1, T_NS + 2_000_000), (1, T_NS), (0, T_NS + 2_000_000)]
    assert [(gap[3], gap[7]) for gap in sink.gaps] == begins
    assert all(gap[8:10] == (RECEIVED_NS, GapReason.MALFORMED) for gap in sink.gaps)


def test_gap_of_garbage_before_any_row_begins_with_the_connections_first_message():
    connection, sink = live(XBT)
    connection.receive(b"garbage", RECEIVED_NS + 5)
    assert [gap[3:4] + gap[7:9] for gap in sink.gaps] == [(0, RECEIVED_NS, RECEIVED_NS + 5)]


@pytest.mark.parametrize(
    "reply",
    [
        {"method": "subscribe", "success": True, "result": {"channel": "trade", "symbol": "BTC/USD"}},
        {"method": "subscribe", "success": True, "req_id": 77, "result": {"channel": "trade", "symbol": "BTC/USD"}},
        {"method": "subscribe", "success": True, "req_id": 1, "result": {"channel": "trade", "symbol": "SOL/USD"}},
        {"method": "unsubscribe", "success": False, "req_id": 1, "error": "Subscription Not Found"},
        {"method": "subscribe", "success": False, "req_id": 1, "symbol": "SOL/USD", "error": "no"},
    ],
)
def test_answers_to_nothing_that_was_asked_change_nothing(reply):
    connection, _, _ = connected(XBT)
    feed(connection, encode(reply))
    assert connection.pending == {XBT.fqme}
    assert connection.events() == []

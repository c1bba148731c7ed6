from __future__ import annotations

import itertools
import json
import logging
import random

import pytest

from backends.kucoin.connection import SUBSCRIBE_CHUNK, WELCOME_TIMEOUT_NS, KucoinConnection
from backends.kucoin.instruments import guess
from backends.live import AckMissing, ConnectPlan, Fatal, Pong, Refused, Subscribed
from backends.subscriptions import ACK_TIMEOUT_NS
from marketd.model import GapReason
from tests.fakes import ListSink
from tests.unit.test_kucoin_protocol import RECEIVED_NS, T_NS, encode, feed, flat, level1, match

BTC, ETH, BSV = guess("BTC-USDT"), guess("ETH-BTC"), guess("BCHSV-USDT")
PING_S = 14.4
WELCOME = encode({"id": "hQvf8jkno", "type": "welcome"})


def opened(*markets, kinds=("trade", "quote")):
    sink = ListSink()
    connection = KucoinConnection(sink, kinds, ConnectPlan("wss://x", message_ping_s=PING_S))
    connection.subscribe(markets)
    connection.timer(T_NS)
    return connection, sink


def sent_by(connection, now_ns=T_NS):
    """Take what must be sent, as the shell does."""
    sent = [json.loads(payload) for payload in connection.data_to_send()]
    connection.timer(now_ns)
    return sent


def welcomed(*markets, **settings):
    connection, sink = opened(*markets, **settings)
    feed(connection, WELCOME)
    return connection, sink, sent_by(connection)


def ack(request):
    return encode({"id": request["id"], "type": "ack"})


def error(request, code, text):
    return encode({"id": request["id"], "type": "error", "code": code, "data": text})


def live(*markets, **settings):
    connection, sink, sent = welcomed(*markets, **settings)
    feed(connection, *map(ack, sent))
    connection.events()
    return connection, sink


def symbols_of(request):
    return request["topic"].partition(":")[2].split(",")


def test_subscription_waits_for_a_late_welcome_and_is_complete_after_all_acks_in_any_order(caplog):
    """R49: a late welcome, acks out of order, pongs in between and no warning about them."""
    caplog.set_level(logging.DEBUG)
    connection, _ = opened(BTC, ETH)
    assert sent_by(connection) == []
    feed(connection, encode({"id": "5", "type": "pong"}))
    assert sent_by(connection, T_NS + 9 * 10**9) == []
    feed(connection, WELCOME)
    requests = sent_by(connection)
    assert [(request["type"], request["topic"], request["response"]) for request in requests] == [
        ("subscribe", "/market/match:BTC-USDT,ETH-BTC", True),
        ("subscribe", "/spotMarket/level1:BTC-USDT,ETH-BTC", True),
    ]
    feed(connection, ack(requests[1]), encode({"id": "6", "type": "pong"}))
    assert connection.pending == {BTC.fqme, ETH.fqme}
    feed(connection, ack(requests[0]))
    assert connection.events() == [Pong(), Pong(), Subscribed((BTC.fqme, ETH.fqme))]
    assert (set(connection.pending), set(connection.live)) == (set(), {BTC.fqme, ETH.fqme})
    assert caplog.records == []


def test_gap_of_a_broken_message_begins_with_the_newest_row_of_what_it_may_have_held():
    connection, sink = live(BTC, ETH)
    feed(connection, match(1), level1(ms=2), match(1, ms=4, symbol="ETH-BTC"))
    feed(connection, match(2)[:-9], level1()[:-9], b"garbage")
    begins = [(1, T_NS), (1, T_NS + 2_000_000), (0, T_NS + 2_000_000)]
    assert [(gap[3], gap[7]) for gap in sink.gaps] == begins
    assert all(gap[8:10] == (RECEIVED_NS, GapReason.MALFORMED) for gap in sink.gaps)


def test_gap_of_garbage_before_any_row_begins_with_the_connections_first_message():
    connection, sink = live(BTC)
    connection.receive(b"garbage", RECEIVED_NS + 5)
    assert [gap[3:4] + gap[7:9] for gap in sink.gaps] == [(0, RECEIVED_NS, RECEIVED_NS + 5)]


def test_welcome_that_does_not_come_is_fatal():
    connection, _ = opened(BTC)
    assert connection.next_timer_ns == T_NS + WELCOME_TIMEOUT_NS
    connection.timer(T_NS + WELCOME_TIMEOUT_NS - 1)
    assert connection.events() == []
    connection.timer(T_NS + WELCOME_TIMEOUT_NS)
    assert connection.events() == [Fatal("no welcome message came")]
    feed(connection, WELCOME)
    assert sent_by(connection) == []


def test_error_in_place_of_a_welcome_is_fatal():
    connection, _ = opened(BTC)
    feed(connection, encode({"id": "x", "type": "error", "code": 401, "data": "token is invalid"}))
    assert connection.events() == [Fatal("KuCoin says 401 token is invalid")]


def test_missing_ack_is_reported_and_can_be_asked_for_again():
    """R49: an absent ack fails loudly within a bound."""
    connection, _, sent = welcomed(BTC, ETH)
    feed(connection, ack(sent[0]))
    connection.timer(T_NS + ACK_TIMEOUT_NS)
    assert connection.events() == [AckMissing((BTC.fqme, ETH.fqme))]
    connection.subscribe([BTC])
    again = sent_by(connection)
    feed(connection, *map(ack, again))
    assert connection.events() == [Subscribed((BTC.fqme,))]


@pytest.mark.parametrize(("kind", "topic"), [("trade", "/market/match"), ("quote", "/spotMarket/level1")])
def test_only_the_configured_kinds_are_asked_for(kind, topic):
    _, _, sent = welcomed(BTC, kinds=[kind])
    assert [request["topic"] for request in sent] == [f"{topic}:BTC-USDT"]


def test_many_topics_are_asked_for_in_chunks():
    markets = [guess(f"A{number}-USDT") for number in range(SUBSCRIBE_CHUNK + 1)]
    _, sink, sent = welcomed(*markets)
    assert [len(symbols_of(request)) for request in sent] == [SUBSCRIBE_CHUNK, 1] * 2
    assert len({request["id"] for request in sent}) == 4
    assert len(sink.markets) == len(markets)


def venue_answers(connection, missing, *, names):
    """Be the venue: refuse each request that has a symbol that does not exist, as a whole; count the requests."""
    count = 0
    while sent := sent_by(connection):
        for request in sent:
            count += 1
            wrong = [symbol for symbol in symbols_of(request) if symbol in missing]
            topic = f"{request['topic'].partition(':')[0]}:{wrong[0]}" if wrong else ""
            text = f"topic {topic} is not found" if names else "topic is not found"
            feed(connection, error(request, 404, text) if wrong else ack(request))
    return count


@pytest.mark.parametrize("names", [True, False])
def test_symbols_that_do_not_exist_are_refused_and_all_others_are_live(names):
    markets = [guess(f"A{number}-USDT") for number in range(100)]
    missing = {f"A{number}-USDT" for number in random.Random(1).sample(range(100), 3)}
    connection, _ = opened(*markets)
    feed(connection, WELCOME)
    requests = venue_answers(connection, missing, names=names)
    assert requests < 100  # a handful for each that is missing, and not one for each symbol
    assert connection.live == {market.fqme for market in markets if market.bs_mktid not in missing}
    assert not connection.pending
    refused = [event.fqme for event in connection.events() if isinstance(event, Refused)]
    assert sorted(refused) == sorted(market.fqme for market in markets if market.bs_mktid in missing)


def test_error_with_the_connections_id_is_matched_by_the_topic_it_names():
    """As the documents have it: "the error message ID [is] connectId"."""
    connection, _, _ = welcomed(BTC, ETH, kinds=["trade"])
    feed(connection, error({"id": "hQvf8jkno"}, 404, "topic /market/match:ETH-BTC is not found"))
    [again] = sent_by(connection)
    assert again["topic"] == "/market/match:BTC-USDT"
    feed(connection, ack(again))
    reason = "topic /market/match:ETH-BTC is not found"
    assert connection.events() == [Refused(ETH.fqme, reason), Subscribed((BTC.fqme,))]


def test_too_many_topics_say_nothing_about_the_symbols():
    connection, _, sent = welcomed(BTC, ETH, kinds=["trade"])
    feed(connection, error(sent[0], 509, "exceed max subscription count limitation of 300 per session"))
    assert connection.events() == [AckMissing((BTC.fqme, ETH.fqme))]
    assert connection.pending == connection.live == set()


@pytest.mark.parametrize(
    "answer",
    [
        {"id": "999", "type": "ack"},
        {"id": 1, "type": "ack"},
        {"id": None, "type": "ack"},
        {"id": "٣", "type": "ack"},
        {"id": "9" * 50, "type": "ack"},
        {"id": "999", "type": "error", "code": 404, "data": "topic /market/match:X-Y is not found"},
        {"id": "999", "type": "error", "code": 404, "data": None},
        {"id": "999", "type": "error"},
        {"type": "welcome"},
    ],
)
def test_answers_to_nothing_that_was_asked_change_nothing(answer):
    connection, _, _ = welcomed(BTC)
    feed(connection, encode(answer))
    assert connection.pending == {BTC.fqme}
    assert connection.events() == []
    assert sent_by(connection) == []


def test_unsubscribed_instrument_makes_no_rows_and_can_come_back():
    connection, sink = live(BTC, BSV)
    feed(connection, match(5))
    connection.unsubscribe([BTC])
    sent = sent_by(connection)
    assert [(request["type"], symbols_of(request)) for request in sent] == [("unsubscribe", ["BTC-USDT"])] * 2
    feed(connection, match(6), level1(), *map(ack, sent))
    assert [row[2] for row in sink.data] == [5]
    assert connection.counts.unused["unsubscribed"] == 2
    assert connection.live == {BSV.fqme}
    connection.subscribe([BTC])
    feed(connection, *map(ack, sent_by(connection)), match(3, ms=1))
    assert [row[2:4] for row in sink.data] == [(5, 1), (3, 1)]
    assert sink.gaps == []
    assert connection.events() == [Subscribed((BTC.fqme,))]


def test_rows_before_the_ack_are_rows_and_nobody_else_gets_any():
    connection, sink, _ = welcomed(BTC)
    feed(connection, match(1), match(1, symbol="ETH-BTC"))
    assert len(sink.data) == 1
    assert flat(connection) == {"unused.welcome": 1, "used.match": 1, "unknown": 1}


def test_pings_go_out_in_the_interval_that_the_token_came_with():
    connection, _ = live(BTC)
    due_ns = RECEIVED_NS + round(PING_S * 1e9)
    assert connection.next_timer_ns == due_ns
    connection.timer(due_ns - 1)
    assert sent_by(connection, due_ns - 1) == []
    connection.timer(due_ns)
    [ping] = sent_by(connection, due_ns)
    assert ping["type"] == "ping"
    assert connection.next_timer_ns == due_ns + round(PING_S * 1e9)
    feed(connection, encode({"id": ping["id"], "type": "pong"}))
    assert connection.events() == [Pong()]


def test_connection_without_instruments_pings_as_well():
    connection, _, sent = welcomed()
    assert sent == []
    assert connection.next_timer_ns == RECEIVED_NS + round(PING_S * 1e9)


def test_whatever_order_acks_come_in_all_is_live():
    markets = [BTC, ETH, BSV]
    for order in itertools.permutations(range(2)):
        connection, _, sent = welcomed(*markets)
        feed(connection, *(ack(sent[place]) for place in order))
        assert connection.live == {market.fqme for market in markets}

from __future__ import annotations

import json

import pytest

from backends.backend import Backend
from backends.binance import BACKEND
from backends.binance.live_protocol import BinanceLiveProtocol
from backends.live import AckMissing, CutAnnounced, Refused, Subscribed
from backends.subscriptions import ACK_TIMEOUT_NS
from marketd.model import Asset, GapReason, Kind, MktPair
from tests.contract import check_backend as contract
from tests.contract.check_backend import ProtocolCase
from tests.fakes import ListSink

T_MS = 1_767_225_600_000
T_NS = T_MS * 1_000_000
RECEIVED_NS = T_NS + 7_000_000


def market(dst, src="usdt", symbol=None):
    pair = {"dst": Asset(dst), "src": Asset(src), "bs_mktid": symbol or f"{dst}{src}".upper()}
    return MktPair(venue="spot", backend="binance", type="spot", **pair)


BTC, ETH = market("btc"), market("eth")


def opened(*markets, types=("aggTrade", "bookTicker"), acked=True):
    sink = ListSink()
    protocol = BinanceLiveProtocol(sink, types)
    if markets:
        protocol.subscribe(markets)
        protocol.data_to_send()
    if acked and markets:
        feed(protocol, {"result": None, "id": 1})
        protocol.data_to_send()
        feed(
            protocol, {"result": [f"{market.bs_mktid.lower()}@{kind}" for market in markets for kind in types], "id": 2}
        )
        protocol.events()
    return protocol, sink


def agg_trade(trade_id, symbol="BTCUSDT", *, at=0, **changes):
    data = {"e": "aggTrade", "E": T_MS + at + 1, "a": trade_id, "s": symbol, "p": "64000.10", "q": "0.250",
            "f": 1, "l": 2, "T": T_MS + at, "m": True} | changes  # fmt: skip
    return {"stream": f"{symbol.lower()}@aggTrade", "data": data}


def book_ticker(update_id, symbol="BTCUSDT"):
    data = {"u": update_id, "s": symbol, "b": "64000.1", "B": "1.5", "a": "64000.2", "A": "2"}
    return {"stream": f"{symbol.lower()}@bookTicker", "data": data}


def encode(message):
    return json.dumps(message, separators=(",", ":")).encode()


def feed(protocol, *messages):
    for message in messages:
        protocol.receive(message if isinstance(message, bytes) else encode(message), RECEIVED_NS)


def test_subscribing_asks_for_the_configured_streams_and_registers_the_instruments_at_once():
    """R30: the feed of a silent market is there, too."""
    protocol, sink = opened()
    protocol.subscribe([BTC, ETH])
    (request,) = protocol.data_to_send()
    assert json.loads(request)["params"] == [
        "btcusdt@aggTrade", "btcusdt@bookTicker", "ethusdt@aggTrade", "ethusdt@bookTicker"
    ]  # fmt: skip
    assert [known.fqme for known in sink.markets] == ["btc/usdt.spot.binance", "eth/usdt.spot.binance"]
    assert set(protocol.pending) == {BTC.fqme, ETH.fqme}
    assert set(protocol.live) == set()


def test_acks_are_events_and_unused_messages():
    protocol, _ = opened(BTC, acked=False)
    feed(protocol, {"result": None, "id": 1})
    assert protocol.events() == [Subscribed((BTC.fqme,))]
    assert protocol.events() == []
    assert set(protocol.live) == {BTC.fqme}
    assert protocol.counts.flat()["unused.ack"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"code": 2, "msg": "Invalid request: x"}, "id": 1},
        {"code": 2, "msg": "Invalid request: x", "id": 1},
        {"error": {"code": 2, "msg": "Invalid request: x"}},
        {"code": 2, "msg": "Invalid request: x"},
    ],
)
def test_error_answers_in_all_their_forms_are_refusals(answer):
    protocol, _ = opened(BTC, acked=False)
    feed(protocol, answer)
    assert protocol.events() == [Refused(BTC.fqme, "Invalid request: x (code 2)")]
    assert protocol.counts.flat()["unused.error"] == 1


def test_a_missing_ack_is_reported():
    protocol, _ = opened(BTC, acked=False)
    protocol.timer(RECEIVED_NS)
    assert protocol.next_timer_ns == RECEIVED_NS + ACK_TIMEOUT_NS
    protocol.timer(RECEIVED_NS + ACK_TIMEOUT_NS)
    assert protocol.events() == [AckMissing((BTC.fqme,))]
    assert set(protocol.pending) == set()


def test_rows_come_from_what_was_asked_for_before_the_ack_as_well():
    protocol, sink = opened(BTC, acked=False)
    feed(protocol, agg_trade(5), book_ticker(9))
    assert [(row[2], row[3], row[4]) for row in sink.data] == [(5, 1, Kind.TRADE), (9, 1, Kind.QUOTE)]
    assert protocol.counts.used == {"aggTrade": 1, "bookTicker": 1}


@pytest.mark.parametrize("types", [("aggTrade",), ("bookTicker",)])
def test_kinds_that_were_not_asked_for_make_no_rows(types):
    protocol, sink = opened(BTC, types=types)
    feed(protocol, agg_trade(5), book_ticker(9), agg_trade(5)["data"], book_ticker(9)["data"])
    assert len(sink.data) in (1, 2)  # the same trade twice is once
    assert {row[4] for row in sink.data} == {Kind.TRADE if types == ("aggTrade",) else Kind.QUOTE}
    assert protocol.counts.unknown == 2


def test_instruments_that_nobody_asked_for_are_unknown():
    protocol, sink = opened(BTC)
    feed(protocol, agg_trade(5, "ETHUSDT"), book_ticker(1, "ETHUSDT"), agg_trade(5, "ETHUSDT")["data"])
    feed(
        protocol, book_ticker(1, "ETHUSDT")["data"], {"stream": "!bookTicker", "data": book_ticker(1, "XUSDT")["data"]}
    )
    assert protocol.counts.unknown == 5
    assert sink.data == []
    assert len(sink.markets) == 1


def test_what_still_comes_of_an_ended_instrument_makes_no_rows():
    protocol, sink = opened(BTC, ETH)
    protocol.unsubscribe([BTC])
    feed(protocol, agg_trade(5), book_ticker(9), agg_trade(1, "ETHUSDT"))
    feed(protocol, json.dumps(agg_trade(6), indent=1).encode())
    assert [row[3] for row in sink.data] == [2]
    assert protocol.counts.unused["unsubscribed"] == 3
    assert set(protocol.live) == {ETH.fqme}


def test_an_instrument_asked_for_again_keeps_its_number_and_begins_anew():
    """What it missed in between is the gap of whoever ended it, and no hole in the ids."""
    protocol, sink = opened(BTC)
    feed(protocol, agg_trade(5))
    protocol.unsubscribe([BTC])
    feed(protocol, agg_trade(6, at=1))
    protocol.subscribe([BTC])
    feed(protocol, agg_trade(9, at=2), agg_trade(10, at=3))
    assert [(row[2], row[3]) for row in sink.data] == [(5, 1), (9, 1), (10, 1)]
    assert sink.gaps == []


def test_an_instrument_asked_for_again_for_want_of_an_ack_goes_on():
    protocol, sink = opened(BTC, acked=False)
    feed(protocol, agg_trade(5))
    protocol.timer(RECEIVED_NS)
    protocol.timer(RECEIVED_NS + ACK_TIMEOUT_NS)
    protocol.subscribe([BTC])
    feed(protocol, agg_trade(8, at=2))
    assert [gap[9:] for gap in sink.gaps] == [(GapReason.SEQUENCE, 2)]


def test_ending_what_was_never_asked_for_asks_for_nothing():
    protocol, _ = opened(BTC)
    protocol.unsubscribe([ETH])
    assert protocol.data_to_send() == []


@pytest.mark.parametrize(
    "announcement",
    [
        {"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": T_MS}},
        {"e": "serverShutdown", "E": T_MS},
        b'{ "e": "serverShutdown", "E": 1770123456789 }',
        b'{"data":{"e":"serverShutdown","E":1770123456789},"stream":"!serverShutdown"}',
    ],
)
def test_an_announced_shutdown_is_reported_once(announcement):
    protocol, sink = opened(BTC)
    feed(protocol, announcement, announcement, agg_trade(1))
    assert protocol.events() == [CutAnnounced(None)]
    assert protocol.counts.unused["serverShutdown"] == 2
    assert len(sink.data) == 1


def test_a_recording_with_an_announced_shutdown_plays():
    sink = ListSink()
    protocol = BACKEND.open_protocol("wss://stream.binance.com:9443/stream", {}, sink)
    feed(protocol, {"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": T_MS}})
    assert protocol.counts.unused == {"serverShutdown": 1}


@pytest.mark.parametrize(
    "payload",
    [
        b'{"strem":"ethusdt@aggTrade","data":{"e":"aggTrade","s":"ETHUSDT","a":3,',
        b'{{"stream":"ethusdt@aggTrade","data":{"e":"agg',
        b'{"u":5,"s":"ETHUSDT","b":',
    ],
)
def test_a_broken_message_is_a_gap_of_the_instrument_it_names(payload):
    protocol, sink = opened(BTC, ETH)
    feed(protocol, payload)
    assert protocol.counts.bad == 1
    assert [(gap[3], gap[9]) for gap in sink.gaps] == [(2, GapReason.MALFORMED)]


def test_gap_of_a_broken_message_begins_with_the_newest_row_of_what_it_may_have_held():
    protocol, sink = opened(BTC, ETH)
    feed(protocol, agg_trade(1), agg_trade(1, "ETHUSDT", at=3), book_ticker(1))
    feed(protocol, encode(agg_trade(2))[:-9], encode(book_ticker(2))[:-9], b'{"u":5,"s":"BTCUSDT","b":', b"garbage")
    # A quote of the spot market has no time but ours.
    begins = [(1, T_NS), (1, RECEIVED_NS), (1, T_NS), (0, T_NS + 3_000_000)]
    assert [(gap[3], gap[7]) for gap in sink.gaps] == begins
    assert all(gap[8:10] == (RECEIVED_NS, GapReason.MALFORMED) for gap in sink.gaps)


def test_gap_of_garbage_before_any_row_begins_with_the_connections_first_message():
    protocol, sink = opened(BTC)
    protocol.receive(b"garbage", RECEIVED_NS + 5)
    assert [gap[3:4] + gap[7:9] for gap in sink.gaps] == [(0, RECEIVED_NS, RECEIVED_NS + 5)]


def test_a_broken_message_that_names_nobody_may_be_of_any():
    protocol, sink = opened(BTC, ETH)
    feed(protocol, b"<html>502 Bad Gateway</html>", b'{"stream":"\xff\xff@x')
    assert [gap[3] for gap in sink.gaps] == [0, 0]


def test_symbols_outside_ascii_are_asked_for_and_found():
    """There are such: 币安人生USDT, and 这是测试币456 on the test network."""
    odd = market("币安人生", symbol="币安人生USDT")
    protocol, sink = opened(odd, acked=False)
    feed(protocol, agg_trade(1, "币安人生USDT"))  # json.dumps writes escapes
    feed(protocol, json.dumps(agg_trade(2, "币安人生USDT"), ensure_ascii=False, separators=(",", ":")).encode())
    assert [row[2] for row in sink.data] == [1, 2]
    assert sink.markets[0].fqme == "币安人生/usdt.spot.binance"


class LiveCase(ProtocolCase):
    """The contract's checks, on a live connection to which everything was subscribed."""

    def open(self):
        return opened(BTC, ETH, acked=False)


def live_case():
    messages = [agg_trade(1), book_ticker(5), agg_trade(1, "ETHUSDT"), agg_trade(2), book_ticker(6, "ETHUSDT")]
    replies = [{"result": None, "id": 1}, {"error": {"code": 2, "msg": "no"}, "id": 9}, {"e": "serverShutdown", "E": 1}]
    payloads = [json.dumps(message, separators=(",", ":")).encode() for message in [*messages, *replies]]
    backend: Backend = BACKEND
    return LiveCase("binance-live", backend, "", {}, [(payload, RECEIVED_NS) for payload in payloads], rows=5)


@pytest.mark.parametrize(
    "check",
    [
        contract.check_good_messages,
        contract.check_deterministic,
        contract.check_never_asks_the_time,
        contract.check_garbage,
        contract.check_cut_messages,
        contract.check_wrong_types,
    ],
)
def test_live_connections_keep_the_contract_of_protocols(check):
    check(live_case())

from __future__ import annotations

import json

import pytest

from backends.kucoin import BACKEND
from backends.kucoin.streams import REMEMBERED
from marketd.model import GapReason, Kind, Side
from tests.fakes import ListSink

URL = "wss://ws-api-spot.kucoin.com/?token=TOKEN"
T_MS = 1_767_225_600_000
T_NS = T_MS * 10**6
RECEIVED_NS = T_NS + 7_000_000


def opened(metadata=None):
    sink = ListSink()
    return BACKEND.open_protocol(URL, metadata or {}, sink), sink


def message(topic, data, subject="x"):
    return encode({"topic": topic, "type": "message", "subject": subject, "data": data})


def match(sequence, *, ms=0, symbol="BTC-USDT", **changes):
    data = {"makerOrderId": "a", "price": "88000.2", "sequence": str(sequence), "side": "buy", "size": "0.25"}
    data |= {"symbol": symbol, "takerOrderId": "b", "time": str((T_MS + ms) * 10**6), "tradeId": str(sequence)}
    return message(f"/market/match:{symbol}", data | {"type": "match"} | changes, "trade.l3match")


def level1(*, ms=0, symbol="BTC-USDT", **changes):
    data = {"asks": ["88000.2", "2"], "bids": ["88000.1", "1.5"], "timestamp": T_MS + ms} | changes
    return message(f"/spotMarket/level1:{symbol}", data, "level1")


def ticker(sequence, *, symbol="BTC-USDT", **changes):
    data = {"sequence": str(sequence), "bestAsk": "88000.2", "bestAskSize": "2", "bestBid": "88000.1"}
    data |= {"bestBidSize": "1.5", "price": "88000.2", "size": "1", "time": T_MS - 86_400_000} | changes
    return message(f"/market/ticker:{symbol}", data, "trade.ticker")


def encode(value):
    return json.dumps(value, separators=(",", ":")).encode()


def feed(protocol, *payloads):
    for payload in payloads:
        protocol.receive(payload, RECEIVED_NS)


def flat(protocol):
    return {name: count for name, count in protocol.counts.flat().items() if count}


def test_match_becomes_a_row_with_the_takers_side_and_its_time_in_nanoseconds():
    protocol, sink = opened()
    feed(protocol, match(11067996711960577), match(11067996711960580, side="sell", time=str(T_NS + 123)))
    assert sink.rows == [
        (T_NS, RECEIVED_NS, 11067996711960577, 1, Kind.TRADE, Side.BUY, 1, 88000.2, 0.25, 0.0, 0.0),
        (T_NS + 123, RECEIVED_NS, 11067996711960580, 1, Kind.TRADE, Side.SELL, 1, 88000.2, 0.25, 0.0, 0.0),
    ]


def test_level1_is_a_quote_with_the_time_it_was_made():
    protocol, sink = opened()
    feed(protocol, level1(ms=3))
    assert sink.rows == [(T_NS + 3_000_000, RECEIVED_NS, 0, 1, Kind.QUOTE, 0, 1, 88000.1, 1.5, 88000.2, 2.0)]


def test_ticker_is_a_quote_with_our_time_because_its_own_is_the_last_trades():
    protocol, sink = opened()
    feed(protocol, ticker(14609309753))
    assert sink.rows == [(RECEIVED_NS, RECEIVED_NS, 14609309753, 1, Kind.QUOTE, 0, 1, 88000.1, 1.5, 88000.2, 2.0)]


@pytest.mark.parametrize(("first", "second"), [(level1(), ticker(1)), (ticker(1), level1())])
def test_quotes_that_come_by_both_topics_are_counted_once(first, second):
    protocol, sink = opened()
    feed(protocol, first, second, first, second, ticker(1, symbol="ETH-BTC"))
    assert len(sink.rows) == 3
    unused = json.loads(second)["topic"].partition(":")[0].rpartition("/")[2]
    assert protocol.counts.unused == {unused: 2}


def test_topic_at_the_end_of_a_message_is_found_as_at_its_beginning():
    protocol, sink = opened()
    old = dict(reversed(json.loads(match(1)).items()))
    feed(protocol, encode(old), match(2), json.dumps(json.loads(match(3)), indent=1).encode())
    assert [row[2] for row in sink.rows] == [1, 2, 3]
    assert flat(protocol) == {"used.match": 3}


def test_holes_in_sequences_mean_nothing():
    protocol, sink = opened()
    feed(protocol, match(1), match(900, ms=5), match(10_000, ms=5))
    assert [row[2] for row in sink.rows] == [1, 900, 10_000]
    assert sink.gaps == []


def test_repeated_trades_are_dropped_and_counted():
    protocol, sink = opened()
    feed(protocol, *[match(number, ms=number) for number in (1, 4, 4, 1, 7)])
    assert [row[2] for row in sink.rows] == [1, 4, 7]
    assert flat(protocol) == {"used.match": 3, "unused.duplicate": 2}
    assert sink.gaps == []


def test_late_trade_is_not_written_but_a_gap_row_says_that_it_is_missing():
    protocol, sink = opened()
    feed(protocol, match(1), match(7, ms=9), match(4, ms=5), match(10, ms=12))
    assert [row[2] for row in sink.data] == [1, 7, 10]
    assert [gap[7:] for gap in sink.gaps] == [(T_NS + 5_000_000, T_NS + 9_000_000, GapReason.SEQUENCE, 1)]
    assert flat(protocol) == {"used.match": 3, "unused.late": 1}


def test_sequences_that_begin_anew_go_on_after_a_gap_of_unknown_size():
    protocol, sink = opened()
    feed(protocol, match(9_000), match(1, ms=50), match(3, ms=51))
    assert [row[2] for row in sink.data] == [9_000, 1, 3]
    assert [gap[7:] for gap in sink.gaps] == [(T_NS, T_NS + 50_000_000, GapReason.SEQUENCE, -1)]


def test_only_so_many_trades_are_remembered():
    protocol, sink = opened()
    feed(protocol, *[match(number) for number in range(REMEMBERED + 5)], match(REMEMBERED + 3), match(0))
    assert protocol.counts.unused == {"duplicate": 1, "late": 1}
    assert len(sink.gaps) == 1


def test_older_quotes_are_dropped():
    protocol, sink = opened()
    feed(protocol, level1(ms=9), level1(ms=8), level1(ms=9), ticker(5, symbol="A-B"), ticker(4, symbol="A-B"))
    assert len(sink.rows) == 3
    assert protocol.counts.unused == {"stale": 2}


@pytest.mark.parametrize(
    "payload",
    [
        level1(bids=[]),
        level1(bids=None),
        level1(bids=["0", "0"]),
        ticker(1, bestBid=None, bestBidSize=None),
        ticker(1, bestBid="0", bestBidSize="0"),
    ],
)
def test_empty_side_of_a_book_is_price_0_and_size_0(payload):
    protocol, sink = opened()
    feed(protocol, payload)
    assert sink.data[0][7:] == (0.0, 0.0, 88000.2, 2.0)


@pytest.mark.parametrize(
    "payload",
    [
        *(match(1, price=price) for price in ("0", "-1", "nan", "inf", "", "abc", None, [])),
        *(match(1, size=size) for size in ("0", "-1", "nan", "inf", True, {})),
        *(match(1, time=time) for time in (0, -1, 1, T_MS, T_MS * 1000, 1 << 64, "soon", None)),
        *(match(number) for number in (-1, 1 << 63, "x", None, 1.5)),
        *(match(1, side=side) for side in ("BUY", "", None)),
        *(level1(bids=side) for side in (["1"], ["1", "1", "1"], ["nan", "1"], ["1", "-1"], "1", [None, None])),
        *(level1(timestamp=time) for time in (0, T_NS, None, "soon")),
        *(ticker(1, bestAsk=price) for price in ("-1", "nan", "inf", "x")),
        *(ticker(number) for number in (-1, 1 << 63, None)),
        message("/market/match:BTC-USDT", None),
        match(1)[:-3],
    ],
)
def test_impossible_values_are_bad_and_leave_a_gap_of_their_instrument(payload):
    protocol, sink = opened()
    feed(protocol, match(1), payload)
    assert protocol.counts.bad == 1
    assert protocol.counts.bad_examples == [payload]
    assert len(sink.data) == 1
    assert [(gap[3], *gap[7:10]) for gap in sink.gaps] == [(1, T_NS, RECEIVED_NS, GapReason.MALFORMED)]


def test_garbage_may_have_been_a_row_of_any_instrument_but_not_a_reply_or_a_topic_without_rows():
    protocol, sink = opened()
    feed(protocol, b"garbage", b'{"topic":"/mark')
    assert [(gap[3], gap[9]) for gap in sink.gaps] == [(0, GapReason.MALFORMED)] * 2
    feed(protocol, message("/market/candles:BTC-USDT_1min", {}), message("/market/candles:BTC-USDT_1min", {})[:-1])
    feed(protocol, b'{"id":"1","type":')
    assert len(sink.gaps) == 2
    assert flat(protocol) == {"unused.candles": 1, "bad": 4}


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (encode({"id": "hQvf8jkno", "type": "welcome"}), "welcome"),
        (encode({"id": "1", "type": "ack"}), "ack"),
        (encode({"id": "1", "type": "pong", "timestamp": 1}), "pong"),
        (encode({"id": "1", "type": "error", "code": 404, "data": "topic /x is not found"}), "error"),
        (message("/market/candles:BTC-USDT_1min", {"candles": []}), "candles"),
        (message("/market/level2:BTC-USDT", {"changes": {}}), "level2"),
        (message("/spotMarket/level2Depth5:BTC-USDT", {"asks": []}), "level2Depth5"),
        (message("/market/snapshot:BTC-USDT", {"data": {}}), "snapshot"),
    ],
)
def test_messages_that_make_no_rows_are_counted_by_type(payload, name):
    """R49: a pong is nothing to warn of."""
    protocol, sink = opened()
    feed(protocol, payload, payload)
    assert flat(protocol) == {f"unused.{name}": 2}
    assert sink.rows == sink.markets == []


@pytest.mark.parametrize(
    "payload",
    [
        message("/market/novelty:BTC-USDT", {}),
        message("/market/match:", {}),
        message("/market/match", {}),
        message("/market/match:BTCUSDT", {}),
        encode({"type": "novelty"}),
        b'{"hello":1}',
        b"{}",
    ],
)
def test_other_messages_are_unknown(payload):
    protocol, sink = opened()
    feed(protocol, payload)
    assert flat(protocol) == {"unknown": 1}
    assert sink.rows == sink.markets == []


def test_symbol_that_the_venue_does_not_list_is_unknown():
    symbols = [{"symbol": "BCHSV-USDT", "baseCurrency": "BSV", "quoteCurrency": "USDT"}]
    body = encode({"code": "200000", "data": symbols})
    protocol, sink = opened({"https://api.kucoin.com/api/v1/symbols": body})
    feed(protocol, match(1, symbol="BCHSV-USDT"), match(1, symbol="NO-SUCH"))
    assert flat(protocol) == {"used.match": 1, "unknown": 1}
    assert [market.fqme for market in sink.markets] == ["bsv/usdt.spot.kucoin"]

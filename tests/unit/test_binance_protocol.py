from __future__ import annotations

import json

import pytest

from backends.binance import BACKEND
from marketd.model import GapReason, Kind, Quality, Side
from tests.fakes import ListSink

SPOT = "wss://stream.binance.com:9443"
FUTURES = "wss://fstream.binance.com"
T_MS = 1_767_225_600_000
T_NS = T_MS * 1_000_000
RECEIVED_NS = T_NS + 7_000_000


def opened(url=f"{FUTURES}/stream?streams=btcusdt@aggTrade/btcusdt@trade/btcusdt@bookTicker", metadata=None):
    sink = ListSink()
    return BACKEND.open_protocol(url, metadata or {}, sink), sink


def agg_trade(trade_id, *, at=0, **changes):
    return {"e": "aggTrade", "E": T_MS + at + 1, "a": trade_id, "s": "BTCUSDT", "p": "64000.10", "q": "0.250",
            "f": 1, "l": 2, "T": T_MS + at, "m": True} | changes  # fmt: skip


def trade(trade_id, *, at=0, **changes):
    return {"e": "trade", "E": T_MS + at + 1, "s": "BTCUSDT", "t": trade_id, "p": "64000.10", "q": "0.250",
            "T": T_MS + at, "m": False} | changes  # fmt: skip


def book_ticker(update_id, **changes):
    return {"u": update_id, "s": "BTCUSDT", "b": "64000.1", "B": "1.5", "a": "64000.2", "A": "2"} | changes


def combined(data, stream=None):
    name = stream or f"btcusdt@{data.get('e', 'bookTicker')}"
    return bare({"stream": name, "data": data})


def bare(value):
    return json.dumps(value, separators=(",", ":")).encode()


def feed(protocol, *payloads):
    for payload in payloads:
        protocol.receive(payload, RECEIVED_NS)


def test_agg_trade_becomes_a_row_with_the_takers_side():
    protocol, sink = opened()
    feed(protocol, combined(agg_trade(1)), combined(agg_trade(2, at=5, m=False)))
    assert sink.rows == [
        (T_NS, RECEIVED_NS, 1, 1, Kind.TRADE, Side.SELL, 1, 64000.1, 0.25, 0.0, 0.0),
        (T_NS + 5_000_000, RECEIVED_NS, 2, 1, Kind.TRADE, Side.BUY, 1, 64000.1, 0.25, 0.0, 0.0),
    ]


def test_futures_quote_has_the_time_of_the_change_and_spot_quote_our_own():
    protocol, sink = opened()
    futures = {"e": "bookTicker"} | book_ticker(8) | {"T": T_MS, "E": T_MS + 3}
    feed(protocol, combined(book_ticker(7)), combined(futures))
    assert [row[0] for row in sink.rows] == [RECEIVED_NS, T_NS]
    assert sink.rows[0] == (RECEIVED_NS, RECEIVED_NS, 7, 1, Kind.QUOTE, 0, 1, 64000.1, 1.5, 64000.2, 2.0)


def test_microseconds_are_read_where_the_address_asks_for_them():
    protocol, sink = opened(f"{SPOT}/stream?streams=btcusdt@aggTrade&timeUnit=MICROSECOND")
    feed(protocol, combined(agg_trade(1, T=T_MS * 1000 + 123)))
    assert sink.rows[0][0] == T_NS + 123_000


def test_milliseconds_where_microseconds_should_be_are_bad():
    protocol, sink = opened(f"{SPOT}/stream?streams=btcusdt@aggTrade&timeUnit=microsecond")
    feed(protocol, combined(agg_trade(1)))
    assert protocol.counts.bad == 1
    assert sink.data == []


@pytest.mark.parametrize("message", [agg_trade(1), trade(1), book_ticker(1), {"e": "bookTicker"} | book_ticker(1)])
def test_bare_messages_make_the_same_rows_as_combined_ones(message):
    (one, one_sink), (other, other_sink) = opened(), opened(f"{FUTURES}/ws/btcusdt@trade")
    feed(one, combined(message))
    feed(other, bare(message))
    assert one_sink.data == other_sink.data
    assert len(one_sink.data) == 1


def test_order_of_keys_and_white_space_do_not_matter():
    protocol, sink = opened()
    data = dict(reversed(agg_trade(1).items()))
    feed(protocol, json.dumps({"data": data, "stream": "btcusdt@aggTrade"}, indent=1).encode())
    feed(protocol, json.dumps(dict(reversed(agg_trade(2).items())), indent=1).encode())
    assert [row[2] for row in sink.data] == [1, 2]
    assert protocol.counts.used["aggTrade"] == 2


def test_hole_in_trade_ids_is_a_gap_row_before_the_trade():
    protocol, sink = opened()
    feed(protocol, combined(agg_trade(1)), combined(agg_trade(5, at=90)))
    assert [row[4] for row in sink.rows] == [Kind.TRADE, Kind.GAP, Kind.TRADE]
    assert sink.gaps[0][3] == 1
    assert sink.gaps[0][7:] == (T_NS, T_NS + 90_000_000, GapReason.SEQUENCE, 3)


def test_repeated_trades_are_dropped_and_counted():
    protocol, sink = opened()
    feed(protocol, *[combined(agg_trade(number)) for number in (1, 2, 2, 1, 3)])
    assert [row[2] for row in sink.rows] == [1, 2, 3]
    assert protocol.counts.flat()["unused.duplicate"] == 2


def test_new_count_of_trade_ids_goes_on_after_a_gap_of_unknown_size():
    protocol, sink = opened()
    feed(protocol, combined(agg_trade(9_000)), combined(agg_trade(1, at=50)), combined(agg_trade(2, at=51)))
    assert [row[2] for row in sink.data] == [9_000, 1, 2]
    assert sink.gaps[0][9:] == (GapReason.SEQUENCE, -1)


def test_older_quotes_are_dropped_and_holes_in_update_ids_mean_nothing():
    protocol, sink = opened()
    feed(protocol, *[combined(book_ticker(number)) for number in (10, 500, 400, 500, 501)])
    assert [row[2] for row in sink.rows] == [10, 500, 500, 501]
    assert protocol.counts.flat()["unused.stale"] == 1


@pytest.mark.parametrize(("first", "second"), [(agg_trade, trade), (trade, agg_trade)])
def test_trades_that_come_twice_by_two_streams_are_counted_once(first, second):
    protocol, sink = opened(f"{FUTURES}/stream?streams=btcusdt@aggTrade/btcusdt@trade/ethusdt@trade")
    feed(protocol, combined(first(1)), combined(second(900)), combined(first(2)), combined(second(901)))
    feed(protocol, combined(trade(70, s="ETHUSDT"), "ethusdt@trade"))
    assert [(row[2], row[3]) for row in sink.data] == [(1, 1), (2, 1), (70, 2)]
    assert protocol.counts.unused == {second(1)["e"]: 2}
    assert sink.gaps == []


@pytest.mark.parametrize("execution", ["INSURANCE_FUND", "ADL", "NA"])
def test_trades_outside_the_order_book_are_no_rows_and_leave_no_hole(execution):
    protocol, sink = opened()
    off_book = trade(2, p="0", q="0", X=execution)
    feed(protocol, combined(trade(1, X="MARKET")), combined(off_book), combined(trade(3)))
    assert [row[2] for row in sink.rows] == [1, 3]
    assert protocol.counts.flat()["unused.trade.off_book"] == 1


def test_empty_side_of_a_book_is_price_0_and_size_0():
    protocol, sink = opened()
    feed(protocol, combined(book_ticker(1, b="0.00000000", B="0.00000000")))
    assert sink.data[0][7:] == (0.0, 0.0, 64000.2, 2.0)


@pytest.mark.parametrize(
    "message",
    [
        *(agg_trade(1, p=price) for price in ("0", "-1", "nan", "inf", "1e999", "", "abc", None, [])),
        *(agg_trade(1, q=size) for size in ("0.000", "-1", "nan", "inf", True, {})),
        *(agg_trade(1, T=time) for time in (0, -1, 1, T_MS // 1000, T_MS * 1000, 1 << 64, "soon", None)),
        *(agg_trade(number) for number in (-1, 1 << 63, "x", None, 1.5)),
        *(book_ticker(1, b=price) for price in ("0", "-1", "nan", "inf", None)),
        *(book_ticker(1, A=size) for size in ("-1", "nan", "inf", None)),
        *(book_ticker(number) for number in (-1, 1 << 63, None)),
        {"e": "aggTrade"},
        trade(1, X="ADL", T=1 << 70),
    ],
)
def test_impossible_values_are_bad_and_leave_a_gap(message):
    protocol, sink = opened()
    payload = combined(message)
    feed(protocol, payload)
    assert protocol.counts.bad == 1
    assert protocol.counts.bad_examples == [payload]
    assert sink.data == []
    assert [(gap[3], gap[9]) for gap in sink.gaps] == [(1, GapReason.MALFORMED)]


def test_quote_of_all_instruments_that_can_not_be_used_may_have_been_of_any():
    protocol, sink = opened(f"{FUTURES}/stream?streams=!bookTicker")
    feed(protocol, combined(book_ticker(1), "!bookTicker"), combined(book_ticker(2, b="?"), "!bookTicker"))
    assert [(gap[3], *gap[7:10]) for gap in sink.gaps] == [(0, RECEIVED_NS, RECEIVED_NS, GapReason.MALFORMED)]


def test_malformed_trade_is_known_by_number_once_the_next_one_comes():
    protocol, sink = opened()
    feed(protocol, combined(agg_trade(1)), combined(agg_trade(2, p="?")), combined(agg_trade(3, at=9)))
    assert [gap[9:] for gap in sink.gaps] == [(GapReason.MALFORMED, -1), (GapReason.SEQUENCE, 1)]
    assert [row[2] for row in sink.data] == [1, 3]


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (combined({"e": "depthUpdate", "U": 1}, "btcusdt@depth@100ms"), "depthUpdate"),
        (combined({"lastUpdateId": 1, "bids": [], "asks": []}, "btcusdt@depth5"), "depthUpdate"),
        (combined({"e": "kline", "k": {}}, "btcusdt@kline_1m"), "kline"),
        (combined({"e": "24hrTicker"}, "btcusdt@ticker"), "24hrTicker"),
        (combined({"e": "markPriceUpdate"}, "btcusdt@markPrice@1s"), "markPriceUpdate"),
        (combined({"e": "forceOrder", "o": {}}, "btcusdt@forceOrder"), "forceOrder"),
        (bare({"stream": "!miniTicker@arr", "data": [{"e": "24hrMiniTicker"}]}), "24hrMiniTicker"),
        (bare([{"e": "24hrTicker"}, {"e": "24hrTicker"}]), "24hrTicker"),
        (bare({"e": "kline", "s": "BTCUSDT", "k": {}}), "kline"),
        (bare({"e": "serverShutdown", "E": T_MS}), "serverShutdown"),
        (bare({"lastUpdateId": 1, "bids": [], "asks": []}), "depthUpdate"),
        (bare({"result": None, "id": 1}), "ack"),
        (bare({"id": 1, "result": ["btcusdt@trade"]}), "ack"),
        (bare({"error": {"code": 2, "msg": "Invalid request"}, "id": 4}), "error"),
        (bare({"code": 2, "msg": "Invalid request"}), "error"),
    ],
)
def test_messages_that_make_no_rows_are_counted_by_type(payload, name):
    protocol, sink = opened()
    feed(protocol, payload, payload)
    assert protocol.counts.unused == {name: 2}
    assert (protocol.counts.bad, protocol.counts.unknown, sink.rows) == (0, 0, [])


@pytest.mark.parametrize(
    "payload",
    [
        combined({"e": "novelty"}, "btcusdt@novelty"),
        combined({"e": "aggTrade"}, "aggTrade"),
        bare({"e": "novelty", "s": "BTCUSDT"}),
        bare({"hello": 1}),
        bare([]),
        bare([{"e": "novelty"}]),
        b"3",
    ],
)
def test_other_messages_are_unknown(payload):
    protocol, sink = opened()
    feed(protocol, payload)
    assert protocol.counts.flat() | {"unknown": 1, "bad": 0} == protocol.counts.flat()
    assert sink.rows == []


def test_instruments_of_the_address_are_there_before_the_first_message():
    """R30: a feed of a silent market opens all the same."""
    _, sink = opened(f"{SPOT}/stream?streams=ethbtc@bookTicker/btcusdt@kline_1m/btcusdt@trade/!miniTicker@arr")
    assert [market.fqme for market in sink.markets] == ["eth/btc.spot.binance", "btc/usdt.spot.binance"]


def test_all_quotes_stream_registers_instruments_as_they_come():
    protocol, sink = opened(f"{FUTURES}/stream?streams=!bookTicker")
    feed(protocol, combined(book_ticker(1), "!bookTicker"), combined(book_ticker(2, s="ETHUSDT"), "!bookTicker"))
    assert [market.bs_mktid for market in sink.markets] == ["BTCUSDT", "ETHUSDT"]
    assert [row[3] for row in sink.data] == [1, 2]


def test_symbol_that_the_venue_does_not_list_is_unknown():
    info = {"https://fapi.binance.com/fapi/v1/exchangeInfo": bare({"symbols": [
        {"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "contractType": "PERPETUAL", "filters": []}
    ]})}  # fmt: skip
    protocol, sink = opened(f"{FUTURES}/ws", info)
    feed(protocol, bare(agg_trade(1)), bare(agg_trade(1, s="BTCUSDX")))
    assert [market.fqme for market in sink.markets] == ["btc/usdt.perp.binance"]
    assert protocol.counts.flat() == {"used.aggTrade": 1, "bad": 0, "unknown": 1}


def test_protocol_leaves_qualities_to_whoever_holds_the_connection():
    protocol, sink = opened()
    feed(protocol, combined(agg_trade(1)), b"garbage")
    assert sink.qualities == []
    assert Quality.OK not in [quality for _, quality in sink.qualities]

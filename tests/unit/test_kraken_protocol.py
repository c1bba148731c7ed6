from __future__ import annotations

import json

import pytest

from backends.kraken import BACKEND
from marketd.model import Flag, GapReason, Kind, Side
from tests.fakes import ListSink

V2 = "wss://ws.kraken.com/v2"
V1 = "wss://ws.kraken.com"
T_S = 1_767_225_600
T_NS = T_S * 10**9
RECEIVED_NS = T_NS + 7_000_000
LAST, SNAPSHOT = Flag.LAST, Flag.LAST | Flag.SNAPSHOT


def opened(url=V2, metadata=None):
    sink = ListSink()
    return BACKEND.open_protocol(url, metadata or {}, sink), sink


def at(milliseconds):
    return f"2026-01-01T00:00:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}000Z"


def trade(trade_id, *, ms=0, **changes):
    values = {"symbol": "BTC/USD", "side": "buy", "price": 88000.2, "qty": 0.25, "ord_type": "limit"}
    return values | {"trade_id": trade_id, "timestamp": at(ms)} | changes


def ticker(*, ms=0, **changes):
    values = {"symbol": "BTC/USD", "bid": 88000.1, "bid_qty": 1.5, "ask": 88000.2, "ask_qty": 2, "last": 88000.1}
    return values | {"volume": 9.5, "timestamp": at(ms)} | changes


def said(channel, *data, kind="update"):
    return encode({"channel": channel, "type": kind, "data": list(data)})


def encode(value):
    return json.dumps(value, separators=(",", ":")).encode()


def feed(protocol, *payloads):
    for payload in payloads:
        protocol.receive(payload, RECEIVED_NS)


def flat(protocol):
    return {name: count for name, count in protocol.counts.flat().items() if count}


# --- websocket v2 -------------------------------------------------------------------------------------------


def test_trade_becomes_a_row_with_the_takers_side_and_its_time():
    protocol, sink = opened()
    feed(protocol, said("trade", trade(1)), said("trade", trade(2, ms=5, side="sell")))
    assert sink.rows == [
        (T_NS, RECEIVED_NS, 1, 1, Kind.TRADE, Side.BUY, LAST, 88000.2, 0.25, 0.0, 0.0),
        (T_NS + 5_000_000, RECEIVED_NS, 2, 1, Kind.TRADE, Side.SELL, LAST, 88000.2, 0.25, 0.0, 0.0),
    ]


def test_trades_of_one_message_are_rows_of_their_own():
    protocol, sink = opened()
    feed(protocol, said("trade", trade(1), trade(9, symbol="ETH/USD"), trade(2)))
    assert [(row[3], row[2], row[6]) for row in sink.rows] == [(1, 1, LAST), (2, 9, LAST), (1, 2, LAST)]
    assert protocol.counts.used == {"trade": 1}


def test_ticker_becomes_a_quote_and_the_first_one_is_a_snapshot():
    protocol, sink = opened()
    feed(protocol, said("ticker", ticker(), kind="snapshot"), said("ticker", ticker(ms=3, ask_qty=0.75)))
    assert sink.rows == [
        (T_NS, RECEIVED_NS, 0, 1, Kind.QUOTE, Side.UNKNOWN, SNAPSHOT, 88000.1, 1.5, 88000.2, 2.0),
        (T_NS + 3_000_000, RECEIVED_NS, 0, 1, Kind.QUOTE, Side.UNKNOWN, LAST, 88000.1, 1.5, 88000.2, 0.75),
    ]


def test_ticker_without_a_time_has_our_own():
    protocol, sink = opened()
    message = ticker()
    del message["timestamp"]
    feed(protocol, said("ticker", message), said("ticker", message))
    assert [row[0] for row in sink.rows] == [RECEIVED_NS, RECEIVED_NS]


def test_older_ticker_is_dropped():
    protocol, sink = opened()
    feed(protocol, said("ticker", ticker(ms=9)), said("ticker", ticker(ms=8)), said("ticker", ticker(ms=9)))
    assert len(sink.rows) == 2
    assert flat(protocol) == {"used.ticker": 2, "unused.stale": 1}


def test_numbers_may_be_text():
    protocol, sink = opened()
    feed(protocol, said("trade", trade("7", price="88000.20000", qty="0.25")))
    assert sink.rows[0][7:9] == (88000.2, 0.25)


def test_order_of_keys_and_white_space_do_not_matter():
    protocol, sink = opened()
    message = {"data": [trade(1)], "type": "update", "channel": "trade"}
    feed(protocol, json.dumps(message, indent=2).encode(), said("trade", dict(reversed(trade(2).items()))))
    assert [row[2] for row in sink.rows] == [1, 2]
    assert flat(protocol) == {"used.trade": 2}


def test_hole_in_trade_ids_is_a_gap_row_of_this_instrument_before_the_trade():
    protocol, sink = opened()
    feed(protocol, said("trade", trade(5, symbol="ETH/USD")))
    feed(protocol, said("trade", trade(1)), said("trade", trade(5, ms=90), trade(6, ms=90)))
    assert [row[4] for row in sink.rows] == [Kind.TRADE, Kind.TRADE, Kind.GAP, Kind.TRADE, Kind.TRADE]
    assert sink.gaps[0][3] == 2
    assert sink.gaps[0][7:] == (T_NS, T_NS + 90_000_000, GapReason.SEQUENCE, 3)


def test_repeated_trades_are_dropped_and_counted():
    protocol, sink = opened()
    feed(protocol, *[said("trade", trade(number)) for number in (1, 2, 2, 1, 3)])
    assert [row[2] for row in sink.rows] == [1, 2, 3]
    assert flat(protocol) == {"used.trade": 3, "unused.duplicate": 2}


def test_one_impossible_trade_makes_its_whole_message_bad_and_the_ids_tell_what_is_missing():
    protocol, sink = opened()
    feed(protocol, said("trade", trade(1)), said("trade", trade(2), trade(3, price=0)), said("trade", trade(4, ms=9)))
    assert [row[2] for row in sink.data] == [1, 4]
    assert [(gap[3], *gap[9:]) for gap in sink.gaps] == [(1, GapReason.MALFORMED, -1), (1, GapReason.SEQUENCE, 2)]


@pytest.mark.parametrize(
    "message",
    [
        *(said("trade", trade(1, price=price)) for price in (0, -1, "nan", "inf", 1e999, "", "abc", None, [])),
        *(said("trade", trade(1, qty=size)) for size in (0, -1, "nan", "inf", True, {})),
        *(said("trade", trade(1, timestamp=time)) for time in ("", "soon", None, 5, "2008-01-01T00:00:00.000000Z")),
        *(said("trade", trade(number)) for number in (-1, 1 << 63, "x", None, 1.5)),
        *(said("trade", trade(1, side=side)) for side in ("BUY", "", None)),
        *(said("ticker", ticker(bid=price)) for price in (0, -1, "nan", "inf", None)),
        *(said("ticker", ticker(ask_qty=size)) for size in (-1, "nan", "inf", None)),
        said("ticker", ticker(timestamp="soon")),
        said("trade", trade(1), kind="novelty"),
        said("trade", {"symbol": "BTC/USD"}),
        said("trade", trade(1))[:-9],
    ],
)
def test_impossible_values_are_bad_and_leave_a_gap_of_their_instrument(message):
    protocol, sink = opened()
    feed(protocol, encode(ack("trade", "BTC/USD")), message)
    assert protocol.counts.bad == 1
    assert protocol.counts.bad_examples == [message]
    assert sink.data == []
    assert [(gap[3], gap[9]) for gap in sink.gaps] == [(1, GapReason.MALFORMED)]


def test_empty_side_of_a_book_is_price_0_and_size_0():
    protocol, sink = opened()
    feed(protocol, said("ticker", ticker(bid=0.0, bid_qty=0.0)))
    assert sink.data[0][7:] == (0.0, 0.0, 88000.2, 2.0)


def test_garbage_may_have_been_a_row_of_any_instrument_but_not_in_a_channel_without_rows():
    protocol, sink = opened()
    feed(protocol, said("trade", trade(1)), b"garbage", b'{"channel":"trade","type"', b'{"channel":"nov')
    assert [(gap[3], gap[9]) for gap in sink.gaps] == [(0, GapReason.MALFORMED)] * 3
    feed(protocol, b'{"channel":"ohlc","type":', b'{"method":"subscribe","res', b'{"error":"Currency')
    assert len(sink.gaps) == 3
    assert protocol.counts.bad == 6


def ack(channel, symbol, **changes):
    result = {"channel": channel, "snapshot": True, "symbol": symbol}
    return {"method": "subscribe", "result": result, "success": True, "time_in": at(1), "req_id": 1} | changes


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b'{"channel":"heartbeat"}', "heartbeat"),
        (b'{ "channel" : "heartbeat" }', "heartbeat"),
        (said("status", {"system": "online", "version": "2.0.0", "connection_id": 12393906104898154338}), "status"),
        (said("level3", {"symbol": "BTC/USD"}), "level3"),
        (said("ohlc", {"symbol": "BTC/USD", "interval": 1}), "ohlc"),
        (encode({"channel": "instrument", "type": "snapshot", "data": {"assets": [], "pairs": []}}), "instrument"),
        (encode(ack("ohlc", "BTC/USD")), "ack"),
        (encode(ack("trade", "BTC/USD", method="unsubscribe")), "ack"),
        (encode({"error": "Currency pair not supported X/Y", "method": "subscribe", "success": False}), "error"),
        (encode({"method": "subscribe", "success": False, "error": "Already subscribed"}), "error"),
        (b'{"Error":"Exceeded msg rate"}', "error"),
        (encode({"method": "pong", "req_id": 42, "time_in": at(1), "time_out": at(2)}), "pong"),
        (said("trade"), "empty"),
    ],
)
def test_messages_that_make_no_rows_are_counted_by_type(payload, name):
    protocol, sink = opened()
    feed(protocol, payload, payload)
    assert flat(protocol) == {f"unused.{name}": 2}
    assert sink.rows == sink.markets == []


@pytest.mark.parametrize(
    "payload",
    [encode({"channel": "novelty", "type": "update", "data": []}), b'{"hello":1}', b"{}", b'{"channel":7}'],
)
def test_other_messages_are_unknown(payload):
    protocol, sink = opened()
    feed(protocol, payload)
    assert flat(protocol) == {"unknown": 1}
    assert sink.rows == []


def test_acked_instruments_are_there_before_their_first_message():
    """R30: a feed of a silent market opens all the same."""
    protocol, sink = opened()
    feed(protocol, *(encode(ack(channel, symbol)) for channel in ("trade", "book") for symbol in ("BTC/USD", "A/B")))
    assert [market.fqme for market in sink.markets] == ["xbt/usd.spot.kraken", "a/b.spot.kraken"]
    assert [market.bs_mktid for market in sink.markets] == ["XBT/USD", "A/B"]


@pytest.mark.parametrize(("symbol", "fqme"), [("BTC/USD", "xbt/usd"), ("DOGE/BTC", "xdg/xbt"), ("SOL/EUR", "sol/eur")])
def test_names_are_krakens_own_and_not_those_of_websocket_v2(symbol, fqme):
    protocol, sink = opened()
    feed(protocol, said("trade", trade(1, symbol=symbol)))
    assert [market.fqme for market in sink.markets] == [f"{fqme}.spot.kraken"]


def test_symbol_that_the_venue_does_not_list_is_unknown():
    pair = {"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD", "pair_decimals": 1}
    body = encode({"error": [], "result": {"XXBTZUSD": pair | {"lot_decimals": 8}}})
    protocol, sink = opened(metadata={"https://api.kraken.com/0/public/AssetPairs": body})
    feed(protocol, said("trade", trade(1)), said("trade", trade(1, symbol="NO/SUCH")), said("trade", trade(2)))
    assert flat(protocol) == {"used.trade": 2, "unknown": 1}
    assert [market.resolved for market in sink.markets] == [True]


@pytest.mark.parametrize("symbol", ["", "BTC", "BTC/", "/USD", "BTC/USD/X", "BTC USD", "B*C/USD", "x" * 50 + "/USD"])
def test_what_can_be_no_symbol_is_unknown(symbol):
    protocol, sink = opened()
    feed(protocol, said("trade", trade(1, symbol=symbol)))
    assert flat(protocol) == {"unknown": 1}
    assert sink.markets == []


# --- websocket v1 -------------------------------------------------------------------------------------------


def v1(channel, data, pair="XBT/USD"):
    return encode([993, data, channel, pair])


def test_v1_trades_have_no_ids_and_the_time_of_the_trade():
    protocol, sink = opened(V1)
    sell = ["88000.10000", "0.10000000", f"{T_S}.700001", "s", "m", ""]
    feed(protocol, v1("trade", [["88000.20000", "0.00027625", f"{T_S}.557535", "b", "l", ""], sell]))
    assert sink.rows == [
        (T_NS + 557_535_000, RECEIVED_NS, 0, 1, Kind.TRADE, Side.BUY, LAST, 88000.2, 0.00027625, 0.0, 0.0),
        (T_NS + 700_001_000, RECEIVED_NS, 0, 1, Kind.TRADE, Side.SELL, LAST, 88000.1, 0.1, 0.0, 0.0),
    ]
    assert flat(protocol) == {"used.trade": 1}


def test_v1_ticker_is_a_quote_with_our_time_and_the_sizes_in_lots():
    protocol, sink = opened(V1)
    ticker = {"a": ["355.24000000", 27, "27.19106411"], "b": ["354.32000000", 6, "6.87748868"], "c": ["1", "2"]}
    feed(protocol, v1("ticker", ticker, "XMR/USD"))
    assert sink.rows == [(RECEIVED_NS, RECEIVED_NS, 0, 1, Kind.QUOTE, 0, LAST, 354.32, 6.87748868, 355.24, 27.19106411)]
    assert sink.markets[0].fqme == "xmr/usd.spot.kraken"


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b'{"event":"heartbeat"}', "heartbeat"),
        (encode({"connectionID": 18239578009413566319, "event": "systemStatus", "status": "online"}), "systemStatus"),
        (encode({"event": "subscriptionStatus", "pair": "X/Y", "status": "unsubscribed"}), "subscriptionStatus"),
        (encode({"event": "subscriptionStatus", "status": "error", "errorMessage": "no"}), "error"),
        (encode({"event": "pong", "reqid": 42}), "pong"),
        (encode([1234, {"a": [["1", "2", "3"]]}, {"b": [], "c": "974942666"}, "book-10", "XBT/USD"]), "book"),
        (encode([42, ["1", "2"], "ohlc-5", "XBT/USD"]), "ohlc"),
        (encode([0, ["1", "2", "3", "4", "5"], "spread", "XBT/USD"]), "spread"),
    ],
)
def test_v1_messages_that_make_no_rows_are_counted_by_type(payload, name):
    protocol, sink = opened(V1)
    feed(protocol, payload, payload)
    assert flat(protocol) == {f"unused.{name}": 2}
    assert sink.rows == sink.markets == []


@pytest.mark.parametrize("payload", [b"[]", b'[1,2,"novelty","XBT/USD"]', b'{"event":"novelty"}', b"{}", b'["a"]'])
def test_other_v1_messages_are_unknown(payload):
    protocol, sink = opened(V1)
    feed(protocol, payload)
    assert flat(protocol) == {"unknown": 1}
    assert sink.rows == []


@pytest.mark.parametrize(
    "payload",
    [
        *(v1("trade", [[price, "1", f"{T_S}.5", "b", "l", ""]]) for price in ("0", "-1", "nan", "", None)),
        *(v1("trade", [["1", "1", time, "b", "l", ""]]) for time in ("", "soon", "1", None, 5)),
        v1("trade", [["1", "1", f"{T_S}.5", "buy", "l", ""]]),
        v1("trade", [["1", "1"]]),
        v1("ticker", {"a": ["1", 1, "1"], "b": ["nan", 1, "1"]}),
        v1("ticker", {"a": ["1", 1, "1"]}),
    ],
)
def test_impossible_v1_values_are_bad_and_leave_a_gap_of_their_instrument(payload):
    protocol, sink = opened(V1)
    feed(
        protocol,
        encode({"channelName": "trade", "event": "subscriptionStatus", "pair": "XBT/USD", "status": "subscribed"}),
    )
    feed(protocol, payload)
    assert protocol.counts.bad == 1
    assert sink.data == []
    assert [(gap[3], gap[9]) for gap in sink.gaps] == [(1, GapReason.MALFORMED)]

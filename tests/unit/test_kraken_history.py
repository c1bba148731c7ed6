from __future__ import annotations

import json

import pytest

from backends.kraken.history import KrakenHistory, TooManyRequestsError
from backends.kraken.instruments import guess
from backends.live import NoData
from marketd.errors import WireError

XBT = guess("XBT/USD")
HISTORY = KrakenHistory()
T_S = 1_767_225_600
T_NS = T_S * 10**9
MINUTE_NS = 60 * 10**9


def page(rows, last, **changes):
    return json.dumps({"error": [], "result": {"XXBTZUSD": rows, "last": last}} | changes).encode()


def candle(open_s, *, volume="1.5", count=3):
    return [open_s, "88000.1", "88002.5", "87999.0", "88001.0", "88000.9", volume, count]


def trade(trade_id, time):
    return ["88000.20000", "0.00027625", time, "b", "l", "", trade_id]


def test_candles_are_asked_for_from_the_second_before_on():
    """`since` is exclusive; the pair goes by REST's name."""
    request = HISTORY.page_request(XBT, 300, T_NS, T_NS + 9 * MINUTE_NS)
    assert (request.method, request.path) == ("GET", "/0/public/OHLC")
    assert request.params == {"pair": "XBTUSD", "interval": "5", "since": str(T_S - 1)}


def test_trades_are_asked_for_from_the_nanosecond_before_on():
    request = HISTORY.page_request(XBT, "trades", T_NS + 5, T_NS + MINUTE_NS)
    assert (request.path, request.params["since"]) == ("/0/public/Trades", str(T_NS + 4))
    assert request.params["count"] == str(HISTORY.rows_max("trades")) == "1000"


def test_candles_come_in_order_and_the_forming_one_is_left_out():
    """R50: the last row is the newest closed candle. R63: times are the venue's own epochs."""
    rows = [candle(T_S), candle(T_S + 60, volume="0.00000000", count=0), candle(T_S + 120)]
    bars = HISTORY.parse_page(page(rows, T_S + 60), XBT, 60).rows
    assert bars == [
        (T_NS, 88000.1, 88002.5, 87999.0, 88001.0, 1.5, 3),
        (T_NS + MINUTE_NS, 88000.1, 88002.5, 87999.0, 88001.0, 0.0, 0),
    ]


def test_shuffled_and_doubled_candles_are_put_in_order():
    rows = [candle(T_S + 60), candle(T_S), candle(T_S + 60)]
    assert [row[0] for row in HISTORY.parse_page(page(rows, T_S + 60), XBT, 60).rows] == [T_NS, T_NS + MINUTE_NS]


@pytest.mark.parametrize("rows", [[], [candle(T_S + 120)]])
def test_nothing_but_the_forming_candle_is_no_data(rows):
    """R61: "no data" is an answer of its own."""
    with pytest.raises(NoData):
        HISTORY.parse_page(page(rows, T_S + 60), XBT, 60)


def test_trades_are_rows_with_the_takers_side_and_exact_times():
    rows = [trade(7, 1762795433.9717445), ["88000", "1", 1762795434, "s", "m", "", 8]]
    found = HISTORY.parse_page(page(rows, "1762795434000000000"), XBT, "trades")
    assert found.rows == [
        (1_762_795_433_971_744_500, 7, 88000.2, 0.00027625, 1),
        (1_762_795_434_000_000_000, 8, 88000.0, 1.0, -1),
    ]
    assert found.next_ns is None


def test_full_page_goes_on_at_its_last_moment_so_that_no_trade_of_it_is_lost():
    rows = [trade(number, T_S + number * 0.5) for number in range(1000)]
    last_ns = T_NS + 499_500_000_000
    assert HISTORY.parse_page(page(rows, str(last_ns)), XBT, "trades").next_ns == last_ns
    assert HISTORY.parse_page(page(rows[:-1], str(last_ns)), XBT, "trades").next_ns is None


def test_full_page_of_one_moment_does_not_repeat_for_ever():
    rows = [trade(number, T_S) for number in range(1000)]
    assert HISTORY.parse_page(page(rows, str(T_NS)), XBT, "trades").next_ns == T_NS + 1


def test_period_that_the_venue_does_not_have_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="period is 61 s"):
        HISTORY.page_request(XBT, 61, T_NS, T_NS + MINUTE_NS)


@pytest.mark.parametrize("error", ["EGeneral:Too many requests", "EAPI:Rate limit exceeded"])
def test_throttle_is_an_error_of_its_own(error):
    """R62: the type tells that trying again later will help."""
    with pytest.raises(TooManyRequestsError, match=error):
        HISTORY.parse_page(json.dumps({"error": [error]}).encode(), XBT, 60)


def test_no_trades_are_no_data():
    with pytest.raises(NoData):
        HISTORY.parse_page(page([], str(T_NS)), XBT, "trades")


@pytest.mark.parametrize("period", [60, "trades"])
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{}", b"<html>", b"\xff", b'{"error":[],"result":{}}', b'{"error":[],"result":{"last":1}}'),
        page([[]], T_S),
        page([["x"] * 8], T_S),
        page({}, T_S),
        page([], "soon"),
        page([], T_S, result={"A": [], "B": [], "last": 1}),
        b'{"error":["EQuery:Unknown asset pair"]}',
        b'{"error":["EService:Unavailable"],"result":{}}',
        b"[" * 100_000,
    ],
)
def test_other_answers_are_wire_errors(period, body):
    with pytest.raises(WireError):
        HISTORY.parse_page(body, XBT, period)


@pytest.mark.parametrize(
    "row",
    [
        [T_S, "88000.1", "87000", "87999.0", "88001.0", "1", "1", 1],
        [T_S, "0", "1", "0", "1", "1", "1", 1],
        [T_S, "1", "1", "1", "nan", "1", "1", 1],
        [T_S, "1", "1", "1", "1", "1", "-1", 1],
        [T_S, "1", "1", "1", "1", "1", "inf", 1],
        [T_S, "1", "1", "1", "1", "1", "1", -1],
        [T_S + 1, "1", "1", "1", "1", "1", "1", 1],
        [0, "1", "1", "1", "1", "1", "1", 1],
    ],
)
def test_impossible_candles_are_wire_errors(row):
    with pytest.raises(WireError, match="impossible candle"):
        HISTORY.parse_page(page([row], T_S + 600), XBT, 60)


@pytest.mark.parametrize("time", [0, -1, 1e300, 99_999_999_999])
def test_impossible_times_of_trades_are_wire_errors(time):
    with pytest.raises(WireError):
        HISTORY.parse_page(page([trade(1, time)], "1"), XBT, "trades")

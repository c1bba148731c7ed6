from __future__ import annotations

import json

import pytest

from backends.kucoin.history import KucoinHistory
from backends.kucoin.instruments import guess
from backends.kucoin.rest import TooManyRequestsError
from backends.live import NoData
from marketd.errors import WireError

BTC = guess("BTC-USDT")
HISTORY = KucoinHistory()
T_S = 1_767_225_600
T_NS = T_S * 10**9
MINUTE_NS = 60 * 10**9


def page(data, **changes):
    return json.dumps({"code": "200000", "data": data} | changes).encode()


def candle(open_s):
    return [str(open_s), "88000.1", "88001", "88002.5", "87999", "1.5", "132000.5"]


def trade(sequence, *, side="buy"):
    return {"sequence": str(sequence), "price": "88000.2", "size": "0.25", "side": side, "time": T_NS + sequence}


def test_candles_are_asked_for_by_type_in_seconds():
    request = HISTORY.page_request(BTC, 3600, T_NS, T_NS + 48 * 3600 * 10**9)
    assert (request.method, request.path, request.weight) == ("GET", "/api/v1/market/candles", 3)
    assert request.params == {
        "symbol": "BTC-USDT",
        "type": "1hour",
        "startAt": str(T_S),
        "endAt": str(T_S + 48 * 3600 - 1),
    }


@pytest.mark.parametrize("late_ns", [0, 1, MINUTE_NS - 1])
def test_candle_that_is_forming_is_not_asked_for(late_ns):
    """R50: an answer does not tell which one it is."""
    params = HISTORY.page_request(BTC, 60, T_NS, T_NS + 5 * MINUTE_NS + late_ns).params
    assert int(params["endAt"]) == T_S + 5 * 60 - 1


def test_too_long_a_range_is_asked_for_from_its_end():
    params = HISTORY.page_request(BTC, 60, 0, T_NS).params
    assert int(params["startAt"]) == T_S - HISTORY.rows_max(60) * 60


def test_trades_are_the_last_100_whatever_is_asked_for():
    request = HISTORY.page_request(BTC, "trades", T_NS, T_NS + MINUTE_NS)
    assert (request.path, request.params) == ("/api/v1/market/histories", {"symbol": "BTC-USDT"})


def test_candles_come_in_order_with_an_unknown_count():
    """R63: times are the venue's own epochs. The venue sends the newest first, and close before high and low."""
    bars = HISTORY.parse_page(page([candle(T_S + 120), candle(T_S), candle(T_S)]), BTC, 60).rows
    assert bars == [
        (T_NS, 88000.1, 88002.5, 87999.0, 88001.0, 1.5, -1),
        (T_NS + 2 * MINUTE_NS, 88000.1, 88002.5, 87999.0, 88001.0, 1.5, -1),
    ]


def test_trades_come_in_order_with_the_takers_side():
    found = HISTORY.parse_page(page([trade(7), trade(4, side="sell")]), BTC, "trades")
    assert found.rows == [(T_NS + 4, 4, 88000.2, 0.25, -1), (T_NS + 7, 7, 88000.2, 0.25, 1)]
    assert found.next_ns is None


def test_range_without_a_whole_candle_is_no_data_and_not_asked_for():
    for start_ns, end_ns in ((T_NS, T_NS), (T_NS, T_NS + MINUTE_NS - 1), (T_NS + 1, T_NS + 2 * MINUTE_NS - 1)):
        with pytest.raises(NoData):
            HISTORY.page_request(BTC, 60, start_ns, end_ns)


def test_period_that_the_venue_does_not_have_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="period is 61 s"):
        HISTORY.page_request(BTC, 61, T_NS, T_NS + MINUTE_NS)


def test_throttle_is_an_error_of_its_own():
    """R62: the type tells that trying again later will help."""
    with pytest.raises(TooManyRequestsError, match="429000 Too many requests"):
        HISTORY.parse_page(b'{"code":"429000","msg":"Too many requests"}', BTC, 60)


@pytest.mark.parametrize("period", [60, "trades"])
def test_empty_page_is_no_data(period):
    """R61: "no data" is an answer of its own."""
    with pytest.raises(NoData):
        HISTORY.parse_page(page([]), BTC, period)


@pytest.mark.parametrize("period", [60, "trades"])
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{}", b"<html>", b"\xff", b"[" * 100_000),
        page([["x"] * 7]),
        page([[]]),
        page({}),
        page(None),
        page([], code="400100", msg="Unsupported trading pair."),
    ],
)
def test_other_answers_are_wire_errors(period, body):
    with pytest.raises(WireError):
        HISTORY.parse_page(body, BTC, period)


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, T_S + 1), (0, 0), (1, "nan"), (2, "nan"), (3, "inf"), (3, "1"), (4, "0"), (4, "99999"), (5, "-1"), (5, "nan")],
)
def test_impossible_candles_are_wire_errors(place, value):
    row = candle(T_S)
    row[place] = value
    with pytest.raises(WireError, match="impossible candle"):
        HISTORY.parse_page(page([row]), BTC, 60)


@pytest.mark.parametrize("change", [{"price": "0"}, {"size": "nan"}, {"time": 1}, {"sequence": "-1"}, {"side": "x"}])
def test_impossible_trades_are_wire_errors(change):
    with pytest.raises(WireError):
        HISTORY.parse_page(page([trade(1) | change]), BTC, "trades")

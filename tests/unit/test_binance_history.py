from __future__ import annotations

import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.binance.history import BinanceError, BinanceHistory, TooManyRequestsError, UnknownSymbolError
from backends.live import HttpRequest, NoData, Page, TradesPage
from marketd.errors import WireError
from marketd.model import MktPair

SPOT, FUTURES = BinanceHistory(futures=False), BinanceHistory(futures=True)
BTC = MktPair(dst="btc", src="usdt", venue="spot", backend="binance", type="spot", bs_mktid="BTCUSDT")
MS = 1_000_000
MINUTE_NS = 60 * 10**9
BEGIN_MS = 1_767_225_600_000  # a midnight
BEGIN_NS = BEGIN_MS * MS


def kline(minute, **changes):
    values = {"open": "10.0", "high": "12.0", "low": "9.5", "close": "11.0", "volume": "3.50", "count": 7} | changes
    open_ms = values.get("open_ms", BEGIN_MS + minute * 60_000)
    return [open_ms, *(values[name] for name in ("open", "high", "low", "close", "volume")), open_ms + 59_999,
            "38.5", values["count"], "1.0", "11.0", "0"]  # fmt: skip


def agg_trade(trade_id, at_ms=0, **changes):
    return {"a": trade_id, "p": "10.5", "q": "0.25", "f": 1, "l": 2, "T": BEGIN_MS + at_ms, "m": True} | changes


def bars(rows, history=SPOT):
    page = history.parse_page(json.dumps(rows).encode(), BTC, 60)
    assert isinstance(page, Page)
    return page.rows


def trades(rows):
    page = SPOT.parse_page(json.dumps(rows).encode(), BTC, "trades")
    assert isinstance(page, TradesPage)
    return page


class FakeVenue:
    """Klines of some minutes, answered as Binance does: ends inclusive; the first from a beginning, else the last."""

    def __init__(self, minutes, rows_max=1000):
        self.minutes = sorted(minutes)
        self.rows_max = rows_max
        self.asked = []

    def answer(self, request):
        params = dict(request.params)
        assert params not in self.asked, "R54: no range is asked for twice"
        self.asked.append(params)
        begin_ms, end_ms = int(params.get("startTime", 0)), int(params["endTime"])
        limit = min(int(params["limit"]), self.rows_max)
        found = [minute for minute in self.minutes if begin_ms <= BEGIN_MS + minute * 60_000 <= end_ms]
        found = found[:limit] if "startTime" in params else found[-limit:]
        return json.dumps([kline(minute) for minute in found]).encode()


def load_backwards(venue, history, begin_ns, end_ns):
    """Page as the history manager does: the next page ends where the last one began."""
    loaded = []
    while end_ns > begin_ns:
        try:
            request = history.page_request(BTC, 60, begin_ns, end_ns)
            page = history.parse_page(venue.answer(request), BTC, 60)
        except NoData:
            break
        loaded = [row for row in page.rows if row[0] >= begin_ns] + loaded
        end_ns = page.rows[0][0]
    return [(row[0] - BEGIN_NS) // MINUTE_NS for row in loaded]


# --- requests -------------------------------------------------------------------------------------------


def test_a_range_within_a_page_is_asked_for_by_both_ends():
    assert SPOT.page_request(BTC, 60, BEGIN_NS, BEGIN_NS + 10 * MINUTE_NS) == HttpRequest(
        "GET",
        "/api/v3/klines",
        {
            "symbol": "BTCUSDT",
            "interval": "1m",
            "limit": "10",
            "startTime": str(BEGIN_MS),
            "endTime": str(BEGIN_MS + 599_999),
        },
        weight=2,
    )


@pytest.mark.parametrize(("history", "rows", "path"), [(SPOT, 1000, "/api/v3"), (FUTURES, 1500, "/fapi/v1")])
def test_a_longer_range_is_asked_for_by_its_end_alone(history, rows, path):
    request = history.page_request(BTC, 60, BEGIN_NS, BEGIN_NS + 5000 * MINUTE_NS)
    assert request.path == f"{path}/klines"
    assert "startTime" not in request.params
    assert request.params["limit"] == str(rows) == str(history.rows_max(60))


@pytest.mark.parametrize("at_ns", [0, 1, MINUTE_NS // 2, MINUTE_NS - 1])
def test_the_last_bar_asked_for_is_the_latest_closed_one(at_ns):
    """R50: with the present as its end, the page ends with the step that has just closed, at any time of the minute."""
    now_ns = BEGIN_NS + 30 * MINUTE_NS + at_ns
    request = SPOT.page_request(BTC, 60, now_ns - 20 * MINUTE_NS, now_ns)
    answer = FakeVenue(range(31)).answer(request)  # minute 30 is forming, and the venue would give it as well
    assert (SPOT.parse_page(answer, BTC, 60).rows[-1][0] - BEGIN_NS) // MINUTE_NS == 29


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.sampled_from(SPOT.periods_s), st.booleans())
def test_requests_lie_within_their_range_and_hold_whole_bars(start_s, length_s, period_s, futures):
    history = BinanceHistory(futures=futures)
    if period_s not in history.periods_s:
        return
    start_ns = BEGIN_NS + start_s * 10**9 + 123
    end_ns = start_ns + length_s * 10**9
    period_ns = period_s * 10**9
    whole = [open_ns for open_ns in (-(-start_ns // period_ns) * period_ns,) if open_ns + period_ns <= end_ns]
    try:
        params = history.page_request(BTC, period_s, start_ns, end_ns).params
    except NoData:
        assert not whole
        return
    assert whole
    last_open_ns = (int(params["endTime"]) + 1) * MS - period_ns
    assert last_open_ns % period_ns == 0
    assert last_open_ns + period_ns <= end_ns < last_open_ns + 2 * period_ns
    assert 1 <= int(params["limit"]) <= history.rows_max(period_s)
    if "startTime" in params:
        assert int(params["startTime"]) * MS == whole[0]
        assert last_open_ns == whole[0] + (int(params["limit"]) - 1) * period_ns


def test_a_range_without_a_whole_bar_has_no_data():
    with pytest.raises(NoData):
        SPOT.page_request(BTC, 60, BEGIN_NS + 1, BEGIN_NS + 2 * MINUTE_NS - 1)
    with pytest.raises(NoData):
        SPOT.page_request(BTC, 60, BEGIN_NS, BEGIN_NS)


@pytest.mark.parametrize(("limit", "weight"), [(1, 1), (99, 1), (100, 2), (499, 2), (500, 5), (1000, 5), (1001, 10)])
def test_futures_pages_weigh_by_their_length(limit, weight):
    request = FUTURES.page_request(BTC, 60, BEGIN_NS, BEGIN_NS + limit * MINUTE_NS)
    assert (request.params["limit"], request.weight) == (str(limit), weight)


def test_periods_are_the_venues_own():
    assert 1 in SPOT.periods_s
    assert 1 not in FUTURES.periods_s
    with pytest.raises(ValueError, match="Binance has 60, 180"):
        FUTURES.page_request(BTC, 1, 0, 10**12)
    with pytest.raises(ValueError, match="period"):
        SPOT.page_request(BTC, 604_800, 0, 10**18)


@pytest.mark.parametrize(("history", "path", "weight"), [(SPOT, "/api/v3", 4), (FUTURES, "/fapi/v1", 20)])
def test_trades_are_asked_for_by_their_beginning_or_by_id(history, path, weight):
    by_time = history.page_request(BTC, "trades", BEGIN_NS + 1, BEGIN_NS + MINUTE_NS)
    params = {"symbol": "BTCUSDT", "startTime": str(BEGIN_MS + 1), "limit": "1000"}
    assert by_time == HttpRequest("GET", f"{path}/aggTrades", params, weight)
    by_id = history.trades_from(BTC, 77)
    assert by_id.params == {"symbol": "BTCUSDT", "fromId": "77", "limit": "1000"}
    assert by_id.weight == weight


# --- bars -----------------------------------------------------------------------------------------------


def test_a_bar_is_read_to_the_digit():
    assert bars(
        [kline(0, open="0.01634790", high="0.8", low="0.01575800", close="0.01577100", volume="148976.11")]
    ) == [(BEGIN_NS, 0.0163479, 0.8, 0.015758, 0.015771, 148976.11, 7)]


def test_the_documents_example_is_read(shared_data):
    body = (shared_data / "messages" / "binance" / "spot.http_json.klines_response.json").read_bytes()
    (row,) = SPOT.parse_page(body, BTC, 60).rows
    assert row == (1_499_040_000_000 * MS, 0.0163479, 0.8, 0.015758, 0.015771, 148976.11427815, 308)


def test_rows_are_placed_by_their_own_stamps():
    """R51: shuffled and doubled rows make a sorted page without doubles."""
    rows = [kline(minute) for minute in [*range(50), *range(10, 20)]]
    random.Random(3).shuffle(rows)
    assert [(row[0] - BEGIN_NS) // MINUTE_NS for row in bars(rows)] == list(range(50))


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/St_Johns", "Asia/Kathmandu"])
def test_times_are_the_venues_epoch_in_any_time_zone(monkeypatch, zone):
    """R63."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert bars([kline(5)])[0][0] == BEGIN_NS + 5 * MINUTE_NS
        assert trades([agg_trade(1, 5)]).rows[0][0] == BEGIN_NS + 5 * MS
        assert "startTime" in SPOT.page_request(BTC, 60, BEGIN_NS, BEGIN_NS + MINUTE_NS).params
    finally:
        monkeypatch.undo()
        time.tzset()


def test_minutes_without_a_trade_are_bars():
    assert bars([kline(0, high="10.0", low="10.0", close="10.0", volume="0.0", count=0)])[0][5:] == (0.0, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"high": "10.9"},
        {"low": "10.5"},
        {"low": "0"},
        {"low": "-1"},
        {"high": "inf"},
        *({name: "nan"} for name in ("open", "high", "low", "close", "volume")),
        {"volume": "-1"},
        {"volume": "inf"},
        {"count": -1},
        {"open_ms": BEGIN_MS + 1},
        {"open_ms": 60_000},
        {"open_ms": BEGIN_MS * 1000},
    ],
)
def test_an_impossible_bar_spoils_its_page(changes):
    with pytest.raises(WireError, match="impossible"):
        bars([kline(0), kline(1, **changes)])


# --- trades ---------------------------------------------------------------------------------------------


def test_a_trade_is_read_with_the_takers_side():
    page = trades([agg_trade(5, 1, m=True), agg_trade(6, 2, m=False)])
    assert page.rows == [(BEGIN_NS + MS, 5, 10.5, 0.25, -1), (BEGIN_NS + 2 * MS, 6, 10.5, 0.25, 1)]
    assert page.next_ns is None


def test_a_full_page_of_trades_goes_on_in_its_last_millisecond():
    page = trades([agg_trade(number, number // 3) for number in range(1000)])
    assert page.next_ns == page.rows[-1][0]
    assert trades([agg_trade(number, number // 3) for number in range(999)]).next_ns is None


def test_a_full_page_of_one_millisecond_goes_on_after_it():
    """A sweep of a thousand prices; asked for again, the same page would come for ever."""
    assert trades([agg_trade(number) for number in range(1000)]).next_ns == BEGIN_NS + MS


def test_trades_come_in_order_of_their_ids_each_once():
    page = trades([agg_trade(7, 2), agg_trade(5, 1), agg_trade(7, 2), agg_trade(6, 1)])
    assert [row[1] for row in page.rows] == [5, 6, 7]


@pytest.mark.parametrize("changes", [{"p": "0"}, {"q": "nan"}, {"T": 5}, {"a": -1}])
def test_an_impossible_trade_spoils_its_page(changes):
    with pytest.raises(WireError, match="impossible"):
        trades([agg_trade(1) | changes])


# --- what is no page ------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [60, "trades"])
def test_an_empty_list_is_no_data(period):
    """R61: an answer, and no crash."""
    with pytest.raises(NoData):
        SPOT.parse_page(b"[]", BTC, period)


@pytest.mark.parametrize("period", [60, "trades"])
@pytest.mark.parametrize(
    ("body", "error", "code"),
    [
        (b'{"code":-1121,"msg":"Invalid symbol."}', UnknownSymbolError, -1121),
        (b'{"code":-1003,"msg":"Too much request weight used"}', TooManyRequestsError, -1003),
        (b'{"code":-1120,"msg":"Invalid interval."}', BinanceError, -1120),
    ],
)
def test_the_venues_errors_have_types(period, body, error, code):
    """R61, R62: an unknown symbol and a throttle are told from a broken page."""
    with pytest.raises(error) as caught:
        SPOT.parse_page(body, BTC, period)
    assert (type(caught.value), caught.value.code) == (error, code)
    assert isinstance(caught.value, WireError)


@pytest.mark.parametrize("period", [60, "trades"])
@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"{}", b"5", b"[5]", b"[[]]", b"[[1,2]]", b"<html>", b"[" * 10_000, b'["\xff"]', b'{"code":"x"}'],
)
def test_anything_else_is_a_wire_error(period, body):
    with pytest.raises(WireError):
        SPOT.parse_page(body, BTC, period)


# --- paging ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [SPOT, FUTURES])
def test_a_market_with_nights_and_weekends_is_loaded_whole(history):
    """R54: no range is asked for twice, no endless loop; pages go on before the gap."""
    day, week = 1440, 7 * 1440
    minutes = [minute for minute in range(3 * week) if minute % day < 390 and minute % week < 5 * day]
    venue = FakeVenue(minutes, history.rows_max(60))
    loaded = load_backwards(venue, history, BEGIN_NS, BEGIN_NS + 3 * week * MINUTE_NS)
    assert loaded == minutes
    assert len(venue.asked) <= len(minutes) / history.rows_max(60) + 2


@pytest.mark.parametrize("gap", [0, 1, 999, 1000, 1001, 5000])
@pytest.mark.parametrize("length", [1, 999, 1000, 1001, 2500])
def test_a_gap_of_any_length_leaves_no_seam(gap, length):
    """R56: neither a doubled nor a missing step beside it."""
    minutes = [*range(length), *range(length + gap, 2 * length + gap)]
    loaded = load_backwards(FakeVenue(minutes), SPOT, BEGIN_NS, BEGIN_NS + (2 * length + gap) * MINUTE_NS)
    assert loaded == minutes


def test_before_the_first_bar_there_is_no_data():
    """R61: the end of that direction."""
    venue = FakeVenue(range(100, 200))
    assert load_backwards(venue, SPOT, BEGIN_NS - 10_000 * MINUTE_NS, BEGIN_NS + 200 * MINUTE_NS) == list(
        range(100, 200)
    )

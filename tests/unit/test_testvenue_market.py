from __future__ import annotations

import datetime
import itertools
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.testvenue import book, listing
from marketd.testvenue.candles import DAY_NS, HOUR_NS, MINUTE_NS, MONTH, SECOND_NS, WEEK, CandleBook, Period
from marketd.testvenue.market import Market, Trade
from marketd.testvenue.texts import decimals_of, padded, rfc3339, trimmed

ORIGIN_NS = 1_790_000_000 * SECOND_NS // DAY_NS * DAY_NS
BTC, RARE = 0, 11  # two trades a second; one in almost three minutes
MINUTE = Period(MINUTE_NS)


@pytest.fixture(scope="module")
def market() -> Market:
    return Market(listing.instruments(listing.BINANCE, 16, None), seed=7, origin_ns=ORIGIN_NS)


def trades_of(market: Market, instrument: int, start_ns: int, end_ns: int) -> list[Trade]:
    return market.trades_between(np.array([instrument]), start_ns, end_ns).rows()


def test_trade_numbers_are_contiguous_and_times_ascend(market: Market):
    trades = trades_of(market, BTC, ORIGIN_NS, ORIGIN_NS + HOUR_NS)
    assert [trade.number for trade in trades] == list(range(1, len(trades) + 1))
    assert all(left.time_ns < right.time_ns for left, right in itertools.pairwise(trades))


@given(first=st.integers(1, 10**9), count=st.integers(1, 50), instrument=st.integers(0, 15))
def test_random_access_equals_sequence(market: Market, first: int, count: int, instrument: int):
    whole = market.trade_range(instrument, first, first + count - 1)
    assert whole == [market.trade_range(instrument, number, number)[0] for number in range(first, first + count)]


@given(start_s=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 600 * 10**9), max_size=5))
def test_a_range_of_time_is_the_sum_of_its_parts(market: Market, start_s: int, cuts: list[int]):
    start_ns = ORIGIN_NS + start_s * SECOND_NS
    edges = [start_ns, *(start_ns + cut for cut in sorted(cuts)), start_ns + 600 * SECOND_NS]
    parts = [trade for left, right in itertools.pairwise(edges) for trade in trades_of(market, BTC, left, right)]
    assert parts == trades_of(market, BTC, edges[0], edges[-1])


def test_the_number_before_a_time_is_that_of_the_last_trade_before_it(market: Market):
    trade = market.trade_range(RARE, 500, 500)[0]
    assert market.trades_before(RARE, trade.time_ns) == 499
    assert market.trades_before(RARE, trade.time_ns + 1) == 500
    assert market.trades_before(RARE, ORIGIN_NS) == 0
    assert market.trades_before(RARE, ORIGIN_NS - DAY_NS) == 0


def test_an_instrument_has_the_same_trades_in_any_company(market: Market):
    fewer = Market(market.instruments[:4], seed=7, origin_ns=ORIGIN_NS)
    other = Market(market.instruments[:4], seed=8, origin_ns=ORIGIN_NS)
    assert fewer.trade_range(3, 1, 20) == market.trade_range(3, 1, 20)
    assert other.trade_range(3, 1, 20) != market.trade_range(3, 1, 20)


def test_quotes_do_not_cross_and_prices_stay_near_the_middle(market: Market):
    block = market.quotes_between(np.arange(16), ORIGIN_NS, ORIGIN_NS + DAY_NS // 24)
    assert (block.bid < block.ask).all()
    assert (block.bid_size > 0).all()
    trades = market.trades_between(np.arange(16), ORIGIN_NS, ORIGIN_NS + DAY_NS // 24)
    middles = np.array([instrument.price for instrument in market.instruments])[trades.instrument]
    assert (abs(trades.price - middles) <= middles * 0.06 + 5).all()
    assert set(trades.side.tolist()) == {1, -1}


def test_candles_equal_the_trades(market: Market):
    start_ns = ORIGIN_NS + 5 * HOUR_NS
    now_ns = start_ns + 2 * HOUR_NS + 17 * SECOND_NS
    for period in (Period(SECOND_NS * 10), MINUTE, Period(5 * MINUTE_NS), Period(HOUR_NS)):
        candles = CandleBook(market).candles(BTC, period, start_ns, now_ns, now_ns)
        assert candles[0].open_ns == start_ns
        for candle in candles:
            trades = trades_of(market, BTC, candle.open_ns, min(candle.end_ns, now_ns))
            prices = [trade.price for trade in trades]
            assert (candle.open, candle.high, candle.low, candle.close) == (
                prices[0],
                max(prices),
                min(prices),
                prices[-1],
            )
            assert (candle.first, candle.last, candle.trades) == (trades[0].number, trades[-1].number, len(trades))
            assert candle.volume == sum(trade.size for trade in trades)
            assert candle.notional == sum(trade.price * trade.size for trade in trades)
            assert candle.buy_volume == sum(trade.size for trade in trades if trade.side > 0)


def test_longer_candles_equal_shorter_ones_merged(market: Market):
    now_ns = ORIGIN_NS + 40 * DAY_NS
    books = CandleBook(market)
    for period in (Period(DAY_NS), WEEK, MONTH):
        for candle in books.candles(RARE, period, 0, now_ns, now_ns):
            parts = books.candles(RARE, Period(HOUR_NS), candle.open_ns, candle.end_ns, now_ns)
            traded = [part for part in parts if part.trades]
            assert (candle.open, candle.close) == (traded[0].open, traded[-1].close)
            assert candle.high == max(part.high for part in traded)
            assert candle.notional == sum(part.notional for part in parts)
            assert candle.trades == sum(part.trades for part in parts) == candle.last - candle.first + 1


def test_a_minute_without_a_trade_is_flat_at_the_last_price(market: Market):
    start_ns = ORIGIN_NS + DAY_NS
    candles = CandleBook(market).candles(RARE, MINUTE, start_ns, start_ns + HOUR_NS, start_ns + HOUR_NS)
    assert len(candles) == 60
    empty = [index for index, candle in enumerate(candles) if not candle.trades]
    assert len(empty) > 30
    for index in empty[1:]:
        candle = candles[index]
        assert {candle.open, candle.high, candle.low, candle.close} == {candles[index - 1].close}
        assert (candle.volume, candle.last) == (0, -1)


def test_nothing_is_older_than_the_origin_and_the_last_candle_grows(market: Market):
    books = CandleBook(market)
    candles = books.candles(BTC, MINUTE, 0, ORIGIN_NS + HOUR_NS, ORIGIN_NS + 90 * SECOND_NS)
    assert [candle.open_ns for candle in candles] == [ORIGIN_NS, ORIGIN_NS + MINUTE_NS]
    later = books.candles(BTC, MINUTE, 0, ORIGIN_NS + HOUR_NS, ORIGIN_NS + 110 * SECOND_NS)
    assert later[0] == candles[0]
    assert later[1].trades > candles[1].trades


def test_kept_hours_do_not_change_the_answer(market: Market):
    books = CandleBook(market)
    now_ns = ORIGIN_NS + 3 * HOUR_NS
    early = books.candles(BTC, MINUTE, ORIGIN_NS, ORIGIN_NS + HOUR_NS, ORIGIN_NS + HOUR_NS // 2)
    assert len(early) == 30
    whole = books.candles(BTC, MINUTE, ORIGIN_NS, now_ns, now_ns)
    assert whole == books.candles(BTC, MINUTE, ORIGIN_NS, now_ns, now_ns)
    assert len(whole) == 180


def test_weeks_begin_on_monday_and_months_on_the_first():
    moment_ns = int(datetime.datetime(2026, 11, 21, 13, tzinfo=datetime.UTC).timestamp()) * SECOND_NS
    monday = datetime.datetime.fromtimestamp(WEEK.floor(moment_ns) // SECOND_NS, datetime.UTC)
    assert (monday.year, monday.month, monday.day, monday.hour) == (2026, 11, 16, 0)
    first_ns = MONTH.floor(moment_ns)
    assert [
        datetime.datetime.fromtimestamp(time_ns // SECOND_NS, datetime.UTC).strftime("%Y-%m-%d")
        for time_ns in (first_ns, MONTH.next(first_ns), MONTH.next(MONTH.next(first_ns)), MONTH.back(first_ns, 11))
    ] == ["2026-11-01", "2026-12-01", "2027-01-01", "2025-12-01"]


def test_changes_turn_one_book_into_the_next(market: Market):
    depth = 25
    before = book.book(market, BTC, 1000, depth)
    for number in range(1001, 1100):
        after = book.book(market, BTC, number, depth)
        change = book.changes(before, after)
        for old, said, new, best_first in (
            (before.bids, change.bids, after.bids, -1),
            (before.asks, change.asks, after.asks, 1),
        ):
            levels = dict(old) | dict(said)
            kept = sorted((price * best_first, size) for price, size in levels.items() if size)[:depth]
            assert [(price * best_first, size) for price, size in kept] == new
        before = after


def test_rate_is_shared_evenly_by_trades_and_quotes():
    market = Market(listing.instruments(listing.KUCOIN, 50, rate=1000), 1, ORIGIN_NS)
    everyone = np.arange(50)
    start_ns = ORIGIN_NS + DAY_NS
    trades = market.trades_between(everyone, start_ns, start_ns + SECOND_NS)
    quotes = market.quotes_between(everyone, start_ns, start_ns + SECOND_NS)
    assert len(trades.number) == pytest.approx(500, abs=25)
    assert len(quotes.number) == pytest.approx(500, abs=25)


@pytest.mark.parametrize("ticks", [listing.BINANCE, listing.BINANCE_FUTURES, listing.KRAKEN, listing.KUCOIN])
def test_each_venue_lists_as_many_different_instruments_as_asked_for(ticks: listing.Ticks):
    symbols = [instrument.symbol for instrument in listing.instruments(ticks, 300, None)]
    assert len(set(symbols)) == 300


@given(count=st.integers(0, 10**12), exponent=st.integers(0, 10), unit=st.sampled_from([1, 5, 10, 25]))
def test_numbers_are_printed_exactly(count: int, exponent: int, unit: int):
    tick = Decimal(unit).scaleb(-exponent)
    assert Decimal(padded(tick)(count)) == count * tick
    assert Decimal(padded(tick, decimals_of(tick) + 3)(count)) == count * tick
    text = trimmed(tick)(count)
    assert Decimal(text) == count * tick
    assert "." not in text or not text.endswith("0")


def test_times_are_cut_and_not_rounded():
    assert rfc3339(1_696_613_755_440_295_999) == "2023-10-06T17:35:55.440295Z"

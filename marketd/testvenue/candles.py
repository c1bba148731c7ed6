"""Candles, made of the very trades that the streams carry, so that both agree exactly."""

from __future__ import annotations

import datetime
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.testvenue.market import Ints, Market, TradeBlock

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
HOURS_KEPT = 4096  # of one-minute rows; an hour is 6 kB at most

_SUMS = ("volume", "notional", "trades", "buy_volume", "buy_notional")
_ROW = np.dtype([(name, np.int64) for name in ("open_ns", "open", "high", "low", "close", "first", "last", *_SUMS)])
Rows = npt.NDArray[np.void]


@dataclass(frozen=True)
class Period:
    """The length of a candle, and where its grid lies. Months have ``length_ns`` 0."""

    length_ns: int
    anchor_ns: int = 0

    def floor(self, time_ns: int) -> int:
        """The beginning of the candle that holds this time."""
        if self.length_ns:
            return time_ns - (time_ns - self.anchor_ns) % self.length_ns
        date = datetime.datetime.fromtimestamp(time_ns // SECOND_NS, datetime.UTC)
        return _month_ns(date.year, date.month)

    def next(self, open_ns: int) -> int:
        """The end of the candle that begins at ``open_ns``."""
        if self.length_ns:
            return open_ns + self.length_ns
        date = datetime.datetime.fromtimestamp(open_ns // SECOND_NS, datetime.UTC)
        return _month_ns(date.year + date.month // 12, date.month % 12 + 1)

    def back(self, open_ns: int, count: int) -> int:
        """The beginning of the candle that is ``count`` before the one beginning at ``open_ns``."""
        if self.length_ns:
            return open_ns - count * self.length_ns
        date = datetime.datetime.fromtimestamp(open_ns // SECOND_NS, datetime.UTC)
        months = date.year * 12 + date.month - 1 - count
        return _month_ns(months // 12, months % 12 + 1)


WEEK = Period(7 * DAY_NS, 4 * DAY_NS)  # 1970-01-05 was a Monday
MONTH = Period(0)


class Candle(NamedTuple):
    """One candle over ``[open_ns, end_ns)``; prices and volumes in ticks, ``notional`` in products of both ticks.

    Without a trade it is flat at the last price: ``trades`` is 0, ``first`` 0 and ``last`` -1.
    """

    open_ns: int
    end_ns: int
    open: int
    high: int
    low: int
    close: int
    first: int
    last: int
    volume: int
    notional: int
    trades: int
    buy_volume: int
    buy_notional: int


class CandleBook:
    """Makes candles of a market, and keeps what will be asked for again."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._hours: OrderedDict[tuple[int, int], Rows] = OrderedDict()

    def candles(self, instrument: int, period: Period, start_ns: int, end_ns: int, now_ns: int) -> list[Candle]:
        """Compute the candles that begin in ``[start_ns, end_ns)``, those without a trade included.

        Args:
            now_ns: trades from here on have not happened yet: the last candle may still be forming.

        Returns:
            In the order of time; none from before the first trade.
        """
        open_ns = period.floor(max(start_ns, self._market.origin_ns))
        if open_ns < start_ns:
            open_ns = period.next(open_ns)
        edges = [open_ns]
        while edges[-1] < min(end_ns, now_ns):
            edges.append(period.next(edges[-1]))
        if len(edges) < 2:
            return []
        until_ns = min(edges[-1], now_ns)
        rows = (
            self._minutes(instrument, edges[0], until_ns)
            if not period.length_ns or period.length_ns % MINUTE_NS == 0
            else self._trades(instrument, edges[0], until_ns)
        )
        return self._merge(instrument, rows, np.array(edges, np.int64))

    def _minutes(self, instrument: int, start_ns: int, end_ns: int) -> Rows:
        """One-minute rows of ``[start_ns, end_ns)``, without those that had no trade; ``start_ns`` is on a minute."""
        parts = []
        hour_ns = start_ns - start_ns % HOUR_NS
        while hour_ns < end_ns:
            if hour_ns + HOUR_NS <= end_ns:
                part = self._hour(instrument, hour_ns)
            else:
                part = _reduce(self._trades(instrument, hour_ns, end_ns), _minute_edges(hour_ns))
            parts.append(part)
            hour_ns += HOUR_NS
        rows = np.concatenate(parts)
        return rows[rows["open_ns"] >= start_ns]

    def _hour(self, instrument: int, hour_ns: int) -> Rows:
        key = (instrument, hour_ns)
        rows = self._hours.get(key)
        if rows is None:
            rows = _reduce(self._trades(instrument, hour_ns, hour_ns + HOUR_NS), _minute_edges(hour_ns))
            self._hours[key] = rows
            if len(self._hours) > HOURS_KEPT:
                self._hours.popitem(last=False)
        else:
            self._hours.move_to_end(key)
        return rows

    def _trades(self, instrument: int, start_ns: int, end_ns: int) -> Rows:
        block = self._market.trades(*self._market.trade_slots.between(np.array([instrument]), start_ns, end_ns))
        return _as_rows(block)

    def _merge(self, instrument: int, rows: Rows, edges: Ints) -> list[Candle]:
        traded = {int(row["open_ns"]): row for row in _reduce(rows, edges)}
        before = self._market.trades_before(instrument, int(edges[0]))
        close = self._market.trade_range(instrument, before, before)[0].price if before else 0
        candles = []
        for open_ns, end_ns in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            row = traded.get(open_ns)
            if row is not None:
                candle = Candle(open_ns, end_ns, *(int(row[name]) for name in Candle._fields[2:]))
                close = candle.close
                candles.append(candle)
            elif close:
                candles.append(Candle(open_ns, end_ns, close, close, close, close, 0, -1, 0, 0, 0, 0, 0))
        return candles


def _as_rows(block: TradeBlock) -> Rows:
    rows = np.zeros(len(block.number), _ROW)
    rows["open_ns"] = block.time_ns
    for name in ("open", "high", "low", "close"):
        rows[name] = block.price
    rows["first"] = rows["last"] = block.number
    bought = block.side > 0
    rows["volume"] = block.size
    rows["notional"] = block.price * block.size
    rows["trades"] = 1
    rows["buy_volume"] = block.size * bought
    rows["buy_notional"] = rows["notional"] * bought
    return rows


def _reduce(rows: Rows, edges: Ints) -> Rows:
    """Merge rows, which are in the order of time, into those buckets between the edges that have any."""
    places = np.searchsorted(rows["open_ns"], edges)
    filled = places[1:] > places[:-1]
    starts, ends = places[:-1][filled], places[1:][filled]
    merged = np.zeros(len(starts), _ROW)
    if not len(starts):
        return merged
    inside = rows[: int(ends[-1])]
    merged["open_ns"] = edges[:-1][filled]
    for name, at in (("open", starts), ("first", starts), ("close", ends - 1), ("last", ends - 1)):
        merged[name] = inside[name][at]
    merged["high"] = np.maximum.reduceat(inside["high"], starts)
    merged["low"] = np.minimum.reduceat(inside["low"], starts)
    for name in _SUMS:
        merged[name] = np.add.reduceat(inside[name], starts)
    return merged


def _minute_edges(hour_ns: int) -> Ints:
    return hour_ns + np.arange(61, dtype=np.int64) * MINUTE_NS


def _month_ns(year: int, month: int) -> int:
    return int(datetime.datetime(year, month, 1, tzinfo=datetime.UTC).timestamp()) * SECOND_NS

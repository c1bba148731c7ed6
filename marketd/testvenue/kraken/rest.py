"""Kraken's REST answers about the market.

https://docs.kraken.com/api/docs/rest-api/get-ohlc-data and its neighbours
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from marketd.testvenue import book
from marketd.testvenue.candles import CandleBook
from marketd.testvenue.kraken.streams import PERIODS
from marketd.testvenue.kraken.symbols import Symbols
from marketd.testvenue.market import Market
from marketd.testvenue.venue import SECOND_NS, integer, time_of

OHLC_MAX = 720  # "Returns up to 720 of the most recent entries (older data cannot be retrieved)"
TRADES_MAX = 1000
DEPTH_MAX = 500
SECONDS_BELOW = 100_000_000_000  # a `since` below this is in seconds, else in ns

Query = Mapping[str, str]


class Refused(Exception):  # noqa: N818 - the venue's answer, and no mistake of this program
    """The request is wrong; Kraken's own error text."""


class Rest:
    """The endpoints, by their last name."""

    def __init__(self, market: Market, candles: CandleBook, symbols: Symbols) -> None:
        self.market = market
        self.candles = candles
        self._symbols = symbols
        self.endpoints = {
            "Assets": self._assets,
            "AssetPairs": self._pairs,
            "OHLC": self._ohlc,
            "Trades": self._trades,
            "Depth": self._depth,
        }

    def answer(self, endpoint: str, query: Query, now_ns: int) -> object:
        """Answer a request.

        Raises:
            Refused: with the venue's own error.
            ValueError: a number is none.
        """
        return self.endpoints[endpoint](query, now_ns)

    def _assets(self, query: Query, now_ns: int) -> dict[str, Any]:
        return self._symbols.assets()

    def _pairs(self, query: Query, now_ns: int) -> dict[str, Any]:
        numbers = range(len(self._symbols.ids))
        if query.get("pair"):
            numbers = [self._pair(name) for name in query["pair"].split(",")]  # type: ignore[assignment]
        return {self._symbols.ids[number]: self._symbols.pair(number) for number in numbers}

    def _ohlc(self, query: Query, now_ns: int) -> dict[str, Any]:
        """Newer than `since`, the last 720 at most; the last is forming, and `last` names the one before it."""
        number = self._pair(query.get("pair", ""))
        period = PERIODS.get(integer(query, "interval") or 1)
        if period is None:
            raise Refused("EGeneral:Invalid arguments:interval")
        open_ns = period.floor(now_ns)
        since_ns = _since_ns(query)
        candles = self.candles.candles(
            number, period, max(period.back(open_ns, OHLC_MAX - 1), since_ns + 1), now_ns, now_ns
        )
        price, size = self._symbols.texts(number)
        rows = [
            [
                candle.open_ns // SECOND_NS,
                price(candle.open),
                price(candle.high),
                price(candle.low),
                price(candle.close),
                self._symbols.vwap(number, candle.notional, candle.volume),
                size(candle.volume),
                candle.trades,
            ]
            for candle in candles
        ]
        return {self._key(query, number): rows, "last": period.back(open_ns, 1) // SECOND_NS}

    def _trades(self, query: Query, now_ns: int) -> dict[str, Any]:
        """Newer than `since`, ascending; without it the newest. `last` is the time of the last in ns, as text."""
        number = self._pair(query.get("pair", ""))
        count = min(max(integer(query, "count") or TRADES_MAX, 1), TRADES_MAX)
        last = self.market.trades_before(number, now_ns)
        if "since" in query:
            first = self.market.trades_before(number, _since_ns(query) + 1) + 1
            last = min(last, first + count - 1)
        else:
            first = last - count + 1
        trades = self.market.trade_range(number, first, last)
        price, size = self._symbols.rest_price(number), self._symbols.texts(number)[1]
        rows = [
            [
                price(trade.price),
                size(trade.size),
                msgspec.Raw(f"{trade.time_ns // SECOND_NS}.{trade.time_ns % SECOND_NS // 100:07d}".encode()),
                "b" if trade.side > 0 else "s",
                "l" if trade.number & 1 else "m",
                "",
                trade.number,
            ]
            for trade in trades
        ]
        newest_ns = trades[-1].time_ns if trades else _since_ns(query)
        return {self._key(query, number): rows, "last": str(newest_ns)}

    def _depth(self, query: Query, now_ns: int) -> dict[str, Any]:
        number = self._pair(query.get("pair", ""))
        depth = min(max(integer(query, "count") or 100, 1), DEPTH_MAX)
        levels = book.book(self.market, number, max(self.market.quotes_before(number, now_ns), 1), depth)
        price, size = self._symbols.rest_price(number), self._symbols.texts(number)[1]
        seconds = now_ns // SECOND_NS
        sides = {
            name: [[price(level), size(amount), seconds] for level, amount in side]
            for name, side in (("asks", levels.asks), ("bids", levels.bids))
        }
        return {self._key(query, number): sides}

    def _pair(self, name: str) -> int:
        number = self._symbols.accepted.get(name)
        if number is None:
            raise Refused("EQuery:Unknown asset pair")
        return number

    def _key(self, query: Query, number: int) -> str:
        """Answers are under the pair's id, but under the websocket's name if that was asked for (``BTC/USD``)."""
        return query["pair"] if "/" in query["pair"] else self._symbols.ids[number]


def _since_ns(query: Query) -> int:
    since = integer(query, "since") or 0
    return time_of(since, SECOND_NS if since < SECONDS_BELOW else 1)

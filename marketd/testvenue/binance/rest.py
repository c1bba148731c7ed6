"""Binance's REST answers about the market: spot and USD-M futures.

https://developers.binance.com/docs/binance-spot-api-docs/rest-api/market-data-endpoints
https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from marketd.testvenue import book
from marketd.testvenue.binance.streams import PERIODS
from marketd.testvenue.binance.symbols import Symbols
from marketd.testvenue.candles import CandleBook
from marketd.testvenue.market import MILLISECOND_NS, Market, Trade
from marketd.testvenue.venue import SECOND_NS, integer, time_of

WEIGHT_LIMIT_SPOT, WEIGHT_LIMIT_FUTURES = 6000, 2400  # a minute

Query = Mapping[str, str]


class Refused(Exception):  # noqa: N818 - the venue's answer, and no mistake of this program
    """The request is wrong; Binance's own code and sentence."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Rest:
    """The endpoints, by their path below ``root``."""

    def __init__(self, market: Market, candles: CandleBook, symbols: Symbols, *, futures: bool) -> None:
        self.root = "/fapi/v1" if futures else "/api/v3"
        self.weight_limit = WEIGHT_LIMIT_FUTURES if futures else WEIGHT_LIMIT_SPOT
        self.market = market
        self.candles = candles
        self._symbols = symbols
        self._futures = futures
        self._routes: dict[str, tuple[Callable[[Query], int], Callable[[Query, int], Any]]] = {
            "/ping": (_weight(1), lambda query, now_ns: {}),
            "/time": (_weight(1), lambda query, now_ns: {"serverTime": now_ns // MILLISECOND_NS}),
            "/exchangeInfo": (_weight(1 if futures else 20), self._exchange_info),
            "/klines": (self._kline_weight, self._klines),
            "/aggTrades": (_weight(20 if futures else 4), self._aggregates),
            "/trades": (_weight(5 if futures else 25), self._trades),
            "/historicalTrades": (_weight(20 if futures else 25), self._trades),
            "/depth": (self._depth_weight, self._depth),
        }

    def knows(self, path: str) -> bool:
        """Whether there is such an endpoint."""
        return path.startswith(self.root) and path.removeprefix(self.root) in self._routes

    def weight(self, path: str, query: Query) -> int:
        """What a request counts for.

        Raises:
            Refused: a parameter that decides it is wrong.
        """
        return self._routes[path.removeprefix(self.root)][0](query)

    def answer(self, path: str, query: Query, now_ns: int) -> object:
        """Answer a request.

        Raises:
            Refused: with the venue's own error.
        """
        return self._routes[path.removeprefix(self.root)][1](query, now_ns)

    def _exchange_info(self, query: Query, now_ns: int) -> dict[str, Any]:
        limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": self.weight_limit}
        return {
            "timezone": "UTC",
            "serverTime": now_ns // MILLISECOND_NS,
            "rateLimits": [limit],
            "exchangeFilters": [],
            "symbols": [self._symbols.info(number) for number in self._chosen(query)],
        }

    def _chosen(self, query: Query) -> list[int]:
        """The symbols asked for: one, a JSON list, or all."""
        if "symbol" in query:
            return [self._instrument(query)]
        if "symbols" not in query:
            return list(range(len(self._symbols.names)))
        try:
            names = msgspec.json.decode(query["symbols"].encode(), type=list[str])
        except msgspec.DecodeError:
            raise Refused(-1100, "Illegal characters found in parameter 'symbols'.") from None
        return [self._instrument({"symbol": name}) for name in names]

    def _klines(self, query: Query, now_ns: int) -> list[list[Any]]:
        """Ascending; the last may be forming. Minutes without a trade are there, flat, with volume 0."""
        instrument = self._instrument(query)
        period = PERIODS.get(_required(query, "interval"))
        if period is None or (self._futures and query["interval"] == "1s"):
            raise Refused(-1120, "Invalid interval.")
        limit = self._limit_of(query, 500, 1500 if self._futures else 1000)
        start_ns, end_ns = _times(query)
        now_end_ns = period.floor(now_ns) + 1
        end_ns = now_end_ns if end_ns is None else min(end_ns, now_end_ns)
        if start_ns is None:
            start_ns = period.back(period.floor(end_ns - 1), limit - 1)
        else:  # no more than the first `limit` are wanted
            first_ns = period.floor(max(start_ns, self.market.origin_ns))
            end_ns = min(end_ns, period.back(first_ns, -limit - 1))
        candles = self.candles.candles(instrument, period, start_ns, end_ns, now_ns)[:limit]
        rows = []
        for candle in candles:
            text = self._symbols.kline(instrument, candle)
            rows.append(
                [
                    candle.open_ns // MILLISECOND_NS,
                    *text[:5],
                    candle.end_ns // MILLISECOND_NS - 1,
                    text.notional,
                    candle.trades,
                    text.buy_volume,
                    text.buy_notional,
                    "0",
                ]
            )
        return rows

    def _aggregates(self, query: Query, now_ns: int) -> list[dict[str, Any]]:
        """Ascending, by ``fromId`` or by time (both ends inclusive); each trade here is an aggregate of its own."""
        instrument = self._instrument(query)
        limit = self._limit_of(query, 500, 1000)
        start_ns, end_ns = _times(query)
        first = _integer(query, "fromId")
        if first is not None and (start_ns is not None or end_ns is not None):
            raise Refused(-1128, "Combination of optional parameters invalid.")
        if self._futures and start_ns is not None and end_ns is not None and end_ns - start_ns > 3600 * SECOND_NS:
            raise Refused(-4188, "startTime and endTime must be less than 1 hour apart.")
        last = self.market.trades_before(instrument, now_ns if end_ns is None else min(end_ns, now_ns))
        if start_ns is not None:
            first = self.market.trades_before(instrument, start_ns) + 1
        if first is None:
            first = max(last - limit + 1, 1)
        _, price, size = self._symbols.texts(instrument)
        return [
            {
                "a": trade.number,
                "p": price(trade.price),
                "q": size(trade.size),
                "f": trade.number,
                "l": trade.number,
                "T": trade.time_ns // MILLISECOND_NS,
                "m": trade.side < 0,
            }
            | ({} if self._futures else {"M": True})
            for trade in self.market.trade_range(instrument, first, min(last, first + limit - 1))
        ]

    def _trades(self, query: Query, now_ns: int) -> list[dict[str, Any]]:
        """The most recent, or from ``fromId`` on, ascending."""
        instrument = self._instrument(query)
        limit = self._limit_of(query, 500, 1000)
        last = self.market.trades_before(instrument, now_ns)
        first = _integer(query, "fromId") or max(last - limit + 1, 1)
        return [
            self._trade_row(instrument, trade)
            for trade in self.market.trade_range(instrument, first, min(last, first + limit - 1))
        ]

    def _trade_row(self, instrument: int, trade: Trade) -> dict[str, Any]:
        _, price, size = self._symbols.texts(instrument)
        row = {
            "id": trade.number,
            "price": price(trade.price),
            "qty": size(trade.size),
            "quoteQty": self._symbols.notional(instrument)(trade.price * trade.size),
            "time": trade.time_ns // MILLISECOND_NS,
            "isBuyerMaker": trade.side < 0,
        }
        return row if self._futures else row | {"isBestMatch": True}

    def _depth(self, query: Query, now_ns: int) -> dict[str, Any]:
        instrument = self._instrument(query)
        limit = self._limit_of(query, 500 if self._futures else 100, 1000 if self._futures else 5000)
        number = max(self.market.quotes_before(instrument, now_ns), 1)
        _, price, size = self._symbols.texts(instrument)
        levels = book.book(self.market, instrument, number, limit)
        answer: dict[str, Any] = {"lastUpdateId": number}
        if self._futures:
            answer |= {"E": now_ns // MILLISECOND_NS, "T": now_ns // MILLISECOND_NS}
        answer["bids"] = [[price(level), size(amount)] for level, amount in levels.bids]
        answer["asks"] = [[price(level), size(amount)] for level, amount in levels.asks]
        return answer

    def _instrument(self, query: Query) -> int:
        number = self._symbols.numbers.get(_required(query, "symbol"))
        if number is None:
            raise Refused(-1121, "Invalid symbol.")
        return number

    def _limit_of(self, query: Query, usual: int, most: int) -> int:
        """Spot cuts a too large limit, futures refuse it."""
        limit = _integer(query, "limit")
        if limit is None:
            return usual
        if limit < 1 or (limit > most and self._futures):
            raise Refused(-1130, "Data sent for parameter 'limit' is not valid.")
        return min(limit, most)

    def _kline_weight(self, query: Query) -> int:
        """Spot: 2. Futures: below 100 rows 1, below 500 2, to 1000 5, above 10."""
        if not self._futures:
            return 2
        limit = _integer(query, "limit") or 500
        return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10

    def _depth_weight(self, query: Query) -> int:
        """Spot: to 100 levels 5, to 500 25, to 1000 50, above 250. Futures: to 50 2, to 100 5, to 500 10, above 20."""
        steps = ((50, 2), (100, 5), (500, 10), (1000, 20)) if self._futures else ((100, 5), (500, 25), (1000, 50))
        limit = _integer(query, "limit") or (500 if self._futures else 100)
        return next((weight for most, weight in steps if limit <= most), 20 if self._futures else 250)


def _weight(weight: int) -> Callable[[Query], int]:
    return lambda query: weight


def _required(query: Query, name: str) -> str:
    value = query.get(name)
    if not value:
        raise Refused(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    return value


def _integer(query: Query, name: str) -> int | None:
    try:
        return integer(query, name)
    except ValueError:
        text = f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."
        raise Refused(-1100, text) from None


def _times(query: Query) -> tuple[int | None, int | None]:
    """``startTime`` and ``endTime``, inclusive milliseconds, as a half-open range of ns."""
    start_ms, end_ms = _integer(query, "startTime"), _integer(query, "endTime")
    return (
        None if start_ms is None else time_of(start_ms, MILLISECOND_NS),
        None if end_ms is None else time_of(end_ms + 1, MILLISECOND_NS),
    )

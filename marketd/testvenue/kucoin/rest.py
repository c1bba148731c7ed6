"""KuCoin's REST answers about the market.

https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-klines and its neighbours
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from marketd.testvenue import book
from marketd.testvenue.candles import CandleBook
from marketd.testvenue.kucoin.streams import PERIODS
from marketd.testvenue.kucoin.symbols import Symbols
from marketd.testvenue.market import MILLISECOND_NS, Market
from marketd.testvenue.venue import SECOND_NS, integer, time_of

CANDLES_MAX, CANDLES_USUAL = 1500, 100
HISTORY_MAX = 100

Query = Mapping[str, str]


class Refused(Exception):  # noqa: N818 - the venue's answer, and no mistake of this program
    """The request is wrong: KuCoin's code and text, under HTTP status 200."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Rest:
    """The endpoints, and what each counts for."""

    def __init__(self, market: Market, candles: CandleBook, symbols: Symbols) -> None:
        self.market = market
        self.candles = candles
        self._symbols = symbols
        self._endpoints: dict[str, tuple[int, Callable[[Query, int], Any]]] = {
            "/api/v1/symbols": (4, self._all_symbols),
            "/api/v2/symbols": (4, self._all_symbols),
            "/api/v3/currencies": (3, lambda query, now_ns: self._symbols.currencies()),
            "/api/v1/market/candles": (3, self._candles),
            "/api/v1/market/histories": (3, self._histories),
            "/api/v1/market/orderbook/level2_20": (2, lambda query, now_ns: self._book(query, now_ns, 20)),
            "/api/v1/market/orderbook/level2_100": (4, lambda query, now_ns: self._book(query, now_ns, 100)),
        }

    def weight(self, path: str) -> int | None:
        """What a request counts for; None when there is no such endpoint."""
        return self._endpoints[path][0] if path in self._endpoints else None

    def answer(self, path: str, query: Query, now_ns: int) -> object:
        """Answer a request.

        Raises:
            Refused: with the venue's own error.
            ValueError: a number is none.
        """
        return self._endpoints[path][1](query, now_ns)

    def _all_symbols(self, query: Query, now_ns: int) -> list[dict[str, Any]]:
        return [self._symbols.info(number) for number in range(len(self._symbols.names))]

    def _candles(self, query: Query, now_ns: int) -> list[list[str]]:
        """Of ``[startAt, endAt)`` in seconds, the newest first, 1,500 at most; none for a period without a trade."""
        number = self._instrument(query)
        period = PERIODS.get(query.get("type", ""))
        if period is None:
            raise Refused("400100", "Incorrect candlestick type")
        start_ns = time_of(integer(query, "startAt") or 0, SECOND_NS)
        end_ns = time_of(integer(query, "endAt") or 0, SECOND_NS)
        open_ns = period.floor(now_ns)
        end_ns = min(end_ns or open_ns + 1, open_ns + 1)
        count = CANDLES_MAX if start_ns else CANDLES_USUAL
        start_ns = max(start_ns, period.back(period.floor(end_ns - 1), count - 1))
        candles = self.candles.candles(number, period, start_ns, end_ns, now_ns)
        return [self._symbols.candle(number, candle) for candle in reversed(candles) if candle.trades]

    def _histories(self, query: Query, now_ns: int) -> list[dict[str, Any]]:
        """The newest 100 trades, ascending; ``time`` in ns. There is no way to older ones."""
        number = self._instrument(query)
        last = self.market.trades_before(number, now_ns)
        price, size = self._symbols.texts(number)
        return [
            {
                "sequence": str(trade.number),
                "tradeId": str(trade.number),
                "price": price(trade.price),
                "size": size(trade.size),
                "side": "buy" if trade.side > 0 else "sell",
                "time": trade.time_ns // MILLISECOND_NS * MILLISECOND_NS,
            }
            for trade in self.market.trade_range(number, last - HISTORY_MAX + 1, last)
        ]

    def _book(self, query: Query, now_ns: int, depth: int) -> dict[str, Any]:
        number = self._instrument(query)
        levels = book.book(self.market, number, max(self.market.quotes_before(number, now_ns), 1), depth)
        price, size = self._symbols.texts(number)
        return {
            "time": now_ns // MILLISECOND_NS,
            "sequence": str(levels.number),
            "bids": [[price(level), size(amount)] for level, amount in levels.bids],
            "asks": [[price(level), size(amount)] for level, amount in levels.asks],
        }

    def _instrument(self, query: Query) -> int:
        number = self._symbols.numbers.get(query.get("symbol", ""))
        if number is None:
            raise Refused("400100", "Unsupported trading pair.")
        return number

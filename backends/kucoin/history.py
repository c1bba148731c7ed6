"""KuCoin's pages of the past, pure.

- Candles: "For each query, the system would return at most 1500 pieces of data", newest first, of ``[startAt, endAt)``
  in seconds: https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-klines . "No data is published for
  intervals where there are no ticks", so minutes without a trade are simply not there. How many trades a candle has is
  not said.
- Trades: the last 100 and no way to older ones:
  https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-trade-history
"""

from __future__ import annotations

from backends.kucoin import normalize, wire
from backends.kucoin.rest import read
from backends.live import HttpRequest, NoData, Page, Period, TradesPage
from marketd.clock import SECOND_NS
from marketd.errors import WireError
from marketd.model import MktPair

CANDLES_MAX = 1500
TRADES_MAX = 100
WEIGHT = 3  # of both requests

# Weeks and months have no grid that is ours.
_TYPES = {
    60: "1min",
    180: "3min",
    300: "5min",
    900: "15min",
    1800: "30min",
    3600: "1hour",
    7200: "2hour",
    14400: "4hour",
    21600: "6hour",
    28800: "8hour",
    43200: "12hour",
    86400: "1day",
}


class KucoinHistory:
    """See :class:`backends.live.History`."""

    periods_s: tuple[int, ...] = tuple(_TYPES)
    trades = True
    trades_by_time = False

    def rows_max(self, period: Period) -> int:
        """See :class:`backends.live.History`."""
        return TRADES_MAX if period == "trades" else CANDLES_MAX

    def page_request(self, market: MktPair, period: Period, start_ns: int, end_ns: int) -> HttpRequest:
        """See :class:`backends.live.History`; for trades neither ``start_ns`` nor ``end_ns`` can be said.

        An answer does not tell which candle is forming. So only those that end by ``end_ns`` are asked for, and that
        must not be in the future. One second less than their end keeps the next one out, whether or not `endAt` is
        meant to be in the range.

        Raises:
            NoData: the range holds no whole candle.
            ValueError: the venue has no candles of this period.
        """
        params = {"symbol": market.bs_mktid}
        if period == "trades":
            return HttpRequest("GET", "/api/v1/market/histories", params, weight=WEIGHT)
        if period not in _TYPES:
            raise ValueError(f"period is {period} s: KuCoin has {', '.join(map(str, _TYPES))}")
        end_s = end_ns // SECOND_NS // period * period
        start_s = max(-(-start_ns // SECOND_NS // period) * period, end_s - CANDLES_MAX * period)
        if start_s >= end_s:
            raise NoData(f"no candle of {period} s lies between {start_ns} and {end_ns}")
        params |= {"type": _TYPES[period], "startAt": str(start_s), "endAt": str(end_s - 1)}
        return HttpRequest("GET", "/api/v1/market/candles", params, weight=WEIGHT)

    def parse_page(self, body: bytes, market: MktPair, period: Period) -> Page | TradesPage:
        """See :class:`backends.live.History`.

        Raises:
            NoData: there is nothing.
            TooManyRequestsError: it will not answer now.
            WireError: it is no page.
        """
        page = _trades(body, market) if period == "trades" else _bars(body, market, period)
        if not page.rows:
            raise NoData(f"KuCoin has nothing of {market.fqme} there")
        return page


def _bars(body: bytes, market: MktPair, period_s: int) -> Page:
    bars = {}
    for open_s, open_, close, high, low, volume, _ in read(body, wire.decode_candles, f"a page of {market.fqme}"):
        row = (open_s * SECOND_NS, open_, high, low, close, volume, -1)
        if not normalize.is_bar(row) or open_s % period_s:
            raise WireError(f"impossible candle of {market.fqme}: {row}")
        bars[open_s] = row
    return Page([bars[open_s] for open_s in sorted(bars)])


def _trades(body: bytes, market: MktPair) -> TradesPage:
    trades = read(body, wire.decode_rest_trades, f"a page of {market.fqme}")
    return TradesPage(sorted((normalize.rest_trade(trade) for trade in trades), key=lambda row: row[1]))

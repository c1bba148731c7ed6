"""Kraken's pages of the past, pure.

- OHLC: "Returns up to 720 of the most recent entries (older data cannot be retrieved, regardless of the value of
  since)", https://docs.kraken.com/api-reference/market-data/get-ohlc-data . What is older comes from trades. (The guide
  https://docs.kraken.com/exchange/guides/general/historical-data speaks of paging forward by `last`: that only brings
  newer candles.)
- Trades: the whole past, oldest first, up to 1,000 a page, from `since` in nanoseconds on:
  https://docs.kraken.com/api-reference/market-data/get-recent-trades and
  https://support.kraken.com/hc/en-us/articles/218198197
- Neither has an end: a page may hold what is later than what was asked for.
- Minutes without a trade have candles: the last close, with volume 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from backends.kraken import normalize, wire
from backends.kraken.instruments import rest_pair
from backends.live import BarRow, HttpRequest, NoData, Page, Period, TradesPage
from marketd.clock import SECOND_NS
from marketd.errors import WireError
from marketd.model import MktPair

CANDLES_MAX = 720
TRADES_MAX = 1000
# "1, 5, 15, 30, 60, 240, 1440, 10080, 21600 (minutes)"; those longer than a day have no grid that is ours.
_PERIODS_S = (60, 300, 900, 1800, 3600, 14400, 86400)
_THROTTLED = ("EGeneral:Too many requests", "EAPI:Rate limit exceeded", "EService:Throttled")
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class TooManyRequestsError(WireError):
    """R62: Kraken will not answer now."""


class KrakenHistory:
    """See :class:`backends.live.History`."""

    periods_s: tuple[int, ...] = _PERIODS_S
    trades = True
    trades_by_time = True

    def rows_max(self, period: Period) -> int:
        """See :class:`backends.live.History`. One candle of a page is always the forming one."""
        return TRADES_MAX if period == "trades" else CANDLES_MAX - 1

    def page_request(self, market: MktPair, period: Period, start_ns: int, end_ns: int) -> HttpRequest:
        """See :class:`backends.live.History`; ``end_ns`` can't be said.

        `since` is exclusive, so it is the moment before.

        Raises:
            ValueError: the venue has no bars of this period.
        """
        params = {"pair": rest_pair(market.bs_mktid)}
        if period == "trades":
            params |= {"since": str(max(start_ns - 1, 0)), "count": str(TRADES_MAX)}
            return HttpRequest("GET", "/0/public/Trades", params)
        if period not in _PERIODS_S:
            raise ValueError(f"period is {period} s: Kraken has {', '.join(map(str, _PERIODS_S))}")
        params |= {"interval": str(period // 60), "since": str(max(-(-start_ns // SECOND_NS) - 1, 0))}
        return HttpRequest("GET", "/0/public/OHLC", params)

    def parse_page(self, body: bytes, market: MktPair, period: Period) -> Page | TradesPage:
        """See :class:`backends.live.History`.

        Raises:
            NoData: there is nothing.
            TooManyRequestsError: it will not answer now.
            WireError: it is no page.
        """
        rows, last = _take_apart(body, market)
        try:
            if period == "trades":
                return _trades(wire.decode_rest_trades(rows), wire.decode_last(last))
            return Page(_bars(wire.decode_candles(rows), wire.decode_last(last), period, market))
        except _UNREADABLE as error:
            raise WireError(f"a page of {market.fqme} can't be used: {error}") from error


def _take_apart(body: bytes, market: MktPair) -> tuple[msgspec.Raw, msgspec.Raw]:
    """Find the rows and `last` in an answer; the rows are under Kraken's own id of the pair."""
    try:
        answer = wire.decode_page(body)
    except _UNREADABLE as error:
        raise WireError(f"a page of {market.fqme} can't be used: {error}") from error
    result: Mapping[str, Any] = answer.result or {}
    names = [name for name in result if name != "last"]
    if any(error.startswith(_THROTTLED) for error in answer.error):
        raise TooManyRequestsError(f"no page of {market.fqme}: Kraken says {', '.join(answer.error)}")
    if answer.error or len(names) != 1 or "last" not in result:
        raise WireError(f"no page of {market.fqme}: Kraken says {', '.join(answer.error) or list(result)[:5]}")
    return result[names[0]], result["last"]


def _bars(candles: list[wire.Candle], last_s: int, period_s: int, market: MktPair) -> list[BarRow]:
    """Take the candles up to `last`; the one after it is the "current, not-yet-committed timeframe"."""
    bars = {}
    for open_s, open_, high, low, close, _, volume, count in candles:
        row = (open_s * SECOND_NS, open_, high, low, close, volume, count)
        if not normalize.is_bar(row) or open_s % period_s:
            raise WireError(f"impossible candle of {market.fqme}: {row}")
        if open_s <= last_s:
            bars[open_s] = row
    if not bars:
        raise NoData(f"Kraken has no whole candles of {market.fqme} there")
    return [bars[open_s] for open_s in sorted(bars)]


def _trades(trades: list[wire.RestTrade], last_ns: int) -> TradesPage:
    """Take a page of trades; a full one has another after it.

    `last` is the time of the last trade, more exact than the trade itself says. Others of the same moment may be on the
    next page, so that begins with this moment, and the trades of it that come twice are known by their ids. If all of
    a page is of one moment, the next page could never be another.
    """
    if not trades:
        raise NoData("Kraken has no trades from there on")
    rows = sorted((normalize.rest_trade(trade) for trade in trades), key=lambda row: row[1])
    if len(rows) < TRADES_MAX:
        return TradesPage(rows)
    return TradesPage(rows, last_ns if rows[0][0] < rows[-1][0] else last_ns + 1)

"""Pages of Binance's past, pure: klines and aggregate trades. See :class:`backends.live.History`.

Spot: https://github.com/binance/binance-spot-api-docs/blob/master/rest-api.md#market-data-endpoints
Futures: https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api

Both ends of a range that is asked for are inclusive and in milliseconds; what comes is in order of time, oldest first.
"""

from __future__ import annotations

import math

import msgspec

from backends.backend import EVENT_NS_BEGIN, EVENT_NS_END
from backends.binance import normalize, wire
from backends.live import BarRow, HttpRequest, NoData, Page, Period, TradeRow, TradesPage
from marketd.clock import MILLISECOND_NS, SECOND_NS
from marketd.errors import WireError
from marketd.model import MktPair

# "Supported kline intervals". 3d, 1w and 1M are left out: they don't begin at multiples of their length.
_INTERVALS = {
    1: "1s",  # spot only
    60: "1m",
    180: "3m",
    300: "5m",
    900: "15m",
    1800: "30m",
    3600: "1h",
    7200: "2h",
    14_400: "4h",
    21_600: "6h",
    28_800: "8h",
    43_200: "12h",
    86_400: "1d",
}
_TRADES_MAX = 1000
_UNKNOWN_SYMBOL = -1121
_TOO_MANY_REQUESTS = -1003


class BinanceError(WireError):
    """The venue's own error answer; ``code`` is stable, the text is for people."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code


class UnknownSymbolError(BinanceError):
    """There is no such symbol, or no longer."""


class TooManyRequestsError(BinanceError):
    """R62: too much weight was used. The status and its Retry-After say for how long to wait."""


class BinanceHistory:
    """One market's pages.

    Bars are whole by the request: it ends where a bar does, so as long as nobody asks for the future, no bar in the
    answer is still forming.
    """

    def __init__(self, *, futures: bool) -> None:
        self.periods_s = tuple(period_s for period_s in _INTERVALS if period_s > 1 or not futures)
        self.trades = self.trades_by_time = True
        self._futures = futures

    def rows_max(self, period: Period) -> int:
        """See :class:`backends.live.History`: "Default 500; max 1000", futures "max 1500"."""
        if period == "trades":
            return _TRADES_MAX
        return 1500 if self._futures else 1000

    def page_request(self, market: MktPair, period: Period, start_ns: int, end_ns: int) -> HttpRequest:
        """See :class:`backends.live.History`.

        R54: a range of bars that is longer than a page is asked for by its end alone, and so the page jumps over
        whatever the venue has no bars for; it may then begin before the range does.

        Trades are asked for by their beginning alone, and so a page may go on after the range. The venue takes both
        ends, but at most an hour between them on futures, and on spot it once counted the limit from the end
        (https://github.com/binance/binance-spot-api-docs/issues/10); ``startTime`` alone has one meaning: "this will
        return trades from that time, up to the limit" (its change log of 2022-12-05).

        Raises:
            NoData: the range holds no whole bar.
            ValueError: the venue has no bars of this period.
        """
        if period == "trades":
            return self._trades({"symbol": market.bs_mktid, "startTime": str(_milliseconds_up(start_ns))})
        if period not in self.periods_s:
            raise ValueError(f"period is {period} s: Binance has {', '.join(map(str, self.periods_s))}")
        period_ns = period * SECOND_NS
        first_ns, end_ns = -(-start_ns // period_ns) * period_ns, end_ns // period_ns * period_ns
        bars = (end_ns - first_ns) // period_ns
        if bars < 1:
            raise NoData(f"no bar of {period} s lies between {start_ns} and {end_ns}")
        limit = min(bars, self.rows_max(period))
        params = {"symbol": market.bs_mktid, "interval": _INTERVALS[period], "limit": str(limit)}
        if bars == limit:
            params["startTime"] = str(first_ns // MILLISECOND_NS)
        params["endTime"] = str(end_ns // MILLISECOND_NS - 1)
        return HttpRequest("GET", self._path("klines"), params, self._klines_weight(limit))

    def trades_from(self, market: MktPair, trade_id: int) -> HttpRequest:
        """Ask for trades by their ids, ``trade_id`` first: exact, where a time is only as good as its millisecond."""
        return self._trades({"symbol": market.bs_mktid, "fromId": str(trade_id)})

    def parse_page(self, body: bytes, market: MktPair, period: Period) -> Page | TradesPage:
        """See :class:`backends.live.History`.

        R51: rows are placed by their own stamps, each once, however they come. An empty list is the venue's way to say
        that it has nothing (R61).

        Raises:
            NoData: there is nothing.
            UnknownSymbolError: the venue does not know the instrument.
            TooManyRequestsError: it will not answer now.
            WireError: it is no page.
        """
        try:
            if period == "trades":
                return _trades_page(wire.decode_agg_trades(body))
            return _bars_page(wire.decode_klines(body), period * SECOND_NS)
        except msgspec.ValidationError as error:
            raise _error_in(body) or WireError(f"{market.fqme}: it is no page of {period}: {error}") from error
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise WireError(f"{market.fqme}: it is no page of {period}: {error}") from error

    def _path(self, name: str) -> str:
        return f"/fapi/v1/{name}" if self._futures else f"/api/v3/{name}"

    def _trades(self, params: dict[str, str]) -> HttpRequest:
        return HttpRequest(
            "GET", self._path("aggTrades"), params | {"limit": str(_TRADES_MAX)}, 20 if self._futures else 4
        )

    def _klines_weight(self, limit: int) -> int:
        """Spot: 2. Futures, "based on parameter LIMIT": [1,100) 1, [100, 500) 2, [500, 1000] 5, > 1000 10."""
        if not self._futures:
            return 2
        return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10


def _bars_page(klines: list[wire.Kline], period_ns: int) -> Page:
    bars = {kline.open_time: _bar(kline, period_ns) for kline in klines}
    if not bars:
        raise NoData("there are no bars")
    return Page([bars[open_time] for open_time in sorted(bars)])


def _bar(kline: wire.Kline, period_ns: int) -> BarRow:
    """R63: the venue's own epoch is the bar's.

    Raises:
        WireError: a value is impossible.
    """
    open_ns = kline.open_time * MILLISECOND_NS
    low, high = kline.low, kline.high
    if not (
        0.0 < low <= kline.open <= high < math.inf
        and low <= kline.close <= high
        and 0.0 <= kline.volume < math.inf
        and kline.count >= 0
        and EVENT_NS_BEGIN <= open_ns < EVENT_NS_END
        and open_ns % period_ns == 0
    ):
        raise WireError(f"impossible bar: {kline}")
    return open_ns, kline.open, kline.high, kline.low, kline.close, kline.volume, kline.count


def _trades_page(messages: list[wire.AggTrade]) -> TradesPage:
    """A full page has a successor, which begins in the same millisecond: there may be more of that one."""
    if not messages:
        raise NoData("there are no trades")
    trades = {message.trade_id: _trade(message) for message in messages}
    rows = [trades[trade_id] for trade_id in sorted(trades)]
    if len(messages) < _TRADES_MAX:
        return TradesPage(rows)
    first_ns, last_ns = rows[0][0], rows[-1][0]
    # A page of one millisecond alone would come again and again: what it lacks is a hole in the ids then.
    return TradesPage(rows, last_ns if last_ns > first_ns else last_ns + MILLISECOND_NS)


def _trade(message: wire.AggTrade) -> TradeRow:
    row = normalize.trade(message, 0, 0, MILLISECOND_NS)
    event_ns, trade_id, side, price, size = row[0], row[2], row[5], row[7], row[8]
    return event_ns, trade_id, price, size, side


def _error_in(body: bytes) -> BinanceError | None:
    """Read the venue's error answer; None when it is none."""
    try:
        error = wire.decode_error(body)
    except msgspec.MsgspecError:
        return None
    kind = {_UNKNOWN_SYMBOL: UnknownSymbolError, _TOO_MANY_REQUESTS: TooManyRequestsError}.get(error.code, BinanceError)
    return kind(error.code, error.msg)


def _milliseconds_up(time_ns: int) -> int:
    return -(-time_ns // MILLISECOND_NS)

"""Binance's streams: their names, and the market's events as their messages.

https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams#detailed-stream-information
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from marketd.testvenue import book
from marketd.testvenue.binance.symbols import Symbols
from marketd.testvenue.candles import DAY_NS, HOUR_NS, MINUTE_NS, MONTH, SECOND_NS, WEEK, Candle, Period
from marketd.testvenue.market import Quote, Trade
from marketd.testvenue.venue import Channel, Venue, encode

PERIODS = {
    "1s": Period(SECOND_NS),
    **{f"{count}m": Period(count * MINUTE_NS) for count in (1, 3, 5, 15, 30)},
    **{f"{count}h": Period(count * HOUR_NS) for count in (1, 2, 4, 6, 8, 12)},
    "1d": Period(DAY_NS),
    "3d": Period(3 * DAY_NS),
    "1w": WEEK,
    "1M": MONTH,
}
BOOK_DEPTH = 100
EVENT_DELAY_MS = 1  # the event time, `E`, is so much after the trade's, `T`

_NAME = re.compile(
    r"(?P<symbol>[a-z0-9_]+)@(?P<kind>trade|aggTrade|bookTicker|kline_(?P<period>\w+)|depth(?P<fast>@100ms)?)"
)


class Form(NamedTuple):
    """How a connection wants its messages."""

    combined: bool
    microseconds: bool


class Streams:
    """Makes the channels of one Binance market.

    Args:
        futures: say it as the USD-M futures do.
    """

    def __init__(self, venue: Venue, symbols: Symbols, *, futures: bool) -> None:
        self._venue = venue
        self._symbols = symbols
        self._futures = futures

    def channel(self, name: str, form: Form) -> Channel | None:
        """Make the channel of a stream; None when there is no such stream."""
        match = _NAME.fullmatch(name)
        instrument = self._symbols.numbers.get(match["symbol"].upper()) if match else None
        if match is None or instrument is None or match["symbol"] != match["symbol"].lower():
            return None
        period = match["period"]
        if period and (period not in PERIODS or (self._futures and period == "1s")):
            return None
        return self._venue.shared((name, form), functools.partial(self._make, name, match, instrument, form))

    def _make(self, name: str, match: re.Match[str], instrument: int, form: Form) -> Channel:
        wrap = _wrapper(name) if form.combined else _bare
        symbol = self._symbols.names[instrument]
        kind = match["kind"]
        unit = 1000 if form.microseconds else 1_000_000
        if kind == "trade":
            return Channel(name, "trade", instrument, symbol, on_trade=self._trade(instrument, wrap, unit))
        if kind == "aggTrade":
            return Channel(name, "trade", instrument, symbol, on_trade=self._aggregate(instrument, wrap, unit))
        if kind == "bookTicker":
            return Channel(name, "quote", instrument, symbol, on_quote=self._ticker(instrument, wrap))
        if match["period"]:
            # "Update Speed: 1000ms for 1s, 2000ms for the other intervals"; futures "250ms".
            every_ns = SECOND_NS // 4 if self._futures else SECOND_NS * (1 if match["period"] == "1s" else 2)
            poll = self._kline(instrument, match["period"], wrap, unit)
            return Channel(name, "candle", instrument, symbol, poll=poll, every_ns=every_ns)
        every_ns = SECOND_NS // 10 if match["fast"] else SECOND_NS // (4 if self._futures else 1)
        return Channel(name, "book", instrument, symbol, poll=self._depth(instrument, wrap, unit), every_ns=every_ns)

    def _trade(self, instrument: int, wrap: _Wrap, unit: int) -> Callable[[Trade], bytes]:
        symbol, price, size = self._symbols.texts(instrument)
        delay = EVENT_DELAY_MS * 1_000_000 // unit
        # {"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100","T":1672515782136,"m":true,…}
        end = ',"X":"MARKET"}' if self._futures else ',"M":true}'

        def on_trade(trade: Trade) -> bytes:
            time = trade.time_ns // unit
            return wrap(
                f'{{"e":"trade","E":{time + delay},"s":"{symbol}","t":{trade.number},"p":"{price(trade.price)}",'
                f'"q":"{size(trade.size)}","T":{time},"m":{"true" if trade.side < 0 else "false"}{end}'
            )

        return on_trade

    def _aggregate(self, instrument: int, wrap: _Wrap, unit: int) -> Callable[[Trade], bytes]:
        symbol, price, size = self._symbols.texts(instrument)
        delay = EVENT_DELAY_MS * 1_000_000 // unit
        end = ',"st":1}' if self._futures else ',"M":true}'

        def on_trade(trade: Trade) -> bytes:
            time, number = trade.time_ns // unit, trade.number
            return wrap(
                f'{{"e":"aggTrade","E":{time + delay},"s":"{symbol}","a":{number},"p":"{price(trade.price)}",'
                f'"q":"{size(trade.size)}","f":{number},"l":{number},"T":{time},'
                f'"m":{"true" if trade.side < 0 else "false"}{end}'
            )

        return on_trade

    def _ticker(self, instrument: int, wrap: _Wrap) -> Callable[[Quote], bytes]:
        symbol, price, size = self._symbols.texts(instrument)

        def on_quote(quote: Quote) -> bytes:
            levels = (
                f'"s":"{symbol}","b":"{price(quote.bid)}","B":"{size(quote.bid_size)}",'
                f'"a":"{price(quote.ask)}","A":"{size(quote.ask_size)}"'
            )
            if not self._futures:  # {"u":400900217,"s":"BNBUSDT","b":…,"B":…,"a":…,"A":…}: there is no time in it
                return wrap(f'{{"u":{quote.number},{levels}}}')
            time = quote.time_ns // 1_000_000
            return wrap(
                f'{{"e":"bookTicker","u":{quote.number},"E":{time + EVENT_DELAY_MS},"T":{time},{levels},'
                f'"st":1,"ps":"{symbol}"}}'
            )

        return on_quote

    def _kline(self, instrument: int, period_name: str, wrap: _Wrap, unit: int) -> Callable[[int, int], list[bytes]]:
        period = PERIODS[period_name]

        def poll(after_ns: int, until_ns: int) -> list[bytes]:
            candles = self._venue.candles.candles(
                instrument, period, period.floor(after_ns), until_ns + 1, until_ns + 1
            )
            return [
                wrap(encode(self._kline_event(instrument, period_name, candle, until_ns, unit)).decode())
                for candle in candles
                if candle.end_ns <= until_ns or candle.open_ns > after_ns or self._traded(instrument, candle, after_ns)
            ]

        return poll

    def _traded(self, instrument: int, candle: Candle, after_ns: int) -> bool:
        """Whether a candle has changed since: its last trade is newer."""
        return bool(candle.trades) and candle.last > self._venue.market.trades_before(instrument, after_ns + 1)

    def _kline_event(self, instrument: int, period_name: str, candle: Candle, now_ns: int, unit: int) -> dict[str, Any]:
        kline = self._symbols.kline(instrument, candle)
        symbol = self._symbols.names[instrument]
        return {
            "e": "kline",
            "E": now_ns // unit,
            "s": symbol,
            "k": {
                "t": candle.open_ns // unit,
                "T": candle.end_ns // unit - 1,
                "s": symbol,
                "i": period_name,
                "f": candle.first if candle.trades else -1,
                "L": candle.last,
                "o": kline.open,
                "c": kline.close,
                "h": kline.high,
                "l": kline.low,
                "v": kline.volume,
                "n": candle.trades,
                "x": candle.end_ns <= now_ns,
                "q": kline.notional,
                "V": kline.buy_volume,
                "Q": kline.buy_notional,
                "B": "0",
            },
        }

    def _depth(self, instrument: int, wrap: _Wrap, unit: int) -> Callable[[int, int], list[bytes]]:
        symbol, price, size = self._symbols.texts(instrument)
        market = self._venue.market

        def poll(after_ns: int, until_ns: int) -> list[bytes]:
            before = market.quotes_before(instrument, after_ns + 1)
            last = market.quotes_before(instrument, until_ns + 1)
            if before == last or not before:
                return []
            change = book.changes(
                book.book(market, instrument, before, BOOK_DEPTH), book.book(market, instrument, last, BOOK_DEPTH)
            )
            event: dict[str, Any] = {"e": "depthUpdate", "E": until_ns // unit}
            if self._futures:
                event |= {"T": until_ns // unit, "s": symbol, "ps": symbol, "st": 1}
                event |= {"U": before + 1, "u": last, "pu": before}
            else:
                event |= {"s": symbol, "U": before + 1, "u": last}
            event["b"] = [[price(level), size(amount)] for level, amount in change.bids]
            event["a"] = [[price(level), size(amount)] for level, amount in change.asks]
            return [wrap(encode(event).decode())]

        return poll


_Wrap = Callable[[str], bytes]


def _bare(text: str) -> bytes:
    return text.encode()


def _wrapper(name: str) -> _Wrap:
    head = f'{{"stream":"{name}","data":'
    return lambda text: f"{head}{text}}}".encode()

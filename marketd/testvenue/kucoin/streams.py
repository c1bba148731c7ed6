"""KuCoin's topics: the market's events as its messages.

https://www.kucoin.com/docs-new/3470063w0 (ticker), …/3470067w0 (level 1), …/3470071w0 (klines), …/3470072w0 (match).
"""

from __future__ import annotations

import functools

from marketd.testvenue.candles import DAY_NS, HOUR_NS, MINUTE_NS, MONTH, WEEK, Candle, Period
from marketd.testvenue.kucoin.symbols import Symbols
from marketd.testvenue.market import Quote, Trade
from marketd.testvenue.venue import Channel, Venue, encode

PERIODS = {
    **{f"{count}min": Period(count * MINUTE_NS) for count in (1, 3, 5, 15, 30)},
    **{f"{count}hour": Period(count * HOUR_NS) for count in (1, 2, 4, 6, 8, 12)},
    "1day": Period(DAY_NS),
    "1week": WEEK,
    "1month": MONTH,
}


class Streams:
    """Makes the channels of topics: ``PREFIX:SYMBOL``, for candles ``PREFIX:SYMBOL_PERIOD``."""

    def __init__(self, venue: Venue, symbols: Symbols) -> None:
        self._venue = venue
        self._symbols = symbols

    def channel(self, prefix: str, argument: str) -> Channel | None:
        """Make the channel of one topic; None when there is no such topic."""
        symbol, _, period = argument.partition("_")
        instrument = self._symbols.numbers.get(symbol)
        known = prefix in ("/market/ticker", "/spotMarket/level1", "/market/match") and not period
        if instrument is None or not (known or (prefix == "/market/candles" and period in PERIODS)):
            return None
        name = f"{prefix}:{argument}"
        return self._venue.shared(name, functools.partial(self._make, prefix, name, instrument, period))

    def _make(self, prefix: str, name: str, instrument: int, period: str) -> Channel:
        symbol = self._symbols.names[instrument]
        channel = Channel(name, "quote", instrument, symbol)
        if prefix == "/market/match":
            channel.topic = "trade"
            channel.on_trade = functools.partial(self._match, name, instrument)
        elif prefix == "/market/candles":
            channel.topic = "candle"
            channel.poll = functools.partial(self._poll, name, instrument, PERIODS[period])
        elif prefix == "/market/ticker":
            channel.on_quote = functools.partial(self._ticker, name, instrument)
            channel.needs_trades = True
        else:
            channel.on_quote = functools.partial(self._level1, name, instrument)
        return channel

    def _match(self, name: str, instrument: int, trade: Trade) -> bytes:
        price, size = self._symbols.texts(instrument)
        time_ns = trade.time_ns // 1_000_000 * 1_000_000  # nanoseconds that are milliseconds in truth, as text
        return (
            f'{{"topic":"{name}","type":"message","subject":"trade.l3match","data":{{'
            f'"makerOrderId":"{trade.number:024x}","price":"{price(trade.price)}","sequence":"{trade.number}",'
            f'"side":"{"buy" if trade.side > 0 else "sell"}","size":"{size(trade.size)}",'
            f'"symbol":"{self._symbols.names[instrument]}","takerOrderId":"{trade.number:023x}f",'
            f'"time":"{time_ns}","tradeId":"{trade.number}","type":"match"}}}}'
        ).encode()

    def _ticker(self, name: str, instrument: int, quote: Quote) -> bytes:
        """``time`` is that of the last trade, and so it is older than the quote. The documents' example has `Time`."""
        price, size = self._symbols.texts(instrument)
        trade = self._venue.newest_trade(instrument, quote.time_ns)
        return (
            f'{{"topic":"{name}","type":"message","subject":"trade.ticker","data":{{'
            f'"bestAsk":"{price(quote.ask)}","bestAskSize":"{size(quote.ask_size)}",'
            f'"bestBid":"{price(quote.bid)}","bestBidSize":"{size(quote.bid_size)}",'
            f'"price":"{price(trade.price)}","sequence":"{quote.number}","size":"{size(trade.size)}",'
            f'"time":{trade.time_ns // 1_000_000}}}}}'
        ).encode()

    def _level1(self, name: str, instrument: int, quote: Quote) -> bytes:
        price, size = self._symbols.texts(instrument)
        return (
            f'{{"topic":"{name}","type":"message","subject":"level1","data":{{'
            f'"asks":["{price(quote.ask)}","{size(quote.ask_size)}"],'
            f'"bids":["{price(quote.bid)}","{size(quote.bid_size)}"],"timestamp":{quote.time_ns // 1_000_000}}}}}'
        ).encode()

    def _poll(self, name: str, instrument: int, period: Period, after_ns: int, until_ns: int) -> list[bytes]:
        """Candles that changed; one without a trade is never sent."""
        before = self._venue.market.trades_before(instrument, after_ns + 1)
        candles = self._venue.candles.candles(instrument, period, period.floor(after_ns), until_ns + 1, until_ns + 1)
        return [
            self._candle(name, instrument, candle, until_ns)
            for candle in candles
            if candle.trades and candle.last > before
        ]

    def _candle(self, name: str, instrument: int, candle: Candle, now_ns: int) -> bytes:
        data = {
            "symbol": self._symbols.names[instrument],
            "candles": self._symbols.candle(instrument, candle),
            "time": now_ns,
        }
        return encode({"topic": name, "type": "message", "subject": "trade.candles.update", "data": data})

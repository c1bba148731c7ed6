"""Kraken's channels: the market's events as messages of websocket v2. Numbers keep their trailing zeros, as there.

https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/trade, …/ticker, …/ohlc, …/book
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from marketd.testvenue import book
from marketd.testvenue.candles import DAY_NS, MINUTE_NS, Candle, Period
from marketd.testvenue.kraken.symbols import Symbols
from marketd.testvenue.market import Quote, Trade
from marketd.testvenue.texts import NumberText, rfc3339
from marketd.testvenue.venue import SECOND_NS, Channel, Days, Topic, Venue

# By minutes; 15 days are counted from the epoch.
PERIODS = {minutes: Period(minutes * MINUTE_NS) for minutes in (1, 5, 15, 30, 60, 240, 1440, 10080)} | {
    21600: Period(15 * DAY_NS)
}
BOOK_DEPTHS = (10, 25, 100, 500, 1000)
TRADES_IN_SNAPSHOT = 50
CHECKSUM_LEVELS = 10


class Wanted(NamedTuple):
    """What a subscription asks for, without its symbol."""

    channel: str
    trigger: str
    interval: int
    depth: int
    snapshot: bool

    def name(self, symbol: str) -> str:
        """A name for the stream: ``trade:BTC/USD``, ``ohlc-5:BTC/USD``."""
        detail = f"-{self.interval or self.depth}" if self.interval or self.depth else ""
        return f"{self.channel}{detail}:{symbol}"

    def echo(self) -> dict[str, Any]:
        """The parameters that the ack repeats."""
        if self.trigger:
            return {"event_trigger": self.trigger}
        if self.interval:
            return {"interval": self.interval}
        return {"depth": self.depth} if self.depth else {}


class Streams:
    """Makes channels and snapshots."""

    def __init__(self, venue: Venue, symbols: Symbols) -> None:
        self._venue = venue
        self._symbols = symbols
        self._days = Days(venue.market)

    def channel(self, instrument: int, wanted: Wanted) -> Channel:
        """Make the channel of a subscription."""
        key = (instrument, wanted._replace(snapshot=False))
        return self._venue.shared(key, functools.partial(self._make, instrument, wanted))

    def snapshot(self, instrument: int, wanted: Wanted, now_ns: int) -> bytes:
        """Make the first message of a subscription; empty when there is nothing yet."""
        if wanted.channel == "trade":
            last = self._venue.market.trades_before(instrument, now_ns)
            trades = self._venue.market.trade_range(instrument, last - TRADES_IN_SNAPSHOT + 1, last)
            return self._trades(instrument, "snapshot", trades) if trades else b""
        if wanted.channel == "ticker":
            quote = self._venue.newest_quote(instrument, now_ns)
            return self._ticker(instrument, "snapshot", quote, now_ns)
        if wanted.channel == "ohlc":
            period = PERIODS[wanted.interval]
            open_ns = period.floor(now_ns)
            candles = self._venue.candles.candles(instrument, period, open_ns, now_ns, now_ns)
            return self._candles(instrument, wanted.interval, "snapshot", candles, now_ns) if candles else b""
        return self._book_snapshot(instrument, wanted.depth, now_ns)

    def _make(self, instrument: int, wanted: Wanted) -> Channel:
        symbol = self._symbols.names[instrument]
        name = wanted.name(symbol)
        topics: dict[str, Topic] = {"trade": "trade", "ticker": "quote", "ohlc": "candle", "book": "book"}
        channel = Channel(name, topics[wanted.channel], instrument, symbol)
        if wanted.channel == "trade":
            channel.on_trade = lambda trade: self._trades(instrument, "update", [trade])
        elif wanted.channel == "ticker" and wanted.trigger == "bbo":
            channel.on_quote = lambda quote: self._ticker(instrument, "update", quote, quote.time_ns)
            channel.needs_trades = True
        elif wanted.channel == "ticker":
            channel.on_trade = lambda trade: self._ticker(
                instrument, "update", self._venue.newest_quote(instrument, trade.time_ns), trade.time_ns + 1
            )
        elif wanted.channel == "ohlc":
            channel.poll = self._poll_candles(instrument, wanted.interval)
            channel.every_ns = SECOND_NS // 2
        else:
            channel.on_quote = lambda quote: self._book_update(instrument, wanted.depth, quote)
        return channel

    def _trades(self, instrument: int, kind: str, trades: list[Trade]) -> bytes:
        price, size = self._symbols.texts(instrument)
        symbol = self._symbols.names[instrument]
        rows = ",".join(
            f'{{"symbol":"{symbol}","side":"{"buy" if trade.side > 0 else "sell"}","price":{price(trade.price)},'
            f'"qty":{size(trade.size)},"ord_type":"{"limit" if trade.number & 1 else "market"}",'
            f'"trade_id":{trade.number},"timestamp":"{rfc3339(trade.time_ns)}"}}'
            for trade in trades
        )
        return f'{{"channel":"trade","type":"{kind}","data":[{rows}]}}'.encode()

    def _ticker(self, instrument: int, kind: str, quote: Quote, now_ns: int) -> bytes:
        """All but the statistics of the day are exact; see :class:`venue.Days`."""
        price, size = self._symbols.texts(instrument)
        day = self._days.day(instrument, now_ns)
        last = self._venue.newest_trade(instrument, now_ns).price
        change = last - day.open
        return (
            f'{{"channel":"ticker","type":"{kind}","data":[{{"symbol":"{self._symbols.names[instrument]}",'
            f'"bid":{price(quote.bid)},"bid_qty":{size(quote.bid_size)},"ask":{price(quote.ask)},'
            f'"ask_qty":{size(quote.ask_size)},"last":{price(last)},"volume":{size(day.volume)},'
            f'"vwap":{price((day.high + day.low) // 2)},"low":{price(min(day.low, last))},'
            f'"high":{price(max(day.high, last))},"change":{"-" if change < 0 else ""}{price(abs(change))},'
            f'"change_pct":{100 * change / day.open:.2f},"trades":{day.trades},'
            f'"timestamp":"{rfc3339(now_ns)}"}}]}}'
        ).encode()

    def _poll_candles(self, instrument: int, interval: int) -> Callable[[int, int], list[bytes]]:
        period = PERIODS[interval]

        def poll(after_ns: int, until_ns: int) -> list[bytes]:
            """Updates are "generated on trade events"; a candle without a trade is not sent."""
            market = self._venue.market
            before = market.trades_before(instrument, after_ns + 1)
            candles = self._venue.candles.candles(
                instrument, period, period.floor(after_ns), until_ns + 1, until_ns + 1
            )
            changed = [candle for candle in candles if candle.trades and candle.last > before]
            return [self._candles(instrument, interval, "update", [candle], until_ns) for candle in changed]

        return poll

    def _candles(self, instrument: int, interval: int, kind: str, candles: list[Candle], now_ns: int) -> bytes:
        """``interval_begin`` is a candle's begin, ``timestamp`` its end."""
        price, size = self._symbols.texts(instrument)
        symbol = self._symbols.names[instrument]
        rows = ",".join(
            f'{{"symbol":"{symbol}","open":{price(candle.open)},"high":{price(candle.high)},'
            f'"low":{price(candle.low)},"close":{price(candle.close)},"trades":{candle.trades},'
            f'"volume":{size(candle.volume)},'
            f'"vwap":{self._symbols.vwap(instrument, candle.notional, candle.volume)},'
            f'"interval_begin":"{rfc3339(candle.open_ns)[:-1]}000Z","interval":{interval},'
            f'"timestamp":"{rfc3339(candle.end_ns)}"}}'
            for candle in candles
        )
        return f'{{"channel":"ohlc","type":"{kind}","timestamp":"{rfc3339(now_ns)}","data":[{rows}]}}'.encode()

    def _book_snapshot(self, instrument: int, depth: int, now_ns: int) -> bytes:
        number = max(self._venue.market.quotes_before(instrument, now_ns), 1)
        levels = book.book(self._venue.market, instrument, number, depth)
        return self._book(instrument, "snapshot", levels, levels, now_ns)

    def _book_update(self, instrument: int, depth: int, quote: Quote) -> bytes:
        market = self._venue.market
        before = book.book(market, instrument, max(quote.number - 1, 1), depth)
        after = book.book(market, instrument, quote.number, depth)
        return self._book(instrument, "update", book.changes(before, after), after, quote.time_ns)

    def _book(self, instrument: int, kind: str, said: book.Book, whole: book.Book, time_ns: int) -> bytes:
        price, size = self._symbols.texts(instrument)
        sides = [
            ",".join(f'{{"price":{price(level)},"qty":{size(amount)}}}' for level, amount in side)
            for side in (said.bids, said.asks)
        ]
        return (
            f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"{self._symbols.names[instrument]}",'
            f'"bids":[{sides[0]}],"asks":[{sides[1]}],"checksum":{checksum(whole, price, size)},'
            f'"timestamp":"{rfc3339(time_ns)}"}}]}}'
        ).encode()


def checksum(levels: book.Book, price: NumberText, size: NumberText) -> int:
    """CRC32 over the best ten asks, then bids: digits of price and size without the point and leading zeros.

    https://docs.kraken.com/api/docs/guides/spot-ws-book-v2
    """
    text = "".join(
        print_(number).replace(".", "").lstrip("0")
        for side in (levels.asks, levels.bids)
        for level in side[:CHECKSUM_LEVELS]
        for print_, number in zip((price, size), level, strict=True)
    )
    return zlib.crc32(text.encode())

"""What is known of a connection's instruments, and the rows of one message: in order, doubled, or something missing?

A message becomes rows as a whole or not at all: one impossible trade in it, and the whole of it is bad. What is missing
is known by the trade ids then.

Trade ids go up by one: "a sequence number, unique per book", and hours of trades of 2025 show that none is left out
(`tests/unit/test_recorded_kraken.py`). So a hole is a gap row. Websocket v1 has no ids, and its trades are taken as
they come. Tickers have no number either; one whose time is older than that of the one before it is dropped. Books have
a checksum (`book.py`); one that turns out to be wrong makes no rows until it begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from backends.backend import MessageCounts, Sink
from backends.kraken import normalize
from backends.kraken.book import Book, Change
from backends.malformed import Heard
from marketd.feed.continuity import DUPLICATE, Contiguous, Rising
from marketd.model import GapReason, Kind, MktPair
from marketd.ring.layout import Row

INSTRUMENTS_MAX = 65_536
_TRADE = int(Kind.TRADE)

_Said = TypeVar("_Said")


class Instrument:
    """One instrument of a connection."""

    __slots__ = ("active", "book", "number", "quote_ns", "quote_times", "symbol", "trade_ids")

    def __init__(self, symbol: str, number: int) -> None:
        self.symbol = symbol
        self.number = number
        self.trade_ids = Contiguous()
        self.quote_times = Rising()
        self.book = Book()
        self.quote_ns = 0  # event time of the newest
        self.active = True  # False: unsubscribed, and what still comes makes no rows

    @property
    def trade_ns(self) -> int:
        """Event time of the newest trade."""
        return self.trade_ids.last_ns


class Rows:
    """The way of a connection's messages into the sink, and their counts.

    Args:
        find: says which instrument a symbol is; None for what the venue does not have, or nobody asked for.

    Attributes:
        heard: what came so far.
    """

    def __init__(self, sink: Sink, find: Callable[[str], MktPair | None]) -> None:
        self.counts = MessageCounts()
        self._sink = sink
        self._find = find
        self._instruments: dict[str, Instrument] = {}
        self.heard = Heard(sink, self._instruments)

    def instrument(self, symbol: str) -> Instrument | None:
        """Register an instrument with the feed, once; None for what can't be one."""
        instrument = self._instruments.get(symbol)
        if instrument is None and len(self._instruments) < INSTRUMENTS_MAX:
            market = self._find(symbol)
            if market is not None:
                instrument = self.add(symbol, market)
        return instrument

    def add(self, symbol: str, market: MktPair) -> Instrument:
        """Register an instrument that was asked for; its continuity begins anew if it was unsubscribed before."""
        instrument = self._instruments.get(symbol)
        if instrument is None or not instrument.active:
            instrument = self._instruments[symbol] = Instrument(symbol, self._sink.instrument(market))
        return instrument

    def remove(self, symbol: str) -> None:
        """Let nothing that still comes of an instrument become rows."""
        instrument = self._instruments.get(symbol)
        if instrument is not None:
            instrument.active = False

    def expect_book(self, symbol: str, depth: int) -> None:
        """Note that the subscription of an instrument's book was acked: its snapshot comes next."""
        instrument = self.instrument(symbol)
        if instrument is not None:
            instrument.book.expect(depth)

    def take_trades(self, name: str, rows: Iterable[tuple[Instrument | None, Row]], *, ids: bool = True) -> None:
        """Write the trades of one message, and gap rows before those that have some missing before them."""
        self._count(name, self._take(rows, self._write_trade if ids else self._write))

    def take_quotes(self, name: str, rows: Iterable[tuple[Instrument | None, Row]], *, times: bool) -> None:
        """Write the quotes of one message; ``times``: whether the venue said when they were."""
        self._count(name, self._take(rows, self._write_quote if times else self._write))

    def take_books(
        self, payload: bytes, changes: Iterable[tuple[Instrument | None, Change]]
    ) -> list[tuple[Instrument, GapReason]]:
        """Write what one message says of books, as far as they are right; return those that are not, and why."""
        wrong: list[tuple[Instrument, GapReason]] = []

        def write(instrument: Instrument, change: Change) -> str:
            told = instrument.book.take(change)
            if told is None:
                return "before_snapshot"
            if isinstance(told, GapReason):
                wrong.append((instrument, told))
                return "wrong"
            rows = normalize.levels(told, instrument.number, change.event_ns, change.received_ns)
            for row in rows:
                self._sink.append(row)
            return "" if rows else "empty"

        fate = self._take(changes, write)
        if wrong:
            self.counts.note_bad(payload)
        else:
            self._count("book", fate)
        return wrong

    def drop(self, name: str) -> None:
        """Count a message that deliberately makes no rows."""
        self.counts.unused[name] = self.counts.unused.get(name, 0) + 1

    def note_bad(self, payload: bytes, channel: str, symbols: Iterable[str], received_ns: int) -> None:
        """Count a message that can't be used, and write gap rows of the instruments that it may have been about.

        A row says not how many are missing: of trades, the hole in the ids will. Without a symbol it is of all.

        Args:
            channel: what it is of, if that can be told.
        """
        self.counts.note_bad(payload)
        known = {symbol: self._instruments[symbol] for symbol in symbols if symbol in self._instruments}
        for instrument in known.values():
            trade_ns = 0 if channel == "ticker" else instrument.trade_ns
            quote_ns = 0 if channel == "trade" else instrument.quote_ns
            self.heard.gap(received_ns, instrument.number, trade_ns=trade_ns, quote_ns=quote_ns)
        if not known:
            self.heard.gap(received_ns)

    def _take(self, said: Iterable[tuple[Instrument | None, _Said]], write: Callable[[Instrument, _Said], str]) -> str:
        """Write all of one message; return why nothing of it became rows, or nothing."""
        used, fate = False, "empty"
        for instrument, one in said:
            if instrument is None:
                fate = "unknown"
            elif not instrument.active:
                fate = "unsubscribed"
            else:
                dropped = write(instrument, one)
                used = used or not dropped
                fate = dropped or fate
        return "" if used else fate

    def _count(self, name: str, fate: str) -> None:
        if not fate:
            self.counts.used[name] = self.counts.used.get(name, 0) + 1
        elif fate == "unknown":
            self.counts.unknown += 1
        else:
            self.drop(fate)

    def _write(self, instrument: Instrument, row: Row) -> str:
        """Write a row; return why not, or nothing."""
        self._sink.append(row)
        if row[4] == _TRADE:
            instrument.trade_ids.last_ns = row[0]
        else:
            instrument.quote_ns = row[0]
        return ""

    def _write_quote(self, instrument: Instrument, row: Row) -> str:
        if not instrument.quote_times.accept(row[0]):
            return "stale"
        self._sink.append(row)
        instrument.quote_ns = row[0]
        return ""

    def _write_trade(self, instrument: Instrument, row: Row) -> str:
        missing = instrument.trade_ids.accept(row[2], row[0])
        if missing:
            if missing == DUPLICATE:
                return "duplicate"
            from_ns = instrument.trade_ids.hole_from_ns
            self._sink.gap(instrument.number, GapReason.SEQUENCE, from_ns, row[0], max(missing, -1))
        self._sink.append(row)
        return ""

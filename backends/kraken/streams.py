"""What is known of a connection's instruments, and the rows of one message: in order, doubled, or something missing?

A message becomes rows as a whole or not at all: one impossible trade in it, and the whole of it is bad. What is missing
is known by the trade ids then.

Trade ids go up by one: "a sequence number, unique per book", and hours of trades of 2025 show that none is left out
(`tests/unit/test_recorded_kraken.py`). So a hole is a gap row. Websocket v1 has no ids, and its trades are taken as
they come. Tickers have no number either; one whose time is older than that of the one before it is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from backends.backend import MessageCounts, Sink
from marketd.feed.continuity import DUPLICATE, Contiguous, Rising
from marketd.model import GapReason, MktPair
from marketd.ring.layout import Row

INSTRUMENTS_MAX = 65_536


class Instrument:
    """One instrument of a connection."""

    __slots__ = ("active", "number", "quote_times", "trade_ids")

    def __init__(self, number: int) -> None:
        self.number = number
        self.trade_ids = Contiguous()
        self.quote_times = Rising()
        self.active = True  # False: unsubscribed, and what still comes makes no rows


class Rows:
    """The way of a connection's messages into the sink, and their counts.

    Args:
        find: says which instrument a symbol is; None for what the venue does not have, or nobody asked for.
    """

    def __init__(self, sink: Sink, find: Callable[[str], MktPair | None]) -> None:
        self.counts = MessageCounts()
        self._sink = sink
        self._find = find
        self._instruments: dict[str, Instrument] = {}

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
            instrument = self._instruments[symbol] = Instrument(self._sink.instrument(market))
        return instrument

    def remove(self, symbol: str) -> None:
        """Let nothing that still comes of an instrument become rows."""
        instrument = self._instruments.get(symbol)
        if instrument is not None:
            instrument.active = False

    def take_trades(self, name: str, rows: Iterable[tuple[Instrument | None, Row]], *, ids: bool = True) -> None:
        """Write the trades of one message, and gap rows before those that have some missing before them."""
        self._take(name, rows, self._write_trade if ids else self._write)

    def take_quotes(self, name: str, rows: Iterable[tuple[Instrument | None, Row]], *, times: bool) -> None:
        """Write the quotes of one message; ``times``: whether the venue said when they were."""
        self._take(name, rows, self._write_quote if times else self._write)

    def drop(self, name: str) -> None:
        """Count a message that deliberately makes no rows."""
        self.counts.unused[name] = self.counts.unused.get(name, 0) + 1

    def note_bad(self, payload: bytes, symbols: Iterable[str], received_ns: int) -> None:
        """Count a message that can't be used, and write gap rows of the instruments that it may have been about.

        A row says not how many are missing: of trades, the hole in the ids will. Without a symbol it is of all.
        """
        self.counts.note_bad(payload)
        known = {symbol: self._instruments[symbol] for symbol in symbols if symbol in self._instruments}
        for instrument in known.values():
            from_ns = instrument.trade_ids.last_ns or received_ns
            self._sink.gap(instrument.number, GapReason.MALFORMED, min(from_ns, received_ns), received_ns)
        if not known:
            self._sink.gap(0, GapReason.MALFORMED, received_ns, received_ns)

    def _take(
        self, name: str, rows: Iterable[tuple[Instrument | None, Row]], write: Callable[[Instrument, Row], str]
    ) -> None:
        used, fate = False, "empty"
        for instrument, row in rows:
            if instrument is None:
                fate = "unknown"
            elif not instrument.active:
                fate = "unsubscribed"
            else:
                dropped = write(instrument, row)
                used = used or not dropped
                fate = dropped or fate
        if used:
            self.counts.used[name] = self.counts.used.get(name, 0) + 1
        elif fate == "unknown":
            self.counts.unknown += 1
        else:
            self.drop(fate)

    def _write(self, instrument: Instrument, row: Row) -> str:
        """Write a row; return why not, or nothing."""
        self._sink.append(row)
        return ""

    def _write_quote(self, instrument: Instrument, row: Row) -> str:
        if not instrument.quote_times.accept(row[0]):
            return "stale"
        self._sink.append(row)
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

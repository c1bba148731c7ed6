"""The streams of one Binance connection: what becomes of a decoded payload, by type.

aggTrade and trade tell the same trades. Whichever comes first for an instrument becomes rows; the other is counted as
unused. Trade ids must be contiguous: a hole is a gap row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from backends.backend import MessageCounts, Sink
from backends.binance import normalize, wire
from backends.malformed import Heard
from marketd.feed.continuity import DUPLICATE, Contiguous, Rising
from marketd.model import GapReason

# What `X` says of trades that did not happen in the order book; see wire.Trade.
_OFF_BOOK = frozenset({"INSURANCE_FUND", "ADL", "NA"})


@dataclass(frozen=True)
class Connection:
    """What all streams of a connection share."""

    sink: Sink
    time_unit_ns: int
    heard: Heard
    counts: MessageCounts = field(default_factory=MessageCounts)


class Instrument:
    """What is known of one instrument on this connection."""

    __slots__ = ("number", "quote_ids", "quote_ns", "trade_ids", "trades_from")

    def __init__(self, number: int) -> None:
        self.number = number
        self.trade_ids = Contiguous()
        self.quote_ids = Rising()
        self.quote_ns = 0  # event time of the newest
        self.trades_from = ""  # the type of stream that became rows first

    @property
    def trade_ns(self) -> int:
        """Event time of the newest trade."""
        return self.trade_ids.last_ns


class Stream:
    """One stream. Of this kind nothing becomes rows.

    Attributes:
        name: the type that its messages are counted under.
        decode: reads a combined message.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name
        self.decode: Callable[[bytes], wire.Combined[Any]] = wire.decode_combined_other
        self._counts = connection.counts
        self._heard = connection.heard
        self._sink = connection.sink
        self._time_unit_ns = connection.time_unit_ns

    def take(self, message: Any, received_ns: int) -> None:  # noqa: ANN401 - whatever `decode` gives
        """Count one decoded payload."""
        self._drop(self.name)

    def miss(self, received_ns: int) -> None:
        """Write the gap row of a message that can't be used, if it may have held rows."""

    def _drop(self, what: str) -> None:
        unused = self._counts.unused
        unused[what] = unused.get(what, 0) + 1


class TradeStream(Stream):
    """aggTrade or trade of one instrument."""

    def __init__(self, connection: Connection, name: str, instrument: Instrument) -> None:
        super().__init__(connection, name)
        self.decode = wire.decode_combined_agg_trade if name == "aggTrade" else wire.decode_combined_trade
        self._counts.used.setdefault(name, 0)
        self._of = instrument

    def take(self, message: wire.AggTrade | wire.Trade, received_ns: int) -> None:
        """Write the trade's row, after a gap row if trades are missing before it.

        Raises:
            WireError: it can't be used.
        """
        instrument = self._of
        if type(message) is wire.Trade and message.execution in _OFF_BOOK:
            event_ns, trade_id = normalize.place(message, self._time_unit_ns)
            if self._is_next(trade_id, event_ns):
                self._drop("trade.off_book")
            return
        row = normalize.trade(message, instrument.number, received_ns, self._time_unit_ns)
        if self._is_next(row[2], row[0]):
            self._sink.append(row)
            self._counts.used[self.name] += 1

    def miss(self, received_ns: int) -> None:
        """See :meth:`Stream.miss`. It says not how many are missing: the hole in the ids will."""
        self._heard.gap(received_ns, self._of.number, trade_ns=self._of.trade_ns)

    def _is_next(self, trade_id: int, event_ns: int) -> bool:
        """Whether the trade is new; report what is missing before it."""
        instrument = self._of
        if instrument.trades_from != self.name:
            if instrument.trades_from:
                self._drop(self.name)
                return False
            instrument.trades_from = self.name
        missing = instrument.trade_ids.accept(trade_id, event_ns)
        if missing:
            if missing == DUPLICATE:
                self._drop("duplicate")
                return False
            from_ns = instrument.trade_ids.hole_from_ns
            self._sink.gap(instrument.number, GapReason.SEQUENCE, from_ns, event_ns, max(missing, -1))
        return True


class QuoteStream(Stream):
    """bookTicker of one instrument."""

    def __init__(self, connection: Connection, name: str, instrument: Instrument) -> None:
        super().__init__(connection, name)
        self.decode = wire.decode_combined_book_ticker
        self._counts.used.setdefault(name, 0)
        self._of = instrument

    def take(self, message: wire.BookTicker, received_ns: int) -> None:
        """Write the quote's row, unless it is older than one that came before.

        Raises:
            WireError: it can't be used.
        """
        instrument = self._of
        row = normalize.quote(message, instrument.number, received_ns, self._time_unit_ns)
        if not instrument.quote_ids.accept(row[2]):
            self._drop("stale")
            return
        self._sink.append(row)
        instrument.quote_ns = row[0]
        self._counts.used[self.name] += 1

    def miss(self, received_ns: int) -> None:
        """See :meth:`Stream.miss`."""
        self._heard.gap(received_ns, self._of.number, quote_ns=self._of.quote_ns)


class AllQuotesStream(Stream):
    """bookTicker of all instruments in one stream: each payload names its own."""

    def __init__(self, connection: Connection, name: str, find: Callable[[str, str], Stream | None]) -> None:
        super().__init__(connection, name)
        self.decode = wire.decode_combined_book_ticker
        self._find = find

    def take(self, message: wire.BookTicker, received_ns: int) -> None:
        """Give the payload to its instrument's stream."""
        stream = self._find(self.name, message.symbol)
        if stream is None:
            self._counts.unknown += 1
        else:
            stream.take(message, received_ns)

    def miss(self, received_ns: int) -> None:
        """See :meth:`Stream.miss`: of any instrument."""
        self._heard.gap(received_ns)


class NoticeStream(Stream):
    """What the venue announces to everybody: nothing becomes rows, but somebody is told."""

    def __init__(self, connection: Connection, name: str, tell: Callable[[], None]) -> None:
        super().__init__(connection, name)
        self._tell = tell

    def take(self, message: Any, received_ns: int) -> None:  # noqa: ANN401 - whatever `decode` gives
        """Count it and pass it on."""
        super().take(message, received_ns)
        self._tell()

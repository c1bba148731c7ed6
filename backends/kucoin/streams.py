"""The topics of one KuCoin connection: what becomes of a decoded payload, by topic.

Trades have a `sequence` that only goes up: it is the order book's number, so its holes mean nothing. In the recording
of 2021 it goes up by two and more from trade to trade, and `tradeId` has holes as well; in the documents' own example
of 2024 three trades in a row are 10976028003549185, …188, …191. So KuCoin lets nobody see that a trade is missing. What
can be seen is one that comes late, after one that followed it: it is not written, for sequences must go up, and a gap
row says that it is missing. One that was there before is only a double.

Level 1 and ticker tell the same quotes. Whichever comes first for an instrument becomes rows; the other is counted as
unused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from backends.backend import MessageCounts, Sink
from backends.kucoin import normalize, wire
from backends.malformed import Heard
from marketd.feed.continuity import Rising
from marketd.model import GapReason

REMEMBERED = 64  # newest trades of an instrument, to tell doubles from late ones


class Instrument:
    """What is known of one instrument on this connection."""

    __slots__ = ("active", "number", "quote_ns", "quotes", "quotes_from", "recent", "sequence", "trade_ns")

    def __init__(self, number: int) -> None:
        self.number = number
        self.active = True  # False: unsubscribed, and what still comes makes no rows
        self.sequence = -1  # of the newest trade
        self.trade_ns = 0  # event time of the newest trade
        self.quote_ns = 0  # event time of the newest quote
        self.recent: deque[int] = deque(maxlen=REMEMBERED)
        self.quotes = Rising()
        self.quotes_from = ""  # the topic that became rows first


class Stream:
    """One topic. Of this kind nothing becomes rows.

    Attributes:
        name: the type that its messages are counted under.
        decode: reads a message.
    """

    def __init__(self, sink: Sink, counts: MessageCounts, heard: Heard, name: str) -> None:
        self.name = name
        self.decode: Callable[[bytes], wire.Message[Any]] = wire.decode_other
        self._sink = sink
        self._counts = counts
        self._heard = heard

    def take(self, message: Any, received_ns: int) -> None:  # noqa: ANN401 - whatever `decode` gives
        """Count one decoded payload."""
        self._drop(self.name)

    def miss(self, received_ns: int) -> None:
        """Write the gap row of a message that can't be used, if it may have held rows."""

    def _drop(self, what: str) -> None:
        unused = self._counts.unused
        unused[what] = unused.get(what, 0) + 1

    def _use(self) -> None:
        used = self._counts.used
        used[self.name] = used.get(self.name, 0) + 1


class TradeStream(Stream):
    """Trades of one instrument."""

    def __init__(self, sink: Sink, counts: MessageCounts, heard: Heard, name: str, instrument: Instrument) -> None:
        super().__init__(sink, counts, heard, name)
        self.decode = wire.decode_match
        self._of = instrument

    def take(self, message: wire.Match, received_ns: int) -> None:
        """Write the trade's row.

        Raises:
            WireError: it can't be used.
        """
        of = self._of
        row = normalize.trade(message, of.number, received_ns)
        if not of.active:
            self._drop("unsubscribed")
            return
        if row[2] <= of.sequence and not self._goes_on_anew(row[2], row[0]):
            return
        of.sequence = row[2]
        of.trade_ns = row[0]
        of.recent.append(row[2])
        self._sink.append(row)
        self._use()

    def miss(self, received_ns: int) -> None:
        """See :meth:`Stream.miss`."""
        self._heard.gap(received_ns, self._of.number, trade_ns=self._of.trade_ns)

    def _goes_on_anew(self, sequence: int, event_ns: int) -> bool:
        """Judge a trade whose sequence does not go up; whether it is written all the same.

        A double is nothing. A late one is missing from here on. One that is later than the newest has a lower sequence
        only if the venue has begun to count anew, and then nobody knows what is missing.
        """
        of = self._of
        if sequence in of.recent:
            self._drop("duplicate")
        elif event_ns <= of.trade_ns:
            self._sink.gap(of.number, GapReason.SEQUENCE, event_ns, of.trade_ns, 1)
            self._drop("late")
        else:
            self._sink.gap(of.number, GapReason.SEQUENCE, of.trade_ns, event_ns)
            return True
        return False


class QuoteStream(Stream):
    """Quotes of one instrument, of either topic."""

    def __init__(self, sink: Sink, counts: MessageCounts, heard: Heard, name: str, instrument: Instrument) -> None:
        super().__init__(sink, counts, heard, name)
        level1 = name == wire.TOPICS[wire.LEVEL1]
        self.decode = wire.decode_level1 if level1 else wire.decode_ticker
        self._normalize = normalize.level1 if level1 else normalize.ticker
        self._order = 0 if level1 else 2  # the field of the row that says which is newer: event_ns or sequence
        self._of = instrument

    def take(self, message: wire.Level1 | wire.Ticker, received_ns: int) -> None:
        """Write the quote's row, unless it is older than one that came before.

        Raises:
            WireError: it can't be used.
        """
        of = self._of
        row = self._normalize(message, of.number, received_ns)  # type: ignore[arg-type]  # `decode` is of the same topic
        if not of.active:
            self._drop("unsubscribed")
        elif of.quotes_from not in ("", self.name):
            self._drop(self.name)
        elif not of.quotes.accept(int(row[self._order])):
            self._drop("stale")
        else:
            of.quotes_from = self.name
            self._sink.append(row)
            of.quote_ns = row[0]
            self._use()

    def miss(self, received_ns: int) -> None:
        """See :meth:`Stream.miss`."""
        self._heard.gap(received_ns, self._of.number, quote_ns=self._of.quote_ns)

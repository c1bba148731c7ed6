"""Messages that can't be used, whatever the venue: since when something may be missing. Pure but for the sink.

What was in it happened after what its kind and instrument told last; after what the whole connection told last, where
the message names no instrument. These are the venue's times. That of the message before it would not do: what comes
now may have happened before that one was received.

Each instrument knows its own; of the whole connection nothing is noted, for that would be paid with every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from backends.backend import Sink
from marketd.feed.continuity import whole_until_ns
from marketd.model import GapReason


class Newest(Protocol):
    """An instrument of a connection, which knows when its newest rows were, by the venue's clock; 0: none came yet."""

    @property
    def trade_ns(self) -> int:
        """Of its trades."""
        ...

    @property
    def quote_ns(self) -> int:
        """Of its quotes."""
        ...


class Heard:
    """What a connection has brought.

    Args:
        instruments: all that there are, as their number grows.
    """

    def __init__(self, sink: Sink, instruments: Mapping[str, Newest]) -> None:
        self._sink = sink
        self._instruments = instruments
        self._begun_ns = 0
        self._known = (-1, 0)

    def begin(self, received_ns: int) -> None:
        """Note a message without rows; the first one counts, until there are rows."""
        self._begun_ns = self._begun_ns or received_ns

    def gap(self, received_ns: int, instrument: int = 0, *, trade_ns: int = 0, quote_ns: int = 0) -> None:
        """Write the gap row of a message that can't be used.

        Args:
            instrument: whose rows it may have held; 0: those of any.
            trade_ns, quote_ns: when the instrument's newest rows were, of the kinds that it may have held.
        """
        since_ns = whole_until_ns(trade_ns, quote_ns) or self._since_ns(received_ns)
        self._sink.gap(instrument, GapReason.MALFORMED, min(since_ns, received_ns), received_ns)

    def _since_ns(self, received_ns: int) -> int:
        """Say since when something of any instrument may be missing; worked out once for all messages of a read."""
        self.begin(received_ns)
        known_ns, since_ns = self._known
        if known_ns != received_ns:
            trade_ns = max((instrument.trade_ns for instrument in self._instruments.values()), default=0)
            quote_ns = max((instrument.quote_ns for instrument in self._instruments.values()), default=0)
            since_ns = whole_until_ns(trade_ns, quote_ns) or self._begun_ns
            self._known = (received_ns, since_ns)
        return since_ns

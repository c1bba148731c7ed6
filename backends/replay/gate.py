"""A sink in front of the feed's: shut, it lets no rows through."""

from __future__ import annotations

from collections.abc import Callable

from backends.backend import RowBlock, Sink
from marketd.model import GapReason, MktPair, Quality
from marketd.ring.layout import Row


class Gate:
    """A :class:`backends.backend.Sink` that begins shut, and remembers the instruments it has seen.

    Once it is open its methods are the real sink's own, so that it costs nothing on the hot path.
    """

    def __init__(self, sink: Sink) -> None:
        self.markets: dict[int, MktPair] = {}
        self._sink = sink
        self.append: Callable[[Row], None] = _drop
        self.append_block: Callable[[RowBlock], None] = _drop
        self.gap = _drop_gap
        self.quality = _drop_quality
        self.publish = sink.publish
        self.message = sink.message

    def open(self) -> None:
        """Let everything through from now on."""
        self.append = self._sink.append
        self.append_block = self._sink.append_block
        self.gap = self._sink.gap
        self.quality = self._sink.quality

    def instrument(self, market: MktPair) -> int:
        """See :class:`backends.backend.Sink`; instruments pass even while it is shut."""
        number = self._sink.instrument(market)
        self.markets[number] = market
        return number

    @property
    def recording(self) -> bool:
        """See :class:`backends.backend.Sink`."""
        return self._sink.recording

    @property
    def last_received_ns(self) -> int:
        """See :class:`backends.backend.Sink`."""
        return self._sink.last_received_ns


def _drop(_row: object) -> None:
    pass


def _drop_gap(instrument: int, reason: GapReason, from_ns: int, to_ns: int, lost: int = -1) -> None:
    pass


def _drop_quality(instrument: int, quality: Quality) -> None:
    pass

"""What a venue's connections leave to each other: each instrument's newest rows, and since when it is without data."""

from __future__ import annotations

from typing import NamedTuple

from backends.backend import Sink
from marketd.feed.qualities import Qualities
from marketd.model import GapReason, Quality
from marketd.ring.layout import Row

# A venue's time may be so much behind ours; a gap begins that much before the last sign of life, or with the
# instrument's newest row if that is later.
SLACK_NS = 60 * 10**9

_QUALITIES = {
    GapReason.STALE: Quality.STALE,
    GapReason.SEQUENCE: Quality.RESYNCING,
    GapReason.CHECKSUM: Quality.RESYNCING,
    GapReason.MAINTENANCE: Quality.CLOSED,
}


class Outage(NamedTuple):
    """An instrument's data is missing since then."""

    from_ns: int
    reason: GapReason


class Tracks:
    """What is known of a venue's instruments across its connections.

    Args:
        qualities: the feed's.
        route: which of the venue's addresses these connections are to.

    Attributes:
        trades, quotes: the newest row of each instrument.
        outages: of the instruments that are without data now.
        duplicates: how many rows came a second time and were dropped.
    """

    def __init__(self, sink: Sink, qualities: Qualities, route: int = 0) -> None:
        self.trades: dict[int, Row] = {}
        self.quotes: dict[int, Row] = {}
        self.outages: dict[int, Outage] = {}
        self.duplicates = 0
        self._sink = sink
        self._qualities = qualities
        self._route = route

    def newest_ns(self, instrument: int) -> int:
        """When an instrument's newest row was, by the venue's clock or by ours, whichever is earlier; 0: never."""
        rows = (self.trades.get(instrument), self.quotes.get(instrument))
        return max((min(row[0], row[1]) for row in rows if row is not None), default=0)

    def begin_outage(self, instrument: int, reason: GapReason, heard_ns: int, now_ns: int) -> None:
        """Note that an instrument's data is missing, if it is not yet; ``heard_ns``: all was well until then."""
        if instrument not in self.outages:
            newest_ns = self.newest_ns(instrument)
            from_ns = max(newest_ns, heard_ns - SLACK_NS) if newest_ns else heard_ns
            self.outages[instrument] = Outage(min(from_ns or now_ns, now_ns), reason)
        self.set_quality(instrument, _QUALITIES.get(reason, Quality.GAP), now_ns)

    def end_outage(self, instrument: int, now_ns: int) -> bool:
        """Write the gap row of an outage that is over, if there was one."""
        self.set_quality(instrument, Quality.OK, now_ns)
        outage = self.outages.pop(instrument, None)
        if outage is None:
            return False
        self._sink.gap(instrument, outage.reason, outage.from_ns, max(outage.from_ns, now_ns))
        return True

    def set_quality(self, instrument: int, quality: Quality, now_ns: int) -> None:
        """Change an instrument's quality, as far as these connections are concerned."""
        self._qualities.set(instrument, quality, now_ns, self._route)

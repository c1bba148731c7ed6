"""What a venue's connections leave to each other: each instrument's newest rows, and since when it is without data."""

from __future__ import annotations

from typing import NamedTuple

from backends.backend import Sink
from marketd.feed.continuity import whole_until_ns
from marketd.feed.habits import Channel, Habits
from marketd.feed.qualities import Qualities
from marketd.model import GapReason, Kind, Quality
from marketd.ring.layout import Row

# A venue's time may be so much behind ours; a gap begins that much before the last sign of life, or where the
# instrument's rows end if that is later.
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
        newest: the newest row of each instrument, by kind of row.
        outages: of the instruments that are without data now.
        habits: how often each of them speaks.
        duplicates: how many rows came a second time and were dropped.
    """

    def __init__(self, sink: Sink, qualities: Qualities, route: int = 0) -> None:
        self.newest: dict[int, dict[int, Row]] = {int(kind): {} for kind in (Kind.TRADE, Kind.QUOTE, Kind.LEVEL)}
        self.outages: dict[int, Outage] = {}
        self.habits = Habits(self.newest)
        self.duplicates = 0
        self._sink = sink
        self._qualities = qualities
        self._route = route

    def newest_ns(self, instrument: int) -> int:
        """When an instrument's newest row was, by the venue's clock or by ours, whichever is earlier; 0: never."""
        return max(self._newest_ns(instrument, kind) for kind in self.newest)

    def _newest_ns(self, instrument: int, kind: int) -> int:
        """The same of one kind."""
        row = self.newest[kind].get(instrument)
        return min(row[:2]) if row is not None else 0

    def begin_outage(self, instrument: int, reason: GapReason, heard_ns: int, now_ns: int) -> None:
        """Note that an instrument's data is missing, if it is not yet; ``heard_ns``: all was well until then."""
        if instrument not in self.outages:
            whole_ns = whole_until_ns(*(self._newest_ns(instrument, kind) for kind in self.newest))
            from_ns = max(whole_ns, heard_ns - SLACK_NS) if whole_ns else heard_ns
            self.outages[instrument] = Outage(min(from_ns or now_ns, now_ns), reason)
        self.set_quality(instrument, _QUALITIES.get(reason, Quality.GAP), now_ns)

    def begin_silence(self, lost: Channel, now_ns: int) -> None:
        """Note that one kind of an instrument's data has been missing for some time; the others may be here still."""
        lost_ns = self._newest_ns(lost.instrument, lost.kind)
        from_ns = whole_until_ns(*(min(lost_ns, self._newest_ns(lost.instrument, kind)) for kind in self.newest))
        self.outages[lost.instrument] = Outage(min(from_ns or now_ns, now_ns), GapReason.STALE)
        self.set_quality(lost.instrument, Quality.STALE, now_ns)

    def end_outage(self, instrument: int, now_ns: int) -> bool:
        """Write the gap row of an outage that is over, if there was one."""
        self.set_quality(instrument, Quality.OK, now_ns)
        self.habits.begin(instrument)
        outage = self.outages.pop(instrument, None)
        if outage is None:
            return False
        self._sink.gap(instrument, outage.reason, outage.from_ns, max(outage.from_ns, now_ns))
        return True

    def set_quality(self, instrument: int, quality: Quality, now_ns: int) -> None:
        """Change an instrument's quality, as far as these connections are concerned."""
        self._qualities.set(instrument, quality, now_ns, self._route)

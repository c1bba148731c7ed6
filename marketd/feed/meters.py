"""What a feed measures of its rows: how late they are, by which clock, and why some are missing.

It sees rows a batch at a time, as they are counted, and never on the way into the ring.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backends.backend import RowBlock
from marketd.clock import SECOND_NS, SystemClock
from marketd.model import Flag, GapReason, Kind
from marketd.observe.histogram import Histogram, Sampled
from marketd.observe.venue_clock import LAG_WINDOW_NS, EventLags, ServerTimes, venue_clock
from marketd.ring import layout
from marketd.rpc.messages import VenueClock

MEASURED_MAX = 2048  # events of a batch, evenly spread: more would say the same, and a quarter second may bring 100,000

_NOT_NEW = np.uint16(Flag.SNAPSHOT | Flag.BACKFILLED | Flag.REVISED | Flag.SYNTHETIC)


class Meters:
    """See the module.

    Args:
        recorded: the feed plays a recording, whose times say nothing about our clock.

    Attributes:
        event_lag: from the venue's time of events to ours.
        publish_lag: from when a message came until readers could see its rows.
        gaps_by_reason: gap rows.
        server_times: what the venue answered when it was asked for its time.
    """

    def __init__(self, *, recorded: bool = False) -> None:
        self.event_lag = Histogram()
        self.publish_lag = Sampled()
        self.gaps_by_reason: dict[str, int] = {}
        self.server_times = ServerTimes()
        self._recorded = recorded
        self._lags = EventLags()
        self._counted: list[tuple[int, int]] = []  # when, and how many rows
        self._clock = SystemClock()

    def note(self, rows: RowBlock, data: RowBlock) -> None:
        """Take rows that were published since the last call, and those of them that are data."""
        now_ns = self._clock.now_ns()
        self._counted.append((now_ns, len(rows)))
        self._count_gaps(rows)
        if not self._recorded:
            lags_ns = fresh_lags_ns(data[:: max(1, len(data) // MEASURED_MAX)])
            self.event_lag.observe_many(lags_ns)
            self._lags.add(lags_ns, now_ns)

    def note_published(self, received_ns: int) -> None:
        """Take notice that a row which came at ``received_ns`` can be read now."""
        if not self._recorded:
            self.publish_lag.observe(self._clock.now_ns() - received_ns)

    def rows_per_s(self) -> float:
        """Return how many rows came in a second, lately."""
        now_ns = self._clock.now_ns()
        self._counted = [(at_ns, rows) for at_ns, rows in self._counted if now_ns - LAG_WINDOW_NS < at_ns <= now_ns]
        return round(sum(rows for _, rows in self._counted) * SECOND_NS / LAG_WINDOW_NS, 1)

    def lag_ms(self) -> float | None:
        """Return what events took lately, on average; None if none came that tells."""
        recent_ns = self._lags.recent_ns(self._clock.now_ns())
        return None if recent_ns is None else round(recent_ns / 1e6, 3)

    def clock(self) -> VenueClock:
        """Say how the venue's clock stands to ours."""
        now_ns = self._clock.now_ns()
        return venue_clock(self.server_times.offset(now_ns), self._lags.least_ns(now_ns), self._lags.jitter_ns(now_ns))

    def _count_gaps(self, rows: RowBlock) -> None:
        gaps = rows[rows["kind"] == Kind.GAP]
        for reason in gaps.view(layout.GAP)["reason"].tolist():
            name = GapReason(reason).name.lower()
            self.gaps_by_reason[name] = self.gaps_by_reason.get(name, 0) + 1


def fresh_lags_ns(data: RowBlock) -> NDArray[np.int64]:
    """Return the lags of those rows of trades, quotes and levels that tell of something new, and when it happened.

    Where a venue gives no time, the time that we received it stands for it.
    """
    lags_ns: NDArray[np.int64] = data["received_ns"] - data["event_ns"]
    fresh: NDArray[np.bool_] = (data["flags"] & _NOT_NEW == 0) & (lags_ns != 0)
    return lags_ns[fresh]

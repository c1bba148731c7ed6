"""How a venue's clock stands to ours, pure. Two witnesses, and what follows from both.

    events        received - event = latency + offset, and no latency is below 0: so the offset (ours minus the
                  venue's) is at most the least that was seen lately. It has no lower bound from this alone.
    server time   asked for in a request that was sent at s and answered at r: the venue's clock was read between the
                  two, so the offset lies in [s - t - resolution, r - t]. Several such ranges are cut with each other.

See NTP's clock filter and Marzullo's algorithm; RFC 5905, 10 and 11.2.1. Jitter is RFC 3550's, 6.4.1: how much the
transit time changes from one event to the next, whatever the clocks are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketd.clock import MILLISECOND_NS, SECOND_NS
from marketd.rpc.messages import VenueClock

EVENTS_WINDOW_NS = 60 * SECOND_NS
LAG_WINDOW_NS = 5 * SECOND_NS
BATCHES_MIN = 4  # then the least of them may be a mistake, and the one after it counts
ANSWERS_MAX = 16
# Crystals are wrong by up to 50 millionths: by so much a range that was true gets wider as it ages.
DRIFT = 50e-6
SKEW_NS = SECOND_NS // 2  # as late as ticks may be for their bars, by default


class _Batch(NamedTuple):
    now_ns: int
    least_ns: int
    sum_ns: int
    events: int
    change_ns: int  # the sum of the changes from one to the next
    changes: int


class EventLags:
    """What events took lately, from the venue's clock to ours."""

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque()
        self._last_ns: int | None = None

    def add(self, lags_ns: NDArray[np.int64], now_ns: int) -> None:
        """Take the lags of some events, in order, shape ``(n,)``."""
        if not len(lags_ns):
            return
        changes = np.abs(np.diff(lags_ns, prepend=lags_ns[0] if self._last_ns is None else self._last_ns))
        changes = changes[1:] if self._last_ns is None else changes
        self._last_ns = int(lags_ns[-1])
        self._batches.append(
            _Batch(now_ns, int(lags_ns.min()), int(lags_ns.sum()), len(lags_ns), int(changes.sum()), len(changes))
        )
        self._forget(now_ns)

    def least_ns(self, now_ns: int) -> int | None:
        """Return the least lag of the last minute, but for a single batch that may hold a wrong time."""
        self._forget(now_ns)
        least = sorted(batch.least_ns for batch in self._batches)
        return least[1 if len(least) >= BATCHES_MIN else 0] if least else None

    def jitter_ns(self, now_ns: int) -> int | None:
        """Return by how much the lag changes from one event to the next, on average."""
        self._forget(now_ns)
        changes = sum(batch.changes for batch in self._batches)
        return sum(batch.change_ns for batch in self._batches) // changes if changes else None

    def recent_ns(self, now_ns: int) -> int | None:
        """Return the average lag of the last seconds."""
        self._forget(now_ns)
        recent = [batch for batch in self._batches if batch.now_ns > now_ns - LAG_WINDOW_NS]
        return sum(batch.sum_ns for batch in recent) // sum(batch.events for batch in recent) if recent else None

    def _forget(self, now_ns: int) -> None:
        # A clock that was set back leaves batches of the future: those say nothing about it any more.
        while self._batches and not now_ns - EVENTS_WINDOW_NS < self._batches[0].now_ns <= now_ns:
            self._batches.popleft()


class OffsetRange(NamedTuple):
    """Where an offset lies: ours minus the venue's, both bounds included."""

    low_ns: int
    high_ns: int

    @property
    def middle_ns(self) -> int:
        """The best guess."""
        return (self.low_ns + self.high_ns) // 2

    @property
    def uncertainty_ns(self) -> int:
        """How far it may be wrong."""
        return (self.high_ns - self.low_ns + 1) // 2


class ServerTimes:
    """What the venue has answered when it was asked for its time."""

    def __init__(self) -> None:
        self._answers: deque[tuple[int, OffsetRange]] = deque(maxlen=ANSWERS_MAX)

    def add(self, sent_ns: int, received_ns: int, server_ns: int, resolution_ns: int) -> None:
        """Take an answer.

        Args:
            sent_ns, received_ns: of the request and its answer, by our clock.
            server_ns: the venue's time, cut off to ``resolution_ns``.
        """
        if received_ns < sent_ns:
            return  # the clock was set back meanwhile
        found = OffsetRange(sent_ns - server_ns - resolution_ns, received_ns - server_ns)
        self._answers.append((received_ns, found))

    def offset(self, now_ns: int) -> OffsetRange | None:
        """Cut the ranges of the answers with each other, the newest first, as far as they agree; None: no answer.

        An older one that does not agree is of a time before a clock was set, and so are those before it.
        """
        low_ns, high_ns = -(1 << 62), 1 << 62
        for at_ns, found in reversed(self._answers):
            slack_ns = round(abs(now_ns - at_ns) * DRIFT)
            low, high = max(low_ns, found.low_ns - slack_ns), min(high_ns, found.high_ns + slack_ns)
            if low > high:
                break
            low_ns, high_ns = low, high
        return OffsetRange(low_ns, high_ns) if self._answers else None


def venue_clock(offset: OffsetRange | None, least_ns: int | None, jitter_ns: int | None) -> VenueClock:
    """Say what both witnesses come to."""
    lag_min_ms, jitter_ms = _ms(least_ns), _ms(jitter_ns)
    if offset is not None:
        return VenueClock(_ms(offset.middle_ns), _ms(offset.uncertainty_ns), "server_time", lag_min_ms, jitter_ms)
    if least_ns is not None and least_ns < 0:
        return VenueClock(lag_min_ms, None, "events", lag_min_ms, jitter_ms)
    return VenueClock(lag_min_ms=lag_min_ms, jitter_ms=jitter_ms)


class Skew(NamedTuple):
    """Our clock is wrong by so much (positive: it is ahead), as these venues say, against ``others``."""

    offset_ms: float
    venues: list[str]
    others: int


def find_skew(clocks: Mapping[str, VenueClock]) -> Skew | None:
    """Say whether this machine's clock is wrong, and not a venue's: more than half of those that can tell must say so.

    Each tells by its server's time, beyond what that may be wrong by; or by events that came before they happened.
    """
    ahead = {name: by for name, clock in clocks.items() if (by := _surely_ahead_ms(clock)) > 0}
    behind = {name: by for name, clock in clocks.items() if (by := _surely_behind_ms(clock)) > 0}
    told = [name for name, clock in clocks.items() if clock.source or clock.lag_min_ms is not None]
    for found, sign in ((ahead, 1), (behind, -1)):
        if 2 * len(found) > len(told):
            middle = sorted(found.values())[len(found) // 2]
            return Skew(sign * middle, sorted(found), len(told) - len(found))
    return None


def _surely_ahead_ms(clock: VenueClock) -> float:
    """By how much our clock is ahead of what is allowed at least; 0 if it need not be."""
    if clock.offset_ms is None or clock.uncertainty_ms is None:
        return 0.0
    return _beyond(clock.offset_ms, clock.offset_ms - clock.uncertainty_ms)


def _surely_behind_ms(clock: VenueClock) -> float:
    if clock.source == "events" and clock.offset_ms is not None:
        return _beyond(-clock.offset_ms, -clock.offset_ms)
    by_answers = by_events = 0.0
    if clock.offset_ms is not None and clock.uncertainty_ms is not None:
        by_answers = _beyond(-clock.offset_ms, -clock.offset_ms - clock.uncertainty_ms)
    if clock.lag_min_ms is not None:
        by_events = _beyond(-clock.lag_min_ms, -clock.lag_min_ms)
    return max(by_answers, by_events)


def _beyond(value_ms: float, sure_ms: float) -> float:
    return value_ms if sure_ms > SKEW_NS / MILLISECOND_NS else 0.0


def _ms(value_ns: int | None) -> float | None:
    return None if value_ns is None else round(value_ns / MILLISECOND_NS, 3)

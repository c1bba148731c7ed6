"""Histograms of delays, cheap enough for hot paths: a fixed row of logarithmic buckets, counted a batch at a time.

All histograms have the same buckets, so those of several lives or processes add up, and Prometheus can do so too.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from marketd.clock import SECOND_NS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# 10 us, 20 us, 50 us ... 50 s, 100 s. What is longer than the last bound has a bucket of its own.
BOUNDS_NS: tuple[int, ...] = (*(step * 10**power for power in range(4, 11) for step in (1, 2, 5)), 10**11)
BOUNDS_S: tuple[float, ...] = tuple(bound_ns / SECOND_NS for bound_ns in BOUNDS_NS)


class HistogramReport(msgspec.Struct, frozen=True, array_like=True):
    """Counts for each bucket, the last for what is beyond all bounds, and the sum of all delays. Empty: nothing yet."""

    counts: list[int] = []
    sum_ns: int = 0

    @property
    def total(self) -> int:
        """How many delays were counted."""
        return sum(self.counts)

    def quantile_ms(self, part: float) -> float | None:
        """Return a delay that ``part`` of all do not exceed, in ms: the upper bound of its bucket; None: nothing yet.

        What is beyond all bounds counts as twice the last.
        """
        wanted, reached = part * self.total, 0
        for bound_ns, count in zip((*BOUNDS_NS, 2 * BOUNDS_NS[-1]), self.counts, strict=False):
            reached += count
            if count and reached >= wanted:
                return bound_ns / 1e6
        return None


class Histogram:
    """Counts delays. A delay below 0, as skewed clocks give it, counts as 0."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_NS) + 1)
        self._sum_ns = 0

    def observe(self, delay_ns: int) -> None:
        """Count one delay."""
        self._counts[bisect.bisect_left(BOUNDS_NS, delay_ns)] += 1
        self._sum_ns += max(0, delay_ns)

    def observe_many(self, delays_ns: NDArray[np.int64]) -> None:
        """Count many delays, shape ``(n,)``."""
        import numpy as np  # here: the links of actors know histograms, and an actor should be up before it has numpy

        delays_ns = np.maximum(delays_ns, 0)
        found = np.bincount(np.searchsorted(BOUNDS_NS, delays_ns), minlength=len(self._counts))
        self._counts = [count + int(more) for count, more in zip(self._counts, found, strict=True)]
        self._sum_ns += int(delays_ns.sum())

    def report(self) -> HistogramReport:
        """Return what was counted so far."""
        return HistogramReport(list(self._counts), self._sum_ns)


def merged(reports: Iterable[HistogramReport]) -> HistogramReport:
    """Add histograms up."""
    reports = list(reports)
    counts = [sum(each) for each in itertools.zip_longest(*(report.counts for report in reports), fillvalue=0)]
    return HistogramReport(counts, sum(report.sum_ns for report in reports))


class Sampled:
    """A histogram of what happens too often to be looked at each time: at most so many between two reports.

    When little happens everything is counted; when much does, the first of each quarter of a second.
    """

    def __init__(self, between_reports: int = 64) -> None:
        self.left = between_reports
        self._between_reports = between_reports
        self._histogram = Histogram()

    def observe(self, delay_ns: int) -> None:
        """Count a delay; for callers that have seen that some are ``left``."""
        self.left -= 1
        self._histogram.observe(delay_ns)

    def report(self) -> HistogramReport:
        """Return what was counted so far, and let some more be counted."""
        self.left = self._between_reports
        return self._histogram.report()

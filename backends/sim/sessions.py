"""When a simulated venue is open. Its own time stands still while it is closed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.clock import SECOND_NS

DAY_S = 86_400
_TIME = re.compile(r"(\d{1,3}):([0-5]\d)(?::([0-5]\d))?")

Times = npt.NDArray[np.int64]


class Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Open from ``open`` until ``close``, ``HH:MM`` or ``HH:MM:SS`` after the period's beginning; not over its end."""

    open: str
    close: str


class Sessions:
    """Sessions that repeat each period, periods being counted from 1970-01-01 UTC.

    ``elapsed`` time is the time that the venue has been open since then.

    Raises:
        ValueError: a time is none, or sessions are empty, overlap, or don't fit into the period.
    """

    def __init__(self, sessions: Sequence[Session], period_s: int = DAY_S) -> None:
        self._period_ns = period_s * SECOND_NS
        spans = sorted((_seconds(session.open), _seconds(session.close)) for session in sessions) or [(0, period_s)]
        edges = [edge for span in spans for edge in span]
        rising = all(left < right for left, right in spans) and all(
            left[1] <= right[0] for left, right in itertools.pairwise(spans)
        )
        if not rising or edges[-1] > period_s:
            raise ValueError(f"sessions must follow each other and end within {period_s} s")
        self.always = spans == [(0, period_s)]
        self._opens = np.array([left for left, _ in spans], np.int64) * SECOND_NS
        self._closes = np.array([right for _, right in spans], np.int64) * SECOND_NS
        lengths = self._closes - self._opens
        self._before = np.concatenate(([0], np.cumsum(lengths)))  # open time of a period before each session
        self._open_ns = int(self._before[-1])

    def is_open(self, time_ns: int) -> bool:
        """Whether the venue is open at this time; it is at ``open`` and is not at ``close``."""
        inside = time_ns % self._period_ns
        return bool(np.any((self._opens <= inside) & (inside < self._closes)))

    def next_change_ns(self, after_ns: int) -> int | None:
        """When the venue opens or closes next, after this time; None if never."""
        if self.always:
            return None
        period, inside = divmod(after_ns, self._period_ns)
        edges = sorted({*self._opens.tolist(), *self._closes.tolist()})
        edge = next((edge for edge in edges if edge > inside), edges[0] + self._period_ns)
        return int(period * self._period_ns + edge)

    def elapsed_ns(self, time_ns: int) -> int:
        """Convert a time to elapsed time."""
        period, inside = divmod(time_ns, self._period_ns)
        within = np.clip(inside - self._opens, 0, self._closes - self._opens).sum()
        return int(period * self._open_ns + int(within))

    def times_ns(self, elapsed_ns: Times) -> Times:
        """Convert elapsed times to times; the first nanosecond of a session is its ``open``."""
        if self.always:
            return elapsed_ns
        period, inside = np.divmod(elapsed_ns, self._open_ns)
        session = np.searchsorted(self._before, inside, side="right") - 1
        return period * self._period_ns + self._opens[session] + inside - self._before[session]


def _seconds(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time of day: HH:MM or HH:MM:SS is")
    return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)

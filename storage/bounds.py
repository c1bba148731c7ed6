"""The edge at which times of any sort become nanoseconds."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np

from marketd.clock import SECOND_NS
from storage.intervals import Range

Bound = int | float | datetime | np.datetime64 | None

BEGIN_NS, END_NS = -(1 << 63), (1 << 63) - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_BELOW = 10**12
_NANOSECONDS_FROM = 10**17


def to_ns(bound: int | float | datetime | np.datetime64) -> int:
    """Read a time: a datetime (UTC if it names no zone), seconds as a float, or seconds or nanoseconds as an int.

    Whole numbers below 10^12 are seconds, and from 10^17 on (March 1973) nanoseconds. Between them are milli- and
    microseconds, which are refused: they would be taken for times that are not meant. A numpy datetime is exact, and
    of any year. Floats are exact to the microsecond, as today's are.

    Raises:
        ValueError: it is none of these.
    """
    at_ns = _read(bound)
    if not BEGIN_NS <= at_ns <= END_NS:
        raise ValueError(f"{bound!r} is no time of the years 1678 to 2261, as 64 bits of nanoseconds are")
    return at_ns


def exactly(at_ns: int) -> np.datetime64:
    """Make a time that :func:`to_ns` takes for these nanoseconds, whichever they are."""
    return np.datetime64(at_ns, "ns")


def to_range(start: Bound, end: Bound) -> Range:
    """Read both ends of ``[start, end)``; None is as far as there is anything.

    Raises:
        ValueError: see :func:`to_ns`.
    """
    return (BEGIN_NS if start is None else to_ns(start), END_NS if end is None else to_ns(end))


def _read(bound: int | float | datetime | np.datetime64) -> int:
    if isinstance(bound, np.datetime64):
        return int(bound.astype("datetime64[ns]").astype(np.int64))
    if isinstance(bound, datetime):
        aware = bound if bound.tzinfo is not None else bound.replace(tzinfo=UTC)
        return (aware - _EPOCH) // timedelta(microseconds=1) * 1000
    if isinstance(bound, bool) or not isinstance(bound, int | float | np.integer | np.floating):
        raise ValueError(f"{bound!r} is no time: an int, a float or a datetime is")  # noqa: TRY004 - one type for callers
    if isinstance(bound, int | np.integer):
        if abs(bound) < _SECONDS_BELOW:
            return int(bound) * SECOND_NS
        if abs(bound) < _NANOSECONDS_FROM:
            raise ValueError(f"{bound} is neither seconds nor nanoseconds since 1970")
        return int(bound)
    if not math.isfinite(bound) or abs(bound) >= _SECONDS_BELOW:
        raise ValueError(f"{bound} is no number of seconds since 1970")
    return round(float(bound) * 1_000_000) * 1000

"""When a market is open: trading calendars by name, as int64 nanoseconds since the epoch, UTC. Pure.

    24/7      always open, and the only one that is known without the library
    CME_FX    CME's currency futures, also as CME_Currency (`cme_fx.py` says why not the library's CMES)
    XNYS …    what the library exchange_calendars has, with its other names, such as NYSE

The first question about any other than 24/7 loads the library and pandas, and builds that calendar: it takes seconds,
so an actor that may not wait asks it in a thread. What was built is kept.

Hours are known from 1990 to 2049, or for as long as the library says (some exchanges fix their holidays a year ahead):
:func:`bounds` tells. Beyond, a market counts as open: what is not there then is looked for in vain, which does no harm,
where data that nobody misses would be lost in silence.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from marketd.config_check import suggest
from marketd.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ALWAYS = "24/7"
_CME_FX = ("CME_FX", "CME_Currency")
_FIRST_DAY, _LAST_DAY = "1990-01-01", "2049-12-31"
_MIN_NS, _MAX_NS = -(1 << 63), (1 << 63) - 1
_NO_BREAK_NS = _MIN_NS  # how pandas says that there is none: NaT


class _Hours(NamedTuple):
    """Open and close of each span in order. Spans neither touch nor overlap; the first and the last never end."""

    opens_ns: list[int]
    closes_ns: list[int]
    bounds_ns: tuple[int, int]


def known(name: str) -> bool:
    """Whether there is a calendar of this name; case counts."""
    return name == ALWAYS or name in _names()


def bounds(name: str) -> tuple[int, int]:
    """Return the range ``[start_ns, end_ns)`` in which the hours are known; beyond it the market counts as open.

    Raises:
        ConfigError: there is no calendar of this name; the text has the nearest.
    """
    return _hours(name).bounds_ns


def sessions(name: str, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
    """Return when the market is open in ``[start_ns, end_ns)``.

    Returns:
        Spans ``[open_ns, close_ns)``, in order, cut to the range. Lunch breaks are no part of them. Where one session
        begins as another ends they are one span: those of a range that was cut in two differ from those of the whole
        in that cut alone.

    Raises:
        ConfigError: see :func:`bounds`.
    """
    hours = _hours(name)
    if start_ns >= end_ns:
        return []
    first = bisect_right(hours.closes_ns, start_ns)
    last = bisect_right(hours.opens_ns, end_ns - 1)
    spans = zip(hours.opens_ns[first:last], hours.closes_ns[first:last], strict=True)
    return [(max(open_ns, start_ns), min(close_ns, end_ns)) for open_ns, close_ns in spans]


def is_open(name: str, at_ns: int) -> bool:
    """Whether the market is open at a time; it is at its open, and no more at its close.

    Raises:
        ConfigError: see :func:`bounds`.
    """
    return bool(sessions(name, at_ns, at_ns + 1))


def expected_gaps(name: str, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
    """Return when the market is closed in ``[start_ns, end_ns)``: what :func:`sessions` leaves, in order.

    Raises:
        ConfigError: see :func:`bounds`.
    """
    edges = [start_ns, *(edge for span in sessions(name, start_ns, end_ns) for edge in span), end_ns]
    return [(from_ns, to_ns) for from_ns, to_ns in list(pairwise(edges))[::2] if from_ns < to_ns]


@cache
def _names() -> frozenset[str]:
    import exchange_calendars

    return frozenset((*exchange_calendars.get_calendar_names(), *_CME_FX))


@cache
def _hours(name: str) -> _Hours:
    if name == ALWAYS:
        return _Hours([_MIN_NS], [_MAX_NS], (_MIN_NS, _MAX_NS))
    if not known(name):
        raise ConfigError(f"there is no calendar {name!r}; {suggest(name, _names() | {ALWAYS})}")
    calendar = _build(name)
    opens_ns, closes_ns = _spans(
        calendar.opens_nanos, calendar.break_starts_nanos, calendar.break_ends_nanos, calendar.closes_nanos
    )
    within_ns = (opens_ns[0], closes_ns[-1])
    return _Hours([_MIN_NS, *opens_ns[1:]], [*closes_ns[:-1], _MAX_NS], within_ns)


def _build(name: str) -> Any:  # noqa: ANN401 - the library has no types
    """Build a calendar of all the days that it knows of ours."""
    import exchange_calendars
    import pandas as pd

    if name in _CME_FX:
        from marketd.cme_fx import CmeFxCalendar

        type_ = CmeFxCalendar
    else:
        type_ = type(exchange_calendars.get_calendar(name))
    first, last = pd.Timestamp(_FIRST_DAY), pd.Timestamp(_LAST_DAY)
    return type_(start=max(first, type_.bound_min() or first), end=min(last, type_.bound_max() or last))


def _spans(
    opens_ns: npt.NDArray[np.int64],
    break_starts_ns: npt.NDArray[np.int64],
    break_ends_ns: npt.NDArray[np.int64],
    closes_ns: npt.NDArray[np.int64],
) -> tuple[list[int], list[int]]:
    """Part sessions at their breaks, and join what touches."""
    breaks = break_starts_ns != _NO_BREAK_NS
    every_open_ns = sorted([*opens_ns.tolist(), *break_ends_ns[breaks].tolist()])
    every_close_ns = sorted([*closes_ns.tolist(), *break_starts_ns[breaks].tolist()])
    joints = set(every_open_ns) & set(every_close_ns)
    return (
        [open_ns for open_ns in every_open_ns if open_ns not in joints],
        [close_ns for close_ns in every_close_ns if close_ns not in joints],
    )

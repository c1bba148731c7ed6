"""What bars are made of: periods of time (``1m``), and counts, volumes and values of trades (``1000t 50v 1e6d``).

A series of bars is named by its period, as in the kinds ``bar.1m`` and ``bar.50v``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from marketd.clock import SECOND_NS

Measure = Literal["time", "trades", "volume", "value"]

DAY_NS = 86_400 * SECOND_NS
DEFAULT_PERIODS = ("1s", "5s", "15s", "1m", "5m", "15m", "1h", "4h", "1d")

_UNITS_NS = {"s": SECOND_NS, "m": 60 * SECOND_NS, "h": 3600 * SECOND_NS, "d": DAY_NS}
_MEASURES: dict[str, Measure] = {"t": "trades", "v": "volume", "d": "value"}
_TIME = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_ACTIVITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,12})?(?:e[0-9]{1,2})?)([tvd])")


class Period(NamedTuple):
    """What ends a bar.

    Attributes:
        name: as it is written: ``1m``, ``1000t``.
        measure: what is counted: time, trades, their volume, or their value (price times size).
        size: how much of it makes a bar. Time is in nanoseconds.
    """

    name: str
    measure: Measure
    size: float

    @property
    def period_ns(self) -> int:
        """The length of a time bar; 0 for others, which last as long as they last."""
        return int(self.size) if self.measure == "time" else 0


def parse_period(text: str) -> Period:
    """Read ``1s 5m 4h 1d``, the periods of time bars. They begin at whole multiples since 1970-01-01 UTC.

    Raises:
        ValueError: it is none, or longer than a day.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no period: a number and s, m, h or d is, as in 1s, 5m, 4h, 1d")
    period_ns = int(found[1]) * _UNITS_NS[found[2]]
    if period_ns > DAY_NS:
        raise ValueError(f"{text!r} is longer than a day, the longest period that bars are made of here")
    return Period(print_period(period_ns), "time", period_ns)


def print_period(period_ns: int) -> str:
    """Write a time period in its largest whole unit: 60 s are ``1m``."""
    unit = next(unit for unit in ("d", "h", "m", "s") if period_ns % _UNITS_NS[unit] == 0)
    return f"{period_ns // _UNITS_NS[unit]}{unit}"


def parse_activity(text: str) -> Period:
    """Read ``1000t`` (trades), ``50v`` (volume), ``1e6d`` (value, in what the instrument is paid with).

    Raises:
        ValueError: it is none of these.
    """
    found = _ACTIVITY.fullmatch(text)
    size = float(found[1]) if found is not None else 0.0
    if found is None or size <= 0 or (found[2] == "t" and size != int(size)):
        raise ValueError(f"{text!r} is no bar of activity: 1000t (trades), 50v (volume) and 1e6d (value) are")
    return Period(text, _MEASURES[found[2]], size)


def parse_any(text: str) -> Period:
    """Read a period of either sort. ``1d`` is a day.

    Raises:
        ValueError: it is neither.
    """
    return parse_period(text) if _TIME.fullmatch(text) else parse_activity(text)


def check_periods(periods: Iterable[str]) -> list[str]:
    """Say what is wrong with a list of time periods; nothing is if they are distinct multiples of the shortest."""
    problems = []
    lengths_ns = []
    for text in periods:
        try:
            lengths_ns.append(parse_period(text).period_ns)
        except ValueError as error:
            problems.append(str(error))
    if problems or not lengths_ns:
        return problems
    base_ns = min(lengths_ns)
    for length_ns in sorted(set(lengths_ns)):
        if lengths_ns.count(length_ns) > 1:
            problems.append(f"{print_period(length_ns)} is there more than once")
        if length_ns % base_ns:
            problems.append(f"{print_period(length_ns)} is no multiple of {print_period(base_ns)}, the shortest")
    return problems

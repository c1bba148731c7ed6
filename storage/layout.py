"""Where rows lie: ``<store>/<backend>/<instrument>/<kind or period>/<partition>.parquet``. Pure.

A partition is a day, a month or a year, UTC, and named after it: ``2024-01-05``, ``2024-01``, ``2024``.

- A day for ticks and for periods below an hour. The newest partition is written again at each flush; a day of 1 s bars
  is 86,400 rows, some 15 ms, a month of them would be half a second.
- A month for periods of an hour and more, a year for a day: files of some hundred rows. Smaller ones would cost more to
  open than to read.

Days that are over may be merged into their month, and months into their year (`merge.py`). A file hides those whose
partition lies within its own: then a merge that was killed half way shows no row twice.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from marketd.clock import SECOND_NS
from marketd.errors import StorageError
from marketd.periods import DAY_NS, parse_period
from storage.intervals import Range
from storage.schema import BARS, TICKS, Schema

SUFFIX = ".parquet"
_FORMATS = ("%Y-%m-%d", "%Y-%m", "%Y")


class Grain(enum.IntEnum):
    """How long partitions are."""

    DAY = 0
    MONTH = 1
    YEAR = 2


class Series(NamedTuple):
    """Rows of one sort of one instrument: ``what`` is a time period (``1m``), ``trade`` or ``quote``."""

    fqme: str
    what: str

    def __str__(self) -> str:
        return f"{self.fqme} {self.what}"

    @property
    def schema(self) -> Schema:
        """Its rows."""
        return TICKS.get(self.what, BARS)

    @property
    def period_ns(self) -> int:
        """How long a row lasts; a tick lasts for 1 ns."""
        return 1 if self.what in TICKS else parse_period(self.what).period_ns


class Partition(NamedTuple):
    """A range of time that has a file of its own."""

    name: str
    start_ns: int
    end_ns: int

    @property
    def grain(self) -> Grain:
        """How long it is."""
        return Grain(2 - self.name.count("-"))

    def holds(self, other: Partition) -> bool:
        """Whether all of the other one, and more, lies in this one."""
        return self.start_ns <= other.start_ns and other.end_ns <= self.end_ns and self != other


def check_what(what: str) -> str:
    """Return how a sort of rows is written: 60s are ``1m``.

    Raises:
        StorageError: there is none of this name that can be stored.
    """
    if what in TICKS:
        return what
    try:
        return parse_period(what).name
    except ValueError as error:
        raise StorageError(f"{error}; {' and '.join(TICKS)} are stored too") from error


def grain_of(what: str) -> Grain:
    """Return how long the partitions of a sort of rows are when they are written first."""
    if what in TICKS:
        return Grain.DAY
    period_ns = parse_period(what).period_ns
    if period_ns < 3600 * SECOND_NS:
        return Grain.DAY
    return Grain.MONTH if period_ns < DAY_NS else Grain.YEAR


def partition_at(at_ns: int, grain: Grain) -> Partition:
    """Return the partition that a time lies in.

    Raises:
        StorageError: it is not in the years 1970 to 2261, as 64 bits of nanoseconds are.
    """
    if not 0 <= at_ns < _MAX_NS:
        raise StorageError(f"the time {at_ns} ns is not in the years 1970 to 2261")
    moment = datetime.fromtimestamp(at_ns // SECOND_NS, UTC)
    found = parse_partition(moment.strftime(_FORMATS[grain]))
    assert found is not None
    return found


@lru_cache(maxsize=1 << 16)  # reading a date takes longer than finding its file
def parse_partition(name: str) -> Partition | None:
    """Read a partition's name; None if it is none."""
    grain = 2 - name.count("-")
    if not 0 <= grain <= 2:
        return None
    try:
        start = datetime.strptime(name, _FORMATS[grain]).replace(tzinfo=UTC)
    except ValueError:
        return None
    if start.strftime(_FORMATS[grain]) != name or not 1970 <= start.year <= 2261:
        return None
    match grain:
        case Grain.DAY:
            return Partition(name, _ns(start), _ns(start) + DAY_NS)
        case Grain.MONTH:
            after = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
        case _:
            after = start.replace(year=start.year + 1)
    return Partition(name, _ns(start), _ns(after))


def visible(partitions: Iterable[Partition]) -> list[Partition]:
    """Return those that no longer one holds, in order of time."""
    shown: list[Partition] = []
    for partition in sorted(partitions, key=lambda each: (each.start_ns, -each.end_ns)):
        if not shown or not shown[-1].holds(partition):
            shown.append(partition)
    return shown


def overlapping(partitions: Iterable[Partition], span: Range) -> list[Partition]:
    """Return those that have some of a range, in the order given."""
    return [each for each in partitions if each.start_ns < span[1] and span[0] < each.end_ns]


def _ns(moment: datetime) -> int:
    return int(moment.timestamp()) * SECOND_NS


_MAX_NS = _ns(datetime(2262, 1, 1, tzinfo=UTC))

"""What is told of a series: at a glance, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from storage.layout import Series


class SeriesFacts(NamedTuple):
    """A series at a glance. ``end_ns`` is the end of the newest row, ``bytes`` what it takes on the disk."""

    series: Series
    rows: int
    start_ns: int
    end_ns: int
    files: int
    bytes: int
    calendar: str


class Finding(NamedTuple):
    """Something wrong with a series: in which file, what, and whether repair puts it right."""

    series: Series
    file: Path
    what: str
    repairable: bool

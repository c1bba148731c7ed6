"""What a file holds, as far as the ledger must know."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from storage import files
from storage.bounds import BEGIN_NS, END_NS
from storage.combine import runs
from storage.intervals import Range
from storage.layout import Series


class Contents(NamedTuple):
    """What a file holds: how many rows, and the ranges that whole ones follow each other in."""

    rows: int
    runs: list[Range]


def read_contents(path: Path, series: Series) -> Contents:
    """Read what a file holds.

    Raises:
        Damaged: it can't be read.
    """
    columns = [series.schema.time, "state"]
    rows = files.read(path, series.schema, (BEGIN_NS, END_NS), columns)
    return Contents(len(rows), runs(rows, series.schema, series.period_ns))

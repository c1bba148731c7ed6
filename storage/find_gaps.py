"""The gaps of a stored series: what `gaps.py` says of its rows, its coverage and its market's hours."""

from __future__ import annotations

from marketd import calendars
from storage.bounds import exactly
from storage.client import StorageClient
from storage.gaps import Gap, detect_time_gaps
from storage.intervals import Range
from storage.layout import Series


def find_gaps(store: StorageClient, series: Series, span: Range, calendar: str) -> list[Gap]:
    """Return what is not there of a range, in order of time.

    Raises:
        StorageError: the store can't be read.
    """
    # As whole bars: one that begins before the range may still be in it.
    rows = store.read(series, *map(exactly, span), columns=["open_ns", "state"])
    return detect_time_gaps(
        rows,
        series.period_ns,
        closed=calendars.expected_gaps(calendar, *span),
        coverage=store.coverage(series),
        span=span,
    )

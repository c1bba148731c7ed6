"""What the daemon and the command line need of a store, whatever it is kept in: the port, and how to open one."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import polars as pl

from marketd.errors import StorageConnectionError, StorageError
from storage.bounds import Bound
from storage.coverage import Coverage
from storage.facts import Finding, SeriesFacts
from storage.intervals import Range
from storage.layout import Series
from storage.writer import SeriesWriter

BACKENDS = ("nativedb",)


class StorageClient(Protocol):
    """A store. All calls block; an actor makes them in a thread. Times that are asked for may be of any sort that
    :func:`storage.bounds.to_ns` reads, ranges are half-open, and times that are returned are int64 ns, UTC.

    A series is found under its instrument's name with and without the currency it is paid with, where that is a fiat.
    """

    def series(self) -> list[Series]:
        """Return all series, in order of name.

        Raises:
            StorageError: the store can't be read.
        """
        ...

    def span(self, series: Series) -> Range | None:
        """Return the first row's time and the end of the last one; None without any. Raises as :meth:`read`."""
        ...

    def facts(self, series: Series) -> SeriesFacts | None:
        """Return a series at a glance; None if there is none. Raises as :meth:`read`."""
        ...

    def read(
        self,
        series: Series,
        start: Bound = None,
        end: Bound = None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        newest: bool = True,
    ) -> pl.DataFrame:
        """Return the rows of ``[start, end)``, in order of time; an empty frame if there are none.

        A file that is damaged is put in quarantine and reported, and the rows of the others are returned.

        Args:
            columns: which to return, in this order; all if None.
            limit: at most so many rows, the newest of the range or the oldest.

        Raises:
            ValueError: a bound is no time.
            StorageError: the series' name is none, there is no such column, or the store can't be read.
        """
        ...

    def coverage(self, series: Series) -> Coverage:
        """Return what is known of a series; nothing if there is none. Raises as :meth:`read`."""
        ...

    def writer(self, series: Series) -> contextlib.AbstractContextManager[SeriesWriter]:
        """Take a series for writing, and make it if there is none; what a killed writer left is put right first.

        Raises:
            SeriesBusy: another writer has it.
            StorageError: it can't be written to.
        """
        ...

    def check(self, series: Series) -> list[Finding]:
        """Read all of a series and say what is wrong; nothing is changed. Raises as :meth:`read`."""
        ...


OnDamage = Callable[[StorageError], None]


@contextlib.contextmanager
def open_storage_client(
    root: Path, backend: str = "nativedb", *, on_damage: OnDamage | None = None
) -> Iterator[StorageClient]:
    """Open a store for as long as the block lasts.

    Args:
        root: its folder; made when something is written.
        on_damage: called for each damaged file that is found, with a text that names it; logged if None.

    Raises:
        StorageConnectionError: the store can't be reached; a text for the operator says why.
    """
    if backend not in BACKENDS:
        raise StorageConnectionError(f"there is no storage backend {backend!r}: there are {', '.join(BACKENDS)}")
    module = importlib.import_module(f"storage.{backend}")
    yield module.open_store(root, on_damage)

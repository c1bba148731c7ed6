"""Reading a series while others write to it. Needs no lock.

What a reader sees of a partition is what it held at one moment. A write to several partitions is seen one by one.

A merge puts a month's file in place before it removes the days, so a listing that was made meanwhile could have missed
both. Two equal listings in a row could not: nothing was removed before the second one began, or a file that stands for
what was removed would be in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import polars as pl

from marketd.errors import StorageError
from storage import files
from storage.files import Damaged
from storage.intervals import Range
from storage.layout import SUFFIX, Partition, Series, overlapping, parse_partition, visible

OnDamage = Callable[[Damaged], None]
LISTINGS_MAX = 1000


def list_partitions(folder: Path) -> list[Partition]:
    """Return the partitions that have files, hidden ones too, as they were at one moment; none if there is no folder.

    Raises:
        StorageError: the folder can't be read, or never stays the same.
    """
    before: set[str] | None = None
    for _ in range(LISTINGS_MAX):
        now = _names(folder)
        if now == before:
            found = (parse_partition(name.removesuffix(SUFFIX)) for name in now)
            return sorted(partition for partition in found if partition is not None)
        before = now
    raise StorageError(f"{folder} never stays the same for as long as it takes to list it")


def path_of(folder: Path, partition: Partition) -> Path:
    """Return the file of a partition."""
    return folder / f"{partition.name}{SUFFIX}"


def scan(
    folder: Path,
    series: Series,
    span: Range,
    *,
    on_damage: OnDamage,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    newest: bool = True,
) -> pl.DataFrame:
    """Read the rows of a range, in order, from the files that may have some.

    Args:
        on_damage: called for each file that can't be read; the others are.
        columns: which to return; all if None.
        limit: at most so many rows, the newest of the range or the oldest.

    Raises:
        StorageError: there is no such column, or see :func:`list_partitions`.
    """
    schema = series.schema
    if foreign := [name for name in columns or () if name not in schema.arrow.names]:
        raise StorageError(f"{series} has no column {foreign[0]!r}; it has {', '.join(schema.arrow.names)}")
    damaged: set[Partition] = set()
    for _ in range(LISTINGS_MAX):
        try:
            rows = _scan_once(folder, series, span, columns, limit, newest, damaged)
        except FileNotFoundError:
            continue  # merged or trimmed since the listing
        except Damaged as error:
            damaged.update(p for p in list_partitions(folder) if path_of(folder, p) == error.path)
            on_damage(error)
            continue
        return rows if columns is None else rows.select(columns)
    raise StorageError(f"{folder} never stays the same for as long as it takes to read it")


def _scan_once(
    folder: Path,
    series: Series,
    span: Range,
    columns: Sequence[str] | None,
    limit: int | None,
    newest: bool,
    damaged: Collection[Partition],
) -> pl.DataFrame:
    shown = visible(partition for partition in list_partitions(folder) if partition not in damaged)
    wanted = overlapping(shown, span)
    parts: list[pl.DataFrame] = []
    left = limit
    for partition in reversed(wanted) if newest else wanted:
        if left == 0:
            break
        part = files.read(path_of(folder, partition), series.schema, span, columns)
        if left is not None:
            part = part.tail(left) if newest else part.head(left)
            left -= len(part)
        parts.append(part)
    if newest:
        parts.reverse()
    return pl.concat(parts) if parts else series.schema.polars.to_frame()


def _names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in folder.iterdir() if entry.name.endswith(SUFFIX)}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise StorageError(f"{folder} can't be read: {error.strerror}") from error

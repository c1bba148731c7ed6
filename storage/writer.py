"""The one writer of a series: each of its methods leaves whole files and a ledger that fits, or is as if not called.

Rows are written first and the ledger after them, and what is removed is forgotten before it goes. So a writer that is
killed in between leaves at worst rows of which nobody says that they are all; never a range that counts as complete and
is not held. Opening a writer puts that right, and sweeps what lies about: starting is recovering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import polars as pl

from marketd.errors import Overlap, StorageError
from storage import files, merge
from storage.check import check_file
from storage.combine import Combined, OnOverlap, combine, overlap, runs, splice
from storage.coverage import Coverage, State
from storage.folder import SeriesFolder
from storage.intervals import Range
from storage.layout import Partition, Series, grain_of, overlapping, partition_at
from storage.schema import Provenance, conform
from storage.staging import Stage, staged
from storage.validate import first_problem


class Written(NamedTuple):
    """What became of the rows of a write: new, put in place of stored ones, or left out for stored ones."""

    added: int
    replaced: int
    kept: int


class SeriesWriter:
    """See the module. Held by one owner at a time; not for several threads at once."""

    def __init__(self, folder: SeriesFolder) -> None:
        self._folder = folder

    @property
    def series(self) -> Series:
        """What it writes."""
        return self._folder.series

    @property
    def coverage(self) -> Coverage:
        """What is known of the series."""
        return self._folder.ledger.coverage

    @property
    def calendar(self) -> str:
        """When the market is open."""
        return self._folder.ledger.calendar

    def set_calendar(self, name: str) -> None:
        """Say when the market is open: a name as `marketd/calendars.py` knows them."""
        self._folder.save(msgspec.structs.replace(self._folder.ledger, calendar=name))

    def write(
        self,
        rows: pl.DataFrame,
        on_overlap: OnOverlap = OnOverlap.REFUSE,
        *,
        covers: Iterable[Range] | None = None,
        provenance: Provenance = Provenance.OBSERVED,
        progress: Callable[[Written], None] = lambda _: None,
    ) -> Written:
        """Store rows, in any order. When this returns they are on the disk; if it raises none is.

        Rows that are stored already, value for value, are not written again.

        Args:
            covers: the ranges of which these are all the rows there are; None for those that whole bars follow each
                other in, or the time from the first tick to the last.
            provenance: where that is known from.
            progress: called with what became of the rows so far.

        Raises:
            Overlap: a row of the same key is stored and ``on_overlap`` says to refuse that.
            StorageError: the rows are not such rows, or the disk is full.
        """
        schema = self.series.schema
        rows = conform(rows, schema)
        if problem := first_problem(rows, self.series):
            raise StorageError(f"{self.series}: {problem.reason}, in the row of {problem.time_ns} ns")
        if on_overlap is OnOverlap.REFUSE:
            self._refuse_overlap(rows)
        written = Written(0, 0, 0)
        rows_of: dict[Partition, int] = {}
        with staged() as stage:
            for partition, part in self._split(rows):
                result, count = self._stage(stage, partition, part, on_overlap)
                if count:
                    rows_of[partition] = count
                written = Written(*(a + b for a, b in zip(written, result[1:], strict=True)))
                progress(written)
        covered = runs(rows, schema, self.series.period_ns) if covers is None else covers
        self._folder.written(rows_of, self._folder.ledger.marked(covered, State.COMPLETE, provenance))
        return written

    def mark(self, where: Iterable[Range], state: State, provenance: Provenance) -> None:
        """Say something of ranges, such as that a venue has nothing there."""
        self._folder.save(self._folder.ledger.marked(where, state, provenance))

    def trim(self, span: Range) -> int:
        """Remove the rows of a range and what was known of it; return how many rows there were.

        Files that lie in the range are removed unread, and of those at its ends a row group at a time is in memory.
        """
        schema = self.series.schema
        self._folder.save(self._folder.ledger.forgotten([span]))
        outside = ~pl.col(schema.time).is_between(*span, closed="left")
        removed = 0
        for partition in overlapping(self._folder.partitions, span):
            path = self._folder.path(partition)
            with self._folder.quarantining():
                footer = files.read_footer(path, schema)
                if span[0] <= footer.first_ns and footer.last_ns < span[1]:
                    path.unlink()
                    removed += footer.rows
                elif footer.first_ns < span[1] and span[0] <= footer.last_ns:
                    removed += footer.rows - files.rewrite(path, schema, lambda group: group.filter(outside))
        self._folder.refresh(ours=True)
        return removed

    def merge(self, now_ns: int) -> int:
        """Put small files of times that are long over together, see `merge.py`; return how many fewer there are."""
        before = len(self._folder.partitions)
        rows = {partition: self._folder.ledger.files[partition.name].rows for partition in self._folder.partitions}
        for target, parts in merge.plan(rows, now_ns):
            with self._folder.quarantining():
                merge.write(self._folder.path(target), map(self._folder.path, parts), self.series.schema)
        self._folder.refresh(ours=True)
        return before - len(self._folder.partitions)

    def verify(self, only: Path | None = None) -> None:
        """Read every file to its end, or one, and put those that are damaged in quarantine."""
        for partition in list(self._folder.partitions):
            if only not in (None, self._folder.path(partition)):
                continue
            with self._folder.quarantining():
                check_file(self._folder.path(partition), self.series, partition)

    def delete(self) -> None:
        """Remove the series, and close."""
        self._folder.remove()

    def _stage(
        self, stage: Stage, partition: Partition, part: pl.DataFrame, on_overlap: OnOverlap
    ) -> tuple[Combined, int]:
        """Stage a partition's file with a part of new rows; return how many rows it has then, 0 for no new file.

        Of what is stored the rows of the same time are in memory, and a row group of the others: a day may be large.
        """
        schema, path = self.series.schema, self._folder.path(partition)
        times = part[schema.time]
        while True:
            result = combine(self._folder.read(partition, (times[0], times[-1] + 1)), part, schema, on_overlap)
            if not result.added and not result.replaced:
                return result, 0
            stored = files.read_groups(path, schema) if partition in self._folder.partitions else ()
            with self._folder.quarantining(), stage.file(path) as file:
                return result, files.write_to(file, schema, files.full_groups(splice(stored, result.rows, schema)))
            # What was stored is damaged, and out of the way by now: all rows are new.

    def _split(self, rows: pl.DataFrame) -> Iterator[tuple[Partition, pl.DataFrame]]:
        """Cut rows into those of each file that there is or will be."""
        times = rows[self.series.schema.time]
        at = 0
        while at < len(rows):
            held = overlapping(self._folder.partitions, (times[at], times[at] + 1))
            partition = held[0] if held else partition_at(times[at], grain_of(self.series.what))
            after = int(times.search_sorted(partition.end_ns, "left"))
            yield partition, rows[at:after]
            at = after

    def _refuse_overlap(self, rows: pl.DataFrame) -> None:
        schema = self.series.schema
        for partition, part in self._split(rows):
            stored = self._folder.read(partition, (part[schema.time][0], part[schema.time][-1] + 1))
            both = overlap(stored, part, schema)
            if len(both):
                raise Overlap(
                    f"{self.series}: {len(both)} rows of {partition.name} are stored already, the first at "
                    f"{schema.time} {both[schema.time][0]}"
                )

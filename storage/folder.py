"""The folder of a series in the hands of its one writer: its lock, files and ledger, and what is done about damage."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import polars as pl

from storage import files, ledger, staging
from storage.claim import unclaim
from storage.contents import Contents, read_contents
from storage.files import Damaged
from storage.intervals import Range
from storage.layout import Partition, Series, parse_partition, visible
from storage.ledger import FileFacts, Ledger
from storage.lock import NAME as LOCK
from storage.lock import SeriesLock
from storage.reader import OnDamage, list_partitions, path_of


class SeriesFolder:
    """See the module.

    Attributes:
        series: whose folder it is.
        partitions: those that have files, in order; no two overlap.
        ledger: as it was saved last.
    """

    def __init__(self, path: Path, series: Series, quarantine: Path, on_damage: OnDamage) -> None:
        """Take the folder, sweep it, and make the ledger fit its files.

        Args:
            path: made if it is not there.
            quarantine: where damaged files go.
            on_damage: called for each one, when it has been moved.

        Raises:
            SeriesBusy: another writer has it.
            StorageError: it can't be written to, or a later version of this program wrote it.
        """
        self.series = series
        self._path, self._quarantine, self._on_damage = path, quarantine, on_damage
        self._lock = SeriesLock(path)
        try:
            staging.sweep(path)
            self.ledger, self.partitions = Ledger(), list[Partition]()
            with self.quarantining():
                self.ledger = ledger.load(path)
            self.refresh(ours=False)
        except BaseException:
            self._lock.release()
            raise

    def path(self, partition: Partition) -> Path:
        """Return the file of a partition."""
        return path_of(self._path, partition)

    def read(self, partition: Partition, span: Range) -> pl.DataFrame:
        """Read the rows of a range; none if the partition has no file, or had one that was damaged."""
        if partition in self.partitions:
            with self.quarantining():
                return files.read(self.path(partition), self.series.schema, span)
        return self.series.schema.polars.to_frame()

    def save(self, changed: Ledger) -> None:
        """Replace the ledger, if it says anything new."""
        if changed != self.ledger:
            ledger.save(self._path, changed)
            self.ledger = changed

    def written(self, rows: Mapping[Partition, int], changed: Ledger) -> None:
        """Take note of files that were just written, of so many rows, and save what the ledger shall say of them."""
        facts = {each.name: FileFacts(self.path(each).stat().st_size, count) for each, count in rows.items()}
        self.partitions = visible({*self.partitions, *rows})
        self.save(msgspec.structs.replace(changed, files=changed.files | facts))

    def refresh(self, *, ours: bool) -> None:
        """See which files there are, remove those that a longer one hides, and make the ledger fit.

        Args:
            ours: whether what has changed in the files was done by this writer, so that the ledger tells of it. Else
                nobody says of new rows that they are all.
        """
        changed = self.ledger
        every = list_partitions(self._path)
        shown = visible(every)
        for hidden in set(every) - set(shown):
            self.path(hidden).unlink()
        sizes, contents = {}, {}
        for partition in shown:
            size = self.path(partition).stat().st_size
            facts = changed.files.get(partition.name)
            try:
                if facts is None or facts.bytes != size:
                    contents[partition] = self._contents(partition, ours=ours)
                sizes[partition] = size
            except Damaged as damage:
                self._move(damage)
                changed = ledger.lose(changed, partition)
        self.partitions = list(sizes)
        self.save(ledger.reconcile(changed, sizes, contents))

    @contextlib.contextmanager
    def quarantining(self) -> Iterator[None]:
        """Move what turns out to be damaged in the block out of the way, and tell; the block ends there."""
        try:
            yield
        except Damaged as damage:
            self._move(damage)
            lost = parse_partition(damage.path.stem)
            if lost is not None:
                self.partitions = [partition for partition in self.partitions if partition != lost]
                self.save(ledger.lose(self.ledger, lost))

    def remove(self) -> None:
        """Remove all that the store has put here, and the folder and those above if they are empty then. Closes it."""
        (self._path / ledger.NAME).unlink(missing_ok=True)
        for partition in list_partitions(self._path):
            self.path(partition).unlink()
        (self._path / LOCK).unlink()
        self._lock.release()
        with contextlib.suppress(OSError):  # somebody has put something of their own there
            self._path.rmdir()
            unclaim(self._path.parent)
            for folder in (self._path.parent, self._path.parent.parent):
                folder.rmdir()

    def close(self) -> None:
        """Let go of the folder, which goes if there was nothing to put into it. Twice is fine."""
        if self._lock.held and not self.partitions and self.ledger == Ledger():
            self.remove()
        self._lock.release()

    def _contents(self, partition: Partition, *, ours: bool) -> Contents:
        if ours:
            return Contents(files.read_footer(self.path(partition), self.series.schema).rows, [])
        return read_contents(self.path(partition), self.series)

    def _move(self, damage: Damaged) -> None:
        """Put a file into quarantine, under its own name and a number, and tell."""
        folder = self._quarantine.joinpath(*self._path.parts[-3:])
        folder.mkdir(parents=True, exist_ok=True)
        names = (folder / f"{damage.path.name}.{number}" for number in itertools.count(1))
        damage.path.rename(next(name for name in names if not name.exists()))
        staging.sync_folder(folder)
        staging.sync_folder(self._path)
        self._on_damage(damage)

"""The store in parquet files: README.md says what they promise. Nothing is held between calls but the folder's name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl
import structlog

from marketd.errors import StorageConnectionError, StorageError
from storage import claim, ledger, names, reader
from storage.bounds import Bound, to_range
from storage.check import check_folder
from storage.client import OnDamage
from storage.coverage import Coverage
from storage.facts import Finding, SeriesFacts
from storage.files import Damaged, Group, read_footer
from storage.folder import SeriesFolder
from storage.intervals import Range
from storage.layout import Series, check_what, visible
from storage.writer import SeriesWriter

log = structlog.get_logger(__name__)


def open_store(root: Path, on_damage: OnDamage | None) -> NativeStore:
    """See :func:`storage.client.open_storage_client`."""
    root = root.absolute()
    try:
        nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    except OSError as error:
        raise StorageConnectionError(f"the store {root} can't be reached: {error.strerror}") from error
    if not nearest.is_dir() or (nearest == root and not os.access(root, os.R_OK | os.X_OK)):
        raise StorageConnectionError(f"the store {root} can't be reached: {nearest} is no folder that can be read")
    return NativeStore(root, on_damage or _log_damage)


class NativeStore:
    """See the module, and :class:`storage.client.StorageClient`."""

    def __init__(self, root: Path, on_damage: OnDamage) -> None:
        self._root = root
        self._on_damage = on_damage

    def series(self) -> list[Series]:
        """See :class:`storage.client.StorageClient`."""
        found = []
        for backend in _folders(self._root):
            if backend.name in (names.QUARANTINE, names.LOG):
                continue
            for name, folder in claim.known(backend).items():
                found += [Series(name, entry.name) for entry in _folders(backend / folder) if _is_what(entry.name)]
        return sorted(found)

    def span(self, series: Series) -> Range | None:
        """See :class:`storage.client.StorageClient`."""
        folder = self._folder(series)
        paths = [reader.path_of(folder, partition) for partition in visible(reader.list_partitions(folder))]
        first, last = _first_footer(paths, series), _first_footer(reversed(paths), series)
        return None if first is None or last is None else (first.first_ns, last.last_ns + series.period_ns)

    def facts(self, series: Series) -> SeriesFacts | None:
        """See :class:`storage.client.StorageClient`."""
        folder = self._folder(series)
        paths = [reader.path_of(folder, partition) for partition in visible(reader.list_partitions(folder))]
        if not paths:
            return None
        sizes, footers = [], []
        for path in paths:
            with contextlib.suppress(Damaged, FileNotFoundError):  # `check` is what tells of damage
                footers.append(read_footer(path, series.schema))
                sizes.append(path.stat().st_size)
        if not footers:
            return None
        return SeriesFacts(
            series,
            sum(footer.rows for footer in footers),
            footers[0].first_ns,
            footers[-1].last_ns + series.period_ns,
            len(sizes),
            sum(sizes),
            self._ledger(folder).calendar,
        )

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
        """See :class:`storage.client.StorageClient`."""
        folder = self._folder(series)
        damaged: list[Damaged] = []
        rows = reader.scan(
            folder,
            series,
            to_range(start, end),
            on_damage=damaged.append,
            columns=columns,
            limit=limit,
            newest=newest,
        )
        for damage in damaged:
            self._set_aside(series, damage)
        return rows

    def coverage(self, series: Series) -> Coverage:
        """See :class:`storage.client.StorageClient`."""
        return self._ledger(self._folder(series)).coverage

    @contextlib.contextmanager
    def writer(self, series: Series) -> Iterator[SeriesWriter]:
        """See :class:`storage.client.StorageClient`."""
        path = self._folder(series)
        try:
            folder = SeriesFolder(path, _spelled(series), self._root / names.QUARANTINE, self._on_damage)
            try:
                claim.claim(path.parent, series.fqme)
                yield SeriesWriter(folder)
            finally:
                folder.close()
        except OSError as error:
            place = error.filename2 or error.filename or path
            raise StorageError(f"{place} can't be read or written: {error.strerror or error}") from error

    def check(self, series: Series) -> list[Finding]:
        """See :class:`storage.client.StorageClient`."""
        return check_folder(self._folder(series), _spelled(series))

    def _folder(self, series: Series) -> Path:
        """Return a series' folder, which need not be there."""
        parsed = names.parse(series.fqme)
        backend = self._root / parsed.backend
        other_forms = not parsed.src or parsed.src in names.FIATS
        known = claim.known(backend, names.folder_start(parsed)) if other_forms else {}
        return backend / names.resolve(series.fqme, known) / check_what(series.what)

    def _ledger(self, folder: Path) -> ledger.Ledger:
        try:
            return ledger.load(folder)
        except Damaged as damage:
            self._on_damage(damage)
            return ledger.Ledger()

    def _set_aside(self, series: Series, damage: Damaged) -> None:
        """Let a writer look at the file, which puts it in quarantine; where that can't be, only tell."""
        try:
            with self.writer(series) as writer:
                writer.verify(damage.path)
        except StorageError:  # busy, or on a disk that is not written to
            self._on_damage(damage)


def _first_footer(paths: Iterable[Path], series: Series) -> Group | None:
    """Read the first footer that can be read."""
    for path in paths:
        with contextlib.suppress(Damaged, FileNotFoundError):
            return read_footer(path, series.schema)
    return None


def _log_damage(damage: StorageError) -> None:
    log.warning("store.damaged", error=str(damage))


def _spelled(series: Series) -> Series:
    return Series(str(names.parse(series.fqme)), check_what(series.what))


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageConnectionError(f"the store can't be read: {folder}: {error.strerror}") from error


def _is_what(name: str) -> bool:
    try:
        return check_what(name) == name
    except StorageError:
        return False

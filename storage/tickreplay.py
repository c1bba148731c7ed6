"""The log of a feed's ticks read again as what the ring was: rows in order of their cursors, epoch after epoch.

A stream that goes on from where it stood reads here what its ring does not have any more. The log has no rows of books,
and none of the instruments that are not recorded: whose rows those are, each page says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from marketd.errors import StorageError
from marketd.model import GapReason, Kind
from marketd.ring import layout
from storage.ticklog import FILED_SUFFIX, NAMES, OTHERS, ROWS, SUFFIX, Place, log_files, records

PAGE_ROWS = 4096
HEAD_BYTES = 1 << 12  # of a file: its first record
_decode_names = msgspec.msgpack.Decoder(dict[int, str]).decode
_decode_others = msgspec.msgpack.Decoder(list[str]).decode


class Page(msgspec.Struct, frozen=True):
    """What there is of the cursors ``cursor_first`` to ``cursor_last`` of an epoch, both included.

    Attributes:
        names: instruments that the pages before have not named, by their ids in this epoch.
        others: instruments, not named by the pages before either, whose rows are not here though there may be some.
        data: rows, dtype ``layout.ROW``, in order of cursor.
        lost: None; or else there are no rows, as so many were lost: -1 is some number.
        begins: the first page of an epoch that follows another one. Then ``lost`` is of what the old one had after the
            page before, and the range is empty.
    """

    epoch: int
    cursor_first: int
    cursor_last: int
    names: dict[int, str] = {}
    others: list[str] = []
    data: bytes = b""
    lost: int | None = None
    begins: bool = False


class Start(msgspec.Struct, frozen=True):
    """Where a replay can begin: behind this cursor of this epoch."""

    epoch: int
    cursor: int


def find_cursor(folder: Path, epoch: int, cursor: int) -> Start | None:
    """Return where one can go on that had everything up to a cursor; None if the log has nothing of its epoch.

    What is missing between the two is the first page's gap. Raises StorageError.
    """
    return Start(epoch, cursor) if any(place.epoch == epoch for _, place in _begins(folder)) else None


def find_time(folder: Path, from_ns: int) -> Start | None:
    """Return what comes right before the first row that was received at a time or later; None: there is no log.

    Where the log begins with that row, or later, the cursor is 0: before that nothing is known.

    Raises:
        StorageError: a file can't be read.
    """
    begins = _begins(folder)
    # A file may have rows of later times than the one at which the next file says to go on, and the first one of
    # earlier times than it says.
    before = [path for path, place in begins if place.at_ns <= from_ns][-2:] or [path for path, _ in begins[:1]]
    found: Start | None = None
    earlier = bool(before) and before[0] != begins[0][0]
    for path in before:
        for sort, place, body, _ in records(_read(path)):
            if sort == ROWS:
                rows = np.frombuffer(body, layout.ROW)
                late = np.flatnonzero(rows["received_ns"] >= from_ns)
                earlier = earlier or len(late) < len(rows)
                if len(late):
                    return Start(place.epoch, int(rows["cursor"][late[0]]) - 1 if earlier else 0)
                found = Start(place.epoch, place.cursor)
    return found


def pages(
    folder: Path, start: Start, epoch: int, ends: Mapping[int, int], *, page_rows: int = PAGE_ROWS
) -> Iterator[Page]:
    """Yield all that the log has from a place on, without a hole: what is not there is a page that says so.

    Args:
        epoch: the ring's own, in which the last page is, even if nothing of it is in the log yet.
        ends: the last cursors of epochs that ended in order.

    Raises:
        StorageError: a file can't be read.
    """
    begins = _begins(folder)
    mine = [i for i, (_, place) in enumerate(begins) if place.epoch == start.epoch]
    first = max((i for i in mine if begins[i][1].cursor <= start.cursor), default=min(mine, default=len(begins)))
    reading = _Reading(start, ends, page_rows)
    for path, place in begins[first:]:
        yield from reading.begin_file(place)
        for sort, upto, body, _ in records(_read(path)):
            yield from reading.take(sort, upto, body)
    yield from reading.finish(epoch)


class _Reading:
    """Where the reading is, and what is in no page yet."""

    def __init__(self, start: Start, ends: Mapping[int, int], page_rows: int) -> None:
        self._epoch = start.epoch
        self._told = self._cursor = start.cursor
        self._ends = ends
        self._page_rows = page_rows
        self._names: dict[int, str] = {}
        self._others: list[str] = []
        self._known_names: set[int] = set()
        self._known_others: set[str] = set()
        self._rows: list[NDArray[np.void]] = []
        self._count = 0

    def begin_file(self, place: Place) -> Iterator[Page]:
        """Go on with a file that begins at a place."""
        if place.epoch != self._epoch:
            yield from self._begin_epoch(place.epoch)
        if place.cursor > self._cursor:
            yield from self._lose(place.cursor)

    def take(self, sort: int, place: Place, body: memoryview) -> Iterator[Page]:
        """Take a record of it."""
        if sort == NAMES:
            self._names |= {n: name for n, name in _decode_names(body).items() if n not in self._known_names}
            self._known_names |= self._names.keys()
        elif sort == OTHERS:
            self._others += [name for name in _decode_others(body) if name not in self._known_others]
            self._known_others.update(self._others)
        elif sort == ROWS and place.cursor > self._cursor:
            rows = np.frombuffer(body, layout.ROW)
            gaps = rows[rows["kind"] == Kind.GAP].view(layout.GAP)
            if (gaps["reason"] == GapReason.LAPPED).any():  # alone in its record: the recorder was overtaken
                yield from self._lose(place.cursor)
            else:
                yield from self._take_rows(place, rows[rows["cursor"] > self._cursor])

    def finish(self, epoch: int) -> Iterator[Page]:
        """Take the end of the log."""
        if self._epoch != epoch:
            yield from self._begin_epoch(epoch)
        yield from self.flush()

    def flush(self) -> Iterator[Page]:
        """Yield what is left."""
        if self._cursor == self._told and not self._names and not self._others:
            return
        data = b"".join(rows.tobytes() for rows in self._rows)
        yield Page(self._epoch, self._told + 1, self._cursor, self._names, self._others, data)
        self._told = self._cursor
        self._names, self._others, self._rows, self._count = {}, [], [], 0

    def _take_rows(self, place: Place, rows: NDArray[np.void]) -> Iterator[Page]:
        self._cursor = place.cursor
        if len(rows):
            self._rows.append(rows)
            self._count += len(rows)
        if self._count >= self._page_rows:
            yield from self.flush()

    def _lose(self, cursor: int) -> Iterator[Page]:
        yield from self.flush()
        yield Page(self._epoch, self._cursor + 1, cursor, lost=cursor - self._cursor)
        self._told = self._cursor = cursor

    def _begin_epoch(self, epoch: int) -> Iterator[Page]:
        yield from self.flush()
        end = self._ends.get(self._epoch)
        lost = -1 if end is None else max(0, end - self._cursor)
        self._epoch, self._told, self._cursor = epoch, 0, 0
        self._known_names.clear()
        self._known_others.clear()
        yield Page(epoch, 1, 0, lost=lost, begins=True)


def _begins(folder: Path) -> list[tuple[Path, Place]]:
    """Return where each file of the log begins, the oldest first, but for those that have nothing."""
    found = []
    for path in log_files(folder, SUFFIX, FILED_SUFFIX):
        first = next(records(_read(path, HEAD_BYTES)), None)
        if first is not None:
            found.append((path, first[1]))
    return found


def _read(path: Path, size: int = -1) -> bytes:
    """Read a file of the log; nothing if it was removed meanwhile."""
    for place in (path, path.with_suffix(FILED_SUFFIX)):
        try:
            with place.open("rb") as file:
                return file.read(size)
        except FileNotFoundError:
            continue  # filed meanwhile
        except OSError as error:
            raise StorageError(f"the log {place} can't be read: {error.strerror}") from error
    return b""

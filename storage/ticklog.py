"""The append-only log of a feed's ticks: what came since they were put into parquet files the last time.

    log      = files 00000001.ticks, 00000002.ticks, …; the last one is appended to, by one process
               00000001.filed: its rows are in parquet files, and it is kept for streams that resume (tickreplay.py)
    file     = record *
    record   = u32 bytes of the body, u32 crc32 of what follows, u8 sort, u64 epoch, u64 cursor, i64 at_ns, body
    sort     = 1 rows: those of a ring that are kept (`marketd/ring/layout.py`)   2 names: MessagePack {id: fqme}
               3 others: MessagePack [fqme], instruments of the feed whose rows are not kept

A record says: up to this cursor of this epoch, and up to this time of our clock, all that was to be kept is in the log
by now. A file begins with a record without rows that says where it goes on. From the record that names an instrument on
everything of it is in the log, until a status row says that it is not followed any more; then it is named again.
A record is there as a whole or not at all: a torn one at the end of a file is what a killed process, or a power cut,
left.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from marketd.errors import StorageError
from marketd.model import Kind, Quality
from marketd.ring import layout
from storage.intervals import Range
from storage.staging import sync_folder

SUFFIX, FILED_SUFFIX = ".ticks", ".filed"
ROWS, NAMES, OTHERS = 1, 2, 3
_HEAD = struct.Struct("<II")
_FACTS = struct.Struct("<BQQq")
_encode = msgspec.msgpack.Encoder().encode
_decode_names = msgspec.msgpack.Decoder(dict[int, str]).decode


class Place(NamedTuple):
    """How far a log is: all rows of an epoch up to a cursor, all time up to ``at_ns``."""

    epoch: int
    cursor: int
    at_ns: int


class Logged(NamedTuple):
    """What one file has.

    Attributes:
        first, last: where it begins and ends; None where it has nothing.
        rows: shape ``(n,)``, dtype ``layout.ROW``, in order of cursor.
        names: of the instruments, by their ids in these rows.
        spans: by instrument, the times of which all that came is in the log; the last one may still go on.
        live: the instruments that are still followed where the file ends.
        torn: at its end there is what was left of a record that was not completed.
        damaged: there is a record that is not what was written, and nothing behind it can be read.
    """

    first: Place | None
    last: Place | None
    rows: NDArray[np.void]
    names: dict[int, str]
    spans: dict[int, list[Range]]
    live: set[int]
    torn: bool
    damaged: bool


class LogWriter:
    """Appends to a new file. Blocks: called in threads, one at a time.

    Args:
        folder: of the log; made if it is not there.
        place: where it goes on.
        names: of all instruments that are followed.
        others: the feed's other instruments.

    Attributes:
        path: of the file.
        place: what it says by now.
        size: its bytes.
    """

    def __init__(self, folder: Path, place: Place, names: Mapping[int, str], others: Sequence[str] = ()) -> None:
        """Begin a file.

        Raises:
            StorageError: it can't be written to.
        """
        self.place = place
        self.size = 0
        self._torn = False
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            numbers = [int(path.stem) for path in log_files(folder, SUFFIX, FILED_SUFFIX)]
            self.path = folder / f"{max(numbers, default=0) + 1:08d}{SUFFIX}"
            self._file: BinaryIO = os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", 0)
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            self._append(ROWS, place, b"")
            self._append(NAMES, place, _encode(dict(names)))
            self._append(OTHERS, place, _encode(list(others)))
            self.sync()
            sync_folder(folder)
        except (OSError, StorageError) as error:
            self._file.close()
            self.path.unlink(missing_ok=True)  # or a full disk would have another one at each attempt
            raise error if isinstance(error, StorageError) else _unwritable(folder, error) from error

    def append(
        self, rows: NDArray[np.void], place: Place, names: Mapping[int, str], others: Sequence[str] = ()
    ) -> None:
        """Add rows, dtype ``layout.ROW``, and names that are new; a process that is killed now does not lose them.

        Raises:
            StorageError: the disk is full, say; the file is as it was.
        """
        if others:
            self._append(OTHERS, self.place, _encode(list(others)))
        if names:
            self._append(NAMES, self.place, _encode(dict(names)))
        self._append(ROWS, place, rows.tobytes())
        self.place = place

    def sync(self) -> None:
        """Bring everything to the disk: a power cut after this does not lose it. Raises StorageError."""
        try:
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Sync, and let go of the file. Raises StorageError."""
        try:
            self.sync()
        finally:
            self._file.close()

    def _append(self, sort: int, place: Place, body: bytes) -> None:
        facts = _FACTS.pack(sort, *place)
        record = _HEAD.pack(len(body), zlib.crc32(body, zlib.crc32(facts))) + facts + body
        try:
            self._mend()
            self._torn = True
            _write_all(self._file, record)
            self._torn = False
        except OSError as error:
            with contextlib.suppress(OSError):  # a disk that has become read-only: before the next record then
                self._mend()
            raise _unwritable(self.path, error) from error
        self.size += len(record)

    def _mend(self) -> None:
        """Remove what there is of a record that could not be written whole."""
        if self._torn:
            os.ftruncate(self._file.fileno(), self.size)
            self._file.seek(self.size)
            self._torn = False


def _write_all(file: BinaryIO, data: bytes) -> None:
    """Write to an unbuffered file, which may take less than all when the disk is nearly full."""
    view = memoryview(data)
    while len(view):
        view = view[file.write(view) :]


def log_files(folder: Path, *suffixes: str) -> list[Path]:
    """Return a log's files, the oldest first; none if there is no log. Without suffixes those that are not filed.

    Raises:
        StorageError: the folder can't be read.
    """
    wanted = suffixes or (SUFFIX,)
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in wanted and path.stem.isdecimal())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"the log {folder} can't be read: {error.strerror}") from error


def set_filed(path: Path, bytes_max: int) -> None:
    """Note that a file's rows are in parquet files, and keep so many bytes of such files, the newest."""
    path.rename(path.with_suffix(FILED_SUFFIX))
    kept = 0
    for filed in reversed(log_files(path.parent, FILED_SUFFIX)):
        kept += filed.stat().st_size
        if kept > bytes_max:
            filed.unlink()


def read_log(path: Path) -> Logged:
    """Read a file, up to what is torn at its end. One that is being appended to is read as it is now.

    Raises:
        FileNotFoundError: it was removed: its rows are in parquet files.
        StorageError: it can't be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"the log {path} can't be read: {error.strerror}") from error
    first: Place | None = None
    last: Place | None = None
    parts: list[NDArray[np.void]] = [np.zeros(0, layout.ROW)]
    names: dict[int, str] = {}
    spans: dict[int, list[Range]] = {}
    since: dict[int, int] = {}
    end = 0
    for sort, place, body, upto in records(data):
        end = upto
        first, last = first or place, place
        if sort == NAMES:
            named = _decode_names(body)
            names |= named
            since |= {number: place.at_ns for number in named if number not in since}
        elif sort == ROWS:
            rows = np.frombuffer(body, layout.ROW)
            parts.append(rows)
            for number, at_ns in dropped(rows).items():
                if number in since:
                    spans.setdefault(number, []).append((since.pop(number), at_ns))
    live = set(since)
    for number, since_ns in since.items():
        assert last is not None
        spans.setdefault(number, []).append((since_ns, last.at_ns))
    rest = data[end:]
    damaged = _is_whole(rest) and any(rest)
    return Logged(first, last, np.concatenate(parts), names, spans, live, bool(rest) and not damaged, damaged)


def dropped(rows: NDArray[np.void]) -> dict[int, int]:
    """Return the instruments that status rows say are not followed any more, and since when, by our clock."""
    status = rows[rows["kind"] == Kind.STATUS].view(layout.STATUS)
    gone = status[status["code"] == Quality.UNKNOWN]
    return dict(zip(gone["instrument"].tolist(), gone["received_ns"].tolist(), strict=True))


def read_end(folder: Path) -> Logged | None:
    """Return the last file of a log that has anything; None where there is none. Raises StorageError."""
    for path in reversed(log_files(folder)):
        if (logged := read_log(path)).last is not None:
            return logged
    return None


def records(data: bytes) -> Iterator[tuple[int, Place, memoryview, int]]:
    """Yield sort, place, body and end of each whole record of a file."""
    view = memoryview(data)
    at = 0
    while at + _HEAD.size + _FACTS.size <= len(view):
        size, crc = _HEAD.unpack_from(view, at)
        begin = at + _HEAD.size
        end = begin + _FACTS.size + size
        if end > len(view) or zlib.crc32(view[begin:end]) != crc:
            return
        sort, epoch, cursor, at_ns = _FACTS.unpack_from(view, begin)
        at = end
        yield sort, Place(epoch, cursor, at_ns), view[begin + _FACTS.size : end], end


def _is_whole(data: bytes) -> bool:
    """Whether a record that begins there would end there, too."""
    if len(data) < _HEAD.size + _FACTS.size:
        return False
    return _HEAD.size + _FACTS.size + int(_HEAD.unpack_from(data)[0]) <= len(data)


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"the log of ticks {path} can't be written to: {error.strerror}")

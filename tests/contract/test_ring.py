"""What every ring does, however its bytes lie and wherever they are kept."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from marketd.errors import Lapped, SegmentError
from marketd.ring import layout
from marketd.ring.reader import RingReader
from marketd.ring.writer import RingWriter, create_ring


class Ring(Protocol):
    """A ring of at least 16 rows that nobody has written yet."""

    rows: int

    def writer(self) -> RingWriter: ...

    def reader(self, cursor: int | None = None) -> RingReader: ...


class FileRing:
    """A ring in a file."""

    def __init__(self, path: Path, rows: int) -> None:
        self.path = path
        self.rows = rows
        create_ring(path, rows)

    def writer(self) -> RingWriter:
        return RingWriter(self.path)

    def reader(self, cursor: int | None = None) -> RingReader:
        return RingReader(self.path, cursor)


def check_ring(make: Callable[[], Ring]) -> None:
    """Prove that rings made by ``make`` number their rows, lose none silently, and outlive their writers."""
    for check in (check_order, check_lap, check_succession, check_readers_are_apart):
        check(make())


def check_order(ring: Ring) -> None:
    writer, reader = ring.writer(), ring.reader()
    for count in (1, 3, ring.rows // 4):
        first = writer.cursor + 1
        append(writer, count)
        assert len(reader.read_nowait()) == 0
        writer.publish()
        assert reader.read_nowait()["cursor"].tolist() == list(range(first, first + count))
    assert (writer.cursor, writer.published, reader.published) == (reader.cursor, reader.cursor, reader.cursor)


def check_lap(ring: Ring) -> None:
    writer, reader = ring.writer(), ring.reader()
    for _ in range(40):
        append(writer, ring.rows // 8)
        writer.publish()
    with pytest.raises(Lapped) as lapped:
        reader.read_nowait()
    rows = reader.read_nowait()
    assert lapped.value.cursor_first == 1
    assert rows["cursor"].tolist() == list(range(lapped.value.cursor_last + 1, writer.published + 1))
    assert len(rows) >= ring.rows // 2
    assert len(reader.read_nowait()) == 0


def check_succession(ring: Ring) -> None:
    writer, reader = ring.writer(), ring.reader()
    append(writer, 3)
    writer.publish()
    with pytest.raises(SegmentError):
        ring.writer()
    writer.close()
    successor = ring.writer()
    assert (successor.epoch, successor.cursor) == (reader.epoch, 3)
    append(successor, 1)
    successor.close()
    assert reader.read_nowait()["cursor"].tolist() == [1, 2, 3, 4]


def check_readers_are_apart(ring: Ring) -> None:
    writer, one, other = ring.writer(), ring.reader(), ring.reader()
    append(writer, 4)
    writer.publish()
    rows = one.read_nowait()
    rows[:] = np.zeros((), layout.ROW)
    one.close()
    assert other.read_range(2, 3)["event_ns"].tolist() == [20, 30]
    assert other.read_nowait()["event_ns"].tolist() == [10, 20, 30, 40]
    assert ring.reader().cursor == 4


def append(writer: RingWriter, count: int) -> None:
    for _ in range(count):
        writer.append(((writer.cursor + 1) * 10, 0, 0, 1, 1, 0, 0, 1.0, 2.0, 0.0, 0.0))


@pytest.mark.parametrize("rows", [16, 1024])
@pytest.mark.parametrize("place", [None, "/dev/shm"], ids=["disk", "memory"])
def test_file_ring_passes(place: str | None, rows: int):
    with tempfile.TemporaryDirectory(dir=place) as folder:
        names = itertools.count()
        check_ring(lambda: FileRing(Path(folder) / f"ring{next(names)}", rows))

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from marketd.errors import Lapped, SegmentError
from marketd.ring import layout, segment
from marketd.ring.doorbell import MemoryBell
from marketd.ring.reader import FEW_ROWS, RingReader
from marketd.ring.writer import RingWriter, create_ring

ROWS = 32
RESERVED = ROWS // 4  # what the writer takes ahead, and readers so can't have


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_ring(tmp_path / "ring", ROWS)
    return tmp_path / "ring"


def write(writer: RingWriter, count: int) -> None:
    """Append and publish rows whose event time is ten times their cursor."""
    for _ in range(count):
        writer.append(((writer.cursor + 1) * 10, 0, 0, 1, 1, 0, 0, 1.0, 2.0, 3.0, 4.0))
    writer.publish()


def cursors(rows: np.ndarray) -> list[int]:
    assert (rows["event_ns"] == rows["cursor"] * 10).all()
    return rows["cursor"].tolist()


def test_nothing_is_read_before_the_first_row_and_never_nothing_after_it(path: Path):
    """R21: before the first write, reads return a defined empty array, not a crash."""
    writer, reader = RingWriter(path), RingReader(path)
    empty = reader.read_nowait()
    assert (empty.shape, empty.dtype) == ((0,), layout.ROW)
    assert reader.read_range(1, 0).shape == (0,)
    write(writer, 1)
    assert cursors(reader.read_range(reader.published, reader.published)) == [1]


def test_published_is_the_last_row_itself(path: Path):
    """R26: `last` addresses the last row, not the one after it."""
    writer, reader = RingWriter(path), RingReader(path)
    write(writer, 5)
    assert reader.published == 5
    assert cursors(reader.read_range(4, reader.published)) == [4, 5]
    assert cursors(reader.read_nowait()) == [1, 2, 3, 4, 5]
    assert reader.cursor == reader.published


def test_rows_are_copies_that_may_be_changed(path: Path):
    """R25: a read returns a copy with the same index length as the source; writing to it never alters shm."""
    writer, reader = RingWriter(path), RingReader(path)
    write(writer, 6)
    before = path.read_bytes()
    rows = reader.read_nowait()
    assert len(rows) == 6
    rows["v0"] = -1
    rows["cursor"] = 0
    assert path.read_bytes() == before
    again = reader.read_range(1, 6)
    write(writer, 2 * ROWS)
    reader.close()
    assert cursors(again) == [1, 2, 3, 4, 5, 6]


def test_reader_starts_after_what_is_published_or_where_it_is_told(path: Path):
    writer = RingWriter(path)
    write(writer, 3)
    now, told = RingReader(path), RingReader(path, cursor=1)
    write(writer, 1)
    assert cursors(now.read_nowait()) == [4]
    assert cursors(told.read_nowait()) == [2, 3, 4]


def test_reader_that_claims_to_have_read_the_future_is_refused(path: Path):
    with pytest.raises(ValueError, match="cursor 1 is not between 0 and 0"):
        RingReader(path, cursor=1)


def test_reads_take_no_more_than_asked_for(path: Path):
    writer, reader = RingWriter(path), RingReader(path)
    write(writer, 5)
    assert [cursors(reader.read_nowait(2)) for _ in range(4)] == [[1, 2], [3, 4], [5], []]


def test_range_across_the_end_of_the_segment_is_in_order(path: Path):
    writer, reader = RingWriter(path), RingReader(path)
    write(writer, ROWS + 10)
    assert cursors(reader.read_range(ROWS - 4, ROWS + 10)) == list(range(ROWS - 4, ROWS + 11))
    assert reader.cursor == 0


@pytest.mark.parametrize(("first", "last"), [(0, 3), (2, 6), (4, 2), (6, 9)])
def test_range_that_does_not_exist_is_refused(path: Path, first: int, last: int):
    writer, reader = RingWriter(path), RingReader(path)
    write(writer, 5)
    with pytest.raises(ValueError, match=f"rows {first} to {last} were asked for, of 1 to 5"):
        reader.read_range(first, last)


def test_overwritten_range_says_which_rows_are_gone(path: Path):
    writer, reader = RingWriter(path), RingReader(path)
    write(writer, 3 * ROWS)
    with pytest.raises(Lapped) as lapped:
        reader.read_range(1, 3 * ROWS)
    assert (lapped.value.cursor_first, lapped.value.cursor_last) == (1, reader.oldest - 1)
    with pytest.raises(Lapped) as lapped:
        reader.read_range(5, 7)
    assert (lapped.value.cursor_first, lapped.value.cursor_last, lapped.value.lost) == (5, 7, 3)
    assert cursors(reader.read_range(reader.oldest, 3 * ROWS))[-1] == 3 * ROWS


def test_lapped_reader_is_told_once_and_goes_on_at_the_oldest_row(path: Path):
    writer, reader = RingWriter(path), RingReader(path)
    write(writer, 3 * ROWS)
    with pytest.raises(Lapped) as lapped:
        reader.read_nowait(1)
    assert (lapped.value.cursor_first, lapped.value.cursor_last) == (1, reader.oldest - 1)
    assert reader.cursor == reader.oldest - 1
    rows = cursors(reader.read_nowait())
    assert rows == list(range(lapped.value.cursor_last + 1, 3 * ROWS + 1))
    assert len(rows) >= ROWS - RESERVED


def fence_that(*actions: Callable[[], None]) -> Callable[[], None]:
    """A fence at whose calls these things happen in turn: the first is before a copy, the second after it."""
    waiting = list(actions)
    return lambda: waiting.pop(0)() if waiting else None


def test_rows_overwritten_during_the_copy_are_lapped_and_the_others_kept(path: Path, monkeypatch: pytest.MonkeyPatch):
    writer, reader = RingWriter(path), RingReader(path)
    write(writer, 20)
    monkeypatch.setattr("marketd.ring.reader.fence", fence_that(lambda: None, lambda: write(writer, 20)))
    with pytest.raises(Lapped) as lapped:
        reader.read_nowait()
    assert lapped.value.cursor_first == 1
    assert 8 <= lapped.value.cursor_last <= 8 + RESERVED
    monkeypatch.undo()
    write(writer, ROWS)  # the rest is gone from the ring by now, but not from the copy
    survivors = [reader.read_nowait(3) for _ in range(2)]
    assert cursors(np.concatenate(survivors)) == list(range(lapped.value.cursor_last + 1, lapped.value.cursor_last + 7))


def test_rows_overwritten_before_the_copy_are_never_returned(path: Path, monkeypatch: pytest.MonkeyPatch):
    writer, reader = RingWriter(path), RingReader(path)
    write(writer, 20)
    monkeypatch.setattr("marketd.ring.reader.fence", fence_that(lambda: write(writer, 2 * ROWS)))
    with pytest.raises(Lapped) as lapped:
        reader.read_nowait()
    assert (lapped.value.cursor_first, lapped.value.cursor_last) == (1, 20)
    with pytest.raises(Lapped) as lapped:
        reader.read_nowait()
    assert lapped.value.cursor_first == 21
    assert cursors(reader.read_nowait())[-1] == 20 + 2 * ROWS


def test_range_overwritten_during_the_copy_is_lapped(path: Path, monkeypatch: pytest.MonkeyPatch):
    writer, reader = RingWriter(path), RingReader(path)
    write(writer, 20)
    monkeypatch.setattr("marketd.ring.reader.fence", fence_that(lambda: None, lambda: write(writer, ROWS)))
    with pytest.raises(Lapped) as lapped:
        reader.read_range(18, 20)
    assert (lapped.value.cursor_first, lapped.value.cursor_last) == (18, 20)


def test_few_rows_are_had_in_one_piece_wherever_they_lie_in_one(path: Path):
    writer, reader = RingWriter(path), RingReader(path)
    had = 0
    for _ in range(3 * ROWS):
        write(writer, 1)
        for first in range(reader.oldest, reader.published + 1):
            found = reader.read_few(first, reader.published)
            in_one_piece = first % ROWS <= reader.published % ROWS
            assert found == (reader.read_range(first, reader.published).tobytes() if in_one_piece else None)
            had += in_one_piece
        if reader.oldest > 1:
            assert reader.read_few(reader.oldest - 1, reader.oldest - 1) is None  # overwritten
    assert had > ROWS * ROWS // 2


def test_many_rows_are_not_had_in_one_piece(tmp_path: Path):
    create_ring(tmp_path / "large", 256)
    writer, reader = RingWriter(tmp_path / "large"), RingReader(tmp_path / "large")
    write(writer, 100)
    assert len(reader.read_few(10, 9 + FEW_ROWS) or b"") == FEW_ROWS * layout.ROW_BYTES
    assert reader.read_few(10, 10 + FEW_ROWS) is None


def test_few_rows_overwritten_during_the_copy_are_not_had(path: Path, monkeypatch: pytest.MonkeyPatch):
    writer, reader = RingWriter(path), RingReader(path)
    write(writer, 4)
    assert reader.read_few(1, 4) is not None
    monkeypatch.setattr("marketd.ring.reader.fence", fence_that(lambda: None, lambda: write(writer, ROWS)))
    assert reader.read_few(1, 4) is None


def test_few_rows_of_which_one_bears_another_cursor_are_not_had(path: Path):
    writer, reader = RingWriter(path), RingReader(path)
    write(writer, 4)
    with path.open("r+b") as file:
        file.seek(layout.HEADER_BYTES + 3 * layout.ROW_BYTES)
        file.write(b"\x09")
    assert reader.read_few(1, 2) is not None
    assert reader.read_few(1, 4) is None
    with pytest.raises(SegmentError, match="other cursors"):
        reader.read_range(1, 4)


def test_row_that_bears_another_cursor_than_its_place_stops_the_reader(path: Path):
    writer, reader = RingWriter(path), RingReader(path)
    write(writer, 5)
    with path.open("r+b") as file:
        file.seek(layout.HEADER_BYTES + 3 * layout.ROW_BYTES)
        file.write(b"\x63")
    with pytest.raises(SegmentError, match="damaged: rows 1 to 5 hold other cursors"):
        reader.read_nowait()


@pytest.mark.parametrize(
    ("offset", "what"),
    [(0, "magic"), (8, "layout version"), (12, "row bytes"), (16, "dtype hash"), (24, "segment bytes")],
)
def test_ring_of_another_layout_is_refused_by_what_differs(path: Path, offset: int, what: str):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x7f")
    with pytest.raises(SegmentError, match=rf"not a ring of this version: {what} \S+ instead of"):
        RingReader(path)


def test_ring_cut_short_is_refused(path: Path):
    with path.open("r+b") as file:
        file.truncate(layout.HEADER_BYTES + layout.ROW_BYTES)
    with pytest.raises(SegmentError, match="segment bytes 4168 instead of 6400"):
        RingReader(path)


def test_segment_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segment.os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(SegmentError, match="belongs to another user"):
        RingReader(path)


async def test_waiting_reader_returns_when_there_is_something_to_read(
    path: Path, autojump_clock: trio.testing.MockClock
):
    bell = MemoryBell()
    writer, reader = RingWriter(path, bell), RingReader(path)
    read: list[list[int]] = []

    async def follow() -> None:
        for _ in range(2):
            await reader.wait_available(bell)
            read.append(cursors(reader.read_nowait()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        write(writer, 2)
        await trio.testing.wait_all_tasks_blocked()
        write(writer, 1)
    assert read == [[1, 2], [3]]

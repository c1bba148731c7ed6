from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from marketd.errors import SegmentError
from marketd.ring import layout, segment
from marketd.ring.reader import RingReader
from marketd.ring.writer import RingWriter, create_ring

ROWS = 32
QUOTE = (1_700_000_000_123_456_789, 1_700_000_000_123_456_790, 77, 3, 2, 0, 1, 1.5, 10.0, 1.75, 20.0)


class CountingBells:
    rings = 0

    def ring(self) -> None:
        self.rings += 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_ring(tmp_path / "ring", ROWS)
    return tmp_path / "ring"


@pytest.mark.parametrize("rows", [0, 4, 100, -8])
def test_ring_of_a_size_that_is_no_power_of_two_is_refused(tmp_path: Path, rows: int):
    with pytest.raises(ValueError, match="power of two"):
        create_ring(tmp_path / "ring", rows)


def test_epoch_is_new_for_each_ring_and_exact_as_a_float(tmp_path: Path):
    epochs = [create_ring(tmp_path / f"ring{n}", ROWS) for n in range(10)]
    assert len(set(epochs)) == 10
    assert all(0 < epoch == int(float(epoch)) for epoch in epochs)
    assert RingWriter(tmp_path / "ring3").epoch == epochs[3]


def test_appended_row_is_seen_after_publish_and_not_before(path: Path):
    writer, reader = RingWriter(path), RingReader(path)
    writer.append(QUOTE)
    assert (writer.cursor, reader.published) == (1, 0)
    assert len(reader.read_nowait()) == 0
    writer.publish()
    assert reader.read_nowait().view(layout.QUOTE).tolist() == [(1, *QUOTE)]


def test_gap_row_keeps_its_integers(path: Path):
    writer, reader = RingWriter(path), RingReader(path)
    writer.append_integers((1, 2, 0, 0, 4, 0, 0, 1_700_000_000_123_456_789, 1_700_000_000_123_456_790, 1, -1))
    writer.publish()
    (gap,) = reader.read_nowait().view(layout.GAP)
    assert gap["from_ns"] == 1_700_000_000_123_456_789
    assert (gap["to_ns"], gap["reason"], gap["lost"]) == (1_700_000_000_123_456_790, 1, -1)


def test_search_for_an_equal_time_never_misses(path: Path):
    """R28: equality search by epoch never misses: these times differ by less than a float64 can tell apart."""
    writer, reader = RingWriter(path), RingReader(path)
    times = [1_700_000_000_000_000_001 + n for n in range(8)]
    for event_ns in times:
        writer.append((event_ns, *QUOTE[1:]))
    writer.publish()
    rows = reader.read_nowait()
    assert [np.flatnonzero(rows["event_ns"] == event_ns).tolist() for event_ns in times] == [[n] for n in range(8)]


@pytest.mark.parametrize("dtype", [layout.ROW, layout.TRADE, layout.QUOTE])
def test_block_of_any_kind_is_numbered_and_the_callers_rows_are_left_alone(path: Path, dtype: np.dtype[np.void]):
    writer, reader = RingWriter(path), RingReader(path)
    rows = np.zeros(5, dtype)
    rows["event_ns"] = range(5)
    writer.append(QUOTE)
    writer.append_block(rows)
    writer.publish()
    read = reader.read_nowait()
    assert read["cursor"].tolist() == [1, 2, 3, 4, 5, 6]
    assert read["event_ns"][1:].tolist() == [0, 1, 2, 3, 4]
    assert not rows["cursor"].any()


def test_block_that_is_not_contiguous_is_written_right(path: Path):
    writer, reader = RingWriter(path), RingReader(path)
    rows = np.zeros(10, layout.ROW)
    rows["event_ns"] = range(10)
    writer.append_block(rows[::2])
    writer.append_block(rows[:0])
    writer.publish()
    assert reader.read_nowait()["event_ns"].tolist() == [0, 2, 4, 6, 8]


def test_block_larger_than_the_ring_is_published_on_the_way(path: Path):
    bells = CountingBells()
    writer, reader = RingWriter(path, bells), RingReader(path)
    writer.append_block(np.zeros(10 * ROWS, layout.ROW))
    assert bells.rings > 10
    assert reader.published >= 9 * ROWS
    writer.publish()
    assert reader.published == 10 * ROWS


def test_block_of_another_row_size_is_refused(path: Path):
    with pytest.raises(ValueError, match="72 bytes, not 8"):
        RingWriter(path).append_block(np.zeros(3))


def test_rows_never_published_do_not_overwrite_each_other_unseen(path: Path):
    writer, reader = RingWriter(path), RingReader(path)
    seen = 0
    for _ in range(5 * ROWS):
        writer.append(QUOTE)
        seen += len(reader.read_nowait())
    writer.publish()
    assert seen + len(reader.read_nowait()) == 5 * ROWS


def test_publishing_nothing_new_rings_no_bell(path: Path):
    bells = CountingBells()
    writer = RingWriter(path, bells)
    writer.publish()
    writer.append(QUOTE)
    writer.append(QUOTE)
    writer.publish()
    writer.publish()
    assert bells.rings == 1


def test_row_that_can_not_be_packed_takes_no_cursor(path: Path):
    writer, reader = RingWriter(path), RingReader(path)
    with pytest.raises(Exception, match="required argument"):
        writer.append(("now", *QUOTE[1:]))  # type: ignore[arg-type]
    writer.append(QUOTE)
    writer.publish()
    assert reader.read_nowait()["cursor"].tolist() == [1]


def test_successor_goes_on_after_what_was_published(path: Path):
    reader = RingReader(path)
    first = RingWriter(path)
    for _ in range(3):
        first.append(QUOTE)
    first.publish()
    first.append((1, *QUOTE[1:]))
    die(first)
    second = RingWriter(path)
    assert (second.cursor, second.published) == (3, 3)
    second.append((2, *QUOTE[1:]))
    second.close()
    rows = reader.read_nowait()
    assert rows["cursor"].tolist() == [1, 2, 3, 4]
    assert rows["event_ns"][3] == 2


def test_slots_that_a_dead_writer_had_reserved_stay_unreadable(path: Path):
    first = RingWriter(path)
    for _ in range(ROWS):
        first.append(QUOTE)
    first.publish()
    first.append(QUOTE)  # into the slot of row 1, and never published
    die(first)
    RingWriter(path)
    reader = RingReader(path, cursor=0)
    assert reader.published == ROWS
    assert 1 < reader.oldest <= 1 + ROWS // 4


def test_successor_that_writes_less_does_not_make_them_readable_again(path: Path):
    first = RingWriter(path)
    for count in (ROWS + 2, 14):
        first.publish()
        for _ in range(count):
            first.append(QUOTE)
    reserved = RingReader(path).oldest + ROWS - 1
    die(first)
    second = RingWriter(path)
    assert second.cursor + 1 + ROWS // 4 < reserved
    second.append(QUOTE)
    second.publish()
    reader = RingReader(path)
    assert reader.oldest + ROWS - 1 == reserved
    assert len(reader.read_range(reader.oldest, reader.published)) > ROWS // 2 - 1


def test_two_writers_at_once_are_refused(path: Path):
    writer = RingWriter(path)
    with pytest.raises(SegmentError, match="already has a writer"):
        RingWriter(path)
    writer.close()
    writer.close()
    RingWriter(path).close()


def test_writer_shows_who_it_is_and_that_it_lives(path: Path):
    writer, reader = RingWriter(path), RingReader(path)
    assert (reader.writer_pid, reader.writer_heartbeat_ns) == (os.getpid(), 0)
    writer.beat(1_700_000_000_123_456_789)
    assert reader.writer_heartbeat_ns == 1_700_000_000_123_456_789


def test_writer_of_a_foreign_segment_is_refused_and_lets_go_of_it(tmp_path: Path):
    segment.create(tmp_path / "other", 8192)
    for _ in range(2):
        with pytest.raises(SegmentError, match="magic"):
            RingWriter(tmp_path / "other")


def die(writer: RingWriter) -> None:
    """Let a writer go as SIGKILL would: nothing is published on the way out."""
    writer._words.release()
    writer._memory.close()

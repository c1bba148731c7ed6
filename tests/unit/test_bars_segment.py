"""Bar segments: what a reader finds in them, whatever their writer is doing, or was doing when it died."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from marketd.clock import SECOND_NS
from marketd.errors import SegmentError
from marketd.ring import layout, segment
from marketd.ring.bars import BLOCK, SLOT, SLOT_BYTES, VERSION_OFFSET, BarsReader, BarsWriter, Progress, create_bars
from marketd.ring.writer import create_ring
from tests.bars_writer import fill
from tests.conftest import PROJECT

ROWS = 16
INSTRUMENTS = 20  # two blocks and a half
BLOCK_BYTES = ROWS * BLOCK * SLOT_BYTES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_bars(tmp_path / "bars", rows=ROWS, instruments=INSTRUMENTS, period_ns=SECOND_NS)
    return tmp_path / "bars"


@contextmanager
def writing(path: Path) -> Iterator[BarsWriter]:
    writer = BarsWriter(path)
    try:
        yield writer
    finally:
        writer.close()


@contextmanager
def reading(path: Path) -> Iterator[BarsReader]:
    reader = BarsReader(path)
    try:
        yield reader
    finally:
        reader.close()


def put(writer: BarsWriter, instrument: int, numbers: range | list[int]) -> None:
    """Write bars of an instrument whose close is their number."""
    block, lane = divmod(instrument - 1, BLOCK)
    writer.begin(1)
    for number in numbers:
        bar = np.zeros(1, SLOT)
        bar["number"], bar["open_ns"], bar["close"] = number, number * SECOND_NS, number
        writer.words[block, number % ROWS, lane] = bar.view(np.int64)
    writer.end(max(numbers), min(numbers))


# --- the segment ------------------------------------------------------------------------------------------


def test_segment_is_what_it_was_made_as(path: Path):
    with reading(path) as reader:
        assert reader.header[0] == ROWS
        assert reader.header[2:] == (INSTRUMENTS, SECOND_NS)
        assert (reader.version, reader.allocated) == (0, 0)
        assert reader.progress == Progress(0, 0, 0, 0)


def test_two_segments_have_different_epochs(tmp_path: Path, path: Path):
    create_bars(tmp_path / "other", rows=ROWS, instruments=INSTRUMENTS, period_ns=SECOND_NS)
    with reading(path) as one, reading(tmp_path / "other") as other:
        assert one.header.epoch != other.header.epoch


def test_segment_takes_one_page_until_instruments_come(path: Path):
    """5,000 instruments' bars of nine periods would else be gigabytes."""
    assert path.stat().st_size == layout.HEADER_BYTES + 3 * BLOCK_BYTES
    assert path.stat().st_blocks * 512 <= 2 * layout.HEADER_BYTES


def test_allocating_gives_memory_to_whole_blocks_and_is_remembered(path: Path):
    with writing(path) as writer:
        writer.allocate(3)
        assert writer.allocated == BLOCK
        taken = path.stat().st_blocks * 512
        assert BLOCK_BYTES <= taken <= BLOCK_BYTES + 3 * layout.HEADER_BYTES
        writer.allocate(1)
        assert writer.allocated == BLOCK
        writer.allocate(BLOCK + 1)
        assert writer.allocated == 2 * BLOCK
        assert path.stat().st_blocks * 512 >= 2 * BLOCK_BYTES
    with writing(path) as successor:
        assert successor.allocated == 2 * BLOCK


def test_allocating_changes_no_bar_that_is_there(path: Path):
    with writing(path) as writer, reading(path) as reader:
        writer.allocate(1)
        put(writer, 1, range(100, 110))
        before = reader.slots(1).tolist()
        writer.allocate(INSTRUMENTS)
        assert reader.slots(1).tolist() == before


def test_segment_that_finds_no_memory_says_so_and_keeps_what_it_has(path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    with writing(path) as writer:
        writer.allocate(1)
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(SegmentError, match=r"bars of 9 instruments find no room in .*: No space left"):
            writer.allocate(BLOCK + 1)
        assert writer.allocated == BLOCK


def test_more_instruments_than_the_segment_was_made_for_are_refused(path: Path):
    with writing(path) as writer:
        writer.allocate(3 * BLOCK)  # its last block is whole
        with pytest.raises(SegmentError, match="was made for 20 instruments and not for 25"):
            writer.allocate(3 * BLOCK + 1)
    with reading(path) as reader:
        assert reader.allocated == 3 * BLOCK


def test_segment_has_one_writer(path: Path):
    with writing(path), pytest.raises(SegmentError, match=f"already has a writer, process {os.getpid()}"):
        BarsWriter(path)


def test_missing_segment_is_named(tmp_path: Path):
    with pytest.raises(SegmentError, match="nowhere can't be opened"):
        BarsReader(tmp_path / "nowhere")


def test_segment_of_another_sort_is_refused_by_reader_and_writer(tmp_path: Path):
    create_ring(tmp_path / "ring", 64)
    for attach in (BarsReader, BarsWriter):
        with pytest.raises(SegmentError, match="ring holds no bars of this version"):
            attach(tmp_path / "ring")


@pytest.mark.parametrize("offset", [0, 8, 12, 16, 24], ids=["magic", "version", "slot bytes", "hash", "rows"])
def test_segment_of_another_layout_is_refused(path: Path, offset: int):
    with segment.attach(path, writable=True) as memory:
        memory[offset] ^= 1
    for attach in (BarsReader, BarsWriter):
        with pytest.raises(SegmentError, match="holds no bars of this version"):
            attach(path)
    with segment.attach(path, writable=True) as memory:
        memory[offset] ^= 1
    with writing(path):
        pass  # who was refused holds no lock


def test_segment_that_was_cut_short_is_refused(path: Path):
    os.truncate(path, layout.HEADER_BYTES + BLOCK_BYTES)
    with pytest.raises(SegmentError, match="holds no bars"):
        BarsReader(path)


def test_closing_twice_is_fine(path: Path):
    for attach in (BarsReader, BarsWriter):
        bars = attach(path)
        bars.close()
        bars.close()


# --- what a reader finds ----------------------------------------------------------------------------------


def test_instrument_without_bars_has_none(path: Path):
    with writing(path) as writer, reading(path) as reader:
        assert reader.slots(1).tolist() == []  # no memory
        assert reader.range(1, 100, 110).tolist() == []
        writer.allocate(1)
        assert reader.slots(1).tolist() == []  # memory, and nothing in it
        assert reader.range(1, 100, 110).tolist() == []
        assert reader.slots(1).dtype == SLOT


@pytest.mark.parametrize("instrument", [0, -1, INSTRUMENTS + 1])
def test_instrument_that_can_not_be_is_a_lookup_error(path: Path, instrument: int):
    with reading(path) as reader:
        with pytest.raises(LookupError, match=f"has 20 instruments, and no number {instrument}"):
            reader.slots(instrument)
        with pytest.raises(LookupError):
            reader.range(instrument, 1, 2)


def test_bars_come_in_order_wherever_they_lie(path: Path):
    """Bar 100 lies in slot 4 of 16: so 112 lies before it."""
    with writing(path) as writer, reading(path) as reader:
        writer.allocate(INSTRUMENTS)
        for instrument in (1, 8, 9, INSTRUMENTS):
            put(writer, instrument, range(100, 100 + ROWS))
            assert reader.slots(instrument)["number"].tolist() == list(range(100, 100 + ROWS))
            assert reader.slots(instrument)["close"].tolist() == list(range(100, 100 + ROWS))
        assert reader.slots(2).tolist() == []


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (103, 105, [103, 104, 105]),
        (110, 114, [110, 111, 112, 113, 114]),  # over the end of the memory
        (100, 115, list(range(100, 116))),
        (0, 115, list(range(100, 116))),  # more than there can be
        (90, 101, [100, 101]),
        (114, 130, [115]),  # what is older than the newest asked for less the rows is not even looked for
        (113, 120, [113, 114, 115]),
        (105, 104, []),
        (116, 120, []),
        (84, 99, []),  # they were there once, in the same slots
    ],
)
def test_range_gives_the_bars_that_are_there_and_no_others(path: Path, first: int, last: int, expected: list[int]):
    with writing(path) as writer, reading(path) as reader:
        writer.allocate(1)
        put(writer, 1, range(84, 100))
        put(writer, 1, range(100, 116))
        found = reader.range(1, first, last)
        assert found.dtype == SLOT
        assert found["number"].tolist() == expected
        assert found["open_ns"].tolist() == [number * SECOND_NS for number in expected]


def test_absent_bar_is_left_out_of_a_range(path: Path):
    with writing(path) as writer, reading(path) as reader:
        writer.allocate(1)
        put(writer, 1, [100, 102, 103])
        assert reader.range(1, 100, 104)["number"].tolist() == [100, 102, 103]


def test_range_that_begins_before_all_time_finds_no_empty_slots(path: Path):
    """Bars that no period ends count from 1, so the last hundred of ten begin below zero."""
    with writing(path) as writer, reading(path) as reader:
        writer.allocate(1)
        assert reader.range(1, -5, 5).tolist() == []
        put(writer, 1, [1, 2, 3])
        assert reader.range(1, -50, 3)["number"].tolist() == [1, 2, 3]
        assert reader.range(1, 0, 3)["number"].tolist() == [1, 2, 3]


def test_newest_gives_each_instrument_its_own_bar_in_the_order_asked_for(path: Path):
    """Also when one that has no memory yet comes before one that has."""
    with writing(path) as writer, reading(path) as reader:
        writer.allocate(BLOCK)
        for instrument in (1, 3):
            put(writer, instrument, [100 + instrument])
        found = reader.newest(np.array([17, 3, 1, 9]), 103)
        assert found["number"].tolist() == [0, 103, 0, 0]
        found = reader.newest(np.array([1, 3, 17]), 101)
        assert found["number"].tolist() == [101, 0, 0]
        assert reader.newest(np.array([], np.intp), 101).tolist() == []


def test_copy_is_the_readers_own(path: Path):
    with writing(path) as writer, reading(path) as reader:
        writer.allocate(1)
        put(writer, 1, [100])
        found = reader.slots(1)
        found["close"] = 0
        assert reader.slots(1)["close"].tolist() == [100]
        put(writer, 1, [116])
        assert found["number"].tolist() == [100]


# --- a writer at work, and one that died ------------------------------------------------------------------


def test_reader_never_sees_a_half_made_change(path: Path):
    """A process writes whole generations of bars while this one copies: every copy is of one generation."""
    command = [sys.executable, "-m", "tests.bars_writer", str(path)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as child, reading(path) as reader:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            assert_whole_generations(reader)
        finally:
            child.kill()


def assert_whole_generations(reader: BarsReader) -> None:
    """Copy for a second, and for longer where the writer hardly gets a processor."""
    seen: set[int] = set()
    newest = 0
    copies = 0
    soonest_s, latest_s = time.monotonic() + 1, time.monotonic() + 30
    everyone = np.arange(1, INSTRUMENTS + 1)
    while (time.monotonic() < soonest_s or len(seen) < 20) and time.monotonic() < latest_s:
        instrument = copies % INSTRUMENTS + 1
        looks = (
            lambda at=instrument: reader.slots(at),
            lambda at=instrument: reader.range(at, 1005, 1012),
            lambda: reader.newest(everyone, 1007),
        )
        try:
            found = looks[copies % 3]()
        except SegmentError:
            continue  # the writer lost its processor in the middle of a change
        copies += 1
        assert len(found) == (ROWS, 8, INSTRUMENTS)[(copies - 1) % 3]
        words = found.view(np.int64).reshape(len(found), -1)[:, 1:-1]  # the last has bytes that mean nothing
        generations = set(np.unique(words).tolist())
        assert len(generations) == 1, "bars of different moments in one copy"
        generation = generations.pop()
        assert set(found["state"]) == {generation & 0xFF}
        assert generation >= newest, "an older moment after a newer one"
        newest = generation
        seen.add(generation)
    assert len(seen) >= 20


def test_torn_bars_are_refused_with_a_clear_error_until_a_successor_mends_them(path: Path):
    with writing(path) as writer:
        writer.allocate(INSTRUMENTS)
        fill(writer, 100, 1)
        writer.begin(applying=7)
        writer.words[0, 0, 0, 1:] = 2
        # and dies
    with reading(path) as reader:
        for look in (
            lambda: reader.slots(1),
            lambda: reader.range(1, 100, 101),
            lambda: reader.newest(np.array([1]), 1),
        ):
            with pytest.raises(SegmentError, match="do not stand still: their writer is busy, or has died"):
                look()
        with writing(path) as successor:
            assert successor.torn
            assert successor.progress == Progress(opened=100 + ROWS, closed=100, applied=1, applying=7)
            fill(successor, 100, 3)
            assert not successor.torn
            assert successor.progress == Progress(opened=100 + ROWS, closed=100, applied=3, applying=3)
        assert set(reader.slots(1)["open_ns"]) == {3}


def test_successor_of_a_writer_that_ended_well_finds_nothing_torn(path: Path):
    with writing(path) as writer:
        writer.allocate(1)
        put(writer, 1, [100])
    with writing(path) as successor:
        assert not successor.torn
        assert successor.version == 2


def test_version_is_odd_exactly_while_slots_change(path: Path):
    with writing(path) as writer, segment.attach(path, writable=False) as memory:
        assert memory[VERSION_OFFSET] == 0
        writer.begin(applying=1)
        assert memory[VERSION_OFFSET] == 1
        writer.begin(applying=2)  # a successor that begins where its predecessor was
        assert memory[VERSION_OFFSET] == 1
        writer.end(0, 0)
        assert memory[VERSION_OFFSET] == 2

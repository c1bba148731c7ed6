"""The log read again as what the ring was: every cursor once, as a row, as none of ours, or as lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import structlog.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from marketd.errors import StorageError
from marketd.history.ticks import lapped_row
from marketd.model import Kind
from marketd.paths import Paths
from marketd.ring import layout
from marketd.ring.writer import RingWriter, create_ring
from marketd.supervise.epochs import note_ends, read_ends
from storage import tickreplay
from storage.ticklog import LogWriter, Place, log_files, set_filed
from storage.tickreplay import Start, find_cursor, find_time, pages

NAMES = {1: "btc/usdt.spot.sim"}
LOTS = 1 << 40


def trades(cursors: list[int]) -> NDArray[np.void]:
    rows = np.zeros(len(cursors), layout.ROW)
    rows["cursor"] = cursors
    rows["received_ns"] = [time_of(cursor) for cursor in cursors]
    rows["kind"], rows["instrument"] = Kind.TRADE, 1
    return rows


def time_of(cursor: int) -> int:
    return 1_000_000 + cursor * 1000


class Log:
    """A log and what it should say: by epoch, what became of each cursor (from 1): kept, "other", "lost"."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fates: dict[int, list[str]] = {}
        self.ends: dict[int, int] = {}
        self.begin_epoch(0)

    @property
    def epoch(self) -> int:
        return max(self.fates)

    @property
    def place(self) -> Place:
        cursor = len(self.fates[self.epoch])
        return Place(self.epoch, cursor, time_of(cursor))

    def begin_epoch(self, begin: int, *, known: bool = True) -> None:
        if self.fates:
            if known:
                self.ends[self.epoch] = self.place.cursor
            self.writer.close()
        self.fates[len(self.fates) + 1] = ["lost"] * begin
        self.writer = LogWriter(self.folder, self.place, NAMES, ["sol/usdt.spot.sim"])

    def append(self, kept: list[bool]) -> None:
        fates, before = self.fates[self.epoch], self.place.cursor
        fates += ["kept" if each else "other" for each in kept]
        rows = trades([before + 1 + i for i, each in enumerate(kept) if each])
        self.writer.append(rows, self.place, {})

    def lose(self, count: int) -> None:
        self.fates[self.epoch] += ["lost"] * count
        at_ns = self.place.at_ns
        self.writer.append(lapped_row(at_ns, at_ns, self.place.cursor, count), self.place, {})

    def rotate(self, kept_bytes: int = LOTS) -> None:
        old = self.writer.path
        self.writer.close()
        self.writer = LogWriter(self.folder, self.place, NAMES)
        set_filed(old, kept_bytes)


STEPS = st.one_of(
    st.tuples(st.just("append"), st.lists(st.booleans(), max_size=12)),
    st.tuples(st.just("lose"), st.integers(1, 9)),
    st.tuples(st.just("rotate"), st.none()),
    st.tuples(st.just("epoch"), st.tuples(st.integers(0, 3), st.booleans())),
)


@settings(max_examples=200)
@given(steps=st.lists(STEPS, max_size=20), page_rows=st.integers(1, 9), data=st.data())
def test_pages_tell_every_cursor_from_there_on_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]], page_rows: int, data: st.DataObject
) -> None:
    log = Log(tmp_path_factory.mktemp("log"))
    for what, how in steps:
        if what == "append":
            assert isinstance(how, list)
            log.append(how)
        elif what == "lose":
            assert isinstance(how, int)
            log.lose(how)
        elif what == "rotate":
            log.rotate()
        else:
            assert isinstance(how, tuple)
            log.begin_epoch(how[0], known=how[1])
    epoch = data.draw(st.integers(1, log.epoch))
    cursor = data.draw(st.integers(0, len(log.fates[epoch])))
    start = find_cursor(log.folder, epoch, cursor)
    assert start == Start(epoch, cursor)

    names: dict[int, str] = {}
    for page in pages(log.folder, start, log.epoch, log.ends, page_rows=page_rows):
        if page.begins:
            assert (page.cursor_first, page.cursor_last) == (1, 0)
            assert cursor == len(log.fates[epoch]), "the old epoch was told to its end"
            assert page.lost == (0 if epoch in log.ends else -1)
            epoch, cursor = page.epoch, 0
            names = {}
            continue
        names |= page.names
        assert (page.epoch, page.cursor_first) == (epoch, cursor + 1)
        fates = log.fates[epoch][cursor : page.cursor_last]
        rows = np.frombuffer(page.data, layout.ROW)
        if page.lost is not None:
            assert set(fates) == {"lost"}
            assert (page.lost, len(rows)) == (len(fates), 0)
        else:
            assert "lost" not in fates
            assert rows["cursor"].tolist() == [cursor + 1 + i for i, fate in enumerate(fates) if fate == "kept"]
            assert not len(rows) or names == NAMES, "names come before their rows"
        cursor = page.cursor_last
    assert (epoch, cursor) == (log.epoch, len(log.fates[log.epoch]))


def test_what_an_ended_epoch_had_beyond_the_log_is_counted(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.append([True] * 5)
    log.begin_epoch(0)
    told = list(pages(tmp_path, Start(1, 2), 2, {1: 9}))
    assert [(page.epoch, page.cursor_first, page.cursor_last, page.lost) for page in told] == [
        (1, 3, 5, None),
        (2, 1, 0, 4),
        (2, 1, 0, None),  # names only
    ]


def test_epoch_of_which_nothing_is_in_the_log_yet_is_the_last_page(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.append([True] * 5)
    assert [(page.epoch, page.lost) for page in pages(tmp_path, Start(1, 0), 77, {1: 5})] == [(1, None), (77, 0)]


def test_files_that_are_gone_are_a_gap_and_those_kept_are_the_newest(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for _ in range(4):
        log.append([True] * 10)
        log.rotate()
    size = log_files(tmp_path, ".filed")[0].stat().st_size
    log.append([True] * 3)
    log.rotate(kept_bytes=2 * size)
    assert [path.name for path in log_files(tmp_path, ".filed", ".ticks")] == [
        "00000004.filed",
        "00000005.filed",
        "00000006.ticks",
    ]
    first, second = pages(tmp_path, Start(1, 4), 1, {})
    assert (first.cursor_first, first.cursor_last, first.lost) == (5, 30, 26)
    assert (second.cursor_first, second.cursor_last, second.others) == (31, 43, [])
    assert find_cursor(tmp_path, 2, 4) is None
    assert find_time(tmp_path, time_of(29)) == Start(1, 0), "the log begins later"


def test_file_that_is_removed_while_it_is_read_is_a_gap(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for _ in range(3):
        log.append([True] * 10)
        log.rotate()
    log.append([True])
    found = pages(tmp_path, Start(1, 0), 1, {}, page_rows=5)
    first = next(found)
    assert (first.cursor_first, first.cursor_last) == (1, 10)
    for path in log_files(tmp_path, ".filed")[1:]:
        path.unlink()
    assert [(page.cursor_first, page.cursor_last, page.lost) for page in found] == [
        (11, 20, 10),
        (21, 30, 10),
        (31, 31, None),
    ]


@pytest.mark.parametrize("after", [1, 7, 10, 11, 25, 29])
def test_time_begins_with_the_first_row_received_then(tmp_path: Path, after: int) -> None:
    """Also where a row came later than the time at which its file was ended."""
    log = Log(tmp_path)
    for _ in range(3):
        log.append([True] * 10)
        log.writer.place = log.writer.place._replace(at_ns=time_of(log.place.cursor - 2))
        old = log.writer.path
        log.writer.close()
        log.writer = LogWriter(tmp_path, log.writer.place, NAMES)
        set_filed(old, LOTS)
    assert find_time(tmp_path, time_of(after)) == Start(1, after - 1)
    assert find_time(tmp_path, time_of(after) - 1) == Start(1, after - 1)
    assert find_time(tmp_path, time_of(40)) == Start(1, 30), "nothing came since"


def test_unreadable_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Log(tmp_path)

    def broken(path: Path, mode: str) -> object:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", broken)
    with pytest.raises(StorageError, match=r"00000001.ticks can't be read: Input/output error"):
        tickreplay.find_cursor(tmp_path, 1, 0)


def test_ends_of_epochs_are_kept_over_many_stops(tmp_path: Path) -> None:
    paths = Paths.for_instance("ends", tmp_path)
    paths.create()
    ring = paths.segment("sim", "ring")
    known = {}
    try:
        for _ in range(3):
            epoch = create_ring(ring, 1024)
            writer = RingWriter(ring)
            writer.append_block(trades([1, 2, 3]))
            writer.publish()
            writer.close()
            note_ends(paths, ["sim"])
            known[epoch] = 3
            ring.unlink()
    finally:
        ring.unlink(missing_ok=True)
    assert read_ends(paths.epochs("sim")) == known
    assert read_ends(paths.epochs("none")) == {}


def test_end_that_can_not_be_written_is_one_that_nobody_knows(tmp_path: Path) -> None:
    """A disk that is full, or somebody's file in the way, must not keep a daemon from its end."""
    paths = Paths.for_instance("unwritten", tmp_path)
    paths.create()
    paths.epochs("sim").parent.write_text("no folder")
    ring = paths.segment("sim", "ring")
    try:
        create_ring(ring, 1024)
        with structlog.testing.capture_logs() as told:
            note_ends(paths, ["sim"])
    finally:
        ring.unlink(missing_ok=True)
    assert [(line["event"], line["feed"]) for line in told] == [("epoch.end_unwritten", "sim")]

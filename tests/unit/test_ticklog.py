"""The log of ticks: what is whole in it, what a killed process and a bad disk leave, and what is read of all tiers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from marketd.errors import StorageError
from marketd.history.recorder import file_log
from marketd.history.tick_reading import Recent, read_log_of, read_ring_of, tick_batches, view_of
from marketd.history.ticks import lapped_row, tick_frame
from marketd.model import GapReason, Kind, Quality
from marketd.ring import layout
from marketd.ring.reader import RingReader
from marketd.ring.writer import RingWriter, create_ring
from storage import ticklog
from storage.client import open_storage_client
from storage.coverage import State, ranges
from storage.layout import Series
from storage.ticklog import LogWriter, Place, log_files, read_end, read_log

DAY = 1_700_000_000 * 10**9
NAMES = {1: "btc/usdt.spot.sim", 2: "eth/usdt.spot.sim"}
BTC = Series(NAMES[1], "trade")


def trades(first: int, count: int, instrument: int = 1, step_ns: int = 10**9) -> NDArray[np.void]:
    """Trades a second apart; cursor, sequence and price say which one it is."""
    rows = np.zeros(count, layout.ROW)
    numbers = np.arange(first, first + count)
    rows["cursor"] = rows["sequence"] = rows["v0"] = numbers
    rows["event_ns"] = DAY + numbers * step_ns
    rows["received_ns"] = rows["event_ns"] + 1000
    rows["kind"], rows["instrument"], rows["v1"] = Kind.TRADE, instrument, 1.0
    rows["v3"] = 2.0  # so that no row ends in zeros
    return rows


def place(cursor: int) -> Place:
    return Place(7, cursor, DAY + cursor * 10**9 + 5000)


def test_what_was_appended_is_read_and_a_new_file_goes_on_where_the_old_one_ends(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "log", place(0), NAMES)
    writer.append(trades(1, 3), place(3), {})
    writer.append(trades(4, 2, 3), place(5), {3: "sol/usdt.spot.sim"})
    writer.close()
    again = LogWriter(tmp_path / "log", writer.place, NAMES)
    again.close()
    assert [path.name for path in log_files(tmp_path / "log")] == ["00000001.ticks", "00000002.ticks"]
    logged = read_log(writer.path)
    assert (logged.first, logged.last, logged.torn, logged.damaged) == (place(0), place(5), False, False)
    assert logged.rows["cursor"].tolist() == [1, 2, 3, 4, 5]
    assert logged.spans[1] == [(place(0).at_ns, place(5).at_ns)]
    assert logged.spans[3] == [(place(3).at_ns, place(5).at_ns)]  # from when on it was followed
    end = read_end(tmp_path / "log")
    assert end is not None
    assert (end.last, end.live) == (place(5), {1, 2})
    assert read_end(tmp_path / "none") is None


def test_instrument_that_is_dropped_is_complete_until_then_and_again_once_it_is_named(tmp_path: Path) -> None:
    gone = trades(4, 1)
    gone["kind"] = Kind.STATUS
    gone.view(layout.STATUS)["code"] = Quality.UNKNOWN
    writer = LogWriter(tmp_path, place(0), NAMES)
    writer.append(np.concatenate([trades(1, 3), gone]), place(4), {})
    writer.append(trades(9, 1), place(9), {1: NAMES[1]})
    logged = read_log(writer.path)
    assert logged.spans[1] == [(place(0).at_ns, int(gone["received_ns"][0])), (place(4).at_ns, place(9).at_ns)]
    assert logged.live == {1, 2}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_cut_anywhere_a_file_has_its_first_records_whole(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    """R66: a killed process, or a power cut, leaves a torn record; nothing before it is lost, and nothing made up."""
    folder = tmp_path_factory.mktemp("log")
    writer = LogWriter(folder, place(0), NAMES)
    ends = [writer.size]
    for number in range(4):
        writer.append(trades(1 + 2 * number, 2), place(2 + 2 * number), {})
        ends.append(writer.size)
    writer.close()
    whole = writer.path.read_bytes()
    cut = data.draw(st.integers(ends[0], len(whole)))
    tail = data.draw(st.sampled_from([b"", bytes(100)]))  # a power cut may leave zeros
    writer.path.write_bytes(whole[:cut] + tail)
    logged = read_log(writer.path)
    count = sum(end <= cut for end in ends) - 1
    assert logged.rows["cursor"].tolist() == list(range(1, 1 + 2 * count))
    assert logged.last == place(2 * count)
    assert not logged.damaged or tail
    assert logged.torn or logged.damaged or cut in ends


def test_flipped_bit_is_damage_and_what_is_behind_it_is_not_complete(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "log", place(0), NAMES)
    for number in range(3):
        writer.append(trades(1 + number, 1), place(1 + number), {})
    writer.close()
    data = bytearray(writer.path.read_bytes())
    data[-150] ^= 1
    writer.path.write_bytes(data)
    assert read_log(writer.path).damaged
    with open_storage_client(tmp_path) as store:
        file_log(writer.path, store)
        rows = store.read(BTC)
        assert rows["cursor"].to_list() == [1]
        assert ranges(store.coverage(BTC), State.COMPLETE)[-1][1] == place(1).at_ns
        assert store.series() == [Series(name, kind) for name in sorted(NAMES.values()) for kind in ("quote", "trade")]
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["00000001.ticks.damaged"]


def test_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LogWriter(tmp_path, place(0), NAMES)
    writer.append(trades(1, 1), place(1), {})
    before = writer.path.read_bytes()

    def write_half(file, data):
        file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ticklog, "_write_all", write_half)
        with pytest.raises(StorageError, match="can't be written to: No space left on device"):
            writer.append(trades(2, 1), place(2), {})
    assert writer.path.read_bytes() == before
    writer.append(trades(2, 1), place(2), {})
    assert read_log(writer.path).rows["cursor"].tolist() == [1, 2]


def test_file_that_could_not_be_begun_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk had another empty file at each attempt."""
    with monkeypatch.context() as patch:
        patch.setattr(ticklog, "_write_all", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StorageError, match="No space left on device"):
            LogWriter(tmp_path, place(0), NAMES)
    assert list(tmp_path.iterdir()) == []
    LogWriter(tmp_path, place(0), NAMES).close()
    assert len(log_files(tmp_path)) == 1


def test_filing_twice_changes_nothing_and_gaps_are_missing(tmp_path: Path) -> None:
    lost = lapped_row(DAY + 3 * 10**9, DAY + 4 * 10**9, 4, 17)
    writer = LogWriter(tmp_path / "log", place(0), NAMES)
    writer.append(np.concatenate([trades(1, 2), lost, trades(5, 2)]), place(6), {})
    writer.close()
    data = writer.path.read_bytes()
    with open_storage_client(tmp_path) as store:
        file_log(writer.path, store)
        writer.path.write_bytes(data)  # killed before it was removed
        file_log(writer.path, store)
        assert store.read(BTC)["cursor"].to_list() == [1, 2, 5, 6]
        assert ranges(store.coverage(BTC), State.MISSING) == [(DAY + 3 * 10**9, DAY + 4 * 10**9 + 1)]
        assert ranges(store.coverage(BTC), State.COMPLETE)[0][0] <= DAY + 10**9
    assert log_files(tmp_path / "log") == []
    assert lost.view(layout.GAP)["reason"][0] == GapReason.LAPPED


# --- reading all tiers as one -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("tiers")


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 60), min_size=3, max_size=3).map(sorted),
    overlap=st.integers(0, 5),
    span=st.tuples(st.integers(-5, 70), st.integers(-5, 70)).map(sorted),
    limit=st.none() | st.integers(1, 70),
    order=st.sampled_from(["newest", "oldest"]),
    step_ns=st.sampled_from([1, 10**9, 3600 * 10**9]),
)
def test_answer_has_each_tick_once_wherever_it_lies(
    tmp_path_factory, cuts: list[int], overlap: int, span: list[int], limit: int | None, order, step_ns: int
) -> None:
    """C2: parquet, log and ring have no seam between them, even where both sides have a tick."""
    folder = tmp_path_factory.mktemp("tiers")
    rows = trades(1, 60, step_ns=step_ns)
    stored, logged, _ = cuts
    with open_storage_client(folder) as store:
        if stored:
            with store.writer(BTC) as writer:
                writer.write(tick_frame(rows[:stored], "trade"))
        log = rows[max(0, stored - overlap) : logged]
        ring = rows[max(0, logged - overlap) :]
        recents = [Recent(log, [], 0), Recent(ring, [], DAY + 10**15)]
        view = view_of(store, BTC, recents)
        start_ns, end_ns = (DAY + number * step_ns for number in span)
        frames = list(tick_batches(view, store, start_ns, end_ns, limit=limit, order=order))
    found = pl.concat(frames)["cursor"].to_list() if frames else []
    expected = [number for number in range(1, 61) if span[0] <= number < span[1]]
    if limit is not None:
        expected = expected[-limit:] if order == "newest" else expected[:limit]
    assert found == expected


def test_ring_goes_on_where_the_log_ends_and_says_when_it_does_not(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    create_ring(path, 1024)
    writer = RingWriter(path, None)
    writer.append_block(trades(1, 900))
    writer.publish()
    ring = RingReader(path)
    recent = read_ring_of(ring, 1, 800, DAY, DAY + 10**13)
    assert (recent.rows["cursor"].tolist(), recent.spans) == (list(range(801, 901)), [(DAY, DAY + 10**13)])
    assert len(read_ring_of(ring, 2, 0, 0, DAY).rows) == 0
    writer.append_block(trades(901, 1000))
    writer.publish()
    recent = read_ring_of(ring, 1, 800, DAY, DAY + 10**13)
    first = int(recent.rows["cursor"][0])
    assert first > 801
    assert recent.rows["cursor"].tolist() == list(range(first, 1901))
    assert recent.spans[0][0] == recent.rows["received_ns"][0]  # what was overwritten is not complete
    ring.close()
    writer.close()


def test_log_is_read_while_its_files_go_to_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LogWriter(tmp_path, place(0), NAMES)
    writer.append(trades(1, 3), place(3), {})
    writer.close()
    recent, last = read_log_of(tmp_path, NAMES[1])
    assert (recent.rows["cursor"].tolist(), last) == ([1, 2, 3], place(3))
    monkeypatch.setattr("marketd.history.tick_reading.log_files", lambda folder: [folder / "gone.ticks", writer.path])
    assert len(read_log_of(tmp_path, NAMES[2])[0].rows) == 0
    assert read_log_of(tmp_path, "nope")[0].spans == []

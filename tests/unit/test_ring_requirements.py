"""What was required of an array that grew at both ends, said of a ring that grows at one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from marketd.errors import Lapped
from marketd.ring import layout
from marketd.ring.reader import RingReader
from marketd.ring.writer import RingWriter, create_ring

ROWS = 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_ring(tmp_path / "ring", ROWS)
    return tmp_path / "ring"


def block(count: int, first: int = 0) -> np.ndarray:
    rows = np.zeros(count, layout.TRADE)
    rows["kind"] = 1
    rows["price"] = np.arange(first, first + count)
    return rows


def test_reading_needs_no_length_check_before_it(path: Path) -> None:
    """R22: an empty ring gives an empty array with every field; the newest row is at [-1] as soon as there is one."""
    reader = RingReader(path, cursor=0)
    empty = reader.read_nowait()
    assert empty.dtype == layout.ROW
    assert empty["event_ns"].tolist() == []
    with_writer = RingWriter(path)
    with_writer.append_block(block(1, first=7))
    with_writer.publish()
    assert reader.read_nowait()[-1].view(layout.TRADE)["price"] == 7
    with_writer.close()


@pytest.mark.parametrize("count", [ROWS, ROWS + 1, 3 * ROWS + 5])
def test_block_larger_than_the_ring_keeps_exactly_its_newest_rows(path: Path, count: int) -> None:
    """R23: no exception, no overrun; what did not fit is reported as lost, by number."""
    writer = RingWriter(path)
    writer.append_block(block(count))
    writer.publish()
    reader = RingReader(path, cursor=0)
    lost = 0
    try:
        rows = reader.read_nowait(4 * ROWS)
    except Lapped as lapped:
        lost = lapped.lost
        rows = reader.read_nowait(4 * ROWS)
    assert lost + len(rows) == count
    assert rows.view(layout.TRADE)["price"].tolist() == list(range(lost, count))
    assert len(rows) >= ROWS // 2
    writer.close()


def test_appending_changes_no_row_that_is_there(path: Path) -> None:
    """R24: first and last move only by what is appended, and only its own slots are written."""
    writer = RingWriter(path)
    writer.append_block(block(10))
    writer.publish()
    reader = RingReader(path, cursor=0)
    before = reader.read_range(1, 10)
    writer.append_block(block(5, first=10))
    writer.publish()
    assert reader.oldest == 1
    assert reader.published == 15
    assert reader.read_range(1, 10).tobytes() == before.tobytes()
    writer.close()


def test_rows_hold_what_the_venue_said_and_nothing_derived() -> None:
    """R29: our number, two times, the venue's sequence, what it is and the venue's own values."""
    common = ("cursor", "event_ns", "received_ns", "sequence", "instrument", "kind", "side", "flags")
    assert layout.TRADE.names == (*common, "price", "size")
    assert layout.QUOTE.names == (*common, "bid", "bid_size", "ask", "ask_size")

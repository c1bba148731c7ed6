"""The one writer of a tick ring. `layout.py` says why readers can trust what it does."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from marketd.ring import header, layout, segment
from marketd.ring.doorbell import Ringer
from marketd.ring.fence import fence

ROWS_MIN = 8
RESERVED_ROWS_MAX = 1024

_PUBLISHED = layout.PUBLISHED_OFFSET // 8
_RESERVED = layout.RESERVED_OFFSET // 8
_HEARTBEAT = layout.WRITER_OFFSET // 8 + 1
_HEADER_BYTES = layout.HEADER_BYTES
_ROW_BYTES = layout.ROW_BYTES
_PACK_INTO = layout.PACK.pack_into
_PACK_INTEGERS_INTO = layout.PACK_INTEGERS.pack_into


def create_ring(path: Path, rows: int, of: layout.RowLayout = layout.TICKS) -> int:
    """Make the segment of a ring without rows in it.

    Args:
        path: where; there must be no file yet.
        rows: how many it holds, a power of two and at least 8.
        of: what its rows are.

    Returns:
        The new ring's epoch: random, odd, and small enough for a float64 to hold it exactly.

    Raises:
        SegmentError: see :func:`marketd.ring.segment.create`.
    """
    if rows < ROWS_MIN or rows & (rows - 1):
        raise ValueError(f"a ring has a power of two of rows and at least {ROWS_MIN}, not {rows}")
    segment.create(path, of.ring_bytes(rows))
    epoch = secrets.randbits(52) | 1
    with segment.attach(path, writable=True) as memory:
        header.write(memory, of, rows, epoch)
    return epoch


class BlockWriter:
    """Appends blocks of rows to a ring of any sort and publishes them.

    Rows become visible at :meth:`publish`; only when more than a quarter of the ring waits for that are they published
    early, as they would else be overwritten before anyone could read them.

    It goes on where its predecessor stopped publishing; rows that one appended and didn't publish were never seen by
    anyone, and their cursors are used again.

    Attributes:
        rows: how many rows the ring holds.
        epoch: the ring's.
        cursor: of the newest row appended, 0 before the first.
        published: the newest cursor that readers may read.
    """

    def __init__(self, path: Path, bells: Ringer | None = None, of: layout.RowLayout = layout.TICKS) -> None:
        """Attach to a ring whose rows are what ``of`` says.

        Raises:
            SegmentError: it is missing, of another layout, or has a living writer.
        """
        self._memory = segment.attach_writer(path)
        try:
            self.rows, self.epoch, _ = header.read(self._memory, of, path)
        except BaseException:
            self._memory.close()
            raise
        self._words = memoryview(self._memory).cast("Q")
        self._row_words = of.row_bytes // 8
        self._bells = bells
        self._mask = self.rows - 1
        # What is reserved ahead is lost to readers: never more than a quarter of the ring.
        self._reserve_rows = min(RESERVED_ROWS_MAX, self.rows // 4)
        self.published: int = self._words[_PUBLISHED]
        self.cursor = self.published
        # A predecessor may have reserved more, and have scribbled there: those slots stay unreadable.
        self._reserved: int = self._words[_RESERVED]

    def append_block(self, rows: NDArray[np.void]) -> None:
        """Add many rows, shape ``(n,)``, of any dtype of the ring's layout; any ``n``.

        Their cursors are filled in here. What is larger than a quarter of the ring is written in pieces and published
        in between, so that readers can follow.
        """
        if rows.dtype.itemsize != 8 * self._row_words:
            raise ValueError(
                f"this ring's rows have {8 * self._row_words} bytes, not {rows.dtype.itemsize}: {rows.dtype}"
            )
        words = np.ascontiguousarray(rows).view("<u8").reshape(len(rows), self._row_words)
        piece_rows = self.rows // 4
        for start in range(0, len(words), piece_rows):
            self._append_piece(words[start : start + piece_rows])

    def publish(self) -> None:
        """Let readers see what was appended, and wake those that sleep. Nearly free when there is nothing new."""
        if self.cursor == self.published:
            return
        fence()
        self._words[_PUBLISHED] = self.published = self.cursor
        if self._bells is not None:
            self._bells.ring()

    def newest_received_ns(self) -> int:
        """When the newest row of a tick ring came; only after one was appended."""
        offset = _HEADER_BYTES + (self.cursor & self._mask) * 8 * self._row_words
        return int.from_bytes(self._memory[offset + 16 : offset + 24], "little", signed=True)

    def beat(self, now_ns: int) -> None:
        """Show that the writer is alive."""
        self._words[_HEARTBEAT] = now_ns

    def close(self) -> None:
        """Publish, and give up the ring to a successor. Closing twice is fine."""
        if not self._memory.closed:
            self.publish()
            self._words.release()
            self._memory.close()

    def _append_piece(self, words: NDArray[np.uint64]) -> None:
        """Copy ``words``, shape ``(n, words of a row)``, with ``n`` at most a quarter of the ring."""
        count = len(words)
        first = self.cursor + 1
        if self.cursor + count > self._reserved:
            self._reserve(max(count, self._reserve_rows))
        start = first & self._mask
        head = min(count, self.rows - start)
        slots = np.frombuffer(self._memory, dtype="<u8", offset=_HEADER_BYTES).reshape(-1, self._row_words)
        cursors = np.arange(first, first + count, dtype="<u8")
        slots[start : start + head] = words[:head]
        slots[start : start + head, 0] = cursors[:head]
        slots[: count - head] = words[head:]
        slots[: count - head, 0] = cursors[head:]
        self.cursor += count

    def _reserve(self, count: int) -> None:
        """Announce that the slots of the next ``count`` cursors are about to change."""
        if self.cursor - self.published >= self.rows // 4:
            self.publish()
        self._words[_RESERVED] = self._reserved = self.cursor + count
        fence()


class RingWriter(BlockWriter):
    """Appends single rows to a tick ring as well, which is where speed matters most."""

    def append(self, row: layout.Row) -> None:
        """Add a row of kind trade, quote or level. Readers don't see it before :meth:`publish`."""
        cursor = self.cursor + 1
        if cursor > self._reserved:
            self._reserve(self._reserve_rows)
        _PACK_INTO(self._memory, _HEADER_BYTES + (cursor & self._mask) * _ROW_BYTES, cursor, *row)
        self.cursor = cursor

    def append_integers(self, row: tuple[int, int, int, int, int, int, int, int, int, int, int]) -> None:
        """Add a row of kind gap or status, whose four values are integers."""
        cursor = self.cursor + 1
        if cursor > self._reserved:
            self._reserve(self._reserve_rows)
        _PACK_INTEGERS_INTO(self._memory, _HEADER_BYTES + (cursor & self._mask) * _ROW_BYTES, cursor, *row)
        self.cursor = cursor

"""A reader of a tick ring, in any process. `layout.py` says why it can trust its copies."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from marketd.errors import Lapped, SegmentError
from marketd.ring import header, layout, segment
from marketd.ring.doorbell import Waiter
from marketd.ring.fence import fence

_PUBLISHED = layout.PUBLISHED_OFFSET // 8
_RESERVED = layout.RESERVED_OFFSET // 8
_WRITER = layout.WRITER_OFFSET // 8
FEW_ROWS = 64
_STAMPS = struct.Struct("<Qqq")  # how every row of a tick ring begins


class RingReader:
    """Follows a ring by cursor. It maps the segment read-only, so nothing a reader does can reach anyone else.

    Attributes:
        rows: how many rows the ring holds.
        epoch: the ring's; a cursor means something only together with it.
        cursor: of the last row read or reported as lost.
    """

    def __init__(self, path: Path, cursor: int | None = None, of: layout.RowLayout = layout.TICKS) -> None:
        """Attach to a ring.

        Args:
            path: the ring's segment.
            of: what its rows are; the arrays that are returned have its ``row`` as their dtype.
            cursor: the last row that was read already; 0 reads from the very first. Without it, what is published now
                counts as read.

        Raises:
            SegmentError: the ring is missing or of another layout; the text says what differs.
            ValueError: nothing with that cursor was published yet.
        """
        self._memory = segment.attach(path, writable=False)
        try:
            self.rows, self.epoch, _ = header.read(self._memory, of, path)
        except BaseException:
            self._memory.close()
            raise
        self._path = path
        self._bytes = memoryview(self._memory)
        self._words = self._bytes.cast("Q")
        self._row, self._row_bytes = of.row, of.row_bytes
        self._nothing: NDArray[np.void] = np.empty(0, of.row)
        self._rescued = self._nothing
        self._cursors_of: dict[int, Callable[[bytes], tuple[int, ...]]] = {}
        published = self.published
        self.cursor = published if cursor is None else cursor
        if not 0 <= self.cursor <= published:
            self.close()
            raise ValueError(f"cursor {cursor} is not between 0 and {published}, the newest one in {path}")

    @property
    def published(self) -> int:
        """The cursor of the newest row that can be read: of that row itself, not of the one after it."""
        published: int = self._words[_PUBLISHED]
        return published

    @property
    def oldest(self) -> int:
        """The smallest cursor that is not overwritten yet; ``published + 1`` at most."""
        return max(1, self._words[_RESERVED] - self.rows + 1)

    @property
    def writer_pid(self) -> int:
        """The process that attached last as the writer; 0 when there never was one."""
        pid: int = self._words[_WRITER]
        return pid

    @property
    def writer_heartbeat_ns(self) -> int:
        """When the writer last said that it is alive; 0 when it never did."""
        beat_ns: int = self._words[_WRITER + 1]
        return beat_ns

    def read_range(self, cursor_first: int, cursor_last: int) -> NDArray[np.void]:
        """Return the rows of these cursors, both included. Leaves ``cursor`` alone.

        Returns:
            Shape ``(cursor_last - cursor_first + 1,)``, dtype ``layout.ROW`` in a tick ring. A copy: the writer may
            reuse the slots.

        Raises:
            Lapped: at least one of them was overwritten, before or during the copy; says which.
            ValueError: not all of them are published yet, or there can be no such cursors.
        """
        published = self.published
        if not 1 <= cursor_first <= cursor_last + 1 <= published + 1:
            raise ValueError(f"rows {cursor_first} to {cursor_last} were asked for, of 1 to {published}")
        rows = self._copy(cursor_first, cursor_last)
        if len(rows) <= cursor_last - cursor_first:
            raise Lapped(cursor_first, cursor_last - len(rows))
        return rows

    def read_few(self, cursor_first: int, cursor_last: int) -> bytes | None:
        """Return the bytes of a few published rows, both ends included; None where :meth:`read_range` has to be asked.

        So it is if they are many, lie on both sides of the ring's end, or are overwritten. In a tenth of the time.
        """
        rows = cursor_last - cursor_first + 1
        start = layout.HEADER_BYTES + (cursor_first & (self.rows - 1)) * self._row_bytes
        end = start + rows * self._row_bytes
        if rows > FEW_ROWS or end > len(self._bytes):
            return None
        fence()
        copied = bytes(self._bytes[start:end])
        fence()
        if self._words[_RESERVED] - self.rows >= cursor_first:
            return None
        return copied if self._few_cursors(rows)(copied) == (*range(cursor_first, cursor_last + 1),) else None

    def _few_cursors(self, rows: int) -> Callable[[bytes], tuple[int, ...]]:
        found = self._cursors_of.get(rows)
        if found is None:
            found = self._cursors_of[rows] = struct.Struct("<" + rows * f"Q{self._row_bytes - 8}x").unpack
        return found

    def received_ns(self, cursor: int) -> int:
        """Return when a published row of a tick ring came; 0 if it was overwritten. Cheap: for what measures."""
        offset = layout.HEADER_BYTES + (cursor & (self.rows - 1)) * self._row_bytes
        stamped, _, received_ns = _STAMPS.unpack_from(self._bytes, offset)
        return int(received_ns) if stamped == cursor and cursor >= self.oldest else 0

    def read_nowait(self, rows_max: int = 65536) -> NDArray[np.void]:
        """Return the rows written since the last call, oldest first.

        Returns:
            Shape ``(n,)``, dtype ``layout.ROW`` in a tick ring, ``0 <= n <= rows_max``. A copy: the writer may reuse
            the slots.

        Raises:
            Lapped: the writer overtook us; ``lost`` rows are gone and ``cursor`` now points at the last of them.
        """
        if len(self._rescued):
            rows = self._take_rescued(rows_max)
            if len(rows):
                return rows
        first = self.cursor + 1
        last = min(self.published, self.cursor + rows_max)
        if last < first:
            return self._nothing.copy()
        # What is gone is reported whole, however few rows were asked for.
        oldest = self.oldest
        if first < oldest:
            self.cursor = oldest - 1
            raise Lapped(first, self.cursor)
        rows = self._copy(first, last)
        if len(rows) <= last - first:
            # Without keeping what survived, a writer in full flight could lap every single attempt.
            self._rescued = rows
            self.cursor = last - len(rows)
            raise Lapped(first, self.cursor)
        self.cursor = last
        return rows

    async def wait_available(self, bell: Waiter) -> None:
        """Return when there is something to read or to report as lost."""
        await bell.wait(self._available)

    def close(self) -> None:
        """Let go of the segment. Rows that were returned stay good. Closing twice is fine."""
        self._words.release()
        self._bytes.release()
        self._memory.close()

    def _available(self) -> bool:
        return bool(self._words[_PUBLISHED] > self.cursor)

    def _copy(self, first: int, last: int) -> NDArray[np.void]:
        """Copy published rows; return those that were whole while they were copied: all, or only the newest ones."""
        first = max(first, last - self.rows + 1)  # the ring holds no more
        fence()
        start = layout.HEADER_BYTES + (first & (self.rows - 1)) * self._row_bytes
        end = start + (last - first + 1) * self._row_bytes
        copied = bytearray(self._bytes[start:end])
        if end > len(self._bytes):
            copied += self._bytes[layout.HEADER_BYTES : layout.HEADER_BYTES + end - len(self._bytes)]
        fence()
        whole_first = max(first, self._words[_RESERVED] - self.rows + 1)
        if whole_first > last:
            return self._nothing
        rows: NDArray[np.void] = np.frombuffer(copied, self._row)[whole_first - first :]
        if not _follow_each_other(rows["cursor"], whole_first, last):
            raise SegmentError(f"the ring {self._path} is damaged: rows {whole_first} to {last} hold other cursors")
        return rows

    def _take_rescued(self, rows_max: int) -> NDArray[np.void]:
        """Return rows that outlived a lap, if they still are the next ones."""
        rescued, self._rescued = self._rescued, self._nothing
        if rescued["cursor"][0] != self.cursor + 1:
            return self._nothing
        rows = rescued[:rows_max]
        self._rescued = rescued[rows_max:]
        self.cursor += len(rows)
        return rows


def _follow_each_other(cursors: NDArray[np.uint64], first: int, last: int) -> bool:
    if len(cursors) <= FEW_ROWS:  # a third of what numpy takes for so few
        return bool(cursors.tolist() == list(range(first, last + 1)))
    return bool((cursors == np.arange(first, last + 1, dtype=np.uint64)).all())

"""The bytes of a bar segment: one feed's bars of one series, readable at random, without locks.

    segment = header (4096 bytes), block *                   a block for each 8 instruments, the first for 1 to 8
    block   = (slot * 8) * rows                              the bars of 8 instruments of one number side by side
    header  = magic "MKTDBARS", u32 version, u32 slot bytes, u64 dtype hash, u64 rows, u64 epoch, i64 created ns    @0
              u64 instruments, i64 period_ns (0: bars that no period ends)                                         @64
              u64 version of the contents: odd while the writer changes any                                       @128
              u64 instruments that have memory                                                                    @136
              i64 opened, i64 closed: the newest bar that has begun, the oldest that is not out                   @144
              u64 applied, u64 applying: cursors of the tick ring up to which the bars know, or are about to      @160
              u64 writer pid                                                                                      @256
    slot    = 128 bytes, little endian: i64 number, i64 open_ns, f64 open, high, low, close,
              i64 volume_whole, i64 volume_frac, i64 trade_count, i64 first_ns, i64 last_ns, i64 first_id, i64 last_id,
              i64 gap_ns, f64 measured, u8 state, u8 flags, 6 unused bytes

A bar's number is its ``open_ns`` divided by the period, or counts from 1 where no period ends it, and its slot is the
number modulo the rows: so a bar is found by its time. A slot that holds another number holds no such bar. Bars of one
time lie side by side because that is how they are written: with a run for each instrument every bar was a page of its
own, and writing five times as slow.

The volume is exact, in whole units and 10^-15 of one: then it depends neither on the order of the trades nor on how
they were put together. `marketd/sample/kernel.py` says how it is made of floats. ``first_ns``, ``first_id``,
``last_ns`` and ``last_id`` are of the trades that opened and closed the bar; ``gap_ns`` is the end of the newest gap
in it, 0 for none, -1 for one that has not ended. ``measured`` is how much a bar without a period has of what will end
it.

The file has holes. It is as long as all instruments would need, and has memory only for those that have bars: the
writer allocates a block before it touches it, since a page that can't be had would kill it with SIGBUS.

Readers: the writer (1) makes the version odd, (2) fences, (3) changes slots, (4) fences, (5) makes the version even.
A reader (a) loads the version, (b) fences, (c) copies, (d) fences, (e) loads it again: if it is the same even number,
none of (3) was seen in part. The writer works in bursts of far less than a millisecond, so this seldom repeats.

A writer that dies between (1) and (5) leaves an odd version. ``applied`` and ``applying`` then differ, and tell its
successor which ticks may be in some bars and not in others.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketd.errors import SegmentError
from marketd.ring import layout, segment, steps
from marketd.ring.fence import fence

MAGIC = b"MKTDBARS"
VERSION = 1
SERIES = struct.Struct("<Qq")
SERIES_OFFSET = 64
VERSION_OFFSET = 128
ALLOCATED_OFFSET = 136
PROGRESS_OFFSET = 144
PROGRESS = struct.Struct("<qqQQ")
SPINS_MAX = 100  # copies in vain, before a pause after each
PAUSES_MAX = 100  # before the writer counts as stuck
PAUSE_S = 0.0005

SLOT = np.dtype(
    {
        "names": [
            *("number", "open_ns", "open", "high", "low", "close", "volume_whole", "volume_frac", "trade_count"),
            *("first_ns", "last_ns", "first_id", "last_id", "gap_ns", "measured", "state", "flags"),
        ],
        "formats": [*("<i8", "<i8", "<f8", "<f8", "<f8", "<f8"), *("<i8",) * 8, "<f8", "u1", "u1"],
        "offsets": [*range(0, 120, 8), 120, 121],
        "itemsize": 128,
    }
)
SLOT_BYTES = SLOT.itemsize
SLOT_WORDS = SLOT_BYTES // 8
BLOCK = 8  # instruments
_BLOB = np.dtype(f"V{SLOT_BYTES}")  # a slot copied in one move


class Progress(NamedTuple):
    """How far a segment's writer is; see the module."""

    opened: int
    closed: int
    applied: int
    applying: int


class BarsHeader(NamedTuple):
    """What a segment is, for as long as it exists."""

    rows: int
    epoch: int
    instruments: int
    period_ns: int


def _hash() -> int:
    return layout.RowLayout(MAGIC, SLOT, {0: SLOT}).hash()


def _blocks(instruments: int) -> int:
    return -(-instruments // BLOCK)


def create_bars(path: Path, *, rows: int, instruments: int, period_ns: int) -> None:
    """Make a segment without bars in it. It takes one page of memory.

    Raises:
        SegmentError: see :func:`marketd.ring.segment.create`.
    """
    segment.create(path, layout.HEADER_BYTES)
    os.truncate(path, layout.HEADER_BYTES + _blocks(instruments) * rows * BLOCK * SLOT_BYTES)
    with segment.attach(path, writable=True) as memory:
        epoch = secrets.randbits(52) | 1
        layout.HEADER.pack_into(memory, 0, MAGIC, VERSION, SLOT_BYTES, _hash(), rows, epoch, time.time_ns())
        SERIES.pack_into(memory, SERIES_OFFSET, instruments, period_ns)


def volume_of(whole: int, frac: int) -> float:
    """Return the float that is nearest to a volume, as long as it has no more digits than a float can tell."""
    scale = 10**15
    while scale > 1 and frac % 10 == 0:
        frac //= 10
        scale //= 10
    if whole < 2**53 // scale:
        return (whole * scale + frac) / scale
    return whole + frac / scale


def rows_of(
    slots: NDArray[np.void], instruments: NDArray[np.intp], kind: int, period_ns: int, made_ns: int
) -> NDArray[np.void]:
    """Make rows of a step ring of slots, one for each, with the cursor 0."""
    rows = np.zeros(len(slots), steps.BAR)
    for name in ("number", "open_ns", "open", "high", "low", "close", "trade_count", "first_id", "last_id"):
        rows[name] = slots[name]
    rows["state"], rows["flags"] = slots["state"], slots["flags"]
    volumes = zip(slots["volume_whole"].tolist(), slots["volume_frac"].tolist(), strict=True)
    rows["volume"] = [volume_of(whole, frac) for whole, frac in volumes]
    rows["instrument"], rows["kind"], rows["period_ns"], rows["made_ns"] = instruments, kind, period_ns, made_ns
    return rows


class _Bars:
    def __init__(self, path: Path, *, writable: bool) -> None:
        self._memory = segment.attach_writer(path) if writable else segment.attach(path, writable=False)
        self._path = path
        try:
            self.header = self._read_header()
        except BaseException:
            self._memory.close()
            raise
        self._words = memoryview(self._memory).cast("Q")

    @property
    def version(self) -> int:
        """Counts changes; odd while one is under way."""
        version: int = self._words[VERSION_OFFSET // 8]
        return version

    @property
    def allocated(self) -> int:
        """How many instruments, from the first, have memory."""
        allocated: int = self._words[ALLOCATED_OFFSET // 8]
        return allocated

    @property
    def progress(self) -> Progress:
        """How far the writer is. Of a writer at work the four may be of different moments."""
        return Progress(*PROGRESS.unpack_from(self._memory, PROGRESS_OFFSET))

    def _read_header(self) -> BarsHeader:
        magic, version, slot_bytes, dtype_hash, rows, epoch, _ = layout.HEADER.unpack_from(self._memory)
        instruments, period_ns = SERIES.unpack_from(self._memory, SERIES_OFFSET)
        size = layout.HEADER_BYTES + _blocks(instruments) * rows * BLOCK * SLOT_BYTES
        found = (magic, version, slot_bytes, dtype_hash, len(self._memory))
        if found != (MAGIC, VERSION, SLOT_BYTES, _hash(), size):
            raise SegmentError(f"segment {self._path} holds no bars of this version")
        return BarsHeader(rows, epoch, instruments, period_ns)

    def close(self) -> None:
        """Let go of the segment. Closing twice is fine."""
        self._words.release()
        self._memory.close()


class BarsWriter(_Bars):
    """The one writer of a segment. Its slots are changed in place, between :meth:`begin` and :meth:`end`.

    Attributes:
        words: all slots as ``int64``, shape ``(blocks, rows, 8, 16)``; those of an instrument that has no memory yet
            may not be touched.
    """

    def __init__(self, path: Path) -> None:
        """Attach to a segment.

        Raises:
            SegmentError: it is missing, of another layout, or has a living writer.
        """
        super().__init__(path, writable=True)
        shape = (_blocks(self.header.instruments), self.header.rows, BLOCK, SLOT_WORDS)
        self.words: NDArray[np.int64] = np.frombuffer(self._memory, np.int64, offset=layout.HEADER_BYTES).reshape(shape)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    @property
    def torn(self) -> bool:
        """Whether a predecessor died while it was changing slots."""
        return bool(self.version & 1)

    def allocate(self, instruments: int) -> None:
        """See to it that there is memory for so many instruments, counted from the first.

        Raises:
            SegmentError: there is none, or the segment was made for fewer.
        """
        if instruments <= self.allocated:
            return
        if instruments > _blocks(self.header.instruments) * BLOCK:
            raise SegmentError(
                f"segment {self._path} was made for {self.header.instruments} instruments and not for {instruments}"
            )
        block_bytes = self.header.rows * BLOCK * SLOT_BYTES
        have = _blocks(self.allocated)
        size_bytes = (_blocks(instruments) - have) * block_bytes
        free_bytes = segment.free_bytes(self._path.parent)
        sentence = f"bars of {instruments} instruments find no room in {self._path.parent}"
        if size_bytes > free_bytes:  # to try would take from others, for a moment, what is left
            raise SegmentError(f"{sentence}: {size_bytes:,} bytes more are needed, {free_bytes:,} are free")
        try:
            os.posix_fallocate(self._fd, layout.HEADER_BYTES + have * block_bytes, size_bytes)
        except OSError as error:
            raise SegmentError(f"{sentence}, {size_bytes:,} bytes more: {error.strerror}") from error
        fence()
        self._words[ALLOCATED_OFFSET // 8] = _blocks(instruments) * BLOCK

    def begin(self, applying: int) -> None:
        """Tell readers that slots are about to change, as the ticks up to the cursor ``applying`` are taken in."""
        self._words[VERSION_OFFSET // 8] = self.version | 1
        fence()
        PROGRESS.pack_into(self._memory, PROGRESS_OFFSET, *self.progress._replace(applying=applying))
        fence()

    def end(self, opened: int, closed: int) -> None:
        """Tell readers that all is well again, and how far the bars are."""
        applying = self.progress.applying
        fence()
        PROGRESS.pack_into(self._memory, PROGRESS_OFFSET, opened, closed, applying, applying)
        fence()
        self._words[VERSION_OFFSET // 8] = (self.version | 1) + 1

    def close(self) -> None:
        """See :meth:`_Bars.close`."""
        if not self._memory.closed:
            del self.words
            os.close(self._fd)
            super().close()


class BarsReader(_Bars):
    """A reader of a segment, in any process.

    Args:
        pauses_max: how often it sleeps while the writer is at work before it gives up; who may not sleep gives 0, and
            comes back later.
    """

    def __init__(self, path: Path, *, pauses_max: int = PAUSES_MAX) -> None:
        """Attach to a segment.

        Raises:
            SegmentError: it is missing or of another layout.
        """
        super().__init__(path, writable=False)
        self._pauses_max = pauses_max
        shape = (_blocks(self.header.instruments), self.header.rows, BLOCK)
        self._slots: NDArray[np.void] = np.frombuffer(self._memory, _BLOB, offset=layout.HEADER_BYTES).reshape(shape)

    def slots(self, instrument: int) -> NDArray[np.void]:
        """Copy all bars of an instrument that are there, as they were at one moment.

        Returns:
            Shape ``(n,)``, dtype :data:`SLOT`, in order of number.

        Raises:
            LookupError: there can be no such instrument.
            SegmentError: the writer died while it changed something, and has no successor yet.
        """
        found = self._copy(instrument, 0, self.header.rows)
        found = found[found["number"] > 0]
        return found[np.argsort(found["number"])]

    def range(self, instrument: int, first: int, last: int) -> NDArray[np.void]:
        """Copy the bars with the numbers ``first`` to ``last``, both included, as far as they are there.

        Returns, Raises: as :meth:`slots`.
        """
        rows = self.header.rows
        first = max(1, first, last - rows + 1)  # an empty slot's number is 0
        if last < first:
            return np.empty(0, SLOT)
        numbers = np.arange(first, last + 1)
        start, end = first % rows, last % rows
        if start <= end:
            found = self._copy(instrument, start, end + 1)
        else:
            whole = self._copy(instrument, 0, rows)
            found = whole.take(numbers % rows)
        there: NDArray[np.void] = found[found["number"] == numbers]
        return there

    def newest(self, instruments: NDArray[np.intp], number: int) -> NDArray[np.void]:
        """Copy the bars of one number of many instruments, as far as they are there.

        Returns:
            Shape ``(len(instruments),)``, dtype :data:`SLOT`; a bar that is not there has another number.

        Raises:
            SegmentError: see :meth:`slots`.
        """
        have_memory = instruments <= self.allocated
        at = instruments[have_memory] - 1
        found = np.zeros(len(instruments), SLOT)
        lanes = self._slots[:, number % self.header.rows]
        found[have_memory] = self._still(lambda: lanes[at // BLOCK, at % BLOCK]).view(SLOT)
        return found

    def close(self) -> None:
        """See :meth:`_Bars.close`."""
        if hasattr(self, "_slots"):
            del self._slots
            # A traceback may still hold a view of the map, which then lasts as long as that does.
            with contextlib.suppress(BufferError):
                super().close()

    def _copy(self, instrument: int, start: int, end: int) -> NDArray[np.void]:
        if not 1 <= instrument <= self.header.instruments:
            raise LookupError(f"{self._path} has {self.header.instruments} instruments, and no number {instrument}")
        if instrument > self.allocated:
            return np.zeros(end - start, SLOT)
        block, lane = divmod(instrument - 1, BLOCK)
        return self._still(self._slots[block, start:end, lane].copy).view(SLOT)

    def _still(self, copy: Callable[[], NDArray[np.void]]) -> NDArray[np.void]:
        """Copy until nothing has changed meanwhile."""
        for attempt in range(SPINS_MAX + self._pauses_max):
            version = self.version
            if not version & 1:
                fence()
                copied = copy()
                fence()
                if self.version == version:
                    return copied
            if attempt >= SPINS_MAX:
                time.sleep(PAUSE_S)
        raise SegmentError(f"the bars in {self._path} do not stand still: their writer is busy, or has died")

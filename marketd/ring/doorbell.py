"""Waking readers of a ring, at no cost to the writer while nobody sleeps.

    board = u64 * 64, one number for each slot; a segment beside the ring's
    number = even: awake, or nobody there; odd: asleep. Counts up by one at each change, also from holder to holder.

A reader holds a slot by a lock on its eight bytes, which the kernel frees at its death, and is the only one who stores
that number. It sleeps on the FIFO ``<board path>.<slot>``. The writer stores nothing in the board: it remembers what it
saw there last, and rings a slot when the number changed and is odd. So every sleep is rung once at most, and a reader
that died or was stopped in its sleep costs one system call and not one at each publication.

No wake-up is lost: the reader stores "asleep", fences, then looks for data; the writer stores ``published``, fences,
then looks at the board. Whichever order the four come in, one of the two sees what the other stored.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import trio

from marketd.errors import SegmentError
from marketd.ring import layout, segment
from marketd.ring.fence import fence

SLOTS = 64
RECHECK_S = 0.05
_BOARD_BYTES = layout.HEADER_BYTES  # the least that a segment has
_NUMBER = struct.Struct("<Q")
_NUMBER_BITS = _NUMBER.size * 8
_NUMBERS_BYTES = SLOTS * _NUMBER.size
_DRAIN_BYTES = 4096
# Opened for writing, and nobody has it open for reading: the reader died. Without descriptors it can't be opened: the
# reader looks again by itself.
_UNRUNG = (errno.ENXIO, errno.EMFILE, errno.ENFILE)


class Ringer(Protocol):
    """What a writer needs of a doorbell."""

    def ring(self) -> None:
        """Wake every reader that sleeps."""
        ...


class Waiter(Protocol):
    """What a reader needs of a doorbell."""

    async def wait(self, ready: Callable[[], bool]) -> None:
        """Return once ``ready()`` is true."""
        ...


def create_bells(path: Path) -> None:
    """Make a board on which everybody is awake.

    Raises:
        SegmentError: see :func:`marketd.ring.segment.create`.
    """
    segment.create(path, _BOARD_BYTES)


def unlink_bells(path: Path) -> None:
    """Remove a board and the FIFOs beside it; what is missing is fine."""
    segment.unlink(path)
    for slot in range(SLOTS):
        _fifo_path(path, slot).unlink(missing_ok=True)


class Bells:
    """The writer's side of a board."""

    def __init__(self, path: Path) -> None:
        """Attach to a board.

        Raises:
            SegmentError: it is missing.
        """
        self._path = path
        self._memory = segment.attach(path, writable=False)
        self._numbers = memoryview(self._memory).cast("Q")
        # Nothing was seen yet, so the first ring wakes everybody who fell asleep under a predecessor.
        self._seen = bytearray(_NUMBERS_BYTES)
        self._fifos: dict[int, int] = {}

    def ring(self) -> None:
        """Wake every reader that fell asleep since the last call. About 0.2 us when there is none."""
        fence()
        board = self._memory[:_NUMBERS_BYTES]
        if board != self._seen:
            self._ring_changed(board)

    def close(self) -> None:
        """Let go of the board and the FIFOs. Closing twice is fine."""
        for fifo in self._fifos.values():
            os.close(fifo)
        self._fifos.clear()
        self._numbers.release()
        self._memory.close()

    def _ring_changed(self, board: bytes) -> None:
        # Few instructions: this runs between two waits of a writer, when other processes have had the caches.
        changed = int.from_bytes(board, "little") ^ int.from_bytes(self._seen, "little")
        while changed:
            slot = ((changed & -changed).bit_length() - 1) // _NUMBER_BITS
            changed &= -1 << (slot + 1) * _NUMBER_BITS
            # Each number is loaded once and in one move: what is remembered is what was acted upon.
            number = self._numbers[slot]
            _NUMBER.pack_into(self._seen, slot * _NUMBER.size, number)
            if number & 1:
                self._ring_slot(slot)

    def _ring_slot(self, slot: int) -> None:
        try:
            fifo = self._fifos.get(slot)
            if fifo is None:
                fifo = self._fifos[slot] = os.open(_fifo_path(self._path, slot), os.O_WRONLY | os.O_NONBLOCK)
            os.write(fifo, b"\0")
        except (BlockingIOError, BrokenPipeError, FileNotFoundError):
            pass  # it has bytes enough to wake up by, or it died in its sleep
        except OSError as error:
            if error.errno not in _UNRUNG:
                raise


class Bell:
    """A reader's side of a board: one slot, and one task at a time that sleeps on it.

    Attributes:
        slot: the slot that was free.
        sleeps: how often it went to sleep.
        late: how often data was found by looking again after 50 ms and not by being rung: the writer died, or was held
            up by the machine, between publishing and ringing.
    """

    def __init__(self, path: Path, *, second_look: bool = True) -> None:
        """Take a free slot until this is closed or the process is gone.

        Args:
            second_look: whether data is found, within 0.1 s, that no ring tells of.

        Raises:
            SegmentError: the board is missing, all of its slots are taken, or no descriptor is left.
        """
        with contextlib.ExitStack() as stack:
            self._memory = segment.attach(path, writable=True)
            stack.callback(self._memory.close)
            try:
                self._lock = os.open(path, os.O_RDWR)
                stack.callback(os.close, self._lock)
                self.slot = _claim(path, self._lock)
                self._fifo = _open_fifo(_fifo_path(path, self.slot))
            except OSError as error:
                raise SegmentError(f"the doorbell {path} can't be opened: {error.strerror}") from error
            stack.pop_all()
        self._numbers = memoryview(self._memory).cast("Q")
        # The holder before may have died asleep; the new number is even and one that the writer has not seen.
        self._numbers[self.slot] = (self._numbers[self.slot] | 1) + 1
        self._second_look = second_look  # and is not watched yet
        self._ready: Callable[[], bool] | None = None  # what the one who waits waits for
        self._asleep = False
        self._seen_asleep = 0  # the sleep that was going on at the last look
        self._woken_late = False
        self.sleeps = 0
        self.late = 0
        self._drain()

    async def wait(self, ready: Callable[[], bool]) -> None:
        """Return once ``ready()`` is true; always a checkpoint. ``ready`` looks at what the writer publishes.

        Raises:
            trio.BusyResourceError: another task waits on this bell.
        """
        if self._ready is not None:
            raise trio.BusyResourceError("another task waits on this bell; let it wake this one")
        if ready():
            await trio.lowlevel.checkpoint()
            return
        if self._second_look:
            self._second_look = False
            _watch(self)
        self._ready = ready
        try:
            while True:
                self.sleeps += 1
                self._drain()  # here, and not on waking, when others wait for what has come
                self._numbers[self.slot] += 1
                try:
                    fence()
                    if ready():
                        await trio.lowlevel.checkpoint()
                        return
                    self._asleep = True
                    await trio.lowlevel.wait_readable(self._fifo)
                finally:
                    self._asleep = False
                    self._numbers[self.slot] += 1
                if self._woken_late:
                    self._woken_late = False
                    self.late += self._drain() == 1  # the writer has not rung meanwhile
                if ready():
                    return
        finally:
            self._ready = None

    def look(self) -> None:
        """Wake whoever has slept since the last call although there is data."""
        if self._asleep and self._seen_asleep == self.sleeps and self._has_data():
            self._woken_late = True
            os.write(self._fifo, b"\0")
        self._seen_asleep = self.sleeps

    def _has_data(self) -> bool:
        try:
            return self._ready is not None and self._ready()
        except ValueError:
            return True  # what is looked at was closed: whoever waits for it finds that out

    @property
    def closed(self) -> bool:
        """Whether the slot was given up."""
        return self._memory.closed

    def close(self) -> None:
        """Give up the slot. Closing twice is fine."""
        if not self._memory.closed:
            self._numbers.release()
            self._memory.close()
            os.close(self._fifo)
            os.close(self._lock)

    def _drain(self) -> int:
        """Return how often it was rung."""
        try:
            return len(os.read(self._fifo, _DRAIN_BYTES))
        except BlockingIOError:
            return 0


# The bells of this run of trio that are looked at: by one task, as a timer for each sleep costs more than the sleep.
_watched: trio.lowlevel.RunVar[set[Bell] | None] = trio.lowlevel.RunVar("marketd.ring.doorbell", None)


def _watch(bell: Bell) -> None:
    bells = _watched.get()
    if bells is None:
        bells = set()
        _watched.set(bells)
        trio.lowlevel.spawn_system_task(_look_now_and_then, bells)
    bells.add(bell)


async def _look_now_and_then(bells: set[Bell]) -> None:
    while True:
        await trio.sleep(RECHECK_S)
        for bell in list(bells):
            bells.discard(bell) if bell.closed else bell.look()


class MemoryBell:
    """Both sides of a doorbell within one trio loop, for tests."""

    def __init__(self) -> None:
        self._sleepers = trio.lowlevel.ParkingLot()

    def ring(self) -> None:
        """See :class:`Ringer`."""
        self._sleepers.unpark_all()

    async def wait(self, ready: Callable[[], bool]) -> None:
        """See :class:`Waiter`; any number of tasks."""
        await trio.lowlevel.checkpoint()
        while not ready():
            await self._sleepers.park()

    def close(self) -> None:
        """Do nothing."""


def _fifo_path(path: Path, slot: int) -> Path:
    return path.with_name(f"{path.name}.{slot}")


def _claim(path: Path, fd: int) -> int:
    for slot in range(SLOTS):
        if segment.try_lock(fd, slot * 8, 8):
            return slot
    raise SegmentError(f"all {SLOTS} doorbells of {path} are taken")


def _open_fifo(path: Path) -> int:
    """Open a slot's FIFO, which outlives its holders: the writer keeps it open."""
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    # Open for writing too: otherwise it reads as ended, which is always readable, while the writer is away.
    fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
    status = os.fstat(fifo)
    if not stat.S_ISFIFO(status.st_mode) or status.st_uid != os.geteuid():
        os.close(fifo)
        raise SegmentError(f"{path} is not a FIFO of ours")
    return fifo

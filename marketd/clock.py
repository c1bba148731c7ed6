"""The time seam. Nothing else in the daemon asks the operating system what time it is.

Times are integers: nanoseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000
OFFSET_FILE = "MARKETD_TEST_CLOCK_OFFSET_FILE"
JUMP_NS = 2 * SECOND_NS  # more than NTP corrects in one step, and than a busy machine lets two calls lie apart
TOGETHER_NS = MILLISECOND_NS  # two clocks that are read within that are read at one time
READINGS_MAX = 8
_COARSE_NS = 2 * MILLISECOND_NS

log = structlog.get_logger("marketd.clock")


class Clock(Protocol):
    """What a feed's idea of now is: the machine's, or a recording's."""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch, UTC."""
        ...

    async def sleep_until(self, deadline_ns: int) -> None:
        """Return when :meth:`now_ns` is at or past the deadline; after a checkpoint only, if it is already."""
        ...


class SystemClock:
    """The machine's clock. A step of the wall clock while sleeping is noticed within a second."""

    def now_ns(self) -> int:
        """See :class:`Clock`."""
        return wall_ns()

    async def sleep_until(self, deadline_ns: int) -> None:
        """See :class:`Clock`."""
        remaining_s = (deadline_ns - self.now_ns()) / SECOND_NS
        if remaining_s <= 0:
            await trio.lowlevel.checkpoint()
        while remaining_s > 0:
            await trio.sleep(min(remaining_s, 1.0))
            remaining_s = (deadline_ns - self.now_ns()) / SECOND_NS


class SteadyClock(SystemClock):
    """The machine's clock, but for one that is set: then it goes on as before, as events do, and says so.

    Small corrections are followed, and so is time that the machine has slept, which ``CLOCK_BOOTTIME`` counts. A step
    of more than :data:`JUMP_NS` is not: who sets a clock an hour ahead makes no market trade an hour more. When the
    clock is set back to within that, all is as if nothing had happened. Only :meth:`witness` makes it follow a step.

    Attributes:
        jumps: how often the machine's clock was set.
        ahead_ns: by so much it is ahead of this one now, or behind: 0 while it is followed.
    """

    def __init__(self) -> None:
        self.jumps = 0
        self.ahead_ns = 0
        _, self._offset_ns = _read_both()  # held
        self._seen_ns = self._offset_ns  # what it was at the last look

    def now_ns(self) -> int:
        """See :class:`Clock`."""
        running_ns, offset_ns = _read_both()
        if abs(offset_ns - self._seen_ns) > JUMP_NS:
            self.jumps += 1
            by_s = round((offset_ns - self._seen_ns) / SECOND_NS, 3)
            log.warning("clock.jumped", by_s=by_s, ahead_s=round((offset_ns - self._offset_ns) / SECOND_NS, 3))
        self._seen_ns = offset_ns
        if abs(offset_ns - self._offset_ns) <= JUMP_NS:
            self._offset_ns, self.ahead_ns = offset_ns, 0
        else:
            self.ahead_ns = offset_ns - self._offset_ns
        return running_ns + self._offset_ns

    def witness(self, event_ns: int) -> bool:
        """Believe a clock that was set ahead, if something has happened (by another's clock) at such a time.

        Returns:
            Whether this made it follow.
        """
        now_ns = self.now_ns()
        if self.ahead_ns <= 0 or abs(event_ns - now_ns - self.ahead_ns) > min(JUMP_NS, self.ahead_ns // 2):
            return False
        log.warning("clock.believed", by_s=round(self.ahead_ns / SECOND_NS, 3))
        self._offset_ns, self.ahead_ns = self._seen_ns, 0
        return True

    def steadied(self, received_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what other processes have noted by the machine's clock as it would be by this one."""
        import numpy as np  # here: a process that has no rows need not wait for it

        now_ns = self.now_ns()
        if not self.ahead_ns:
            return np.minimum(received_ns, now_ns) if self.jumps else received_ns
        moved = received_ns - self.ahead_ns
        nearer = np.abs(moved - now_ns) < np.abs(received_ns - now_ns)
        return np.minimum(np.where(nearer, moved, received_ns), now_ns)


def _shifted(path: str) -> Callable[[], int]:
    """Let the wall clock be off by what a file says, in nanoseconds."""

    def shifted_ns() -> int:
        with Path(path).open() as file:
            return time.time_ns() + int(file.read())

    return shifted_ns


# For tests of a clock that is set: nobody can set the machine's, and libfaketime breaks `time.sleep`.
wall_ns: Callable[[], int] = _shifted(_path) if (_path := os.environ.get(OFFSET_FILE)) else time.time_ns


def _running_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _read_both() -> tuple[int, int]:
    """Return what the running clock says, and by how much the wall clock is ahead of it.

    Where other processes had the processor between the two, the difference is too large by as long: then they are read
    again, and of several such readings the one counts that took least.
    """
    best_ns, found = 1 << 62, (0, 0)
    for _ in range(READINGS_MAX):
        before_ns = _running_ns()
        offset_ns = wall_ns() - before_ns
        after_ns = _running_ns()
        if after_ns - before_ns < best_ns:
            best_ns, found = after_ns - before_ns, (before_ns, offset_ns)
        if best_ns <= TOGETHER_NS:
            break
    return found


class PunctualClock(SteadyClock):
    """A steady clock for who must not be late, and may hold up the rest of its process for a moment.

    trio's timers come one or two milliseconds late, as epoll counts in whole ones; so it sleeps through the last two
    before a deadline without trio.
    """

    async def sleep_until(self, deadline_ns: int) -> None:
        """See :class:`Clock`."""
        await super().sleep_until(deadline_ns - _COARSE_NS)
        if (remaining_ns := deadline_ns - self.now_ns()) > 0:
            time.sleep(min(remaining_ns, _COARSE_NS) / SECOND_NS)  # noqa: ASYNC251 - see above


class RecordingClock:
    """A recording's clock: begins at its first message and runs ``speed`` times as fast as the machine's.

    With ``speed=math.inf`` it jumps to whatever is waited for, so a replay is as fast as the machine is.
    """

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError(f"speed is {speed}: it must be greater than 0")
        self._speed = speed
        self._origin_ns = 0
        self._begun_ns = 0
        self._reached_ns = 0

    def begin(self, origin_ns: int) -> None:
        """Let the recording's time be ``origin_ns`` now."""
        self._origin_ns = self._reached_ns = origin_ns
        self._begun_ns = time.monotonic_ns()

    def now_ns(self) -> int:
        """See :class:`Clock`."""
        if math.isinf(self._speed) or not self._begun_ns:
            return self._reached_ns
        return self._origin_ns + int((time.monotonic_ns() - self._begun_ns) * self._speed)

    async def sleep_until(self, deadline_ns: int) -> None:
        """See :class:`Clock`."""
        if math.isinf(self._speed):
            self._reached_ns = max(self._reached_ns, deadline_ns)
            await trio.lowlevel.checkpoint()
            return
        await trio.sleep(max(0.0, (deadline_ns - self.now_ns()) / self._speed / SECOND_NS))

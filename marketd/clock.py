"""The time seam. Nothing else in the daemon asks the operating system what time it is.

Times are integers: nanoseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

import math
import time
from typing import Protocol

import trio

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000
_COARSE_NS = 2 * MILLISECOND_NS


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
        return time.time_ns()

    async def sleep_until(self, deadline_ns: int) -> None:
        """See :class:`Clock`."""
        remaining_s = (deadline_ns - time.time_ns()) / SECOND_NS
        if remaining_s <= 0:
            await trio.lowlevel.checkpoint()
        while remaining_s > 0:
            await trio.sleep(min(remaining_s, 1.0))
            remaining_s = (deadline_ns - time.time_ns()) / SECOND_NS


class PunctualClock(SystemClock):
    """The machine's clock for who must not be late, and may hold up the rest of its process for a moment.

    trio's timers come one or two milliseconds late, as epoll counts in whole ones; so it sleeps through the last two
    before a deadline without trio.
    """

    async def sleep_until(self, deadline_ns: int) -> None:
        """See :class:`Clock`."""
        await super().sleep_until(deadline_ns - _COARSE_NS)
        if (remaining_ns := deadline_ns - time.time_ns()) > 0:
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

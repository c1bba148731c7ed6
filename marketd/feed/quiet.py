"""Quiet or dead? Pure: what a connection's silence means.

Two signs of life are told apart. A *message* is what the venue says; *heard* is anything at all, the pong to a probe
too. A path that is gone gives neither. A venue whose markets sleep gives pongs only, and so does one whose gateway
lives while what is behind it does not: which of the two it is, only the venue's own habits can tell (``quiet_s``).
"""

from __future__ import annotations

import enum


class Verdict(enum.Enum):
    """What to do about the silence."""

    FINE = "fine"
    PROBE = "probe"  # a ping is due
    DEAD = "dead"  # nothing was heard, not even pongs: the path is gone
    SILENT = "silent"  # pongs come, and no message for longer than is normal


class QuietWatch:
    """One connection's silence.

    Each ``timeout_s`` without a message is a timeout, upon which the connection is probed. After ``reset_after`` of
    them in a row it is dead if nothing was heard all the while, and silent if there was no message for ``quiet_s`` as
    well. Times are of any one monotonic clock.
    """

    def __init__(self, *, timeout_s: float, reset_after: int, quiet_s: float, now_s: float) -> None:
        self._timeout_s = timeout_s
        self._dead_s = timeout_s * reset_after
        self._silent_s = max(quiet_s, self._dead_s)
        self._message_s = now_s
        self._timeouts = 0

    @property
    def timeouts(self) -> int:
        """How many timeouts there were since the last message."""
        return self._timeouts

    @property
    def next_s(self) -> float:
        """When :meth:`check` has something new to say, if nothing comes until then."""
        return self._message_s + self._timeout_s * (self._timeouts + 1)

    def message(self, now_s: float) -> None:
        """Note when messages came last; to note the same again changes nothing."""
        if now_s > self._message_s:
            self._message_s = now_s
            self._timeouts = 0

    def check(self, now_s: float, heard_s: float) -> Verdict:
        """Judge the silence; ``heard_s`` is when anything last came."""
        if now_s < self.next_s:
            return Verdict.FINE
        silence_s = now_s - self._message_s
        self._timeouts = int(silence_s / self._timeout_s)
        if now_s - max(heard_s, self._message_s) >= self._dead_s:
            return Verdict.DEAD
        return Verdict.SILENT if silence_s >= self._silent_s else Verdict.PROBE

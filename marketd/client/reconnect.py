"""When to dial again, and when to give up. Pure: the shells bring the clock."""

from __future__ import annotations

import random

from marketd.client.errors import ConnectionLost
from marketd.retry import backoff_s

FIRST_S = 0.1
CAP_S = 5.0
HEALTHY_S = 5.0


class Reconnect:
    """The waits between attempts: 0.1 s doubling to 5 s with full jitter, anew after 5 s of a good connection."""

    def __init__(self, *, enabled: bool, timeout_s: float | None, rng: random.Random | None = None) -> None:
        self._enabled = enabled
        self._timeout_s = timeout_s
        self._rng = rng
        self._attempt = 0
        self._made_s = 0.0
        self._lost_s: float | None = None
        self._reason = ""

    def made(self, now_s: float) -> None:
        """Note that a connection stands."""
        self._made_s = now_s
        self._lost_s = None

    def lost(self, now_s: float, reason: str) -> None:
        """Note that a connection broke, or that an attempt to make one failed."""
        self._reason = reason
        if self._lost_s is None:
            self._lost_s = now_s
            # One that broke soon counts as a failed attempt, so that a server that accepts and closes is no busy loop.
            if now_s - self._made_s >= HEALTHY_S:
                self._attempt = 0

    def delay_s(self, now_s: float) -> float:
        """Return how long to wait before the next attempt.

        Raises:
            ConnectionLost: there is to be none.
        """
        if not self._enabled:
            raise ConnectionLost(f"the connection broke: {self._reason}")
        away_s = now_s - self._lost_s if self._lost_s is not None else 0.0
        if self._timeout_s is not None and away_s >= self._timeout_s:
            raise ConnectionLost(f"the connection broke {away_s:.0f} s ago and can't be made again: {self._reason}")
        delay_s = backoff_s(self._attempt, first_s=FIRST_S, cap_s=CAP_S, rng=self._rng)
        self._attempt += 1
        return delay_s if self._timeout_s is None else min(delay_s, max(0.0, self._timeout_s - away_s))

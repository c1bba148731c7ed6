"""Pure: how much of its quotas a token has used, in one gateway process.

Nothing is slowed down: a stream that is held back falls behind, and what it then misses would be nobody's wish. What is
beyond a quota is refused, with the time at which to ask again; a stream whose token has had its bytes for today is
ended, with the position from which it can go on tomorrow.
"""

from __future__ import annotations

import math

from marketd.clock import SECOND_NS
from marketd.security.tokens import Quotas

DAY_NS = 86_400 * SECOND_NS


class Usage:
    """What all connections of one token use together.

    Attributes:
        quotas: how much they may.
        connections: that there are.
        subscriptions: that there are.
        bytes_today: that were sent to them since midnight UTC.
    """

    def __init__(self, quotas: Quotas | None = None) -> None:
        self.quotas = quotas or Quotas()
        self.connections = 0
        self.subscriptions = 0
        self.bytes_today = 0
        self._day = 0
        self._requests = Bucket(self.quotas.requests_per_s)

    @property
    def room_for_connection(self) -> bool:
        """Whether there may be one more."""
        return not self.quotas.connections or self.connections < self.quotas.connections

    @property
    def room_for_subscription(self) -> bool:
        """Whether there may be one more."""
        return not self.quotas.subscriptions or self.subscriptions < self.quotas.subscriptions

    def take_request(self, now_s: float) -> float:
        """Count a request; return 0.0, or after how many seconds there will be room for it."""
        return self._requests.take(now_s)

    def add_bytes(self, count: int, now_ns: int) -> None:
        """Count bytes that were sent."""
        self._begin_day(now_ns)
        self.bytes_today += count

    def spent(self, now_ns: int) -> bool:
        """Whether it has had all of today's bytes."""
        self._begin_day(now_ns)
        return bool(self.quotas.bytes_per_day) and self.bytes_today >= self.quotas.bytes_per_day

    def _begin_day(self, now_ns: int) -> None:
        day = now_ns // DAY_NS
        if day != self._day:
            self._day = day
            self.bytes_today = 0


class Bucket:
    """Lets through so many a second, and a second's worth at once. ``rate`` 0: any number."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._size = max(1.0, rate)
        self._level = self._size
        self._seen_s = -math.inf

    def take(self, now_s: float) -> float:
        """Take one, and return 0.0; or take none, and return after how many seconds there will be one."""
        if not self._rate:
            return 0.0
        if now_s > self._seen_s:
            self._level = min(self._size, self._level + min(now_s - self._seen_s, self._size / self._rate) * self._rate)
            self._seen_s = now_s
        if self._level >= 1.0:
            self._level -= 1.0
            return 0.0
        return (1.0 - self._level) / self._rate


def seconds_to_midnight(now_ns: int) -> float:
    """How long this day of UTC lasts yet."""
    return (DAY_NS - now_ns % DAY_NS) / SECOND_NS

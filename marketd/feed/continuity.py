"""Sequence checks, pure: what a venue's own numbers say about rows that are missing, doubled or late."""

from __future__ import annotations

IN_ORDER = 0
DUPLICATE = -1
RENUMBERED = -2


class Contiguous:
    """Numbers of one series that go up by one each time, such as a venue's trade ids.

    Attributes:
        last_ns: event time of the newest number.
        hole_from_ns: event time of the number before the newest hole: nothing is missing up to there.
    """

    __slots__ = ("_next", "hole_from_ns", "last_ns")

    def __init__(self) -> None:
        self._next = -1
        self.last_ns = 0
        self.hole_from_ns = 0

    def accept(self, number: int, event_ns: int) -> int:
        """Take the next number and say how it follows the one before.

        Returns:
            IN_ORDER, or how many numbers are missing before this one, or DUPLICATE (it was there before; the state is
            as it was), or RENUMBERED: smaller than the newest number but later than it, so the venue has begun to
            count anew and nobody knows what is missing.
        """
        if number == self._next:
            self._next = number + 1
            self.last_ns = event_ns
            return IN_ORDER
        return self._accept_other(number, event_ns)

    def _accept_other(self, number: int, event_ns: int) -> int:
        expected = self._next
        if expected >= 0 and number < expected and event_ns <= self.last_ns:
            return DUPLICATE
        self.hole_from_ns = self.last_ns
        self._next = number + 1
        self.last_ns = event_ns
        if expected < 0:
            return IN_ORDER
        return number - expected if number > expected else RENUMBERED


class Rising:
    """Numbers of one series that never go down, such as the update ids of an order book's best prices.

    Holes mean nothing: the venue counts changes of the whole book and tells us of the best prices only.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = -1

    def accept(self, number: int) -> bool:
        """Take the next number; False when it is older than one that came before, and the state is as it was."""
        if number < self._last:
            return False
        self._last = number
        return True

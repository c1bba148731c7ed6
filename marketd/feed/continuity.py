"""Sequence checks, pure: what a venue's own numbers say about rows that are missing, doubled or late."""

from __future__ import annotations

# So many old numbers in a row that rise, and the one that they are older than is taken for the mistake. More than a
# venue sends again at a time: Kraken's newest trades are 50.
OLDER_MAX = 64

# Trades and quotes come by ways of their own, and a trade may be under way still when a later quote is here; all the
# more where quotes have no time but ours (Binance's spot). So far apart they are at most.
APART_NS = 2 * 10**9

IN_ORDER = 0
DUPLICATE = -1
RENUMBERED = -2


class Contiguous:
    """Numbers of one series that go up by one each time, such as a venue's trade ids.

    Attributes:
        last_ns: event time of the newest number.
        hole_from_ns: event time of the number before the newest hole: nothing is missing up to there.
    """

    __slots__ = ("_next", "_run", "hole_from_ns", "last_ns")

    def __init__(self) -> None:
        self._next = -1
        self._run = OldRun()
        self.last_ns = 0
        self.hole_from_ns = 0

    def accept(self, number: int, event_ns: int) -> int:
        """Take the next number and say how it follows the one before.

        Returns:
            IN_ORDER, or how many numbers are missing before this one, or DUPLICATE (it was there before; the state is
            as it was), or RENUMBERED: smaller than the newest number but later than it, so the venue has begun to
            count anew and nobody knows what is missing. RENUMBERED, too, if all are smaller and earlier for so long
            that it is the newest that was wrong.
        """
        if number == self._next:
            self._next = number + 1
            self.last_ns = event_ns
            return IN_ORDER
        return self._accept_other(number, event_ns)

    def _accept_other(self, number: int, event_ns: int) -> int:
        expected = self._next
        if expected >= 0 and number < expected and event_ns <= self.last_ns and not self._run.over(number, expected):
            return DUPLICATE
        self.hole_from_ns = min(self.last_ns, event_ns)
        self._next = number + 1
        self.last_ns = event_ns
        if expected < 0:
            return IN_ORDER
        return number - expected if number > expected else RENUMBERED


class Rising:
    """Numbers of one series that never go down, such as the update ids of an order book's best prices.

    Holes mean nothing: the venue counts changes of the whole book and tells us of the best prices only.
    """

    __slots__ = ("_last", "_run")

    def __init__(self) -> None:
        self._last = -1
        self._run = OldRun()

    def accept(self, number: int) -> bool:
        """Take the next number; False when it is older than one that came before, and the state is as it was.

        True as well if all are older for so long that it is the newest that was wrong.
        """
        if number < self._last and not self._run.over(number, self._last):
            return False
        self._last = number
        return True


def whole_until_ns(*newest_ns: int) -> int:
    """Say until when nothing is missing, given when the newest of each kind was; 0 stands for none, in and out.

    Of several kinds it is the one that spoke longest ago that counts, unless it simply has nothing to say.
    """
    times = [time_ns for time_ns in newest_ns if time_ns]
    return max(min(times), max(times) - APART_NS) if times else 0


class OldRun:
    """Counts old numbers in a row: one number that is far too large must not silence a series for ever."""

    __slots__ = ("_count", "_last", "_newest")

    def __init__(self) -> None:
        self._count = 0
        self._last = -1
        self._newest = -1

    def over(self, number: int, newest: int) -> bool:
        """Note a number that is older than ``newest``; True when there were too many, rising, and no newer one."""
        in_a_row = newest == self._newest and number > self._last
        self._count = self._count + 1 if in_a_row else 1
        self._last, self._newest = number, newest
        return self._count > OLDER_MAX

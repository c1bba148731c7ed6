"""Rate limits as venues count them. Times are given by the caller, in ns, and only ever grow."""

from __future__ import annotations

SECOND_NS = 1_000_000_000


class Window:
    """A budget that is whole again at the end of each window.

    Args:
        aligned: windows lie on multiples of their length (Binance), else one begins with the first use (KuCoin).
    """

    def __init__(self, limit: int, length_ns: int, *, aligned: bool) -> None:
        self.limit = limit
        self.used = 0
        self._length_ns = length_ns
        self._aligned = aligned
        self._end_ns = 0

    def take(self, weight: int, now_ns: int) -> bool:
        """Use some of the budget. The weight counts even when it is refused, as the venues' own counters do."""
        self._roll(now_ns)
        self.used += weight
        return self.used <= self.limit

    def remaining(self, now_ns: int) -> int:
        """What is left in this window."""
        self._roll(now_ns)
        return max(self.limit - self.used, 0)

    def resets_in_ns(self, now_ns: int) -> int:
        """How long it is to the end of this window."""
        self._roll(now_ns)
        return max(self._end_ns - now_ns, 0) if self._end_ns else self._length_ns

    def reset(self) -> None:
        """Forget all use."""
        self.used = 0
        self._end_ns = 0

    def _roll(self, now_ns: int) -> None:
        if now_ns >= self._end_ns:
            self.used = 0
            begin_ns = now_ns - now_ns % self._length_ns if self._aligned else now_ns
            self._end_ns = begin_ns + self._length_ns


class Bucket:
    """A token bucket: ``burst`` at once, then one each ``interval_ns``."""

    def __init__(self, burst: int, interval_ns: int) -> None:
        self.burst = burst
        self._interval_ns = interval_ns
        self._empty_ns = 0  # when it was, or would be, without a token, counted back from now

    def take(self, now_ns: int) -> bool:
        """Take one token, if there is one."""
        empty_ns = max(self._empty_ns, now_ns - self.burst * self._interval_ns)
        if empty_ns + self._interval_ns > now_ns:
            return False
        self._empty_ns = empty_ns + self._interval_ns
        return True


class Bans:
    """Bans that grow with each offence: twice as long, from ``first_s`` to ``longest_s``.

    Binance: "IP bans are tracked and scale in duration for repeat offenders, from 2 minutes to 3 days",
    https://developers.binance.com/docs/binance-spot-api-docs/rest-api/limits .
    """

    def __init__(self, patience: int = 10, first_s: float = 120, longest_s: float = 3 * 86_400) -> None:
        self.until_ns = 0
        self._patience = patience
        self._next_s = first_s
        self._first_s = first_s
        self._longest_s = longest_s
        self._refused = 0

    def refused(self, now_ns: int) -> None:
        """Note a request that came although the limit was reached; too many of them are an offence."""
        self._refused += 1
        if self._refused > self._patience:
            self.ban(self._next_s, now_ns)
            self._next_s = min(self._next_s * 2, self._longest_s)

    def accepted(self) -> None:
        """Note a request within the limit."""
        self._refused = 0

    def ban(self, seconds: float, now_ns: int) -> None:
        """Ban for so long from now."""
        self.until_ns = now_ns + int(seconds * SECOND_NS)
        self._refused = 0

    def banned_ns(self, now_ns: int) -> int:
        """How much longer the ban lasts, 0 for none."""
        return max(self.until_ns - now_ns, 0)

    def reset(self) -> None:
        """Forgive everything."""
        self.until_ns = 0
        self._refused = 0
        self._next_s = self._first_s

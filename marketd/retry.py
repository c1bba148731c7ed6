"""When to try again. Pure: the caller brings the clock and the dice."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field


def backoff_s(
    attempt: int, *, first_s: float = 0.1, factor: float = 2.0, cap_s: float = 30.0, rng: random.Random | None = None
) -> float:
    """Return how long to wait before attempt number ``attempt`` (from 0): exponential, capped, with full jitter.

    Full jitter (anything from 0 to the step) spreads a crowd that failed together best, see
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    # The exponent is bounded so that a daemon that tries for months never overflows a float.
    step_s = min(cap_s, first_s * factor ** min(attempt, 64))
    return (rng or random).uniform(0.0, step_s)


@dataclass
class RestartPolicy:
    """Decides when an actor that died is started again, and when its service counts as failing.

    Backoff from ``first_s`` doubling to ``cap_s`` with full jitter; an actor that lived ``healthy_s`` starts the count
    anew; more than ``deaths_max`` deaths within ``window_s`` make the service ``failing``: it is tried every ``cap_s``.
    """

    first_s: float = 0.1
    cap_s: float = 30.0
    healthy_s: float = 60.0
    deaths_max: int = 5
    window_s: float = 60.0
    rng: random.Random = field(default_factory=random.Random)
    attempt: int = 0
    _deaths_s: deque[float] = field(default_factory=deque)

    def died(self, now_s: float, lived_s: float) -> float:
        """Note a death at ``now_s`` (any monotonic clock) after ``lived_s`` of life; return the seconds to wait."""
        self.attempt = 0 if lived_s >= self.healthy_s else self.attempt
        self._deaths_s.append(now_s)
        self._forget_old(now_s)
        delay_s = backoff_s(self.attempt, first_s=self.first_s, cap_s=self.cap_s, rng=self.rng)
        self.attempt += 1
        return self.cap_s if self.failing(now_s) else delay_s

    def failing(self, now_s: float) -> bool:
        """Whether it died more than ``deaths_max`` times in the last ``window_s``."""
        self._forget_old(now_s)
        return len(self._deaths_s) > self.deaths_max

    def _forget_old(self, now_s: float) -> None:
        while self._deaths_s and self._deaths_s[0] <= now_s - self.window_s:
            self._deaths_s.popleft()

"""When to connect again, pure: the caller brings the time and the dice."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from marketd.retry import backoff_s


@dataclass
class ReconnectPolicy:
    """The first attempt after a loss is made at once, each further one after a backoff with full jitter, for ever.

    The count begins anew only after a connection that brought data and lived for ``healthy_s``. Without the second
    condition a venue that sends something and cuts would be called again at once, and again.

    Attributes:
        attempt: how many connections have ended since then.
    """

    first_s: float = 0.5
    cap_s: float = 30.0
    healthy_s: float = 10.0
    rng: random.Random = field(default_factory=random.Random)
    attempt: int = 0

    def lost(self, *, brought_data: bool, lived_s: float, hopeless: bool = False, asked_s: float = 0.0) -> float:
        """Note the end of a connection, or of an attempt to have one, and return how long to wait before the next.

        Args:
            hopeless: nothing suggests that the next one will fare better, so it can wait as long as any.
            asked_s: how long the venue wants to be left alone.
        """
        if brought_data and lived_s >= self.healthy_s:
            self.attempt = 0
        delay_s = self._delay_s(hopeless)
        self.attempt += 1
        return max(delay_s, asked_s)

    def _delay_s(self, hopeless: bool) -> float:
        if hopeless:
            return self.rng.uniform(self.cap_s / 2, self.cap_s)
        if self.attempt == 0:
            return 0.0
        return backoff_s(self.attempt - 1, first_s=self.first_s, cap_s=self.cap_s, rng=self.rng)

"""How fast a connection may send, pure."""

from __future__ import annotations

from collections import deque


class Pacer:
    """At most so many messages a second, in any second; below one a second, one in so many seconds."""

    def __init__(self, messages_per_s: float) -> None:
        burst = max(1, int(messages_per_s))
        self._window_s = max(1.0, 1.0 / messages_per_s)
        self._sent_s: deque[float] = deque(maxlen=burst)

    def wait_s(self, now_s: float) -> float:
        """How long the next message must wait."""
        if len(self._sent_s) < (self._sent_s.maxlen or 1):
            return 0.0
        return max(0.0, self._sent_s[0] + self._window_s - now_s)

    def note(self, now_s: float) -> None:
        """Note that a message was sent."""
        self._sent_s.append(now_s)

"""What has happened, counted: the answer of `GET /control/state`. All lists have a limit."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

KEPT = 10_000


@dataclass(slots=True)
class StreamCount:
    """One stream's messages over all connections. Numbers are the market's: trade ids, update ids of quotes.

    Attributes:
        sent: put on the wire, duplicates included; a connection that breaks may lose the last of them.
        lost: not sent, or spoiled, because of a fault.
    """

    sent: int = 0
    lost: int = 0
    first: int = 0
    last: int = 0


@dataclass
class VenueCounts:
    """One venue's counts.

    Attributes:
        attempts: when somebody wanted a websocket, ns, and what came of it.
        requests: by path, and in it by HTTP status.
        recent_requests: when, path and status of the newest REST requests.
    """

    streams: dict[str, StreamCount] = field(default_factory=dict)
    attempts: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=KEPT))
    closed: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=1000))
    requests: dict[str, Counter[int]] = field(default_factory=dict)
    recent_requests: deque[tuple[int, str, int]] = field(default_factory=lambda: deque(maxlen=KEPT))

    def stream(self, name: str) -> StreamCount:
        """The count of one stream."""
        count = self.streams.get(name)
        if count is None:
            count = self.streams[name] = StreamCount()
        return count

    def attempt(self, time_ns: int, outcome: str) -> None:
        """Count an attempt to open a websocket."""
        self.attempts.append((time_ns, outcome))

    def request(self, time_ns: int, path: str, status: int) -> None:
        """Count a REST request; status 0 is one that got no answer."""
        if path in self.requests or len(self.requests) < KEPT:
            self.requests.setdefault(path, Counter())[status] += 1
        self.recent_requests.append((time_ns, path, status))

    def state(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "attempts": [{"time_ns": time_ns, "outcome": outcome} for time_ns, outcome in self.attempts],
            "closed_connections": list(self.closed),
            "streams": {
                name: {"sent": count.sent, "lost": count.lost, "first": count.first, "last": count.last}
                for name, count in self.streams.items()
            },
            "requests": {
                path: {"count": statuses.total(), "by_status": {str(key): n for key, n in statuses.items()}}
                for path, statuses in self.requests.items()
            },
            "recent_requests": [
                {"time_ns": time_ns, "path": path, "status": status} for time_ns, path, status in self.recent_requests
            ],
        }

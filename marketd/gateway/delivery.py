"""How long rows take to the clients, and how far those are behind: looked at now and then, never row by row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from marketd.clock import SECOND_NS, SystemClock
from marketd.observe.histogram import Sampled

if TYPE_CHECKING:
    from marketd.gateway.subscription import Follow, Subscription


class Delivery(Sampled):
    """From when the newest row of a write was received until the socket had all of it.

    Only of clients that have every row that there is: how far the others are behind, their status says.
    """

    def note(self, follows: Iterable[tuple[Subscription, Follow]]) -> None:
        """Take notice that a client's socket has all that there was to send of these."""
        for _, follow in follows:
            if follow.cursor <= follow.measured or follow.steps or follow.past or follow.feed.info.recorded:
                continue
            # What was sent last, and not what was passed over, is what the client had to wait for.
            fresh, follow.measured = follow.sent == follow.cursor == follow.feed.head, follow.cursor
            if fresh and (received_ns := follow.feed.ring.received_ns(follow.cursor)):
                self.observe(SystemClock().now_ns() - received_ns)
                return


class Behind(NamedTuple):
    """How many rows of a feed a client is behind, at most, and how old the first of these is."""

    rows: int
    age_s: float

    @classmethod
    def of(cls, follows: Iterable[tuple[Subscription, Follow]]) -> Behind:
        """Look at every feed that is sent row by row; what waits because the client asked for that does not count."""
        found = cls(0, 0.0)
        for subscription, follow in follows:
            rows = follow.feed.head - follow.cursor
            passed_over = follow.steps or follow.past or subscription.framed(follow) or not subscription.lag(follow)
            if rows <= found.rows or passed_over:
                continue
            received_ns = follow.feed.ring.received_ns(follow.cursor + 1)
            age_ns = SystemClock().now_ns() - received_ns if received_ns else 0
            found = cls(rows, round(max(0, age_ns) / SECOND_NS, 3))
        return found

"""The one rate budget of a venue, pure: how much of what it allows is used, and until when it wants to be left alone.

Weight counts from when a request is let go until ``window_s`` after its answer came. The venue counts it somewhere in
between, so no window of the venue's, wherever it begins and however slow the network is, holds more than its capacity:
of the requests in such a window take the one let go last; each of the others was answered after the window's begin, so
it still counted then.

Times are nanoseconds of the wall clock, for a ban must outlive the process. If that clock is set back, weight counts
for at most one more window.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping

import msgspec

from backends.live import Bucket
from marketd.clock import SECOND_NS

SLICES_MAX = 64  # of a bucket's use, in its saved state


class Priority(enum.IntEnum):
    """Who goes first, and how much of a bucket each may fill.

    A higher one always goes before a lower one. Backfill leaves a quarter of each bucket free, so that a repair never
    waits for a whole window. It would starve if the others alone used up the rest for ever; they can't, for they ask
    in proportion to instruments and outages, and backfill asks for years.
    """

    REPAIR = 0
    SUBSCRIPTION = 1
    BACKFILL = 2

    @property
    def share(self) -> float:
        """The part of a bucket that requests of this priority may fill."""
        return (1.0, 0.9, 0.75)[self]


class Slice(msgspec.Struct, frozen=True, array_like=True):
    """Weight that counts until ``until_ns``."""

    until_ns: int
    weight: int


class BucketState(msgspec.Struct, frozen=True):
    """What is kept of a bucket when the process ends."""

    rest_until_ns: int
    slices: list[Slice]


class BudgetState(msgspec.Struct, frozen=True):
    """What is kept of a budget when the process ends."""

    version: int
    buckets: dict[str, BucketState]


VERSION = 1


class Grant(msgspec.Struct, frozen=True, eq=False):
    """A request that was let go; it must be settled, whatever comes of it."""

    bucket: str
    weight: int


class Budget:
    """All of one venue's buckets. A bucket that nobody declared is a mistake of ours, and raises ``KeyError``."""

    def __init__(self, buckets: Mapping[str, Bucket]) -> None:
        self.capacities = {name: bucket.capacity for name, bucket in buckets.items()}
        self._buckets = {name: _Bucket(bucket) for name, bucket in buckets.items()}

    def ready_ns(self, bucket: str, weight: int, priority: Priority, now_ns: int) -> int | None:
        """Say when a request may go if no other does: ``now_ns`` or later; None: not before some answer has come.

        Raises:
            ValueError: the bucket could never hold so much.
        """
        return self._buckets[bucket].ready_ns(weight, priority, now_ns)

    def take(self, bucket: str, weight: int, now_ns: int) -> Grant:
        """Let a request go now; only when :meth:`ready_ns` says so."""
        self._buckets[bucket].open_weight += weight
        return Grant(bucket, weight)

    def settle(self, grant: Grant, now_ns: int) -> None:
        """Note that a request is over: its answer came, or never will."""
        bucket = self._buckets[grant.bucket]
        bucket.open_weight -= grant.weight
        bucket.add(grant.weight, now_ns)

    def note_used(self, bucket: str, used: int, now_ns: int) -> None:
        """Learn from the venue how much it counts by now: others may share our address."""
        state = self._buckets.get(bucket)
        if state is not None:
            state.add(max(0, used - state.used(now_ns)), now_ns)

    def rest(self, bucket: str, until_ns: int) -> None:
        """Let nothing go before then: the venue says we are throttled, or banned."""
        state = self._buckets[bucket]
        state.rest_until_ns = max(state.rest_until_ns, until_ns)

    def used(self, bucket: str, now_ns: int) -> int:
        """How much counts now."""
        return self._buckets[bucket].used(now_ns)

    def resting(self, now_ns: int) -> dict[str, int]:
        """The buckets that are throttled or banned, and until when."""
        return {name: state.rest_until_ns for name, state in self._buckets.items() if state.rest_until_ns > now_ns}

    def save(self, now_ns: int) -> BudgetState:
        """Return what a successor must know. Requests that are not over count from now."""
        return BudgetState(VERSION, {name: bucket.save(now_ns) for name, bucket in self._buckets.items()})

    def restore(self, state: BudgetState, now_ns: int) -> None:
        """Go on where a predecessor stopped; buckets of other names are forgotten."""
        for name, saved in state.buckets.items():
            if name in self._buckets:
                self._buckets[name].restore(saved, now_ns)


class _Bucket:
    def __init__(self, limit: Bucket) -> None:
        self.open_weight = 0  # of requests that are not over
        self.rest_until_ns = 0
        self._capacity = limit.capacity
        self._window_ns = round(limit.window_s * SECOND_NS)
        self._slices: deque[Slice] = deque()  # in order of time
        self._settled = 0  # the slices' sum

    def used(self, now_ns: int) -> int:
        self._forget(now_ns)
        return self.open_weight + self._settled

    def add(self, weight: int, now_ns: int) -> None:
        self._forget(now_ns)
        if weight:
            self._slices.append(Slice(now_ns + self._window_ns, weight))
            self._settled += weight

    def ready_ns(self, weight: int, priority: Priority, now_ns: int) -> int | None:
        if weight > self._capacity:
            raise ValueError(f"a request of weight {weight} never fits a bucket of {self._capacity}")
        # What weighs more than its share may still go when nothing else is there.
        room = max(weight, int(self._capacity * priority.share)) - weight
        excess = self.used(now_ns) - room
        if excess <= 0:
            return max(now_ns, self.rest_until_ns)
        for entry in self._slices:
            excess -= entry.weight
            if excess <= 0:
                return max(entry.until_ns, self.rest_until_ns)
        return None

    def save(self, now_ns: int) -> BucketState:
        self._forget(now_ns)
        slices = list(self._slices)
        if self.open_weight:
            slices.append(Slice(now_ns + self._window_ns, self.open_weight))
        while len(slices) > SLICES_MAX:  # each with the one after it: never counts for less than it should
            pairs = zip(slices[::2], slices[1::2], strict=False)
            odd = slices[-1:] if len(slices) % 2 else []
            slices = [Slice(later.until_ns, earlier.weight + later.weight) for earlier, later in pairs] + odd
        return BucketState(self.rest_until_ns, slices)

    def restore(self, saved: BucketState, now_ns: int) -> None:
        self.rest_until_ns = saved.rest_until_ns
        self._slices = deque(sorted(saved.slices, key=lambda entry: entry.until_ns))
        self._settled = sum(entry.weight for entry in self._slices)
        self._forget(now_ns)

    def _forget(self, now_ns: int) -> None:
        slices = self._slices
        while slices and slices[0].until_ns <= now_ns:
            self._settled -= slices.popleft().weight
        latest_ns = now_ns + self._window_ns
        if slices and slices[-1].until_ns > latest_ns:  # the clock was set back
            self._slices = deque(Slice(min(entry.until_ns, latest_ns), entry.weight) for entry in slices)

"""Waiting for the rate budget: the thin part around `budget.py` that sleeps, and keeps its state on disk."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog
import trio

from backends.live import Bucket
from marketd.clock import SECOND_NS, Clock
from marketd.errors import MarketdError
from marketd.feed.budget import VERSION, Budget, BudgetState, Grant, Priority
from marketd.feed.files import replace_file

WAITERS_MAX = 4096
SAVE_S = 1.0


class BudgetError(MarketdError):
    """A request may not go in time. ``retry_s``: when it is worth another try, at the earliest."""

    def __init__(self, message: str, retry_s: float) -> None:
        super().__init__(message)
        self.retry_s = retry_s


@dataclass(order=True)
class _Waiter:
    priority: Priority
    number: int
    weight: int = field(compare=False)
    nudged: trio.Event = field(compare=False, default_factory=trio.Event)


class RateGate:
    """Lets requests go in order of priority, and of arrival within one, as the budget allows.

    Only the first of those that wait for a bucket looks at the budget: one that is too heavy for now is not overtaken,
    or it might wait for ever.

    Args:
        path: where the state is kept; None keeps it in memory only.
    """

    def __init__(self, buckets: Mapping[str, Bucket], clock: Clock, path: Path | None = None) -> None:
        self.budget = Budget(buckets)
        self.rests: dict[str, int] = {}  # how often each had to
        self._clock = clock
        self._path = path
        self._waiters: dict[str, list[_Waiter]] = {name: [] for name in buckets}
        self._numbers = itertools.count()
        self._changed = trio.Event()
        self._saving = trio.Lock()
        self._log = structlog.get_logger("marketd.feed.gate")
        if path is not None:
            self._load(path)

    async def acquire(self, bucket: str, weight: int, priority: Priority, *, timeout_s: float) -> Grant:
        """Wait until a request may go. The grant must be given to :meth:`settle` when the request is over.

        Raises:
            BudgetError: not within ``timeout_s``. Where that is plain from the beginning, as during a long ban, it is
                raised at once.
        """
        waiters = self._waiters[bucket]
        if len(waiters) >= WAITERS_MAX:
            raise BudgetError(f"{WAITERS_MAX} requests wait for {bucket!r} already", SAVE_S)
        waiter = _Waiter(priority, next(self._numbers), weight)
        bisect.insort(waiters, waiter)
        deadline_s = trio.current_time() + timeout_s
        try:
            while not self._may_go(bucket, waiter):
                await self._wait(bucket, waiter, deadline_s)
            return self.budget.take(bucket, weight, self._clock.now_ns())
        finally:
            waiters.remove(waiter)
            self._nudge(bucket)

    def settle(self, grant: Grant) -> None:
        """Note that a request is over, whatever came of it."""
        self.budget.settle(grant, self._clock.now_ns())
        self._nudge(grant.bucket)
        self._changed.set()

    def note_used(self, used: Mapping[str, int]) -> None:
        """Learn from the venue how much it counts, by bucket."""
        for bucket, weight in used.items():
            self.budget.note_used(bucket, weight, self._clock.now_ns())

    async def rest(self, bucket: str, duration_s: float) -> None:
        """Let nothing go for a while, and see to it that a successor does not either."""
        until_ns = self._clock.now_ns() + round(duration_s * SECOND_NS)
        self.budget.rest(bucket, until_ns)
        self.rests[bucket] = self.rests.get(bucket, 0) + 1
        self._log.warning("budget.resting", bucket=bucket, duration_s=round(duration_s, 3))
        with trio.CancelScope(shield=True):  # a feed that is stopped just now must not forget a ban
            await self.save()

    async def save(self) -> None:
        """Write the state, if there is a place for it. A full disk is no reason to stop."""
        if self._path is None:
            return
        async with self._saving:
            state = self.budget.save(self._clock.now_ns())
            try:
                await replace_file(self._path, msgspec.json.encode(state))
            except OSError as error:
                self._log.warning("budget.unsaved", path=str(self._path), error=str(error))

    async def keep_saved(self) -> None:
        """Save the state at most once a second while it changes; for ever."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self.save()
            await trio.sleep(SAVE_S)

    def _may_go(self, bucket: str, waiter: _Waiter) -> bool:
        now_ns = self._clock.now_ns()
        return self._is_first(bucket, waiter) and self._ready_ns(bucket, waiter, now_ns) == now_ns

    def _ready_ns(self, bucket: str, waiter: _Waiter, now_ns: int) -> int | None:
        return self.budget.ready_ns(bucket, waiter.weight, waiter.priority, now_ns)

    def _is_first(self, bucket: str, waiter: _Waiter) -> bool:
        return self._waiters[bucket][0] is waiter

    async def _wait(self, bucket: str, waiter: _Waiter, deadline_s: float) -> None:
        """Return when it is worth looking again.

        Raises:
            BudgetError: it never will be before the deadline.
        """
        now_ns = self._clock.now_ns()
        ready_ns = self._ready_ns(bucket, waiter, now_ns)
        wait_s = 0.0 if ready_ns is None else (ready_ns - now_ns) / SECOND_NS
        remaining_s = deadline_s - trio.current_time()
        if wait_s > remaining_s or remaining_s <= 0:
            raise BudgetError(f"the budget {bucket!r} has no room in time", max(wait_s, 0.0))
        # The clock of the budget and that of the deadline are two: look again at least once a second.
        has_date = ready_ns is not None and self._is_first(bucket, waiter)
        pause_s = min(remaining_s, wait_s, 1.0) if has_date else remaining_s
        waiter.nudged = trio.Event()
        with trio.move_on_after(pause_s):
            await waiter.nudged.wait()

    def _nudge(self, bucket: str) -> None:
        if self._waiters[bucket]:
            self._waiters[bucket][0].nudged.set()

    def _load(self, path: Path) -> None:
        try:
            state = msgspec.json.decode(path.read_bytes(), type=BudgetState)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            self._log.warning("budget.unreadable", path=str(path), error=str(error))
            return
        if state.version == VERSION:
            self.budget.restore(state, self._clock.now_ns())
            resting = self.budget.resting(self._clock.now_ns())
            if resting:
                self._log.warning("budget.still_resting", until_ns=resting)

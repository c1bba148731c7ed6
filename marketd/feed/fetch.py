"""REST requests of a live feed: each waits for the budget, has a deadline, and is repeated where that may help."""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

import structlog
import trio

from backends.live import HttpRequest, LiveVenue
from marketd.clock import Clock
from marketd.errors import MarketdError
from marketd.feed.budget import Priority
from marketd.feed.gate import BudgetError, RateGate
from marketd.http import DEFAULT_POLICY, Fine, GiveUp, HttpError, Response, RetryPolicy, decide

ATTEMPT_TIMEOUT_S = 10.0
THROTTLED_MAX = 3  # times that one request may be told off, before it counts as failed


class FetchFailed(MarketdError):  # noqa: N818
    """A request came to nothing: the network's or the venue's doing. ``retry_s``: when to try again, if known."""

    def __init__(self, message: str, retry_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class Answered(NamedTuple):
    """A body, and between which moments, by our clock, it was on its way."""

    body: bytes
    sent_ns: int
    received_ns: int


class Client(Protocol):
    """What is needed of :class:`marketd.http.HttpClient`."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        timeout_s: float,
        idempotent: bool | None = None,
    ) -> Response:
        """See :meth:`marketd.http.HttpClient.request`."""
        ...


class Fetcher:
    """All requests of one feed go through here, and so through one budget."""

    def __init__(
        self, venue: LiveVenue, client: Client, gate: RateGate, clock: Clock, rng: random.Random | None = None
    ) -> None:
        self.gate = gate
        self._venue = venue
        self._client = client
        self._clock = clock
        self._rng = rng
        self._log = structlog.get_logger("marketd.feed.fetch")

    async def fetch_all(
        self,
        requests: list[HttpRequest],
        priority: Priority,
        *,
        timeout_s: float,
        policy: RetryPolicy = DEFAULT_POLICY,
    ) -> list[bytes]:
        """Make requests one after the other, all within the deadline, and return their bodies.

        Args:
            policy: how often each is made.

        Raises:
            FetchFailed: one of them came to nothing.
        """
        deadline_s = trio.current_time() + timeout_s
        return [
            await self.fetch(request, priority, timeout_s=max(0.0, deadline_s - trio.current_time()), policy=policy)
            for request in requests
        ]

    async def fetch(
        self, request: HttpRequest, priority: Priority, *, timeout_s: float, policy: RetryPolicy = DEFAULT_POLICY
    ) -> bytes:
        """Make one request and return its body.

        Everything that live feeds ask for is public and changes nothing, so every request may be repeated.

        Args:
            policy: how often it is made.

        Raises:
            FetchFailed: it came to nothing before the deadline, or never will come to anything.
        """
        deadline_s = trio.current_time() + timeout_s
        throttled_max = min(THROTTLED_MAX, policy.attempts_max)
        attempt = throttled = 0
        while True:
            outcome, _ = await self._attempt(request, priority, deadline_s)
            pause_s = await self._told_off(request, outcome)
            if pause_s is not None:
                throttled += 1
                if throttled >= throttled_max:
                    raise FetchFailed(f"{request.path}: throttled by the venue, {throttled} in a row", pause_s)
                continue  # the budget has the waiting time
            remaining_s = deadline_s - trio.current_time()
            now_ns = self._clock.now_ns()
            verdict = decide(attempt, outcome, True, now_ns, remaining_s=remaining_s, policy=policy, rng=self._rng)
            if isinstance(verdict, Fine):
                assert isinstance(outcome, Response)
                return outcome.body
            if isinstance(verdict, GiveUp):
                said = outcome if isinstance(outcome, HttpError) else f"status {outcome.status}"
                raise FetchFailed(f"{request.path}: {said}; {verdict.reason}", verdict.asked_s)
            self._log.debug("fetch.retry", path=request.path, attempt=attempt, delay_s=round(verdict.delay_s, 3))
            await trio.sleep(verdict.delay_s)
            attempt += 1

    async def fetch_once(self, request: HttpRequest, priority: Priority, *, timeout_s: float) -> Answered:
        """Make one request once, and tell when it went and when its answer came.

        Raises:
            FetchFailed: there is no answer, or none that is of use.
        """
        outcome, sent_ns = await self._attempt(request, priority, trio.current_time() + timeout_s)
        await self._told_off(request, outcome)
        if isinstance(outcome, HttpError):
            raise FetchFailed(f"{request.path}: {outcome}") from outcome
        if outcome.status != 200:
            raise FetchFailed(f"{request.path}: status {outcome.status}")
        return Answered(outcome.body, sent_ns, outcome.received_ns)

    async def _attempt(
        self, request: HttpRequest, priority: Priority, deadline_s: float
    ) -> tuple[Response | HttpError, int]:
        """Wait for the budget, ask once, and return what came of it and when it went.

        Raises:
            FetchFailed: the budget has no room before the deadline.
        """
        remaining_s = deadline_s - trio.current_time()
        try:
            grant = await self.gate.acquire(request.bucket, request.weight, priority, timeout_s=remaining_s)
        except BudgetError as error:
            raise FetchFailed(f"{request.path}: {error}", error.retry_s) from error
        sent_ns = self._clock.now_ns()
        try:
            outcome: Response | HttpError = await self._client.request(
                request.method,
                request.path,
                params=dict(request.params),
                timeout_s=max(0.0, min(ATTEMPT_TIMEOUT_S, deadline_s - trio.current_time())),
                idempotent=True,
            )
        except HttpError as error:
            outcome = error
        finally:
            self.gate.settle(grant)
        return outcome, sent_ns

    async def _told_off(self, request: HttpRequest, outcome: Response | HttpError) -> float | None:
        """Let the budget learn from an answer; return for how long to rest if it says that we ask too much."""
        if isinstance(outcome, HttpError):
            return None
        self.gate.note_used(self._venue.weight_used(outcome.headers))
        pause_s = self._venue.throttled(outcome)
        if pause_s is not None:
            await self.gate.rest(request.bucket, pause_s)
        return pause_s

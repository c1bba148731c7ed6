"""Try again or give up? One pure function decides; a thin loop obeys."""

from __future__ import annotations

import email.utils
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import trio

from marketd.clock import SECOND_NS
from marketd.http.client import BODY_BYTES_MAX, HttpClient, Params
from marketd.http.messages import (
    HttpConnectError,
    HttpError,
    HttpStatusError,
    HttpTlsError,
    HttpTooLarge,
    Response,
)
from marketd.retry import backoff_s

# Refused before anything was done, so that even a request that must not be made twice may be made again.
# 418 is Binance's word for a ban, after too many requests that ignored a 429.
_TOO_MANY = (429, 418)
_RETRY_AFTER = (*_TOO_MANY, 503)


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how soon: backoff from ``first_s`` doubling to ``cap_s``, with full jitter."""

    attempts_max: int = 4
    first_s: float = 0.25
    cap_s: float = 10.0


@dataclass(frozen=True)
class Fine:
    """The response is what the caller wants."""


@dataclass(frozen=True)
class GiveUp:
    """Another attempt would not help, or comes too late. ``asked_s``: how long the server wants to be left alone."""

    reason: str
    asked_s: float = 0.0


@dataclass(frozen=True)
class Retry:
    """Try again after ``delay_s``."""

    delay_s: float


Verdict = Fine | GiveUp | Retry
DEFAULT_POLICY = RetryPolicy()
ONCE = RetryPolicy(attempts_max=1)  # for who has a policy of his own


def decide(
    attempt: int,
    outcome: Response | HttpError,
    idempotent: bool,
    now_ns: int,
    *,
    remaining_s: float = math.inf,
    policy: RetryPolicy = DEFAULT_POLICY,
    rng: random.Random | None = None,
) -> Verdict:
    """Say what to do after an attempt.

    Args:
        attempt: which it was, from 0.
        idempotent: whether the server may get the request twice.
        now_ns: the wall clock, for a Retry-After that is a date.
        remaining_s: how much longer the caller would wait.
    """
    if isinstance(outcome, Response) and outcome.status < 400:
        return Fine()
    asked_s = _asked_s(outcome, now_ns)
    if hopeless := _hopeless(outcome, idempotent, asked_s):
        return GiveUp(hopeless, asked_s or 0.0)
    if attempt + 1 >= policy.attempts_max:
        made = f"{policy.attempts_max} attempts were" if policy.attempts_max > 1 else "one attempt was"
        return GiveUp(f"{made} made", asked_s or 0.0)
    # The jitter comes on top of what the server asks for: never earlier, and not all of us at once.
    delay_s = (asked_s or 0.0) + backoff_s(attempt, first_s=policy.first_s, cap_s=policy.cap_s, rng=rng)
    if delay_s >= remaining_s:
        return GiveUp(f"the next attempt would be in {delay_s:.1f} s, which is too late", asked_s or 0.0)
    return Retry(delay_s)


def retry_after_s(headers: Mapping[str, str], now_ns: int) -> float | None:
    """Read Retry-After, seconds or a date (RFC 9110, 10.2.3); None when there is none that makes sense.

    A date is compared with the response's own, where it has one: the two come from the same clock.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])  # 31 years
    at = _http_date(text)
    if at is None:
        return None
    now = _http_date(headers.get("Date", "")) or datetime.fromtimestamp(now_ns // SECOND_NS, UTC)
    return max(0.0, (at - now).total_seconds())


async def request_with_retry(
    client: HttpClient,
    method: str,
    path: str,
    *,
    params: Params | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    timeout_s: float,
    total_timeout_s: float,
    body_bytes_max: int = BODY_BYTES_MAX,
    idempotent: bool | None = None,
    policy: RetryPolicy = DEFAULT_POLICY,
    observe: Callable[[Response | HttpError], None] | None = None,
    rng: random.Random | None = None,
) -> Response:
    """Make a request, again if :func:`decide` says so, and return an answer with a status below 400.

    Args:
        timeout_s: for each attempt.
        total_timeout_s: for all of it, the waits between attempts too.
        observe: is told what came of each attempt, at once: a rate budget wants to know of every 429.

    Raises:
        HttpError: what the last attempt came to; ``HttpStatusError`` if that was an answer.
    """
    may_repeat = method == "GET" if idempotent is None else idempotent
    deadline_s = trio.current_time() + total_timeout_s
    attempt = 0
    while True:
        remaining_s = max(0.0, deadline_s - trio.current_time())
        outcome: Response | HttpError
        try:
            outcome = await client.request(
                method,
                path,
                params=params,
                headers=headers,
                body=body,
                timeout_s=min(timeout_s, remaining_s),
                body_bytes_max=body_bytes_max,
                idempotent=may_repeat,
            )
        except HttpError as error:
            outcome = error
        if observe is not None:
            observe(outcome)
        remaining_s = deadline_s - trio.current_time()
        verdict = decide(attempt, outcome, may_repeat, client.now_ns(), remaining_s=remaining_s, policy=policy, rng=rng)
        if isinstance(verdict, Retry):
            await trio.sleep(verdict.delay_s)
            attempt += 1
        elif isinstance(outcome, HttpError):
            raise outcome
        elif isinstance(verdict, Fine):
            return outcome
        else:
            raise HttpStatusError(f"{method} {path}: status {outcome.status}, {verdict.reason}", outcome)


def _asked_s(outcome: Response | HttpError, now_ns: int) -> float | None:
    """Return how long the server asks to be left alone."""
    if isinstance(outcome, Response) and outcome.status in _RETRY_AFTER:
        return retry_after_s(outcome.headers, now_ns)
    return None


def _hopeless(outcome: Response | HttpError, idempotent: bool, asked_s: float | None) -> str:
    """Say why no number of attempts would help; empty when one may."""
    if isinstance(outcome, (HttpTlsError, HttpTooLarge)):
        return "it would be the same again"
    if isinstance(outcome, HttpConnectError):
        return ""  # nothing was sent
    if isinstance(outcome, Response):
        if outcome.status == 418 and asked_s is None:
            return "the venue has banned us and does not say for how long"
        if outcome.status in _TOO_MANY:
            return ""
        if outcome.status < 500:
            return "the request is wrong"
    return "" if idempotent else "it may have been done, and must not be done twice"


def _http_date(text: str) -> datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

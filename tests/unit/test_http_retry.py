from __future__ import annotations

import random

import pytest

from marketd.http import (
    ONCE,
    Fine,
    GiveUp,
    Headers,
    HttpBadResponse,
    HttpConnectError,
    HttpError,
    HttpTimeout,
    HttpTlsError,
    HttpTooLarge,
    Response,
    Retry,
    RetryPolicy,
    decide,
    retry_after_s,
)

NOW_NS = 1_700_000_000_000_000_000  # Tue, 14 Nov 2023 22:13:20 GMT
IN_A_MINUTE = "Tue, 14 Nov 2023 22:14:20 GMT"
POLICY = RetryPolicy(attempts_max=3, first_s=1.0, cap_s=8.0)


class Highest(random.Random):
    """Dice that always show the most."""

    def uniform(self, a: float, b: float) -> float:
        return b


def answer(status: int, **headers: str) -> Response:
    fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Response(status, Headers(fields), b"", NOW_NS)


def verdict(
    outcome: Response | HttpError, attempt: int = 0, *, idempotent: bool = True, remaining_s: float = 1e9
) -> Fine | GiveUp | Retry:
    return decide(attempt, outcome, idempotent, NOW_NS, remaining_s=remaining_s, policy=POLICY, rng=Highest())


@pytest.mark.parametrize("status", [200, 201, 204, 302, 304])
def test_answer_below_400_is_fine(status: int) -> None:
    assert verdict(answer(status)) == Fine()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 422, 451])
def test_wrong_request_is_never_repeated(status: int) -> None:
    assert isinstance(verdict(answer(status)), GiveUp)
    assert isinstance(verdict(answer(status, Retry_After="1")), GiveUp)


def test_who_gives_up_is_told_how_long_the_server_wants_to_be_left_alone() -> None:
    assert verdict(answer(503, Retry_After="7"), 2) == GiveUp("3 attempts were made", 7.0)
    assert decide(0, answer(503), True, NOW_NS, policy=ONCE) == GiveUp("one attempt was made", 0.0)
    too_late = verdict(answer(429, Retry_After="60"), remaining_s=10.0)
    assert isinstance(too_late, GiveUp)
    assert too_late.asked_s == 60.0


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
def test_server_error_is_retried_after_a_growing_wait_and_in_the_end_given_up(status: int) -> None:
    verdicts = [verdict(answer(status), attempt) for attempt in range(3)]
    assert verdicts[:2] == [Retry(1.0), Retry(2.0)]
    assert isinstance(verdicts[2], GiveUp)


def test_wait_is_spread_and_capped() -> None:
    policy = RetryPolicy(attempts_max=100, first_s=1.0, cap_s=8.0)
    rng = random.Random(3)
    verdicts = [decide(50, answer(500), True, NOW_NS, policy=policy, rng=rng) for _ in range(1000)]
    delays_s = [verdict.delay_s for verdict in verdicts if isinstance(verdict, Retry)]
    assert len(delays_s) == 1000
    assert min(delays_s) < 0.1
    assert 7.9 < max(delays_s) <= 8.0


@pytest.mark.parametrize("status", [429, 418, 503])
def test_retry_after_in_seconds_is_the_least_wait(status: int) -> None:
    assert verdict(answer(status, Retry_After="60")) == Retry(61.0)


@pytest.mark.parametrize("status", [429, 418, 503])
def test_retry_after_as_a_date_is_the_least_wait(status: int) -> None:
    assert verdict(answer(status, Retry_After=IN_A_MINUTE)) == Retry(61.0)


def test_date_is_compared_with_the_servers_own_clock() -> None:
    """A venue whose clock is an hour off still means a minute."""
    headers = {"Retry-After": "Tue, 14 Nov 2023 23:14:20 GMT", "Date": "Tue, 14 Nov 2023 23:13:20 GMT"}
    assert retry_after_s(Headers(headers.items()), NOW_NS) == 60.0


@pytest.mark.parametrize("text", ["", "soon", "-5", "1.5", "٣", "Tue, 99 Nov 2023 22:14:20 GMT", "\x00"])
def test_retry_after_that_makes_no_sense_is_none(text: str) -> None:
    assert retry_after_s(Headers([("Retry-After", text)]), NOW_NS) is None
    assert verdict(answer(429, Retry_After=text)) == Retry(1.0)


def test_retry_after_in_the_past_means_now() -> None:
    assert retry_after_s(Headers([("Retry-After", "Tue, 14 Nov 2023 22:00:00 GMT")]), NOW_NS) == 0.0


def test_retry_after_of_digits_without_end_is_very_long() -> None:
    assert retry_after_s(Headers([("Retry-After", "9" * 5000)]), NOW_NS) == 999_999_999.0


def test_date_without_a_zone_is_utc() -> None:
    assert retry_after_s(Headers([("Retry-After", IN_A_MINUTE.replace("GMT", "-0000"))]), NOW_NS) == 60.0


def test_ban_without_an_end_is_given_up() -> None:
    assert isinstance(verdict(answer(418)), GiveUp)


def test_too_many_requests_may_be_repeated_even_if_it_must_be_done_once() -> None:
    """It was refused, not done."""
    assert verdict(answer(429), idempotent=False) == Retry(1.0)


def test_connection_that_was_never_had_may_be_tried_again_by_anyone() -> None:
    assert verdict(HttpConnectError(), idempotent=False) == Retry(1.0)


@pytest.mark.parametrize("outcome", [HttpTimeout(), HttpBadResponse(), answer(500), answer(503, Retry_After="1")])
def test_what_may_have_been_done_is_repeated_only_if_that_does_no_harm(outcome: Response | HttpError) -> None:
    assert isinstance(verdict(outcome, idempotent=True), Retry)
    assert isinstance(verdict(outcome, idempotent=False), GiveUp)


@pytest.mark.parametrize("outcome", [HttpTlsError(), HttpTooLarge()])
def test_what_would_be_the_same_again_is_given_up(outcome: HttpError) -> None:
    assert isinstance(verdict(outcome), GiveUp)


def test_wait_longer_than_the_caller_has_time_for_is_given_up() -> None:
    assert isinstance(verdict(answer(429, Retry_After="60"), remaining_s=61.0), GiveUp)
    assert verdict(answer(429, Retry_After="60"), remaining_s=61.1) == Retry(61.0)


def test_repeated_header_is_one_joined_by_commas() -> None:
    headers = Headers([("Via", "a"), ("VIA", "b")])
    assert headers["via"] == "a, b"
    assert list(headers) == ["via"]

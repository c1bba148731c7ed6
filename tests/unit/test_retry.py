from __future__ import annotations

import random

from marketd.retry import RestartPolicy, backoff_s


class Highest(random.Random):
    """Dice that always show the most."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_backoff_doubles_from_a_tenth_of_a_second_to_thirty_seconds() -> None:
    delays = [backoff_s(attempt, rng=Highest()) for attempt in range(11)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


def test_backoff_is_spread_over_the_whole_step() -> None:
    rng = random.Random(7)
    delays = [backoff_s(5, rng=rng) for _ in range(2000)]
    assert 0 <= min(delays) < 0.1
    assert 3.1 < max(delays) <= 3.2


def test_backoff_after_years_of_attempts_is_still_the_cap() -> None:
    assert backoff_s(10**9, rng=Highest()) == 30.0


def test_more_than_five_deaths_in_a_minute_make_a_service_failing_and_it_goes_on_every_thirty_seconds() -> None:
    policy = RestartPolicy(rng=Highest())
    delays = [policy.died(now_s=float(second), lived_s=0.5) for second in range(5)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert not policy.failing(5.0)
    assert policy.died(now_s=5.0, lived_s=0.5) == 30.0
    assert policy.failing(5.0)


def test_a_service_is_no_longer_failing_when_its_deaths_are_a_minute_old() -> None:
    policy = RestartPolicy(rng=Highest())
    for second in range(7):
        policy.died(now_s=float(second), lived_s=0.5)
    assert policy.failing(59.0)
    assert not policy.failing(65.0)


def test_backoff_starts_anew_after_a_healthy_minute() -> None:
    policy = RestartPolicy(rng=Highest())
    for _ in range(4):
        policy.died(now_s=0.0, lived_s=1.0)
    assert policy.died(now_s=100.0, lived_s=60.0) == 0.1

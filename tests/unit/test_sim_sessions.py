from __future__ import annotations

import numpy as np
import pytest

from backends.sim.noise import heights
from backends.sim.sessions import Session, Sessions

DAY_NS = 86_400 * 10**9
HOUR_NS = 3_600 * 10**9


def test_venue_is_open_from_its_first_nanosecond_to_before_its_last():
    sessions = Sessions([Session("09:00", "12:00"), Session("13:30:30", "16:00")])
    times = (9 * HOUR_NS - 1, 9 * HOUR_NS, 12 * HOUR_NS - 1, 12 * HOUR_NS)
    assert [sessions.is_open(5 * DAY_NS + time) for time in times] == [False, True, True, False]


def test_changes_follow_each_other_into_the_next_period():
    sessions = Sessions([Session("09:00", "12:00"), Session("13:00", "16:00")])
    seen, at_ns = [], 7 * DAY_NS + 10 * HOUR_NS
    for _ in range(4):
        at_ns = sessions.next_change_ns(at_ns)
        seen.append((at_ns - 7 * DAY_NS) / HOUR_NS)
    assert seen == [12, 13, 16, 33]


def test_touching_sessions_and_ends_of_the_period_are_fine():
    sessions = Sessions([Session("00:00", "12:00"), Session("12:00", "24:00")])
    assert all(sessions.is_open(hour * HOUR_NS) for hour in range(48))


def test_without_sessions_the_venue_never_closes():
    sessions = Sessions([])
    assert sessions.always
    assert sessions.next_change_ns(0) is None
    assert sessions.elapsed_ns(123 * DAY_NS + 5) == 123 * DAY_NS + 5


def test_elapsed_time_stands_still_while_closed():
    sessions = Sessions([Session("09:00", "12:00")])
    assert sessions.elapsed_ns(2 * DAY_NS) == 6 * HOUR_NS
    assert sessions.elapsed_ns(2 * DAY_NS + 10 * HOUR_NS) == 7 * HOUR_NS
    assert sessions.elapsed_ns(2 * DAY_NS + 20 * HOUR_NS) == 9 * HOUR_NS


def test_noise_is_the_same_in_any_order_and_moves_as_a_random_walk_does():
    keys = np.array([7], np.uint64)
    year_ns = 365 * DAY_NS
    start_ns = 1_767_225_600 * 10**9
    for step_ns in (10 * 10**9, 600 * 10**9, 6 * HOUR_NS):
        times = start_ns + np.arange(4_000, dtype=np.int64) * step_ns
        values = heights(keys, times)
        assert np.array_equal(heights(keys, times[::-1].copy())[::-1], values)
        measured = np.std(np.diff(values)) / (step_ns / year_ns) ** 0.5
        assert measured == pytest.approx(1.0, rel=0.35)
    assert np.abs(values).max() < 0.5, "it stays near 0"

"""How a venue's clock stands to ours: whatever the delays are, the truth is never outside of what is claimed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marketd.clock import MILLISECOND_NS, SECOND_NS
from marketd.observe.venue_clock import (
    ANSWERS_MAX,
    BATCHES_MIN,
    DRIFT,
    EVENTS_WINDOW_NS,
    EventLags,
    ServerTimes,
    find_skew,
    venue_clock,
)
from marketd.rpc.messages import VenueClock

NOW_NS = 1_790_000_000 * SECOND_NS
OFFSETS = st.integers(-(10**12), 10**12)
DELAYS = st.integers(0, 2 * 10**9)
RESOLUTIONS = st.sampled_from([1, MILLISECOND_NS, SECOND_NS])


def ask(times: ServerTimes, at_ns: int, offset_ns: int, there_ns: int, back_ns: int, resolution_ns: int) -> int:
    """Let the venue, whose clock is ``offset_ns`` behind ours, be asked; return when its answer is here."""
    read_ns = at_ns + there_ns - offset_ns
    server_ns = read_ns // resolution_ns * resolution_ns
    times.add(at_ns, at_ns + there_ns + back_ns, server_ns, resolution_ns)
    return at_ns + there_ns + back_ns


@given(OFFSETS, st.lists(st.tuples(DELAYS, DELAYS, RESOLUTIONS), min_size=1, max_size=30))
def test_true_offset_is_within_what_answers_say_and_more_answers_never_widen_it(
    offset_ns: int, delays: list[tuple[int, int, int]]
) -> None:
    times, at_ns = ServerTimes(), NOW_NS
    for there_ns, back_ns, resolution_ns in delays:
        at_ns = ask(times, at_ns, offset_ns, there_ns, back_ns, resolution_ns)
        found = times.offset(at_ns)
        assert found is not None
        assert found.low_ns <= offset_ns <= found.high_ns
        assert abs(found.middle_ns - offset_ns) <= found.uncertainty_ns
        assert found.uncertainty_ns <= (there_ns + back_ns + resolution_ns) // 2 + 1


@given(OFFSETS, st.lists(st.tuples(DELAYS, DELAYS), min_size=1, max_size=5), st.integers(10**11, 10**12))
def test_answers_from_before_the_clock_was_set_do_not_count(
    offset_ns: int, delays: list[tuple[int, int]], set_by_ns: int
) -> None:
    times, at_ns = ServerTimes(), NOW_NS
    for there_ns, back_ns in delays:
        at_ns = ask(times, at_ns, offset_ns, there_ns, back_ns, 1)
    at_ns = ask(times, at_ns + set_by_ns, offset_ns + set_by_ns, 10**6, 10**6, 1)
    found = times.offset(at_ns)
    assert found is not None
    assert found.low_ns <= offset_ns + set_by_ns <= found.high_ns


def test_old_answers_get_wider_and_too_many_are_forgotten() -> None:
    times = ServerTimes()
    ask(times, NOW_NS, 0, 10**6, 10**6, 1)
    hour_ns = 3600 * SECOND_NS
    found = times.offset(NOW_NS + hour_ns)
    assert found is not None
    assert found.uncertainty_ns >= hour_ns * DRIFT
    for number in range(2 * ANSWERS_MAX):
        ask(times, NOW_NS + number, 0, 1, 1, 1)
    assert len(times._answers) == ANSWERS_MAX


def test_answer_during_which_the_clock_was_set_back_is_not_taken() -> None:
    times = ServerTimes()
    times.add(NOW_NS, NOW_NS - 1, NOW_NS, 1)
    assert times.offset(NOW_NS) is None


@given(OFFSETS, st.lists(st.lists(DELAYS, min_size=1, max_size=20), min_size=1, max_size=20))
def test_least_lag_is_an_upper_bound_of_the_offset(offset_ns: int, batches: list[list[int]]) -> None:
    lags = EventLags()
    for number, latencies in enumerate(batches):
        lags.add(np.array(latencies) + offset_ns, NOW_NS + number)
    least_ns = lags.least_ns(NOW_NS + len(batches))
    assert least_ns is not None
    assert least_ns >= offset_ns
    assert least_ns <= max(min(batch) for batch in batches) + offset_ns


@given(st.integers(-(10**12), -(10**9)), st.integers(0, BATCHES_MIN))
def test_one_wrong_time_among_batches_is_not_believed(wrong_ns: int, place: int) -> None:
    lags = EventLags()
    for number in range(BATCHES_MIN + 1):
        lags.add(np.array([wrong_ns if number == place else 5 * MILLISECOND_NS]), NOW_NS + number)
    assert lags.least_ns(NOW_NS + 10) == 5 * MILLISECOND_NS


@given(OFFSETS, st.lists(DELAYS, min_size=2, max_size=50))
def test_jitter_does_not_depend_on_the_offset(offset_ns: int, latencies: list[int]) -> None:
    jitters = []
    for by_ns in (0, offset_ns):
        lags = EventLags()
        lags.add(np.array(latencies) + by_ns, NOW_NS)
        jitters.append(lags.jitter_ns(NOW_NS))
    assert jitters[0] == jitters[1]
    assert jitters[0] <= max(latencies) - min(latencies)


def test_what_is_old_or_of_the_future_is_forgotten() -> None:
    lags = EventLags()
    lags.add(np.array([7]), NOW_NS)
    assert lags.least_ns(NOW_NS + EVENTS_WINDOW_NS) is None
    lags.add(np.array([7]), NOW_NS)
    assert lags.recent_ns(NOW_NS - 1) is None, "the clock was set back"
    lags.add(np.array([], np.int64), NOW_NS)
    assert lags.jitter_ns(NOW_NS) is None


def told(offset_ms: float | None = None, uncertainty_ms: float | None = None, least_ms: float = 20.0) -> VenueClock:
    return VenueClock(offset_ms, uncertainty_ms, "server_time" if offset_ms is not None else "", least_ms, 1.0)


def test_host_is_skewed_when_most_venues_say_so_beyond_doubt() -> None:
    fine, ahead, behind = told(3.0, 20.0), told(2000.0, 100.0, 2020.0), told(-2000.0, 100.0, -1980.0)
    unsure, by_events = told(2000.0, 1800.0), venue_clock(None, -3 * SECOND_NS, 5)
    assert by_events.source == "events"
    assert find_skew({}) is None
    assert find_skew({"a": VenueClock()}) is None
    assert find_skew({"a": fine, "b": told()}) is None
    assert find_skew({"a": unsure}) is None
    assert find_skew({"a": ahead, "b": fine}) is None, "one of two: it may be the venue's"
    assert find_skew({"a": ahead, "b": ahead, "c": fine}) == (2000.0, ["a", "b"], 1)
    assert find_skew({"a": behind, "b": by_events}) == (-3000.0, ["a", "b"], 0)
    assert find_skew({"a": ahead, "b": behind}) is None
    assert find_skew({"a": told(3.0, 20.0, -900.0)}) == (-900.0, ["a"], 0), "events alone contradict it"


@given(st.one_of(st.none(), st.integers(-(10**12), 10**12)))
def test_what_nobody_has_measured_is_not_claimed(least_ns: int | None) -> None:
    clock = venue_clock(None, least_ns, None)
    assert clock.uncertainty_ms is None
    assert (clock.offset_ms is None) == (least_ns is None or least_ns >= 0)

"""The budget's arithmetic: never more than allowed, in any window, of us or of the venue."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from backends.live import Bucket
from marketd.clock import SECOND_NS
from marketd.feed.budget import SLICES_MAX, Budget, Priority

CAPACITY, WINDOW_NS = 20, 10 * SECOND_NS
STEP = st.tuples(
    st.integers(1, CAPACITY),  # weight
    st.sampled_from(list(Priority)),
    st.integers(0, 5 * SECOND_NS),  # pause before it is asked for
    st.integers(0, 8 * SECOND_NS),  # until the venue counts it
    st.integers(0, 8 * SECOND_NS),  # until its answer is here
)


def play(steps, *, restart_at: int = -1) -> list[tuple[int, int, int]]:
    """Let requests go as soon as they may; return (let go, counted by the venue, weight) of each."""
    budget = Budget({"rest": Bucket(CAPACITY, 10.0)})
    now_ns = 1_700_000_000 * SECOND_NS
    running = []  # (answer, grant)
    sent = []
    for number, (weight, priority, pause_ns, to_venue_ns, back_ns) in enumerate(steps):
        now_ns += pause_ns
        while True:
            over = [entry for entry in running if entry[0] <= now_ns]
            for answer_ns, grant in sorted(over, key=lambda entry: entry[0]):
                budget.settle(grant, answer_ns)
                running.remove((answer_ns, grant))
            ready_ns = budget.ready_ns("rest", weight, priority, now_ns)
            if ready_ns == now_ns:
                break
            answers = [answer_ns for answer_ns, _ in running]
            now_ns = min([ready_ns] if ready_ns is not None else answers, default=0)
            assert now_ns, "it never gets stuck"
        if number == restart_at:
            state = budget.save(now_ns)
            budget = Budget({"rest": Bucket(CAPACITY, 10.0)})
            budget.restore(state, now_ns)
            running.clear()
            if budget.ready_ns("rest", weight, priority, now_ns) != now_ns:
                continue
        grant = budget.take("rest", weight, now_ns)
        sent.append((now_ns, now_ns + to_venue_ns, weight))
        running.append((now_ns + to_venue_ns + back_ns, grant))
    return sent


@given(st.lists(STEP, max_size=40))
def test_no_window_of_ours_or_of_the_venues_holds_more_than_the_capacity(steps):
    """Wherever the window begins, and however long requests take on their way."""
    sent = play(steps)
    for clock in (0, 1):
        for begin_ns in [entry[clock] for entry in sent]:
            assert sum(entry[2] for entry in sent if begin_ns <= entry[clock] < begin_ns + WINDOW_NS) <= CAPACITY


@given(st.lists(STEP, max_size=40), st.integers(0, 40))
def test_restart_forgets_nothing(steps, restart_at):
    """Requests that were on their way count from the moment of the save; the venue has them by then or soon."""
    steps = [(weight, priority, pause_ns, 0, back_ns) for weight, priority, pause_ns, _, back_ns in steps]
    sent = play(steps, restart_at=restart_at)
    for begin_ns, _, _ in sent:
        assert sum(entry[2] for entry in sent if begin_ns <= entry[1] < begin_ns + WINDOW_NS) <= CAPACITY


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, SECOND_NS)), max_size=300))
def test_saved_state_is_small_and_never_counts_less(entries):
    """Neighbours are merged into the later of them."""
    budget = Budget({"rest": Bucket(1000, 1000.0)})
    now_ns = 1_700_000_000 * SECOND_NS
    for weight, pause_ns in entries:
        now_ns += pause_ns
        budget.settle(budget.take("rest", weight, now_ns), now_ns)
    state = budget.save(now_ns)
    assert len(state.buckets["rest"].slices) <= SLICES_MAX
    restored = Budget({"rest": Bucket(1000, 1000.0)})
    restored.restore(state, now_ns)
    for later_s in (0, 500, 900, 999, 1000, 1300):
        later_ns = now_ns + later_s * SECOND_NS
        assert restored.used("rest", later_ns) >= budget.used("rest", later_ns)
    assert restored.used("rest", now_ns + 1001 * SECOND_NS) == 0


def test_clock_that_is_set_back_delays_by_a_window_at_most():
    """An hour's step must not be an hour's silence."""
    budget = Budget({"rest": Bucket(CAPACITY, 10.0)})
    now_ns = 1_700_000_000 * SECOND_NS
    budget.settle(budget.take("rest", CAPACITY, now_ns), now_ns)
    back_ns = now_ns - 3600 * SECOND_NS
    ready_ns = budget.ready_ns("rest", 1, Priority.REPAIR, back_ns)
    assert ready_ns is not None
    assert ready_ns <= back_ns + WINDOW_NS

"""Ranges and coverages beside sets of integers, which can't be wrong."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from storage import coverage, intervals
from storage.coverage import Span, State
from storage.schema import Provenance

ENDS = st.integers(-20, 40)
RANGES = st.lists(st.tuples(ENDS, ENDS), max_size=8)
MARKS = st.tuples(
    RANGES, st.one_of(st.none(), st.sampled_from(State)), st.sampled_from([Provenance.OBSERVED, Provenance.IMPORTED])
)


def numbers(ranges):
    return {number for start, end in ranges for number in range(start, end)}


def is_normal(ranges):
    return all(start < end for start, end in ranges) and all(a[1] < b[0] for a, b in pairwise(ranges))


@given(RANGES, RANGES)
def test_ranges_are_sets_of_integers(some, others):
    for result, expected in (
        (intervals.normalize(some), numbers(some)),
        (intervals.normalize([*some, *others]), numbers(some) | numbers(others)),
        (intervals.subtract(some, others), numbers(some) - numbers(others)),
        (intervals.intersect(some, others), numbers(some) & numbers(others)),
    ):
        assert is_normal(result)
        assert numbers(result) == expected


@given(RANGES, st.integers(1, 7))
def test_shrinking_leaves_the_whole_steps(ranges, step):
    whole = numbers(intervals.normalize(ranges))
    inside = {n for n in range(-40, 60) if all(n * step + k in whole for k in range(step))}
    shrunk = intervals.shrink(ranges, step)
    assert all(start % step == 0 and end % step == 0 for start, end in shrunk)
    assert {number // step for number in numbers(shrunk)} == inside


@given(st.lists(MARKS, max_size=6), ENDS, ENDS)
def test_a_coverage_says_of_each_time_what_was_said_last(marks, start, end):
    expected = {}
    held = ()
    for where, state, provenance in marks:
        held = coverage.forget(held, where) if state is None else coverage.mark(held, where, state, provenance)
        for number in numbers(where):
            expected[number] = None if state is None else (state, provenance)
    expected = {number: said for number, said in expected.items() if said is not None}
    assert {n: (span.state, span.provenance) for span in held for n in range(span.start_ns, span.end_ns)} == expected
    assert list(held) == sorted(held)
    assert all(a.end_ns <= b.start_ns and (a.end_ns < b.start_ns or a[2:] != b[2:]) for a, b in pairwise(held))
    known = {number for number, (state, _) in expected.items() if state is not State.MISSING}
    assert numbers(coverage.missing(held, start, end)) == set(range(start, end)) - known
    assert numbers((span.start_ns, span.end_ns) for span in coverage.within(held, start, end)) == set(
        range(start, end)
    ) & set(expected)


def test_neighbours_that_say_the_same_are_one_span():
    held = coverage.mark((), [(0, 10), (20, 30)], State.COMPLETE, Provenance.BACKFILLED)
    held = coverage.mark(held, [(10, 20)], State.COMPLETE, Provenance.BACKFILLED)
    assert held == (Span(0, 30, State.COMPLETE, Provenance.BACKFILLED),)

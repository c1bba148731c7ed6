"""Trading calendars: sessions and gaps part any range, however it is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.calendars import bounds, expected_gaps, is_open, sessions

NAMES = ["24/7", "24/5", "XNYS", "XTKS", "XHKG", "CMES", "CME_FX"]
HOUR_NS = 3600 * 10**9
BEGIN_NS, END_NS = 1_577_836_800 * 10**9, 1_893_456_000 * 10**9  # 2020 to 2030

names = st.sampled_from(NAMES)
spans_ns = st.integers(0, 60 * 24 * HOUR_NS)
times = st.integers(BEGIN_NS, END_NS) | st.integers(BEGIN_NS // HOUR_NS * 2, END_NS // HOUR_NS * 2).map(
    lambda half_hours: half_hours * HOUR_NS // 2
)


@given(name=names, start_ns=times, span_ns=spans_ns)
def test_sessions_and_gaps_alternate_and_cover_the_range(name, start_ns, span_ns):
    end_ns = start_ns + span_ns
    is_session = dict.fromkeys(sessions(name, start_ns, end_ns), True)
    is_session |= dict.fromkeys(expected_gaps(name, start_ns, end_ns), False)
    both = sorted(is_session)
    assert all(open_ns < close_ns for open_ns, close_ns in both)
    assert all(before[1] == after[0] for before, after in pairwise(both))
    assert all(is_session[before] != is_session[after] for before, after in pairwise(both))
    assert (both[0][0], both[-1][1]) == (start_ns, end_ns) if span_ns else both == []


@given(name=names, start_ns=times, spans=st.lists(spans_ns, min_size=2, max_size=4))
def test_the_answer_does_not_depend_on_how_the_range_was_cut(name, start_ns, spans):
    cuts = [start_ns]
    for span_ns in spans:
        cuts.append(cuts[-1] + span_ns)
    for ask in (sessions, expected_gaps):
        parts = [part for from_ns, to_ns in pairwise(cuts) for part in ask(name, from_ns, to_ns)]
        joined: list[tuple[int, int]] = []
        for from_ns, to_ns in parts:
            if joined and joined[-1][1] == from_ns and from_ns in cuts:
                joined[-1] = (joined[-1][0], to_ns)
            else:
                joined.append((from_ns, to_ns))
        assert joined == ask(name, cuts[0], cuts[-1])


@given(name=names, start_ns=times, span_ns=spans_ns, at=st.floats(0, 1))
def test_a_market_is_open_in_its_sessions_and_nowhere_else(name, start_ns, span_ns, at):
    at_ns = start_ns + int(at * span_ns)
    within = [open_ns <= at_ns < close_ns for open_ns, close_ns in sessions(name, start_ns, start_ns + span_ns + 1)]
    assert is_open(name, at_ns) == any(within)
    for open_ns, close_ns in sessions(name, start_ns, start_ns + span_ns):
        assert is_open(name, open_ns)
        assert is_open(name, close_ns - 1)


@pytest.mark.parametrize("name", NAMES)
@given(start_ns=st.integers(-(1 << 63), (1 << 63) - 1), span_ns=spans_ns)
def test_any_time_has_an_answer(name, start_ns, span_ns):
    end_ns = min(start_ns + span_ns, (1 << 63) - 1)
    found = sessions(name, start_ns, end_ns)
    known_ns = bounds(name)
    if end_ns <= known_ns[0] or start_ns >= known_ns[1]:
        assert found == ([(start_ns, end_ns)] if start_ns < end_ns else [])
    assert all(isinstance(edge, int) for span in found for edge in span)

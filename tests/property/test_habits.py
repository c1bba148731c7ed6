"""Habits: what holds however channels speak."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.clock import SECOND_NS
from marketd.feed.habits import MARGIN, PAUSE_NS, SILENCE_MIN, WORDS_MIN, Channel
from tests.unit.test_habits import A_TRADES, World

# For each channel, the silences that it makes, in turn.
PACES = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), min_size=2, max_size=6)


def play(paces: list[list[int]], seconds: int, lost_after: int | None = None) -> World:
    """Let instruments speak at their paces."""
    world = World(instruments=len(paces), kinds=(A_TRADES.kind,))
    world.silence(*world.every)
    due, turn = [1] * len(paces), [0] * len(paces)
    for second in range(1, seconds + 1):
        for number, pace in enumerate(paces):
            gone = number == 0 and lost_after is not None and second > lost_after
            if second == due[number] and not gone:
                world.speak(Channel(number + 1, A_TRADES.kind))
                due[number] += pace[turn[number] % len(pace)]
                turn[number] += 1
        world.run(1)
    return world


@settings(max_examples=60, deadline=None)
@given(PACES)
def test_who_keeps_to_his_habit_is_never_lost(paces):
    world = play(paces, 1200)
    assert world.alarms == []


@settings(max_examples=60, deadline=None)
@given(PACES)
def test_who_falls_silent_among_the_others_is_found_after_ten_times_his_longest_silence(paces):
    """Of the seconds in which any of the others spoke, which is at least one in three."""
    others = [[min(silence, 3) for silence in pace] for pace in paces[1:]]
    lost_after = (WORDS_MIN + 10) * 30
    patience_max = max(SILENCE_MIN, MARGIN * max(paces[0]))
    world = play([paces[0], *others], lost_after + 3 * (patience_max + 2), lost_after)
    assert world.alarms
    found_s, channel = world.alarms[0]
    assert channel == A_TRADES
    assert found_s > lost_after
    pauses_s = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(world.alarms)]
    assert min(pauses_s, default=PAUSE_NS) >= PAUSE_NS // SECOND_NS

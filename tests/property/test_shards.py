"""Instruments on connections."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from marketd.feed.shards import spread

NAMES = st.sets(st.integers(0, 60).map(str), max_size=50)


@given(st.lists(NAMES, min_size=1, max_size=20), st.integers(1, 12))
def test_every_instrument_is_on_exactly_one_connection_and_none_is_overfull(history, capacity):
    """However the wish changes."""
    shards: list[set[str]] = []
    for wanted in history:
        before = shards
        shards = spread(wanted, shards, capacity)
        assert len(shards) >= len(before)
        assert sorted(name for shard in shards for name in shard) == sorted(wanted)
        assert all(len(shard) <= capacity for shard in shards)
        for old, new in zip(before, shards, strict=False):
            assert old & wanted <= new, "what is there stays where it is"


@given(NAMES, st.integers(1, 12))
def test_no_more_connections_are_opened_than_needed(wanted, capacity):
    """From nothing."""
    assert len(spread(wanted, [], capacity)) == -(-len(wanted) // capacity)


def test_new_instruments_fill_connections_that_have_room():
    """Before another is opened."""
    assert spread({"a", "b", "c", "d", "e"}, [{"a"}, {"b"}], 2) == [{"a", "c"}, {"b", "d"}, {"e"}]


def test_connection_that_lost_all_its_instruments_is_left_empty():
    """It is to be closed; new ones don't go to it."""
    assert spread({"b", "c"}, [{"a"}, {"b"}], 1) == [set(), {"b"}, {"c"}]

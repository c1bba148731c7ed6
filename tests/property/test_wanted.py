"""Demand by owners, counted."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from marketd.feed.wanted import Wanted

OWNERS = st.sampled_from(["a", "b", "c"])
NAMES = st.sets(st.sampled_from("pqrst"))


@given(NAMES, st.lists(st.tuples(OWNERS, NAMES, st.integers(0, 20)), max_size=30), st.integers(0, 30))
def test_wanted_is_what_somebody_wants_or_wanted_a_moment_ago(declared, changes, linger_ns):
    """Compared with a plain reckoning."""
    wanted = Wanted(declared, linger_ns)
    owners: dict[str, set[str]] = {}
    last_ns: dict[str, int] = {}
    now_ns = 0
    for owner, names, pause_ns in changes:
        now_ns += pause_ns
        before = set().union(*owners.values())
        wanted.demand(owner, names, now_ns)
        owners[owner] = names
        after = set().union(*owners.values())
        last_ns |= dict.fromkeys(before - after, now_ns + linger_ns)
        for name in after:
            last_ns.pop(name, None)
        lingering = {name for name, until_ns in last_ns.items() if until_ns > now_ns}
        assert wanted.names(now_ns) == declared | after | lingering
        assert {name: wanted.count(name) for name in "pqrst"} == {
            name: sum(name in names for names in owners.values()) for name in "pqrst"
        }


def test_declared_instrument_stays_when_the_last_client_leaves():
    """And another lingers for its time."""
    wanted = Wanted(["x"], linger_ns=10)
    wanted.demand("one", ["x", "y"], 0)
    wanted.demand("two", ["y"], 0)
    wanted.demand("one", [], 5)
    assert wanted.names(5) == {"x", "y"}
    assert wanted.next_change_ns is None
    wanted.demand("two", [], 7)
    assert wanted.next_change_ns == 17
    assert wanted.names(16) == {"x", "y"}
    assert wanted.names(17) == {"x"}


def test_saying_the_same_twice_counts_once():
    """A message that is repeated does no harm."""
    wanted = Wanted([], linger_ns=0)
    wanted.demand("one", ["x"], 0)
    wanted.demand("one", ["x"], 0)
    assert wanted.count("x") == 1
    wanted.demand("one", [], 0)
    assert wanted.names(0) == set()

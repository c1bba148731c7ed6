"""The newest state of each instrument."""

from __future__ import annotations

import numpy as np

from marketd.gateway import latest
from marketd.gateway.latest import LatestState, Seen
from marketd.gateway.selection import Choice
from marketd.model import Kind
from tests.unit.test_gateway_selection import choice, rows

TRADE, QUOTE, GAP, STATUS, LEVEL = Kind.TRADE, Kind.QUOTE, Kind.GAP, Kind.STATUS, Kind.LEVEL


def after(state: LatestState, *pairs: tuple[int, int]) -> None:
    """Take in rows of these instruments and kinds, with the cursors that follow."""
    some = rows(*pairs)
    some["cursor"] += state.cursor
    state.take(some)


def told(state: LatestState, wanted: Choice, seen: Seen) -> list[tuple[int, int]]:
    """What changed, as cursors and how many rows each stands for."""
    found, merged = state.changes(wanted, seen)
    assert found["cursor"].tolist() == sorted(found["cursor"].tolist())
    return list(zip(found["cursor"].tolist(), merged, strict=True))


def test_snapshot_is_the_newest_quote_and_trade_of_each_instrument() -> None:
    state = LatestState()
    after(state, (1, QUOTE), (1, TRADE), (2, QUOTE), (1, QUOTE), (0, GAP), (3, LEVEL))
    wanted = choice("*")
    assert told(state, wanted, state.begin(wanted)) == [(2, 1), (3, 1), (4, 1)]


def test_changes_are_merged_and_counted_by_kind() -> None:
    state = LatestState()
    wanted = choice("*")
    seen = state.begin(wanted)
    assert told(state, wanted, seen) == []
    after(state, (1, QUOTE), (1, QUOTE), (2, TRADE), (1, QUOTE), (1, TRADE), (2, TRADE))
    assert told(state, wanted, seen) == [(4, 3), (5, 1), (6, 2)]
    assert told(state, wanted, seen) == []
    after(state, (1, QUOTE))
    assert told(state, wanted, seen) == [(7, 1)]


def test_subscriptions_of_the_same_state_do_not_disturb_each_other() -> None:
    state = LatestState()
    one, other = choice("*"), choice("eth/*")
    seen_one, seen_other = state.begin(one), state.begin(other)
    assert told(state, one, seen_one) == told(state, other, seen_other) == []
    after(state, (1, QUOTE), (2, QUOTE))
    assert told(state, one, seen_one) == [(1, 1), (2, 1)]
    after(state, (2, QUOTE))
    assert told(state, one, seen_one) == [(3, 1)]
    assert told(state, other, seen_other) == [(3, 2)]


def test_gap_and_status_rows_are_never_merged_away() -> None:
    state = LatestState()
    wanted = choice("eth/*")
    seen = state.begin(wanted)
    after(state, (0, GAP), (2, QUOTE), (2, GAP), (2, GAP), (1, GAP), (0, STATUS))
    assert told(state, wanted, seen) == [(1, 1), (2, 1), (3, 1), (4, 1), (6, 1)]
    assert told(state, wanted, seen) == []


def test_kinds_that_were_not_asked_for_are_left_out() -> None:
    state = LatestState()
    wanted = choice("*", kinds=frozenset({QUOTE}))
    seen = state.begin(wanted)
    after(state, (1, TRADE), (1, QUOTE))
    assert told(state, wanted, seen) == [(2, 1)]


def test_instrument_that_joins_later_is_counted_from_its_first_row() -> None:
    state = LatestState()
    wanted = choice("*", names=["a.x"])
    seen = state.begin(wanted)
    after(state, (1, QUOTE))
    assert told(state, wanted, seen) == [(1, 1)]
    wanted.extend(["b.x"])
    after(state, (2, QUOTE), (2, QUOTE), (1, QUOTE))
    assert told(state, wanted, seen) == [(3, 2), (4, 1)]


def test_changed_selection_gets_the_state_of_what_is_new_and_keeps_count_of_what_stays() -> None:
    state = LatestState()
    before, then = choice("eth/btc*", "eth/usdt*"), choice("eth/usdt*", "btc/*")
    seen = state.begin(before)
    after(state, (1, QUOTE), (1, QUOTE), (2, QUOTE), (3, QUOTE))
    assert told(state, before, seen) == [(3, 1), (4, 1)]
    after(state, (2, QUOTE), (2, QUOTE))
    seen.move(before, then)
    # Instrument 1 is new and stands for itself; 2 has had two quotes since; 3 is not asked for any more.
    assert told(state, then, seen) == [(2, 1), (6, 2)]


def test_change_before_the_first_message_still_gives_a_snapshot() -> None:
    state = LatestState()
    before, then = choice("eth/btc*"), choice("*")
    after(state, (1, QUOTE), (3, QUOTE), (3, QUOTE))
    seen = state.begin(before)
    seen.move(before, then)
    assert told(state, then, seen) == [(1, 1), (3, 1)]


def test_what_could_not_be_read_is_known_as_lost() -> None:
    state = LatestState()
    wanted = choice("*")
    seen = state.begin(wanted)
    after(state, (1, QUOTE))
    state.skip(50)
    assert state.lost_cursor == 50 > seen.cursor
    assert state.lost - seen.lost == 49
    after(state, (2, QUOTE))
    # What was known before the loss is still told.
    assert told(state, wanted, seen) == [(1, 1), (51, 1)]
    assert (seen.cursor, seen.lost) == (51, 49)


def test_flood_of_gap_rows_is_bounded_and_the_loss_is_known() -> None:
    state = LatestState()
    wanted = choice("*")
    seen = state.begin(wanted)
    count = latest.EVENTS_MAX + 10
    after(state, *[(0, GAP)] * count)
    assert len(state._events) == latest.EVENTS_MAX
    assert state.lost_cursor == 10 > seen.cursor
    assert len(told(state, wanted, seen)) == latest.EVENTS_MAX


def test_counts_equal_a_plain_count_over_random_rows() -> None:
    random = np.random.default_rng(7)
    state = LatestState()
    wanted = choice("*")
    seen = state.begin(wanted)
    assert told(state, wanted, seen) == []
    for size in random.integers(1, 200, 50):
        block = [
            (int(i), int(k)) for i, k in zip(random.integers(1, 5, size), random.integers(1, 3, size), strict=True)
        ]
        after(state, *block)
        expected: dict[tuple[int, int], list[int]] = {}
        for cursor, key in enumerate(block, state.cursor - len(block) + 1):
            expected.setdefault(key, []).append(cursor)
        assert told(state, wanted, seen) == sorted((found[-1], len(found)) for found in expected.values())

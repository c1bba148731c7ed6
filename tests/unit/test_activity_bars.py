"""Bars that are ended by what is traded: so many trades, so much volume, so much value."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.clock import SECOND_NS
from marketd.periods import parse_activity
from marketd.ring.bars import BLOCK, SLOT
from marketd.ring.steps import BarState
from marketd.sample.activity import ActivityBars
from marketd.sample.bar import WORDS, volume_of
from tests.bar_model import ModelGap, ModelTrade, rows_of

BEGIN_NS = 1_700_000_000 * SECOND_NS
ROWS = 64
INSTRUMENTS = 3
KIND = 25

Event = ModelTrade | ModelGap


class Activity:
    """A series of such bars of the instruments 1 to 3, and the memory that they lie in."""

    def __init__(self, name: str, words: np.ndarray | None = None) -> None:
        self.words = np.zeros((1, ROWS, BLOCK, WORDS), np.int64) if words is None else words
        self.bars = ActivityBars(parse_activity(name), self.words, KIND)
        for instrument in range(1, INSTRUMENTS + 1):
            self.bars.select(instrument)

    def take(self, events: Sequence[Event]) -> list[tuple]:
        """Take events in one batch; return what came out: instrument, number, state, trades, volume."""
        self.bars.take(rows_of(events))
        rows = self.bars.changes(made_ns=7)
        return rows[["instrument", "number", "state", "trade_count", "volume"]].tolist()

    def slots(self, instrument: int = 1) -> np.ndarray:
        """Return the bars that there are of an instrument."""
        found = np.ascontiguousarray(self.words[0, :, instrument - 1]).view(SLOT).reshape(-1)
        return np.sort(found[found["number"] > 0], order="number")


def trades(count: int, *, size: str = "1", price: str = "10", instrument: int = 1, first: int = 0) -> list[Event]:
    return [ModelTrade(instrument, BEGIN_NS + n, BEGIN_NS + n, n, price, size) for n in range(first, first + count)]


def gap(instrument: int = 1, at: int = 0) -> ModelGap:
    return ModelGap(instrument, BEGIN_NS + at, BEGIN_NS, BEGIN_NS + at)


def test_bar_of_trades_is_out_with_its_last_trade():
    activity = Activity("10t")
    assert activity.take(trades(9)) == []
    assert activity.take(trades(1, first=9)) == [(1, 1, BarState.CLOSED, 10, 10.0)]
    assert activity.take(trades(25, first=10)) == [
        (1, 2, BarState.CLOSED, 10, 10.0),
        (1, 3, BarState.CLOSED, 10, 10.0),
    ]
    assert activity.slots()["state"].tolist() == [BarState.CLOSED] * 3 + [BarState.FORMING]


def test_bar_has_the_values_of_its_own_trades():
    activity = Activity("3t")
    prices = ["10", "12", "9", "7", "8"]
    events = [ModelTrade(1, BEGIN_NS + n, BEGIN_NS + n, 100 + n, price, "2") for n, price in enumerate(prices)]
    activity.bars.take(rows_of(events))
    [row] = activity.bars.changes(made_ns=7)
    assert [row[name] for name in ("open", "high", "low", "close", "volume")] == [10, 12, 9, 9, 6]
    assert [row[name] for name in ("first_id", "last_id", "number", "kind", "period_ns")] == [100, 102, 1, KIND, 0]
    assert (row["open_ns"], row["made_ns"]) == (BEGIN_NS, 7)
    forming = activity.slots()[-1]
    assert (forming["open"], forming["close"], forming["open_ns"]) == (7, 8, BEGIN_NS + 3)


@pytest.mark.parametrize(("name", "count"), [("1v", 10), ("50v", 500), ("0.3v", 3)])
def test_volume_is_counted_exactly(name: str, count: int):
    """Ten times 0.1 is 1, and as floats 0.9999999999999999: the bar would need a trade more."""
    assert sum([0.1] * 10) < 1
    activity = Activity(name)
    assert activity.take(trades(count - 1, size="0.1")) == []
    [row] = activity.take(trades(1, size="0.1", first=count - 1))
    assert row == (1, 1, BarState.CLOSED, count, float(name.removesuffix("v")))


@pytest.mark.parametrize(("name", "count"), [("1d", 10), ("50d", 500), ("0.3d", 3)])
def test_value_ends_a_bar_although_floats_fall_short(name: str, count: int):
    """Prices times sizes are no decimals of a few digits: this sum is one of floats, and full when it is nearly so."""
    activity = Activity(name)
    assert activity.take(trades(count - 1, size="0.1", price="1")) == []
    [row] = activity.take(trades(1, size="0.1", price="1", first=count - 1))
    assert row[:4] == (1, 1, BarState.CLOSED, count)


def test_trade_belongs_whole_to_one_bar():
    """A size of three bars ends one, which is larger than others, and begins none."""
    activity = Activity("10v")
    assert activity.take(trades(1, size="4") + trades(1, size="35", first=1)) == [(1, 1, BarState.CLOSED, 2, 39.0)]
    assert len(activity.slots()) == 1
    assert activity.take(trades(1, size="10", first=2)) == [(1, 2, BarState.CLOSED, 1, 10.0)]


def test_each_instrument_has_bars_of_its_own():
    activity = Activity("2t")
    mixed = [trade for n in range(3) for instrument in (3, 1) for trade in trades(1, instrument=instrument, first=n)]
    assert [row[:2] for row in activity.take(mixed)] == [(3, 1), (1, 1)]
    assert activity.slots(2).tolist() == []


def test_instruments_that_do_not_ask_for_such_bars_have_none():
    words = np.zeros((1, ROWS, BLOCK, WORDS), np.int64)
    bars = ActivityBars(parse_activity("1t"), words, KIND)
    bars.select(2)
    bars.take(rows_of(trades(5) + trades(5, instrument=2)))
    assert bars.changes(made_ns=0)["instrument"].tolist() == [2] * 5
    assert not words[0, :, 0].any()


def test_bars_follow_the_order_in_which_trades_came():
    """By no other could everybody agree where one ends: a late trade is in the present bar."""
    activity = Activity("2t")
    late = ModelTrade(1, BEGIN_NS - SECOND_NS, BEGIN_NS + 9, 99, "5", "1")
    assert [row[1] for row in activity.take([*trades(3), late])] == [1, 2]
    assert activity.slots()["open"].tolist() == [10, 5]


def test_gap_makes_the_present_bar_missing_and_no_other():
    activity = Activity("10t")
    assert activity.take([*trades(15), gap(at=15), *trades(20, first=15)]) == [
        (1, 1, BarState.CLOSED, 10, 10.0),
        (1, 2, BarState.MISSING, 10, 10.0),
        (1, 3, BarState.CLOSED, 10, 10.0),
    ]


def test_gap_between_two_bars_makes_the_second_missing():
    """The trades that are missing would have been its first ones."""
    activity = Activity("10t")
    assert [row[2] for row in activity.take([*trades(10), gap(at=10), *trades(10, first=10)])] == [
        BarState.CLOSED,
        BarState.MISSING,
    ]
    assert activity.slots()["open_ns"].tolist() == [BEGIN_NS, BEGIN_NS + 10]


def test_gap_before_the_first_trade_is_in_no_bar():
    """The first bar begins with the first trade that was seen, and claims nothing about the time before."""
    activity = Activity("2t")
    assert [row[2] for row in activity.take([gap(), *trades(2)])] == [BarState.CLOSED]


def test_gap_of_the_whole_feed_is_in_every_present_bar():
    activity = Activity("2t")
    activity.take([*trades(1), *trades(3, instrument=2)])
    assert activity.take([gap(instrument=0, at=5), *trades(1, first=6), *trades(1, instrument=2, first=6)]) == [
        (1, 1, BarState.MISSING, 2, 2.0),
        (2, 2, BarState.MISSING, 2, 2.0),
    ]


def test_successor_goes_on_in_the_middle_of_a_bar():
    activity = Activity("10t")
    activity.take(trades(14))
    successor = Activity("10t", activity.words)
    assert successor.take(trades(6, first=14)) == [(1, 2, BarState.CLOSED, 10, 10.0)]


def test_successor_goes_on_with_the_next_number_after_a_bar_that_is_out():
    activity = Activity("10t")
    activity.take(trades(10))
    successor = Activity("10t", activity.words)
    assert successor.take(trades(10, first=10)) == [(1, 2, BarState.CLOSED, 10, 10.0)]


def test_numbers_go_on_when_the_memory_is_full():
    activity = Activity("1t")
    for first in range(0, 3 * ROWS, ROWS // 2):
        activity.take(trades(ROWS // 2, first=first))
    assert activity.slots()["number"].tolist() == list(range(2 * ROWS + 1, 3 * ROWS + 1))
    successor = Activity("1t", activity.words)
    assert [row[1] for row in successor.take(trades(1, first=3 * ROWS))] == [3 * ROWS + 1]


sizes = st.integers(1, 40).map(lambda tenths: str(Decimal(tenths) / 10))
instruments = st.integers(1, INSTRUMENTS)
events = st.lists(
    st.one_of(
        st.tuples(st.just("trade"), instruments, sizes),
        st.tuples(st.just("trade"), instruments, sizes),
        st.tuples(st.just("trade"), instruments, sizes),
        st.tuples(st.just("gap"), st.integers(0, INSTRUMENTS), st.just("")),
    ),
    max_size=60,
).map(
    lambda found: [
        ModelTrade(instrument, BEGIN_NS + n, BEGIN_NS + n, n, "3", size)
        if what == "trade"
        else ModelGap(instrument, BEGIN_NS + n, BEGIN_NS + n, BEGIN_NS + n)
        for n, (what, instrument, size) in enumerate(found)
    ]
)


@given(events, st.lists(st.integers(0, 60), max_size=6), st.sampled_from(["4t", "5v", "12.5d"]))
def test_splitting_the_input_into_any_batches_changes_nothing(events: list[Event], cuts: list[int], name: str):
    whole, parts = Activity(name), Activity(name)
    expected = whole.take(events)
    found = []
    for begin, end in itertools.pairwise([0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]):
        found += parts.take(events[begin:end])
    assert found == expected
    assert same(parts, whole)


def same(one: Activity, other: Activity) -> bool:
    """Compare bars of which some have no price yet."""
    return all(
        np.array_equal(one.slots(n)[name], other.slots(n)[name], equal_nan=name in ("open", "high", "low", "close"))
        for n in range(1, INSTRUMENTS + 1)
        for name in SLOT.names
    )


@given(events, st.integers(0, 60), st.sampled_from(["4t", "5v", "12.5d"]))
def test_successor_at_any_point_changes_nothing(events: list[Event], cut: int, name: str):
    whole, first = Activity(name), Activity(name)
    expected = whole.take(events)
    found = first.take(events[:cut])
    found += Activity(name, first.words).take(events[cut:])
    assert found == expected


@given(events)
def test_every_trade_is_in_exactly_one_bar(events: list[Event]):
    activity = Activity("5v")
    activity.take(events)
    for instrument in range(1, INSTRUMENTS + 1):
        mine = [trade for trade in events if isinstance(trade, ModelTrade) and trade.instrument == instrument]
        slots = activity.slots(instrument)
        assert slots["trade_count"].sum() == len(mine)
        assert sum(volume_of(int(s["volume_whole"]), int(s["volume_frac"])) for s in slots) == pytest.approx(
            float(sum(Decimal(trade.size) for trade in mine))
        )
        assert slots["number"].tolist() == list(range(1, len(slots) + 1))
        assert all(slots["volume_whole"][:-1] >= 5)

"""Index events: one for each step of each period, whoever listens and whether anything was traded or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marketd.clock import MILLISECOND_NS, SECOND_NS
from marketd.periods import parse_period
from marketd.ring import steps
from marketd.ring.steps import BarState, IndexState
from marketd.sample.bars import BarSet, private_level
from marketd.sample.index_events import STEPS_TOLD_MAX, IndexEvents
from tests.bar_model import ModelGap, ModelTrade, rows_of

PERIODS = ("1s", "5s")
KINDS = (16, 17)
INDEXES = (128, 129)
INSTRUMENTS = 4
LATENESS_NS = 500 * MILLISECOND_NS
BEGIN_NS = 1_700_000_000 * SECOND_NS


class Told(NamedTuple):
    """What one call said, in its order: state, kind, seconds after the beginning."""

    opened: list[tuple]
    revised: list[tuple]
    ended: list[tuple]


class Feed:
    """A feed's bars and index events, with all instruments live."""

    def __init__(self) -> None:
        self.bars = BarSet(
            [private_level(parse_period(name), 64, INSTRUMENTS) for name in PERIODS], lateness_ns=LATENESS_NS
        )
        self.bars.live[:] = 1
        for instrument in range(1, INSTRUMENTS + 1):
            self.bars.cover(instrument, BEGIN_NS - SECOND_NS)
        self.events = IndexEvents(self.bars, KINDS)

    def take(self, *events: ModelTrade | ModelGap) -> None:
        self.bars.take(rows_of(events))

    def blocks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return OPENED, REVISED and ENDED, dtype ``steps.INDEX``."""
        blocks = self.events.take(self.bars.changes(1, KINDS), made_ns=7)
        for block in blocks:
            assert block.dtype.itemsize == steps.STEP_BYTES  # as the step ring takes them
        opened, revised, ended = (block.view(steps.INDEX) for block in blocks)
        return opened, revised, ended

    def tell(self) -> Told:
        return Told(*(said(block) for block in self.blocks()))

    def at(self, seconds: float) -> Told:
        """Let the clock go on to so many seconds after the beginning, and tell of it."""
        self.bars.advance(BEGIN_NS + round(seconds * SECOND_NS))
        return self.tell()


def said(block: np.ndarray) -> list[tuple]:
    return [(PERIODS[INDEXES.index(event["kind"])], (int(event["open_ns"]) - BEGIN_NS) // SECOND_NS) for event in block]


def trade(seconds: float, *, instrument: int = 1, received: float | None = None, price: str = "1") -> ModelTrade:
    event_ns = BEGIN_NS + round(seconds * SECOND_NS)
    received_ns = event_ns if received is None else BEGIN_NS + round(received * SECOND_NS)
    return ModelTrade(instrument, event_ns, received_ns, 1, price, "1")


def started() -> Feed:
    """A feed with one trade, and all of the time before the beginning told of."""
    feed = Feed()
    feed.take(trade(0.1))
    feed.at(0.6)
    return feed


def test_each_step_begins_with_one_event_and_ends_with_one():
    feed = started()
    assert feed.at(1) == Told([("1s", 1)], [], [])
    assert feed.at(1.5) == Told([], [], [("1s", 0)])
    assert feed.at(1.9) == Told([], [], [])
    assert feed.at(5) == Told([("1s", n) for n in (2, 3, 4, 5)] + [("5s", 5)], [], [("1s", n) for n in (1, 2, 3)])
    assert feed.at(5.5) == Told([], [], [("1s", 4), ("5s", 0)])


def test_event_is_one_for_all_instruments_and_says_how_many_have_bars():
    feed = Feed()
    feed.take(*(trade(0.1, instrument=n) for n in (1, 2, 4)))
    opened, _, _ = feed.blocks()
    assert opened["instruments"].tolist() == [3, 3]
    feed.bars.advance(BEGIN_NS + SECOND_NS)
    for block in feed.blocks():
        assert not block["instrument"].any()


def test_event_carries_its_time_and_its_period_and_no_place_in_an_array():
    feed = started()
    feed.bars.advance(BEGIN_NS + SECOND_NS)
    [event] = feed.blocks()[0]
    assert (event["open_ns"], event["period_ns"]) == (BEGIN_NS + SECOND_NS, SECOND_NS)
    assert (event["made_ns"], event["kind"], event["state"]) == (7, 128, IndexState.OPENED)
    assert set(steps.INDEX.names or ()) == {
        *("cursor", "open_ns", "made_ns", "period_ns", "instrument", "kind", "state", "flags"),
        *("instruments", "revised"),
    }


def test_steps_are_told_from_the_first_that_has_begun():
    """And not from 1970, nor does one end that has not begun."""
    feed = Feed()
    feed.take(trade(0.1))
    assert feed.tell() == Told([("1s", 0), ("5s", 0)], [], [])
    assert feed.at(1.5).ended == [("1s", 0)]


def test_every_step_of_the_very_first_rows_is_told():
    """A replay may bring an hour in its first batch."""
    feed = Feed()
    feed.take(trade(0.1), trade(3.1))
    assert feed.tell() == Told([("1s", n) for n in (0, 1, 2, 3)] + [("5s", 0)], [], [("1s", 0), ("1s", 1)])


def test_nothing_that_happened_is_nothing_to_tell():
    feed = started()
    assert feed.tell() == Told([], [], [])
    assert feed.at(0.9) == Told([], [], [])


def test_steps_go_on_without_a_single_trade():
    """Whether anything comes or not."""
    feed = Feed()
    feed.at(0)
    assert feed.at(3).opened == [("1s", 1), ("1s", 2), ("1s", 3)]


def test_clock_that_goes_back_repeats_no_step():
    feed = started()
    feed.at(3)
    assert feed.at(1) == Told([], [], [])
    assert feed.at(3.4) == Told([], [], [])
    assert feed.at(4).opened == [("1s", 4)]


def test_bar_that_changes_after_it_was_out_is_told_of_with_instrument_and_time():
    feed = started()
    feed.at(3.5)
    feed.take(trade(0.7, received=3.6, price="2"))
    _, revised, _ = feed.blocks()
    assert said(revised) == [("1s", 0), ("1s", 1), ("1s", 2)]  # the flat ones follow its price
    assert set(revised["instrument"]) == {1}
    assert set(revised["state"]) == {IndexState.REVISED}


def test_next_step_says_how_many_bars_of_its_period_were_revised():
    feed = started()
    feed.at(3.5)
    feed.take(trade(0.7, received=3.6, price="2"))
    feed.tell()
    feed.bars.advance(BEGIN_NS + 4 * SECOND_NS)
    assert feed.blocks()[0]["revised"].tolist() == [3]
    feed.bars.advance(BEGIN_NS + 5 * SECOND_NS)
    assert feed.blocks()[0]["revised"].tolist() == [0, 0]  # one for each of the periods
    feed.bars.advance(BEGIN_NS + 6 * SECOND_NS)
    assert feed.blocks()[0]["revised"].tolist() == [0]


def test_bar_that_comes_out_for_the_first_time_is_no_revision():
    feed = started()
    feed.take(trade(0.7, received=0.8))
    feed.bars.advance(BEGIN_NS + 2 * SECOND_NS)
    rows = feed.bars.changes(1, KINDS)
    assert rows["state"].tolist() == [BarState.CLOSED]
    assert [len(block) for block in feed.events.take(rows, 7)] == [2, 0, 1]


def test_gap_after_a_bar_was_out_is_a_revision_too():
    """Whoever keeps that bar must learn that it is not whole."""
    feed = started()
    feed.at(2.5)
    feed.take(ModelGap(1, BEGIN_NS + 2_600_000_000, BEGIN_NS, BEGIN_NS + SECOND_NS))
    told = feed.tell()
    assert told.revised == [("1s", 0), ("1s", 1)]


def test_machine_that_slept_for_a_day_tells_of_the_newest_steps_alone():
    feed = started()
    told = feed.at(86_400)
    assert len([step for step in told.opened if step[0] == "1s"]) == STEPS_TOLD_MAX
    assert told.opened[STEPS_TOLD_MAX - 1] == ("1s", 86_400)
    assert told.opened[-1] == ("5s", 86_400)
    assert len([step for step in told.ended if step[0] == "1s"]) == STEPS_TOLD_MAX


def test_successor_tells_of_what_its_predecessor_did_not():
    first = started()
    first.at(3.5)
    second = Feed()
    second.bars.opened[:], second.bars.closed[:] = first.bars.opened, first.bars.closed
    second.events = IndexEvents(second.bars, KINDS)
    assert second.at(5.5) == Told([("1s", 4), ("1s", 5), ("5s", 5)], [], [("1s", 3), ("1s", 4), ("5s", 0)])


@given(st.lists(st.integers(0, 3_000), max_size=20))
def test_every_step_is_told_exactly_once_in_order_whenever_one_looks(waits_ms: Sequence[int]):
    feed = Feed()
    feed.at(0)
    now_ms = 0
    opened: dict[str, list[int]] = {"1s": [0], "5s": [0]}
    ended: dict[str, list[int]] = {"1s": [], "5s": []}
    for wait_ms in waits_ms:
        now_ms += wait_ms
        told = feed.at(now_ms / 1000)
        for steps_told, found in ((told.opened, opened), (told.ended, ended)):
            for period, second in steps_told:
                found[period].append(second)
    for period, length in (("1s", 1), ("5s", 5)):
        assert opened[period] == list(range(0, now_ms // 1000 + 1, length))
        assert ended[period] == list(range(0, (now_ms - 500) // 1000 // length * length, length))

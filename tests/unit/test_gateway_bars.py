"""What the gateway reads of bar segments: ranges, what is missing in them, and what is forming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from marketd.clock import SECOND_NS
from marketd.gateway.bars import find_missing
from marketd.gateway.forming import FormingBars
from marketd.gateway.selection import Choice, Selection
from marketd.periods import parse_period
from marketd.ring.bars import BarsReader, BarsWriter, create_bars
from marketd.rpc.messages import BarsParams
from marketd.sample.bars import BarSet, Level
from tests.bar_model import ModelGap, ModelTrade, rows_of

BEGIN_NS = 1_700_000_000 * SECOND_NS
KIND = 16


class Segment:
    """A segment of 1 s bars, its writer and a reader of it."""

    def __init__(self, folder: Path) -> None:
        path = folder / "bars"
        create_bars(path, rows=64, instruments=4, period_ns=SECOND_NS)
        self._writer = BarsWriter(path)
        self._writer.allocate(4)
        self.bars = BarSet([Level(parse_period("1s"), self._writer.words)])
        self.bars.live[:] = 1
        self.reader = BarsReader(path)

    def play(self, *events: ModelTrade | ModelGap, until_s: float) -> None:
        self._writer.begin(0)
        self.bars.take(rows_of(sorted(events, key=lambda event: event.received_ns)))
        self.bars.advance(BEGIN_NS + round(until_s * SECOND_NS))
        self.bars.flush()
        self._writer.end(int(self.bars.opened[0]), int(self.bars.closed[0]))

    def missing(self, start_s: float | None = None, end_s: float | None = None) -> list[tuple[float, float]]:
        start_ns, end_ns = (None if s is None else BEGIN_NS + round(s * SECOND_NS) for s in (start_s, end_s))
        params = BarsParams("a/b.c.d", "1s", start_ns, end_ns)
        _, found = find_missing(self.reader, self.reader.slots(1), params)
        return [((begin - BEGIN_NS) / SECOND_NS, (end - BEGIN_NS) / SECOND_NS) for begin, end in found]

    def close(self) -> None:
        self.bars.close()
        self.reader.close()
        self._writer.close()


@pytest.fixture
def segment(tmp_path):
    segment = Segment(tmp_path)
    yield segment
    segment.close()


def trade(at_s: float, price: str = "1", instrument: int = 1) -> ModelTrade:
    event_ns = BEGIN_NS + round(at_s * SECOND_NS)
    return ModelTrade(instrument, event_ns, event_ns, int(at_s * 10), price, "1")


def gap(from_s: float, to_s: float) -> ModelGap:
    from_ns, to_ns = BEGIN_NS + round(from_s * SECOND_NS), BEGIN_NS + round(to_s * SECOND_NS)
    return ModelGap(1, to_ns, from_ns, to_ns)


def test_nothing_is_missing_between_whole_bars(segment):
    segment.play(trade(0), trade(1.5), trade(7.2), until_s=10.6)
    assert segment.missing(1, 8) == []


def test_what_is_asked_for_before_the_first_bar_is_missing(segment):
    segment.play(trade(5), trade(6), until_s=10.6)
    assert segment.missing(0, 8) == [(0, 5)]
    assert segment.missing() == []


def test_bars_with_a_gap_in_them_are_missing_and_neighbours_are_joined(segment):
    segment.play(trade(0), gap(2.5, 4.5), trade(6), until_s=10.6)
    assert segment.missing(0, 9) == [(2, 6)]


def test_what_is_still_forming_is_not_missing(segment):
    segment.play(trade(0), until_s=10.2)
    assert segment.missing(0, 60) == []


def test_range_between_two_bars_begins_with_the_next_whole_one(segment):
    segment.play(trade(0), until_s=10.6)
    assert segment.missing(-1.5, 3) == [(-1, 0)]
    assert segment.missing(2.3, 2.9) == []


def choice_of(instruments: int) -> Choice:
    choice = Choice(Selection(frozenset(), frozenset({"*"}), frozenset({KIND})))
    choice.extend([f"{n}/b.c.d" for n in range(instruments)])
    return choice


def test_forming_bars_are_told_when_they_are_new_or_have_changed_and_not_else(segment):
    forming, choice = FormingBars({KIND: segment.reader}), choice_of(2)
    segment.play(trade(0.1, "3"), trade(0.2, "4", instrument=2), until_s=0.3)
    told = forming.changed(choice, 7)
    assert told[["instrument", "close", "trade_count", "cursor", "made_ns"]].tolist() == [
        (1, 3, 1, 0, 7),
        (2, 4, 1, 0, 7),
    ]
    assert len(forming.changed(choice, 8)) == 0
    segment.play(trade(0.35, "5"), until_s=0.4)
    assert forming.changed(choice, 9)[["instrument", "close", "trade_count"]].tolist() == [(1, 5, 2)]


def test_bar_before_the_newest_is_told_while_it_is_forming(segment):
    forming, choice = FormingBars({KIND: segment.reader}), choice_of(1)
    segment.play(trade(0.1, "3"), trade(1.0, "4"), until_s=1.1)
    assert forming.changed(choice, 0)["number"].tolist() == [1_700_000_000, 1_700_000_001]
    segment.play(until_s=1.7)
    assert len(forming.changed(choice, 0)) == 0


def test_another_choice_of_instruments_is_told_everything(segment):
    forming = FormingBars({KIND: segment.reader})
    segment.play(trade(0.1, "3"), until_s=0.3)
    assert len(forming.changed(choice_of(1), 0)) == 1
    assert len(forming.changed(choice_of(1), 0)) == 1


def test_choice_that_grows_is_told_of_what_is_new_alone(segment):
    forming, choice = FormingBars({KIND: segment.reader}), choice_of(1)
    segment.play(trade(0.1, "3"), trade(0.2, "4", instrument=2), until_s=0.3)
    assert forming.changed(choice, 0)["instrument"].tolist() == [1]
    choice.extend(["another/b.c.d"])
    assert forming.changed(choice, 0)["instrument"].tolist() == [2]


def test_segment_that_is_being_changed_for_too_long_tells_nothing_and_all_of_it_later(segment):
    forming, choice = FormingBars({KIND: segment.reader}), choice_of(1)
    segment.play(trade(0.1, "3"), until_s=0.3)
    segment._writer.begin(0)
    assert len(forming.changed(choice, 0)) == 0
    segment._writer.end(int(segment.bars.opened[0]), int(segment.bars.closed[0]))
    assert forming.changed(choice, 0)["close"].tolist() == np.array([3.0]).tolist()

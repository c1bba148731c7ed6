"""What was required of sampled arrays in shared memory, said of bar segments, bar sets and index events."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from marketd.clock import MILLISECOND_NS, SECOND_NS
from marketd.feed.qualities import status_row
from marketd.model import Flag, Quality
from marketd.periods import parse_period
from marketd.ring import steps
from marketd.ring.bars import SLOT, BarsReader, BarsWriter, create_bars
from marketd.ring.steps import BarState, IndexState
from marketd.sample import kernel
from marketd.sample.bars import BarSet, Level
from marketd.sample.index_events import IndexEvents
from tests.bar_model import ModelGap, ModelTrade, rows_of
from tests.conftest import PROJECT

PERIODS = ("1s", "5s")
KINDS = (16, 17)
INSTRUMENTS = 3
ROWS = 32
BEGIN_NS = 1_700_000_000 * SECOND_NS
BEGIN = BEGIN_NS // SECOND_NS  # the number of the first 1 s bar


class Sampled:
    """One feed's bars in shared memory, their index events, and a reader of the 1 s bars.

    Attributes:
        told: all rows of bars and all index events, in order.
    """

    def __init__(self, folder: Path) -> None:
        for name in PERIODS:
            period_ns = parse_period(name).period_ns
            create_bars(folder / name, rows=ROWS, instruments=INSTRUMENTS, period_ns=period_ns)
        self.writers = [BarsWriter(folder / name) for name in PERIODS]
        for writer in self.writers:
            writer.allocate(INSTRUMENTS)
        levels = [Level(parse_period(name), writer.words) for name, writer in zip(PERIODS, self.writers, strict=True)]
        self.bars = BarSet(levels)
        del levels
        self.bars.admit(INSTRUMENTS)
        self.events = IndexEvents(self.bars, KINDS)
        self.reader = BarsReader(folder / "1s")
        self.told = np.zeros(0, steps.BAR)

    def go_live(self) -> None:
        """All instruments' data comes, from the beginning on."""
        self.bars.live[:] = kernel.LIVE
        for instrument in range(1, INSTRUMENTS + 1):
            self.bars.cover(instrument, BEGIN_NS)

    def take(self, *events: ModelTrade | ModelGap) -> None:
        self._change(lambda: self.bars.take(rows_of(events)))

    def take_status(self, seconds: float, quality: Quality) -> None:
        """Let the feed say how the first instrument's data is, so many seconds after the beginning."""
        row = status_row(1, quality, BEGIN_NS + round(seconds * SECOND_NS))
        self._change(lambda: self.bars.take(row))

    def advance(self, seconds: float) -> None:
        """Let the clock go on to so many seconds after the beginning."""
        self._change(lambda: self.bars.advance(BEGIN_NS + round(seconds * SECOND_NS)))

    def _change(self, work) -> None:
        for writer in self.writers:
            writer.begin(0)
        work()
        rows = self.bars.changes(1, KINDS)
        opened, revised, ended = self.events.take(rows, 1)
        self.told = np.concatenate([self.told, opened, rows, revised, ended])
        for writer, opened_now, closed_now in zip(self.writers, self.bars.opened, self.bars.closed, strict=True):
            writer.end(int(opened_now), int(closed_now))

    def index(self, state: IndexState, kind: int = 128) -> np.ndarray:
        """Return the index events of a state that were told, of the 1 s bars."""
        found = self.told[self.told["kind"] == kind].view(steps.INDEX)
        return found[found["state"] == state]

    def numbers(self, instrument: int = 1) -> list[int]:
        """Return which 1 s bars there are, counted from the beginning."""
        return (self.reader.slots(instrument)["number"] - BEGIN).tolist()

    def bar(self, number: int, instrument: int = 1) -> np.void:
        """Return a 1 s bar, counted from the beginning."""
        [bar] = self.reader.range(instrument, BEGIN + number, BEGIN + number)
        return bar

    def close(self) -> None:
        self.bars.close()
        self.reader.close()
        for writer in self.writers:
            writer.close()


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Sampled]:
    made = Sampled(tmp_path)
    yield made
    made.close()


@pytest.fixture
def live(feed: Sampled) -> Sampled:
    feed.go_live()
    return feed


def trade(seconds: float, *, instrument: int = 1, price: str = "10", received: float | None = None) -> ModelTrade:
    event_ns = BEGIN_NS + round(seconds * SECOND_NS)
    received_ns = event_ns if received is None else BEGIN_NS + round(received * SECOND_NS)
    return ModelTrade(instrument, event_ns, received_ns, round(seconds * 1000), price, "1")


# --- the sampler and its index events ---------------------------------------------------------------------


def test_each_period_makes_exactly_one_bar_however_often_and_by_whom_it_is_looked_at(live: Sampled, tmp_path: Path):
    """R15: a second look at the clock, or a second client, steps nothing twice."""
    live.take(*(trade(0.1, instrument=n) for n in (1, 2, 3)))
    others = [BarsReader(tmp_path / "1s") for _ in range(3)]
    for milliseconds in range(100, 6_001, 100):
        for _ in range(3):
            live.advance(milliseconds / 1000)
    for reader in [live.reader, *others]:
        for instrument in (1, 2, 3):
            assert (reader.slots(instrument)["number"] - BEGIN).tolist() == [0, 1, 2, 3, 4, 5, 6]
    bars = live.told[live.told["kind"] == KINDS[0]]
    assert len(np.unique(bars[["instrument", "number"]])) == len(bars) == 3 * 5
    assert (live.index(IndexState.OPENED)["open_ns"] // SECOND_NS - BEGIN).tolist() == [0, 1, 2, 3, 4, 5, 6]
    for reader in others:
        reader.close()


def test_step_of_many_instruments_is_one_event_with_its_time(live: Sampled):
    """B6, R16: they joined at different times, and lie at different places."""
    live.take(trade(0.1, instrument=1), trade(2.1, instrument=2), trade(3.1, instrument=3))
    live.advance(4)
    opened = live.index(IndexState.OPENED)
    assert (opened["open_ns"] // SECOND_NS - BEGIN).tolist() == [0, 1, 2, 3, 4]
    assert opened["instruments"][-1] == 3
    assert [len(live.numbers(instrument)) for instrument in (1, 2, 3)] == [5, 3, 2]


def test_no_bars_before_anything_is_live(feed: Sampled):
    """R17: a feed that never says that it is live gets none, although its steps are told."""
    for second in range(5):
        feed.advance(second)
    assert [feed.numbers(instrument) for instrument in (1, 2, 3)] == [[], [], []]
    assert len(feed.index(IndexState.OPENED)) == 5
    assert not (feed.told["kind"] < steps.INDEX_KIND_FIRST).any()


def test_no_made_up_bars_after_data_has_stopped_coming(live: Sampled):
    """R17: bars of an outage are missing, with no price, and never flat."""
    live.take(trade(0.1), trade(1.1))
    live.bars.live[1] = kernel.NOT_LIVE
    live.advance(4)
    assert [live.bar(n)["state"] for n in (0, 1, 2, 3)] == [2, 2, BarState.MISSING, BarState.FORMING]
    assert np.isnan([live.bar(n)["close"] for n in (2, 3)]).all()


def test_bar_that_began_after_an_outage_is_whole_though_nobody_knew_that_it_was_over(live: Sampled):
    """Not missing without a reason: the feed says late that its data comes again."""
    live.take(trade(0.1), trade(1.1))
    live.bars.live[1] = kernel.NOT_LIVE
    live.advance(5.6)
    live.bars.live[1] = kernel.LIVE
    received_ns = BEGIN_NS + round(5.61 * SECOND_NS)
    live.take(ModelGap(1, received_ns, BEGIN_NS + round(1.1 * SECOND_NS), BEGIN_NS + round(3.99 * SECOND_NS)))
    assert [live.bar(n)["gap_ns"] for n in (4, 5)] == [0, 0]
    live.take(trade(4.2), trade(5.1), trade(7.1))
    live.advance(8)
    assert [live.bar(n)["state"] for n in range(1, 7)] == [4, 4, 4, BarState.REVISED, 2, 2]
    assert [live.bar(n)["trade_count"] for n in (4, 5)] == [1, 1]
    assert (live.bar(6)["close"], live.bar(6)["trade_count"]) == (10.0, 0), "flat, as the price is known again"


def test_bar_of_an_outage_that_is_not_over_stays_missing_when_another_gap_comes(live: Sampled):
    """What does not come yet is not there because of a gap row that is older than it."""
    live.take(trade(0.1), trade(1.1))
    live.bars.live[1] = kernel.NOT_LIVE
    live.advance(3)
    live.take(ModelGap(1, BEGIN_NS + 3 * SECOND_NS, BEGIN_NS, BEGIN_NS + SECOND_NS // 2))
    live.advance(4)
    assert [live.bar(n)["state"] for n in (2, 3)] == [BarState.MISSING, BarState.FORMING]
    assert live.bar(3)["gap_ns"] != 0


def test_no_bars_while_the_market_is_closed(live: Sampled):
    """R17: nor any when the venue says that its market is shut."""
    live.take(trade(0.1), trade(1.1))
    live.bars.live[1] = kernel.SHUT
    live.advance(5)
    assert live.numbers() == [0, 1]


def test_idle_step_is_told_and_its_bar_repeats_the_last_close(live: Sampled):
    """R20: with volume 0, and marked as made by us."""
    live.take(trade(0.2, price="10"), trade(0.4, price="12"))
    for second in (1, 2, 3, 4):
        live.advance(second)
    assert len(live.index(IndexState.OPENED)) == 5
    idle = live.told[(live.told["kind"] == KINDS[0]) & (live.told["number"] > BEGIN)]
    assert (idle["number"] - BEGIN).tolist() == [1, 2]
    for name in ("open", "high", "low", "close"):
        assert idle[name].tolist() == [12, 12]
    assert idle["volume"].tolist() == idle["trade_count"].tolist() == [0, 0]
    assert idle["flags"].tolist() == [Flag.SYNTHETIC] * 2
    assert idle["state"].tolist() == [BarState.CLOSED] * 2


# --- shared memory ----------------------------------------------------------------------------------------


def test_read_is_never_empty_once_there_was_a_bar(live: Sampled):
    """R21: and before that it is an empty array and no crash. `test_bars_segment.py` has it under stress."""
    assert live.reader.slots(1).tolist() == []
    for second in range(2 * ROWS):
        live.take(trade(second + 0.1))
        assert len(live.reader.slots(1)) == min(second + 1, ROWS)
        live.advance(second + 0.5)
        assert len(live.reader.slots(1)) == min(second + 1, ROWS)


def test_reading_needs_no_length_check_before_it(live: Sampled):
    """R22: the newest bar is at [-1] as soon as there is one; before, there is an empty array with every field."""
    opened = live.reader.progress.opened
    assert live.reader.range(1, opened - 10, opened)["close"].tolist() == []
    live.take(trade(0.1, price="7"))
    opened = live.reader.progress.opened
    assert live.reader.range(1, opened - 10, opened)[-1]["close"] == 7
    live.advance(5)
    opened = live.reader.progress.opened
    assert live.reader.range(1, opened - 10, opened)[-1]["number"] == opened == BEGIN + 5


def test_more_bars_than_fit_keep_exactly_the_newest(live: Sampled):
    """R23: one batch of three times as many; no overrun, and what comes for older ones is counted and changes none."""
    live.take(*(trade(second + 0.1, price=str(second + 1)) for second in range(3 * ROWS)))
    assert live.numbers() == list(range(2 * ROWS, 3 * ROWS))
    before = live.reader.slots(1).tolist()
    live.take(trade(5, received=3 * ROWS - 0.5), trade(2 * ROWS - 1, received=3 * ROWS - 0.5))
    assert live.reader.slots(1).tolist() == before
    assert live.bars.beyond[0] == 2


def test_change_in_the_middle_moves_neither_first_nor_last_and_writes_only_its_own_bars(live: Sampled):
    """R24: a late trade, which is what fills a middle; and a gap, which opens one."""
    live.take(*(trade(second + 0.1) for second in range(10)))
    before = live.reader.slots(1)
    live.take(trade(4.5, price="99", received=9.2))
    after = live.reader.slots(1)
    assert live.numbers() == list(range(10))
    changed = [n for n in range(10) if before[n].tolist() != after[n].tolist()]
    assert changed == [4]
    assert (after[4]["high"], after[4]["trade_count"], after[4]["state"]) == (99, 2, BarState.REVISED)

    live.take(ModelGap(1, BEGIN_NS + 9_300_000_000, BEGIN_NS + 6 * SECOND_NS, BEGIN_NS + 8 * SECOND_NS))
    last = live.reader.slots(1)
    assert live.numbers() == list(range(10))
    assert [n for n in range(10) if after[n].tolist() != last[n].tolist()] == [6, 7]
    assert last["state"][6:8].tolist() == [BarState.MISSING] * 2


def test_copy_is_the_readers_own(live: Sampled):
    """R25: writing to it alters no segment."""
    live.take(trade(0.1))
    for copy in (live.reader.slots(1), live.reader.range(1, BEGIN, BEGIN), live.reader.newest(np.array([1]), BEGIN)):
        copy["close"] = 0
        assert live.bar(0)["close"] == 10


def test_last_is_the_last_bar_itself_and_not_the_one_after_it(live: Sampled):
    """R26: of a range, of what has begun; what is not out yet begins with ``closed``."""
    live.take(*(trade(second + 0.1) for second in range(6)))
    live.advance(5.7)
    progress = live.reader.progress
    assert progress.opened == BEGIN + 5
    assert live.bar(5)["number"] == progress.opened
    assert live.reader.range(1, BEGIN + 2, BEGIN + 4)["number"].tolist() == [BEGIN + 2, BEGIN + 3, BEGIN + 4]
    assert live.reader.range(1, progress.closed - 1, progress.closed)["state"].tolist() == [
        BarState.CLOSED,
        BarState.FORMING,
    ]


def test_reader_that_exits_leaves_the_segment_and_prints_nothing(live: Sampled, tmp_path: Path):
    """R27: no resource tracker takes the file with it."""
    live.take(trade(0.1))
    script = (
        "import sys; from pathlib import Path; from marketd.ring.bars import BarsReader; "
        "print(len(BarsReader(Path(sys.argv[1])).slots(1)))"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "1s")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)
    assert live.numbers() == [0]
    BarsReader(tmp_path / "1s").close()


def test_times_are_whole_nanoseconds_and_found_by_equality(live: Sampled):
    """R28: at times at which a float would be off by a hundred."""
    live.take(trade(0.1))
    live.advance(ROWS - 1)
    times = live.reader.slots(1)["open_ns"]
    assert times.dtype == steps.BAR["open_ns"] == steps.INDEX["open_ns"] == SLOT["open_ns"] == np.int64
    for number in range(ROWS):
        assert (times == BEGIN_NS + number * SECOND_NS).sum() == 1
    event_ns = BEGIN_NS + 123_456_789
    live.take(ModelTrade(2, event_ns, event_ns, 1, "1", "1"))
    assert live.bar(0, instrument=2)["first_ns"] == event_ns != int(float(event_ns))


def test_bars_hold_what_was_traded_and_nothing_derived():
    """R29: a series is named by its kind, so that no other number needs a column here."""
    common = ("cursor", "open_ns", "made_ns", "period_ns", "instrument", "kind", "state", "flags")
    values = ("open", "high", "low", "close", "volume", "trade_count", "first_id", "last_id", "number")
    assert steps.BAR.names == common + values


def test_bars_of_half_a_second_late_are_out_after_it(live: Sampled):
    """R15: nothing else than the time makes a bar be out, and it is out once."""
    live.take(trade(0.1))
    live.advance(1.49)
    assert live.bar(0)["state"] == BarState.FORMING
    live.advance(1 + live.bars.time.lateness_ns / SECOND_NS)
    assert live.bar(0)["state"] == BarState.CLOSED
    assert live.bars.time.lateness_ns == 500 * MILLISECOND_NS
    assert (live.told["kind"] == KINDS[0]).sum() == 1


# --- what the venue tells afterwards ----------------------------------------------------------------------------------


def venue_bar(number: int, close: float = 10.0, count: int = 2) -> tuple[int, float, float, float, float, float, int]:
    return ((BEGIN + number) * SECOND_NS, 9.0, 12.0, 8.0, close, 3.5 if count else 0.0, count)


@pytest.fixture
def torn(live: Sampled) -> Sampled:
    """Seconds 0 to 12, of which 3 to 5 are missing, and a trade in 6 and in 11."""
    live.take(trade(0.1), trade(2.1, price="11"))
    live.bars.live[1] = kernel.NOT_LIVE
    live.advance(5.9)
    live.bars.live[1] = kernel.LIVE
    live.take(ModelGap(1, BEGIN_NS + 5_950_000_000, BEGIN_NS + 3 * SECOND_NS, BEGIN_NS + 5_950_000_000))
    live.take(trade(6.5, price="12"), trade(11.1, price="13"))
    live.advance(13)
    assert [live.bar(n)["state"] for n in range(2, 8)] == [2, 4, 4, 4, 2, 2]
    return live


def fill(sampled: Sampled, *bars: tuple[int, float, float, float, float, float, int]) -> None:
    sampled._change(lambda: sampled.bars.fill(0, 1, bars))


def test_bars_that_the_venue_fills_are_told_with_their_instrument_period_and_time(torn: Sampled):
    """B5, R18, R19: in the middle, by history; nothing else moves, and who holds them reads them again."""
    before = torn.numbers()
    told = len(torn.told)
    fill(torn, venue_bar(3), venue_bar(4, 10.5), venue_bar(5, 11.5))
    assert torn.numbers() == before
    assert [torn.bar(n)["state"] for n in (3, 4, 5)] == [BarState.REVISED] * 3
    assert [torn.bar(n)["close"] for n in (3, 4, 5)] == [10.0, 10.5, 11.5]
    assert torn.bar(4)["flags"] & Flag.BACKFILLED
    rows = torn.told[told:]
    revised = rows[rows["kind"] == 128].view(steps.INDEX)
    assert revised["state"].tolist() == [IndexState.REVISED] * 3
    assert (revised["open_ns"] // SECOND_NS - BEGIN).tolist() == [3, 4, 5]
    assert set(revised["instrument"].tolist()) == {1}
    bars = rows[rows["kind"] == KINDS[0]]
    assert bars["volume"].tolist() == [3.5] * 3


def test_longer_bar_follows_when_all_of_it_is_known(torn: Sampled):
    """Of five seconds: 0 to 5 lacked two, 5 to 10 one."""

    def longer(number: int) -> np.void:
        words = torn.bars.levels[1].words[0, :, 0].view(SLOT).reshape(-1)
        return words[words["number"] == BEGIN // 5 + number][0]

    assert [longer(n)["state"] for n in (0, 1)] == [BarState.MISSING] * 2
    fill(torn, venue_bar(3))
    assert longer(0)["state"] == BarState.MISSING
    fill(torn, venue_bar(4))
    assert longer(0)["state"] == BarState.REVISED
    assert (longer(0)["open"], longer(0)["high"], longer(0)["close"]) == (10.0, 12.0, 10.0)
    assert longer(0)["trade_count"] == 1 + 1 + 2 + 2
    assert longer(1)["state"] == BarState.MISSING
    fill(torn, venue_bar(5, count=-1))
    assert (longer(1)["state"], longer(1)["trade_count"]) == (BarState.REVISED, -1)


def test_flat_bars_after_a_gap_follow_what_fills_it(live: Sampled):
    """Their price was not known before."""
    live.take(trade(0.1), ModelGap(1, BEGIN_NS + SECOND_NS // 2, BEGIN_NS + SECOND_NS // 2, BEGIN_NS + SECOND_NS // 2))
    live.take(trade(6.1))
    live.advance(8)
    assert [live.bar(n)["state"] for n in range(6)] == [4] * 6
    fill(live, venue_bar(0, close=7.0))
    assert [live.bar(n)["state"] for n in range(6)] == [BarState.REVISED] * 6
    assert [live.bar(n)["close"] for n in range(6)] == [7.0] * 6


def test_venue_changes_no_bar_that_was_seen_whole_or_is_forming_and_nothing_changes_what_it_told(torn: Sampled):
    fill(torn, venue_bar(2, close=99.0), venue_bar(13, close=99.0), venue_bar(500, close=99.0), venue_bar(-500))
    assert torn.bar(2)["close"] == 11.0
    assert torn.bar(13)["close"] == 13.0
    fill(torn, venue_bar(3, close=10.25), venue_bar(4, count=0))
    assert (torn.bar(4)["trade_count"], torn.bar(4)["flags"] & Flag.SYNTHETIC > 0) == (0, True)
    torn.take(trade(3.5, price="50", received=13.1))  # it is in the venue's bar already
    torn.take(ModelGap(1, BEGIN_NS + 14 * SECOND_NS, BEGIN_NS + 3 * SECOND_NS, BEGIN_NS + 4 * SECOND_NS))
    assert (torn.bar(3)["close"], torn.bar(3)["trade_count"]) == (10.25, 2)
    assert torn.bar(3)["state"] == BarState.REVISED


def test_longer_bar_of_a_broken_shorter_one_is_made_again(torn: Sampled):
    """The venue tells bars of an outage that is not over: its first second still counts as whole, and is not."""

    def longer() -> np.void:
        words = torn.bars.levels[1].words[0, :, 0].view(SLOT).reshape(-1)
        return words[words["number"] == BEGIN // 5][0]

    fill(torn, venue_bar(3), venue_bar(4))
    assert (longer()["state"], longer()["trade_count"]) == (BarState.REVISED, 6)
    torn.take(ModelGap(1, BEGIN_NS + 14 * SECOND_NS, BEGIN_NS + 2_500_000_000, BEGIN_NS + 5 * SECOND_NS))
    assert torn.bar(2)["state"] == longer()["state"] == BarState.MISSING
    fill(torn, venue_bar(2, count=7))
    assert (longer()["state"], longer()["trade_count"]) == (BarState.REVISED, 1 + 7 + 2 + 2)
    torn.take(ModelGap(1, BEGIN_NS + 15 * SECOND_NS, BEGIN_NS + 3 * SECOND_NS, BEGIN_NS + 4 * SECOND_NS))
    assert (longer()["state"], longer()["trade_count"]) == (BarState.REVISED, 1 + 7 + 2 + 2)


def test_late_trade_of_a_shorter_bar_is_in_the_longer_one_that_was_made_of_it(torn: Sampled):
    """And one that the venue has told already is in neither twice."""

    def longer() -> np.void:
        words = torn.bars.levels[1].words[0, :, 0].view(SLOT).reshape(-1)
        return words[words["number"] == BEGIN // 5][0]

    fill(torn, venue_bar(3), venue_bar(4))
    before = longer().copy()
    torn.take(trade(2.7, price="20", received=14.0), trade(3.7, price="30", received=14.0))
    assert (torn.bar(2)["high"], torn.bar(3)["high"]) == (20.0, 12.0)
    assert (longer()["high"], longer()["trade_count"]) == (20.0, before["trade_count"] + 1)
    assert longer()["flags"] & Flag.BACKFILLED


def test_bars_between_two_outages_are_whole_however_late_they_are_read(live: Sampled):
    """The second has begun before the end of the first was read: only its own end says what was whole."""
    live.take(trade(0.1))
    live.bars.live[1] = kernel.NOT_LIVE
    live.advance(1.9)
    live.take(ModelGap(1, BEGIN_NS + 1_950_000_000, BEGIN_NS + SECOND_NS, BEGIN_NS + 1_950_000_000))
    live.take(trade(2.1), trade(3.1), trade(4.9))
    live.advance(7.0)
    live.bars.live[1] = kernel.LIVE
    live.take(ModelGap(1, BEGIN_NS + 7_950_000_000, BEGIN_NS + 6 * SECOND_NS, BEGIN_NS + 7_950_000_000), trade(8.1))
    live.advance(10)
    assert [live.bar(n)["state"] for n in range(9)] == [2, 4, 3, 3, 3, 3, 4, 4, 2]


def test_longer_bar_is_not_made_of_shorter_ones_before_the_outage_is_over(torn: Sampled):
    """The second in which it began still counts as whole."""

    def longer() -> np.void:
        words = torn.bars.levels[1].words[0, :, 0].view(SLOT).reshape(-1)
        return words[words["number"] == BEGIN // 5][0]

    torn.bars.live[1] = kernel.NOT_LIVE
    fill(torn, venue_bar(3), venue_bar(4))
    assert (torn.bar(3)["state"], longer()["state"]) == (BarState.REVISED, BarState.MISSING)
    torn.bars.live[1] = kernel.LIVE
    torn.take(ModelGap(1, BEGIN_NS + 14 * SECOND_NS, BEGIN_NS + 13 * SECOND_NS, BEGIN_NS + 14 * SECOND_NS))
    assert (longer()["state"], longer()["trade_count"]) == (BarState.REVISED, 6)


def test_bar_is_missing_as_soon_as_the_feed_says_that_its_data_does_not_come(live: Sampled):
    """And not only when the outage is over."""
    live.take(trade(0.1), trade(2.1))
    live.take_status(2.5, Quality.GAP)
    live.advance(4)
    assert [live.bar(n)["state"] for n in range(3)] == [BarState.CLOSED, BarState.CLOSED, BarState.MISSING]
    live.take_status(4.5, Quality.OK)
    live.take(trade(4.6))
    live.advance(6)
    assert live.bar(4)["state"] == BarState.CLOSED

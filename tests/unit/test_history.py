"""The history manager's rules, of one feed: what is asked for, what becomes of it, and what live bars change."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from marketd.clock import SECOND_NS
from marketd.history.frames import newest_of_each, page_frame, told_frame
from marketd.history.paging import needed, settle
from marketd.history.serve import left
from marketd.history.wire import LeftQuery
from marketd.model import Flag
from marketd.ring.steps import BAR, BarState
from marketd.supervise.messages import PageResult
from storage.combine import OnOverlap
from storage.coverage import State, mark
from storage.layout import Series
from storage.schema import Provenance
from tests.history_harness import FQME, KIND, MINUTE_NS, NEWEST, NOW_NS, FakeVenue, Harness, bar, shuffled, told_rows

ALL = range(NEWEST - 200, NEWEST)


async def test_what_the_venue_has_is_stored_newest_first_and_each_page_begins_where_the_last_one_did(tmp_path: Path):
    """C1, C11: paging moves by what came back."""
    harness = Harness(tmp_path, FakeVenue(ALL), depth=45)
    await harness.fill()
    assert harness.numbers() == list(range(NEWEST - 45, NEWEST))
    assert [end // MINUTE_NS - NEWEST for _, end in harness.venue.asked] == [0, -10, -20, -30, -40]
    assert harness.known(State.COMPLETE) == [(NEWEST - 45, NEWEST)]
    assert set(harness.rows()["provenance"]) <= {Provenance.BACKFILLED, Provenance.SYNTHETIC}


async def test_newest_stored_bar_is_the_latest_closed_one(tmp_path: Path):
    """R50: not the step before, as a backend that rounds down would give; nor the one that is still forming."""
    harness = Harness(tmp_path, FakeVenue([*ALL, NEWEST]), depth=20)
    harness.live.begun = False
    await harness.fill()
    assert harness.numbers()[-1] == NEWEST - 1


async def test_bar_that_is_over_and_not_told_yet_is_not_reported_as_missing(tmp_path: Path):
    """A backfill up to now, a moment after a minute's end, said that one bar was missing and never came."""
    harness = Harness(tmp_path, FakeVenue(ALL), depth=20)
    await harness.fill()
    start_ns = NOW_NS - 10 * MINUTE_NS
    for later_ns in (0, 30 * SECOND_NS, 31 * SECOND_NS, 45 * SECOND_NS):  # over the end of the minute, and on
        harness.clock.ns += later_ns
        found = left(harness.feed, 1, KIND, LeftQuery(FQME, "1m", start_ns, harness.clock.ns))
        assert (found.bars, found.missing, found.over) == (10, 0, True)
    assert left(harness.feed, 1, KIND, LeftQuery(FQME, "1m", harness.clock.ns, harness.clock.ns)).bars == 0


async def test_rows_of_a_page_in_any_order_are_placed_by_their_own_times(tmp_path: Path):
    """C6, R51, R52, R69: shuffled, with rows from before and after the range, and twice."""

    def mangle(rows):
        return shuffled([*rows, rows[0], rows[-1], bar(rows[0][0] // MINUTE_NS - 500), bar(NEWEST + 5)])

    harness = Harness(tmp_path, FakeVenue(range(NEWEST - 30, NEWEST), mangle=mangle), depth=30)
    await harness.fill()
    assert harness.numbers()[-10:] == list(range(NEWEST - 10, NEWEST))
    assert harness.rows()["open_ns"].is_unique().all()
    assert harness.rows()["open_ns"].is_sorted()


@pytest.mark.parametrize("every", [2, 3])
async def test_venue_that_drops_every_kth_page_still_gives_a_whole_series(tmp_path: Path, every: int, autojump_clock):
    """C6, R53."""
    harness = Harness(tmp_path, FakeVenue(ALL), depth=60)
    whole = harness.venue.ask
    count = 0

    async def ask(page):
        nonlocal count
        count += 1
        return PageResult("failed", detail="lost") if count % every == 0 else await whole(page)

    harness.feed._ask = ask
    await harness.fill(look_s=1.0)
    assert harness.numbers() == list(range(NEWEST - 60, NEWEST))


async def test_nights_and_weekends_are_jumped_over_without_asking_twice(tmp_path: Path):
    """C7, R54: no range is asked for again, and the next page begins before the gap."""
    opens = [n for n in range(NEWEST - 600, NEWEST) if (NEWEST - n) % 100 <= 30]
    harness = Harness(tmp_path, FakeVenue(opens), depth=600)
    await harness.fill(pages_max=120)
    assert harness.numbers() == opens
    assert len(set(harness.venue.asked)) == len(harness.venue.asked)
    assert harness.known(State.COMPLETE, State.EMPTY) == [(NEWEST - 600, NEWEST)]


async def test_market_with_short_hours_gives_its_full_count(tmp_path: Path):
    """C8, R58: six and a half hours a day; what a page holds is bars, and not hours."""
    opens = [n for n in range(NEWEST - 3 * 1440, NEWEST) if (NEWEST - n) % 1440 <= 390]
    harness = Harness(tmp_path, FakeVenue(opens, limit=100), depth=3 * 1440)
    await harness.fill()
    assert harness.numbers() == opens


async def test_nothing_before_the_listing_is_an_answer_and_is_not_asked_for_again(tmp_path: Path):
    """C1, R61: known empty."""
    harness = Harness(tmp_path, FakeVenue(range(NEWEST - 25, NEWEST)), depth=100)
    await harness.fill()
    assert harness.numbers() == list(range(NEWEST - 25, NEWEST))
    assert harness.known(State.EMPTY) == [(NEWEST - 100, NEWEST - 25)]
    asked = len(harness.venue.asked)
    await harness.fill()
    assert len(harness.venue.asked) == asked


async def test_venue_that_has_nothing_of_the_last_minutes_is_asked_again_later(tmp_path: Path, autojump_clock):
    """It may only be slow: what is recent never becomes known empty by one answer."""
    harness = Harness(tmp_path, FakeVenue(()), depth=100)
    await harness.fill(patient=False, look_s=1.0)
    assert harness.known(State.EMPTY) == [(NEWEST - 100, NEWEST - 10)]
    harness.venue.opens = list(ALL)
    await harness.fill(look_s=1.0)
    assert harness.numbers() == list(range(NEWEST - 10, NEWEST))


async def test_venue_whose_newest_bars_come_late_is_asked_again_and_older_ones_do_not_wait(
    tmp_path: Path, autojump_clock
):
    """What a page lacks of the last minutes is not a time without a trade."""
    harness = Harness(tmp_path, FakeVenue(range(NEWEST - 200, NEWEST - 3)), depth=30)
    await harness.fill(patient=False, look_s=1.0)
    assert harness.numbers() == list(range(NEWEST - 30, NEWEST - 3))
    assert harness.known(State.COMPLETE) == [(NEWEST - 30, NEWEST - 3)]
    harness.venue.opens = list(ALL)
    await harness.fill(look_s=1.0)
    assert harness.numbers() == list(range(NEWEST - 30, NEWEST))


async def test_venue_that_throttles_is_left_alone_as_long_as_it_says(tmp_path: Path, autojump_clock):
    """R62: a typed answer, a bounded pause, a report; and then all is well again."""
    harness = Harness(tmp_path, FakeVenue(ALL), depth=10)
    harness.venue.outcomes = [PageResult("failed", detail="throttled by the venue", retry_s=20.0)] * 3
    await harness.feed.flush()
    piece = harness.feed.next_piece()
    assert piece is not None
    assert await harness.feed._fetch(piece) == 20.0
    assert "throttled" in harness.feed.trouble
    assert harness.feed.next_piece() is None
    harness.feed.stored[1, 16].retry_s = 0.0
    harness.venue.outcomes = []
    await harness.fill(look_s=1.0)
    assert harness.numbers() == list(range(NEWEST - 10, NEWEST))
    assert not harness.feed.trouble


async def test_page_that_reaches_nothing_of_the_range_is_not_asked_for_for_ever(tmp_path: Path):
    """A venue that gives its newest bars whatever it is asked for, and has no trades."""

    def newest(_rows):
        return [bar(n) for n in range(NEWEST - 5, NEWEST)]

    harness = Harness(tmp_path, FakeVenue(ALL, mangle=newest), depth=50)
    bars = harness.venue.ask
    harness.feed._ask = lambda page: bars(page) if page.period_s else _no_trades()
    await harness.fill(pages_max=10)
    assert harness.numbers() == list(range(NEWEST - 5, NEWEST))
    assert harness.feed.missing(1, 16) == []
    assert harness.known(State.EMPTY) == [], "it has not said that there is nothing"


async def test_bars_that_a_venue_has_no_more_are_made_of_its_trades(tmp_path: Path):
    """As at Kraken, whose candles end after 720; by the hour, in pages, each trade once though pages overlap."""
    trades = [
        (minute * MINUTE_NS + second * 10**9, minute * 60 + second, 100.0 + second, 0.5, 1)
        for minute in range(NEWEST - 200, NEWEST)
        for second in (1, 30, 59)
        if minute % 10
    ]

    class Kraken(FakeVenue):
        async def ask(self, page):
            if page.period_s:
                self.asked.append((page.start_ns, page.end_ns))
                return PageResult("page", bars=[bar(n) for n in range(NEWEST - 5, NEWEST)])
            after = [trade for trade in trades if trade[0] >= page.start_ns]
            if not after:
                return PageResult("empty")
            rest = after[50:]
            return PageResult("page", trades=after[:50], next_ns=after[49][0] if rest else 0)

    harness = Harness(tmp_path, Kraken(ALL), depth=150)
    await harness.fill(pages_max=10)
    assert harness.numbers()[-5:] == list(range(NEWEST - 5, NEWEST))
    rows = harness.rows().filter(pl.col("open_ns") < (NEWEST - 5) * MINUTE_NS)
    assert harness.known(State.COMPLETE, State.EMPTY) == [(NEWEST - 150, NEWEST)]
    for row in rows.iter_rows(named=True):
        traded = row["open_ns"] // MINUTE_NS % 10 != 0
        assert (row["trade_count"], row["volume"]) == ((3, 1.5) if traded else (0, 0.0))
        assert row["close"] == 159.0
        assert (row["open"], row["high"], row["low"]) == ((101.0, 159.0, 101.0) if traded else (159.0,) * 3)
    assert len(rows) >= 140


async def _no_trades() -> PageResult:
    return PageResult("none", detail="no pages of trades")


async def test_pages_of_trades_that_do_not_move_on_are_no_whole_hour(tmp_path: Path):
    """What came of them is not kept: nobody knows what else there was."""
    harness = Harness(tmp_path, FakeVenue(ALL), depth=20)

    async def ask(page):
        if page.period_s:
            return PageResult("none")
        return PageResult("page", trades=[(page.start_ns, 1, 10.0, 1.0, 1)], next_ns=page.start_ns)

    harness.feed._ask = ask
    await harness.fill(patient=False)
    assert harness.numbers() == []
    assert harness.known(State.COMPLETE, State.EMPTY) == []
    assert "do not get beyond" in harness.feed.trouble


@pytest.mark.parametrize("offset", [*range(12), 19, 20, 21, 35])
async def test_joint_of_what_was_stored_and_what_is_new_has_neither_a_hole_nor_a_bar_twice(tmp_path: Path, offset: int):
    """C5, C12, R55, R56: the store ends so many steps before the newest bar."""
    harness = Harness(tmp_path, FakeVenue(ALL), depth=60)
    harness.live.until -= offset * MINUTE_NS
    harness.live.begun = True
    await harness.fill()
    later = Harness(tmp_path, FakeVenue(ALL), depth=60)
    await later.fill()
    assert later.numbers() == list(range(NEWEST - 60, NEWEST))
    if offset == 0:
        assert not later.venue.asked, "nothing was missing"


@pytest.mark.parametrize("seed", range(8))
async def test_live_bars_that_begin_at_any_moment_of_the_loading_leave_no_seam(tmp_path: Path, seed: int):
    """C13, R57: no bar twice, none missing; what came live is never overwritten by history."""
    rng = np.random.default_rng(seed)
    harness = Harness(tmp_path, FakeVenue(ALL), depth=40)
    begin = int(rng.integers(1, 30))
    live = list(range(NEWEST - begin, NEWEST))
    rows = told_rows(live)
    rows["first_id"] = 7  # which the venue's page does not know
    cut = int(rng.integers(0, len(live) + 1))
    harness.live.tell(rows[:cut])
    await harness.feed.flush()
    for _ in range(int(rng.integers(0, 4))):
        piece = harness.feed.next_piece()
        if piece is not None:
            await harness.feed._fetch(piece)
    harness.live.tell(rows[cut:])
    await harness.fill()
    assert harness.numbers() == list(range(NEWEST - 40, NEWEST))
    stored = harness.rows().filter(pl.col("open_ns") >= live[0] * MINUTE_NS)
    assert set(stored["first_id"]) == {7}


async def test_outage_is_missing_then_asked_for_then_whole(tmp_path: Path):
    """C9: bars that the sampler has not seen whole are not stored, and their time is asked for."""
    harness = Harness(tmp_path, FakeVenue(ALL), depth=20)
    harness.live.tell(told_rows(range(NEWEST - 20, NEWEST - 8)))
    harness.live.tell(told_rows(range(NEWEST - 8, NEWEST - 5), BarState.MISSING))
    harness.live.tell(told_rows(range(NEWEST - 5, NEWEST)))
    await harness.feed.flush()
    assert harness.known(State.MISSING) == [(NEWEST - 8, NEWEST - 5)]
    assert harness.feed.missing(1, 16) == [((NEWEST - 8) * MINUTE_NS, (NEWEST - 5) * MINUTE_NS)]
    await harness.fill()
    assert harness.venue.asked == [((NEWEST - 8) * MINUTE_NS, (NEWEST - 5) * MINUTE_NS)]
    assert harness.filled == [NEWEST - 8, NEWEST - 7, NEWEST - 6], "the sampler hears of it"
    assert harness.numbers() == list(range(NEWEST - 20, NEWEST))
    assert harness.rows()["provenance"].to_list()[12:15] == [Provenance.BACKFILLED] * 3


async def test_bar_that_turns_out_to_lack_something_leaves_the_store_until_the_venue_has_told_it(tmp_path: Path):
    harness = Harness(tmp_path, FakeVenue(ALL), depth=5)
    harness.live.tell(told_rows(range(NEWEST - 5, NEWEST)))
    await harness.feed.flush()
    harness.live.tell(told_rows([NEWEST - 3], BarState.MISSING))
    await harness.feed.flush()
    assert NEWEST - 3 not in harness.numbers()
    await harness.fill()
    assert harness.numbers() == list(range(NEWEST - 5, NEWEST))
    harness.live.tell(told_rows([NEWEST - 3], BarState.MISSING))  # a successor reads it in the segment once more
    await harness.feed.flush()
    assert harness.numbers() == list(range(NEWEST - 5, NEWEST)), "the venue has told it already"


async def test_first_run_writes_everything_the_second_what_is_new_the_third_nothing(tmp_path: Path):
    """C4, R64."""
    first = Harness(tmp_path, FakeVenue(ALL), depth=30)
    await first.fill()
    assert first.feed.bars == 30
    second = Harness(tmp_path, FakeVenue(ALL), depth=35)
    second.live.tell(told_rows([NEWEST]))
    second.live.until += MINUTE_NS
    await second.fill()
    assert second.feed.bars == 6
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    third = Harness(tmp_path, FakeVenue(ALL), depth=35)
    third.live.tell(told_rows([NEWEST]))
    third.live.until += MINUTE_NS
    await third.fill()
    assert third.feed.bars == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == before


async def test_stored_history_is_there_before_anything_is_asked_for(tmp_path: Path):
    """B13, B14, C2, R60: what is stored, and the newest page, can be read while the middle is being filled."""
    first = Harness(tmp_path, FakeVenue(ALL), depth=100)
    first.live.until -= 50 * MINUTE_NS
    await first.fill()
    harness = Harness(tmp_path, FakeVenue(ALL), depth=100)
    harness.feed._begin_ns = (NEWEST - 200) * MINUTE_NS
    await harness.feed.flush()
    assert len(harness.rows()) == 50
    piece = harness.feed.next_piece()
    assert piece is not None
    await harness.feed._fetch(piece)
    assert harness.numbers()[-1] == NEWEST - 1
    assert len(harness.rows()) == 60


async def test_times_are_the_venues_own_wherever_this_machine_is(tmp_path: Path, monkeypatch):
    """R63."""
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        harness = Harness(tmp_path, FakeVenue(ALL), depth=3)
        await harness.fill()
    finally:
        monkeypatch.undo()
        os.environ.pop("TZ", None) if "TZ" not in os.environ else None
        time.tzset()
    assert harness.numbers() == [NEWEST - 3, NEWEST - 2, NEWEST - 1]


async def test_range_that_somebody_wants_is_noted_down_and_outlives_a_restart(tmp_path: Path):
    first = Harness(tmp_path, FakeVenue(ALL), depth=10)
    await first.fill()
    wanted = ((NEWEST - 50) * MINUTE_NS, (NEWEST - 40) * MINUTE_NS)
    assert await first.feed.want(1, 16, *wanted) == [wanted]
    second = Harness(tmp_path, FakeVenue(ALL), depth=10)
    await second.fill()
    assert second.venue.asked == [wanted]
    assert second.numbers() == [*range(NEWEST - 50, NEWEST - 40), *range(NEWEST - 10, NEWEST)]


async def test_damaged_file_is_found_and_asked_for_again(tmp_path: Path):
    harness = Harness(tmp_path, FakeVenue(ALL), depth=30)
    await harness.fill()
    for path in tmp_path.rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:1000])
    await harness.feed.tend(verify=True)
    assert harness.feed.missing(1, 16) == [((NEWEST - 30) * MINUTE_NS, NEWEST * MINUTE_NS)]
    await harness.fill()
    assert harness.numbers() == list(range(NEWEST - 30, NEWEST))


async def test_stored_bars_are_compared_with_the_venues_own_and_what_differs_is_told_and_replaced(tmp_path: Path):
    harness = Harness(tmp_path, FakeVenue(ALL, limit=100), depth=100)
    await harness.fill()
    with harness.store.writer(Series(FQME, "1m")) as writer:
        rows = harness.rows()
        writer.write(rows[20:50].with_columns(pl.col("close") + 0.25), OnOverlap.REPLACE)
    for _ in range(60):
        await harness.feed.verify()
    assert harness.feed.verified > 60
    assert harness.feed.differing == 30
    assert harness.rows().drop("provenance").equals(rows.drop("provenance"))


async def test_series_that_another_process_writes_is_waited_for(tmp_path: Path, autojump_clock):
    harness = Harness(tmp_path, FakeVenue(ALL), depth=5)
    harness.live.tell(told_rows([NEWEST - 1]))
    with harness.store.writer(Series(FQME, "1m")):
        await harness.feed.flush()
    assert harness.numbers() == []
    await harness.fill(look_s=1.0)
    assert harness.numbers() == list(range(NEWEST - 5, NEWEST))


async def test_each_page_is_on_disk_before_the_next_is_asked_for(tmp_path: Path):
    """C14: who kills us between two pages loses nothing that came."""
    harness = Harness(tmp_path, FakeVenue(ALL), depth=40)
    whole = harness.venue.ask
    seen = []

    async def ask(page):
        seen.append(len(harness.rows()))
        return await whole(page)

    harness.feed._ask = ask
    await harness.fill()
    assert seen == [0, 10, 20, 30]


async def test_each_page_tells_how_long_the_venue_and_the_disk_took(tmp_path: Path):
    """C17."""
    harness = Harness(tmp_path, FakeVenue(ALL), depth=10)
    said = []
    harness.feed._log = SimpleNamespace(debug=lambda event, **fields: said.append(fields | {"event": event}))
    await harness.fill()
    [page] = [entry for entry in said if entry["event"] == "backfill.page"]
    assert page["bars"] == 10
    assert page["asked_ms"] >= 0
    assert page["kept_ms"] > 0


async def test_bars_go_to_disk_as_they_come_out(tmp_path: Path):
    """C15: with nothing asked of any venue."""
    harness = Harness(tmp_path, FakeVenue(()), depth=0)
    for number in range(NEWEST - 3, NEWEST):
        harness.live.tell(told_rows([number]))
        await harness.feed.flush()
        assert harness.numbers()[-1] == number
    assert not harness.venue.asked


async def test_only_instruments_that_the_feed_has_validated_are_asked_for(tmp_path: Path):
    """R68: by the names in its table."""
    harness = Harness(tmp_path, FakeVenue(ALL), depth=5)
    harness.live.table.count = 0
    await harness.feed.flush()
    assert harness.feed.next_piece() is None
    harness.live.table.count = 1
    await harness.fill()
    assert harness.numbers() == list(range(NEWEST - 5, NEWEST))


# --- the pure parts ---------------------------------------------------------------------------------------


def test_of_each_bar_the_one_that_was_told_last_counts():
    rows = np.concatenate([told_rows([5, 6]), told_rows([5]), told_rows([4])])
    rows["volume"] = [1, 2, 3, 4]
    rows["instrument"][3] = 2
    found = newest_of_each(rows)
    assert found[["instrument", "volume"]].tolist() == [(1, 3.0), (1, 2.0), (2, 4.0)]
    assert len(newest_of_each(np.zeros(0, BAR))) == 0


def test_flat_bars_are_stored_as_such():
    """D7: from the sampler's rows to a frame."""
    rows = told_rows([1, 2, 3])
    rows["flags"][1] = Flag.SYNTHETIC
    rows["state"][2] = BarState.REVISED
    assert told_frame(rows)["provenance"].to_list() == [
        Provenance.OBSERVED,
        Provenance.SYNTHETIC,
        Provenance.REVISED,
    ]


def test_frame_of_no_bars_has_all_columns():
    assert page_frame([]).columns == page_frame([bar(1)]).columns


def test_needed_is_what_nobody_looked_at_and_what_is_marked_as_missing_however_old():
    minute = MINUTE_NS
    held = mark((), [(100 * minute, 120 * minute)], State.COMPLETE, Provenance.OBSERVED)
    held = mark(held, [(10 * minute, 12 * minute)], State.MISSING, Provenance.OBSERVED)
    held = mark(held, [(20 * minute, 22 * minute)], State.COMPLETE, Provenance.IMPORTED)
    held = mark(held, [(30 * minute, 31 * minute), (105 * minute, 107 * minute)], State.UNVERIFIED, Provenance.OBSERVED)
    found = needed(held, 90 * minute, 130 * minute + 5, minute, beyond=[(125 * minute, 126 * minute)])
    minutes = [(start // minute, end // minute) for start, end in found]
    assert minutes == [(10, 12), (30, 31), (90, 100), (105, 107), (120, 125), (126, 130)]


def test_page_before_the_range_answers_all_of_it_and_one_after_it_nothing():
    asked = (10 * MINUTE_NS, 20 * MINUTE_NS)

    def of(*numbers: int, settled: int = 100) -> tuple[list[int], tuple[int, int] | None]:
        found = settle(asked, [bar(number) for number in numbers], MINUTE_NS, settled * MINUTE_NS + 1)
        span = None if found.span is None else (found.span[0] // MINUTE_NS, found.span[1] // MINUTE_NS)
        return [row[0] // MINUTE_NS for row in found.bars], span

    assert of(8, 9) == ([], (10, 20))
    assert of(20, 21) == ([], None)
    assert of(9, 15) == ([15], (10, 20))
    assert of(15, 19) == ([15, 19], (15, 20))
    assert of() == ([], (10, 20))
    assert of(15, settled=17) == ([15], (15, 17)), "what is recent the venue may have yet"
    assert of(15, 18, settled=17) == ([15, 18], (15, 19))
    assert of(settled=5) == ([], (10, 10))


async def test_a_sampler_that_has_begun_and_told_nothing_yet_keeps_nobody_from_asking(tmp_path: Path):
    """Else whoever asks for a range in the first minute hears that no more of it will come."""
    harness = Harness(tmp_path, FakeVenue(ALL), depth=20)
    harness.live.until = 0
    await harness.feed.flush()
    start_ns = (NEWEST - 50) * MINUTE_NS
    assert await harness.feed.want(1, KIND, start_ns, NEWEST * MINUTE_NS) == [(start_ns, NEWEST * MINUTE_NS)]
    await harness.fill()
    assert harness.numbers() == list(range(NEWEST - 50, NEWEST))


async def test_rows_that_a_killed_writer_left_without_word_are_asked_for_again_and_stay(tmp_path: Path):
    """R55: between the rows and the ledger; nobody says that they are all, so the venue is asked."""
    harness = Harness(tmp_path, FakeVenue(ALL), depth=20)
    await harness.fill()
    [ledger] = tmp_path.rglob("ledger.json")
    ledger.unlink()
    later = Harness(tmp_path, FakeVenue(ALL), depth=20)
    with later.store.writer(Series(FQME, "1m")) as writer:
        writer.trim(((NEWEST - 7) * MINUTE_NS, (NEWEST - 5) * MINUTE_NS))
    assert later.known(State.UNVERIFIED) == [(NEWEST - 20, NEWEST - 7), (NEWEST - 5, NEWEST)]
    await later.fill()
    assert later.known(State.COMPLETE) == [(NEWEST - 20, NEWEST)]
    assert later.numbers() == list(range(NEWEST - 20, NEWEST))


async def test_rows_of_which_the_venue_knows_nothing_are_kept_and_asked_for_once(tmp_path: Path):
    harness = Harness(tmp_path, FakeVenue(ALL), depth=20)
    await harness.fill()
    [ledger] = tmp_path.rglob("ledger.json")
    ledger.unlink()
    later = Harness(tmp_path, FakeVenue(()), depth=20)
    with later.store.writer(Series(FQME, "1m")):
        pass
    await later.fill(patient=False)
    assert later.numbers() == list(range(NEWEST - 20, NEWEST))
    assert later.known(State.UNVERIFIED) == [(NEWEST - 20, NEWEST)]
    assert len(later.venue.asked) <= 3

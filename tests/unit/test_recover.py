"""Bars whose writer was killed in the middle of a change, at any point: what its successor makes of them."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marketd.clock import MILLISECOND_NS, SECOND_NS
from marketd.periods import parse_period
from marketd.ring.bars import BLOCK, SLOT
from marketd.ring.reader import RingReader
from marketd.ring.steps import BarState
from marketd.ring.writer import RingWriter, create_ring
from marketd.sample.bar import WORDS
from marketd.sample.bars import BarSet, Level
from marketd.sample.recover import recover
from tests.bar_model import ModelGap, ModelTrade, rows_of

PERIODS = ("1s", "5s")
KINDS = (16, 17)
INSTRUMENTS = 2
ROWS = 64
BEGIN_NS = 1_700_000_000 * SECOND_NS
END_NS = BEGIN_NS + 60 * SECOND_NS

Told = dict[tuple[int, int, int], np.void]


class Writer:
    """A sampler of one feed, with its segments and its header, as `marketd/sample/feed.py` keeps them."""

    def __init__(self, words: Sequence[np.ndarray], opened: np.ndarray, closed: np.ndarray) -> None:
        levels = [Level(parse_period(name), of) for name, of in zip(PERIODS, words, strict=True)]
        self.bars = BarSet(levels)
        self.bars.opened[:], self.bars.closed[:] = opened, closed
        self.bars.live[:] = 1
        self.bars.admit(INSTRUMENTS)
        self.told: Told = {}

    @classmethod
    def first(cls) -> Writer:
        none = np.zeros(len(PERIODS), np.int64)
        made = cls([np.zeros((1, ROWS, BLOCK, WORDS), np.int64) for _ in PERIODS], none, none)
        for instrument in range(1, INSTRUMENTS + 1):
            made.bars.cover(instrument, BEGIN_NS - SECOND_NS)
        return made

    def take(self, rows: np.ndarray) -> None:
        """Make one whole change, and tell of it."""
        if len(rows):
            self.bars.take(rows)
        self.tell()

    def finish(self) -> None:
        """Let everything be out."""
        self.bars.advance(END_NS)
        self.tell()

    def tell(self) -> None:
        for row in self.bars.changes(1, KINDS):
            self.told[int(row["kind"]), int(row["instrument"]), int(row["number"])] = row

    def words(self) -> list[np.ndarray]:
        return [level.words for level in self.bars.levels]

    def slots(self, level: int, instrument: int) -> dict[int, np.void]:
        """Return the bars of an instrument by number."""
        found = np.ascontiguousarray(self.bars.levels[level].words[0, :, instrument - 1]).view(SLOT).reshape(-1)
        return {int(slot["number"]): slot for slot in found if slot["number"] > 0}


@contextmanager
def ring_of(rows: np.ndarray, *, ring_rows: int = 1024) -> Iterator[RingReader]:
    """Make a tick ring that all these rows were written to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ring"
        create_ring(path, ring_rows)
        writer = RingWriter(path)
        writer.append_block(rows)
        writer.publish()
        reader = RingReader(path, cursor=0)
        try:
            yield reader
        finally:
            reader.close()
            writer.close()


def torn(before: Sequence[np.ndarray], after: Sequence[np.ndarray], rng: random.Random) -> list[np.ndarray]:
    """Mix two moments: each slot is of one or the other, and one was just being written, word by word."""
    mixed = [of.copy() for of in before]
    differing = [
        (level, *at)
        for level, (old, new) in enumerate(zip(before, after, strict=True))
        for at in np.argwhere((old != new).any(axis=-1)).tolist()
    ]
    for level, block, row, lane in differing:
        if rng.random() < 0.5:
            mixed[level][block, row, lane] = after[level][block, row, lane]
    if differing:
        level, block, row, lane = rng.choice(differing)
        for word in range(WORDS):
            source = rng.choice([before, after])
            mixed[level][block, row, lane, word] = source[level][block, row, lane, word]
    return mixed


def kill(writer: Writer, rows: np.ndarray, rng: random.Random) -> list[np.ndarray]:
    """Let a writer die while it takes rows; return its segments' memory."""
    moments = [[of.copy() for of in writer.words()]]
    for cut in range(len(rows)):
        writer.bars.take(rows[cut : cut + 1])
        writer.bars.flush()
        moments.append([of.copy() for of in writer.words()])
    if rng.random() < 0.3:  # in the middle of telling what has changed, before anyone could read it
        writer.bars.changes(1, KINDS)
        moments.append([of.copy() for of in writer.words()])
    at = rng.randrange(len(moments) - 1)
    return torn(moments[at], moments[at + 1], rng)


offsets_ms = st.integers(0, 20_000)
delays_ms = st.one_of(st.integers(0, 400), st.integers(0, 15_000))
prices = st.sampled_from(["1", "2", "3", "4"])


@st.composite
def event_lists(draw, delays=delays_ms):
    found = draw(
        st.lists(
            st.tuples(st.booleans(), st.integers(1, INSTRUMENTS), offsets_ms, delays, prices),
            min_size=2,
            max_size=25,
        )
    )
    events: list[ModelTrade | ModelGap] = []
    for number, (is_gap, instrument, offset_ms, delay_ms, price) in enumerate(found):
        event_ns = BEGIN_NS + offset_ms * MILLISECOND_NS
        received_ns = event_ns + delay_ms * MILLISECOND_NS
        if is_gap and delay_ms % 3 == 0:
            events.append(ModelGap(instrument % (INSTRUMENTS + 1), received_ns, event_ns, received_ns))
        else:
            events.append(ModelTrade(instrument, event_ns, received_ns, number, price, "0.1"))
    return sorted(events, key=lambda event: event.received_ns)


class Death(NamedTuple):
    """What there is after a writer was killed and its successor has gone on to the end, and had nobody died."""

    found: Writer
    undisturbed: Writer


def die_and_go_on(rows: np.ndarray, applied: int, applying: int, rng: random.Random, *, ring_rows: int = 1024) -> Death:
    undisturbed = Writer.first()
    for part in (rows[:applied], rows[applied:applying], rows[applying:]):
        undisturbed.take(part)
    undisturbed.finish()

    first = Writer.first()
    first.take(rows[:applied])
    opened, closed = first.bars.opened.copy(), first.bars.closed.copy()
    memory = kill(first, rows[applied:applying], rng)
    second = Writer(memory, opened, closed)
    second.told = dict(first.told)
    with ring_of(rows, ring_rows=ring_rows) as ring:
        recover(second.bars, ring, applied, applying)
    second.tell()
    second.take(rows[applying:])
    second.finish()
    return Death(second, undisturbed)


def check(death: Death) -> None:
    for level, instrument in itertools.product(range(len(PERIODS)), range(1, INSTRUMENTS + 1)):
        compare(death.found.slots(level, instrument), death.undisturbed.slots(level, instrument))
        check_told(death.found, level, instrument)


@given(event_lists(), st.randoms(use_true_random=False))
def test_after_a_death_at_any_point_every_bar_is_as_if_nothing_had_happened_or_missing(events, rng):
    rows = rows_of(events)
    applied = rng.randrange(len(rows))
    check(die_and_go_on(rows, applied, rng.randrange(applied + 1, len(rows) + 1), rng))


@given(event_lists(), st.randoms(use_true_random=False))
def test_nothing_is_missing_while_the_ring_holds_the_ticks(events, rng):
    """But for what was missing before."""
    early_ns = BEGIN_NS - 20 * SECOND_NS
    early = [ModelTrade(instrument, early_ns, early_ns, 0, "1", "1") for instrument in range(1, INSTRUMENTS + 1)]
    rows = rows_of([*early, *events])
    applied = rng.randrange(len(early), len(rows))
    death = die_and_go_on(rows, applied, rng.randrange(applied + 1, len(rows) + 1), rng)
    check(death)
    for level, instrument in itertools.product(range(len(PERIODS)), range(1, INSTRUMENTS + 1)):
        expected = death.undisturbed.slots(level, instrument)
        for number, bar in death.found.slots(level, instrument).items():
            assert is_broken(bar) == is_broken(expected[number])


@given(event_lists(delays=st.integers(0, 400)), st.randoms(use_true_random=False))
def test_where_the_ring_does_not_reach_back_bars_are_missing_and_not_wrong(events, rng):
    """It holds the ticks in doubt, perhaps, but not all of their bars.

    Of ticks that came later than is allowed and that nobody has any more, nobody can say which bars they were of.
    """
    rows = rows_of(events)
    applied = max(0, len(rows) - rng.randrange(1, 12))
    check(die_and_go_on(rows, applied, rng.randrange(applied + 1, len(rows) + 1), rng, ring_rows=8))


def test_ticks_in_doubt_that_nobody_has_any_more_leave_a_gap_of_the_whole_feed():
    trades = [
        ModelTrade(n % 2 + 1, BEGIN_NS + n * SECOND_NS // 4, BEGIN_NS + n * SECOND_NS // 4, n, "1", "1")
        for n in range(40)
    ]
    rows = rows_of(trades)
    first = Writer.first()
    first.take(rows[:20])
    opened, closed = first.bars.opened.copy(), first.bars.closed.copy()
    memory = kill(first, rows[20:24], random.Random(1))
    second = Writer(memory, opened, closed)
    with ring_of(rows, ring_rows=8) as ring:
        recover(second.bars, ring, 20, 24)
    second.finish()
    for instrument in (1, 2):
        states = {number - BEGIN_NS // SECOND_NS: slot["state"] for number, slot in second.slots(0, instrument).items()}
        assert {states[n] for n in range(4)} == {BarState.CLOSED}
        assert {states[n] for n in range(5, 10)} == {BarState.MISSING}


def compare(found: dict[int, np.void], expected: dict[int, np.void]) -> None:
    """Hold every bar against the one that would be there had nobody died.

    From the first trade on all are there; whose first trades are lost for good has no bars before the next.
    """
    first = min((number for number, bar in found.items() if bar["trade_count"]), default=END_NS)
    assert all(number < first for number in expected.keys() - found.keys())
    for number, bar in found.items():
        if is_broken(bar):
            continue
        other = expected[number]
        assert not is_broken(other), "a broken bar that nobody would know of"
        assert (bar["state"] == BarState.FORMING) == (other["state"] == BarState.FORMING)
        for name in (*SLOT.names[:-2], "flags"):
            assert bar[name] == other[name] or (np.isnan(bar[name]) and np.isnan(other[name])), (name, bar, other)


def is_broken(bar: np.void) -> bool:
    """Whether a bar is missing, or will be."""
    return bool(bar["state"] == BarState.MISSING or bar["gap_ns"] != 0 or np.isnan(bar["close"]))


def check_told(writer: Writer, level: int, instrument: int) -> None:
    """Whoever keeps the newest row of each bar has what is in the memory."""
    for number, slot in writer.slots(level, instrument).items():
        if slot["state"] == BarState.FORMING:
            continue
        row = writer.told[KINDS[level], instrument, number]
        assert row["state"] == slot["state"]
        for name in ("open", "high", "low", "close", "trade_count", "first_id", "last_id", "flags"):
            assert row[name] == slot[name] or (np.isnan(row[name]) and np.isnan(slot[name])), (name, row, slot)

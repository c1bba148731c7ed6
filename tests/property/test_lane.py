"""Where one connection ends and the next goes on: each trade once, in order, and no hole without a gap row."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import given

from marketd.feed.lane import Lane
from marketd.feed.qualities import Qualities
from marketd.feed.tracks import Tracks
from marketd.model import GapReason, Kind, Quality
from marketd.ring.layout import Row
from tests.fake_venue import BASE_NS, market, quote_row, trade_row
from tests.fakes import ListSink

KINDS = frozenset({Kind.TRADE, Kind.QUOTE, Kind.LEVEL})
MS = 10**6


def now(step: int) -> int:
    return BASE_NS + step * MS


@dataclass
class World:
    """A venue whose events go to two connections, each in order, at paces of their own."""

    instruments: int = 2
    step_of_ids: int = 1
    sink: ListSink = field(default_factory=ListSink)

    def __post_init__(self) -> None:
        self.tracks = Tracks(self.sink, Qualities(self.sink))
        for number in range(self.instruments):
            self.sink.instrument(market(f"X{number}"))

    def lane(self, *, succeeds: bool = False) -> Lane:
        numbers = frozenset(range(1, self.instruments + 1))
        before = numbers if succeeds else frozenset()
        lane = Lane(self.sink, self.tracks, KINDS, contiguous=self.step_of_ids == 1, succeeds=before)
        for instrument in numbers:
            lane.join(instrument)
        return lane

    def events(self, kinds: list[tuple[int, str]]) -> list[tuple]:
        """Rows in the venue's order, with ids of each instrument's own."""
        numbers: dict[tuple[int, str], int] = {}
        rows = []
        for step, (instrument, kind) in enumerate(kinds):
            number = numbers[instrument, kind] = numbers.get((instrument, kind), 0) + self.step_of_ids
            make = trade_row if kind == "trade" else quote_row
            rows.append(make(instrument, number, now(step)))
        return rows

    def ids(self, instrument: int, kind: Kind = Kind.TRADE) -> list[int]:
        return [row[2] for row in self.sink.rows if row[3] == instrument and row[4] == kind]


EVENTS = st.lists(st.tuples(st.integers(1, 2), st.sampled_from(["trade", "trade", "quote"])), max_size=60)


@given(EVENTS, st.data(), st.sampled_from([1, 3]))
def test_any_interleaving_of_two_connections_gives_each_trade_once_and_in_order(kinds, data, step_of_ids):
    """R46: the old connection brings the events up to some point, the new one those from another; both in order.

    The new one is acked at some point in the venue's time, and has every event after it. It takes over once that is
    proven and some time has passed, as the shard does; then nobody listens to the old one any more. Some time means
    that the old one has got as far as the ack, or, if it lags behind, that trades of all instruments prove it.
    """
    world = World(step_of_ids=step_of_ids)
    events = world.events(kinds)
    old, new = world.lane(), None
    for instrument in (1, 2):
        old.acked(instrument, now(0))
    acked_at = data.draw(st.integers(0, len(events)))
    lags = data.draw(st.booleans())
    old_at = new_at = 0
    taken_over = False
    while (new_at if taken_over else old_at) < len(events):
        moves = (["old"] if old_at < len(events) and not taken_over else []) + (
            ["new"] if new is not None and new_at < len(events) else []
        )
        if new is None and (lags or old_at >= acked_at):
            new = world.lane(succeeds=True)
            new_at = acked_at
            for instrument in (1, 2):
                new.acked(instrument, now(acked_at))
            continue
        move = data.draw(st.sampled_from(moves)) if moves else None
        if move == "old":
            old.append(events[old_at])
            old_at += 1
        elif move == "new":
            new.append(events[new_at])
            new_at += 1
        if new is None or taken_over:
            continue
        traded = {row[3] for row in events[acked_at:new_at] if row[4] == Kind.TRADE}
        if (old_at >= acked_at or traded == {1, 2}) and new.proven() and data.draw(st.booleans()):
            new.take_over(old, ended=None, heard_ns=now(old_at), now_ns=now(old_at))
            taken_over = True
    if new is not None and not taken_over:
        new.take_over(old, ended=None, heard_ns=now(old_at), now_ns=now(old_at))
    for instrument in (1, 2):
        assert world.ids(instrument) == [row[2] for row in events if row[3] == instrument and row[4] == Kind.TRADE]
        if not lags:
            numbers = world.ids(instrument, Kind.QUOTE)
            assert numbers == [row[2] for row in events if row[3] == instrument and row[4] == Kind.QUOTE]
    assert world.sink.gaps == []


@given(EVENTS, st.data(), st.sampled_from([1, 3]))
def test_connection_that_dies_in_the_overlap_leaves_no_hole_without_a_gap_row(kinds, data, step_of_ids):
    """The old one stops anywhere; what nobody brought lies in a gap row of its instrument."""
    world = World(step_of_ids=step_of_ids)
    events = world.events(kinds)
    old, new = world.lane(), world.lane(succeeds=True)
    for instrument in (1, 2):
        old.acked(instrument, now(0))
    acked_at, dies_at = data.draw(st.integers(0, len(events))), data.draw(st.integers(0, len(events)))
    for row in events[:dies_at]:
        old.append(row)
    for instrument in (1, 2):
        new.acked(instrument, now(acked_at))
    held = data.draw(st.integers(acked_at, len(events)))
    for row in events[acked_at:held]:
        new.append(row)
    heard_ns = now(dies_at)
    new.take_over(old, ended=GapReason.DISCONNECT, heard_ns=heard_ns, now_ns=max(heard_ns, now(held)))
    for row in events[held:]:
        new.append(row)
    for instrument in (1, 2):
        expected = [row for row in events if row[3] == instrument and row[4] == Kind.TRADE]
        got = world.ids(instrument)
        assert got == sorted(set(got)), "each once, in order"
        gaps = [(row[7], row[8]) for row in world.sink.gaps if row[3] == instrument]
        for row in expected:
            if row[2] not in got:
                assert any(from_ns <= row[0] <= to_ns for from_ns, to_ns in gaps), (row, gaps)


@given(EVENTS, st.data())
def test_reconnect_with_a_replay_of_recent_trades_doubles_none(kinds, data):
    """A venue that begins with a snapshot of what was before: the known is dropped, the missing lies in the gap."""
    world = World()
    events = world.events(kinds)
    lost_at = data.draw(st.integers(0, len(events)))
    back_at = data.draw(st.integers(0, len(events)))
    first = world.lane()
    for instrument in (1, 2):
        first.acked(instrument, now(0))
    for row in events[:lost_at]:
        first.append(row)
    for instrument in (1, 2):
        world.tracks.begin_outage(instrument, GapReason.DISCONNECT, now(lost_at), now(lost_at))
    second = world.lane()
    for number, row in enumerate(events[back_at:]):
        if number == 3:
            for instrument in (1, 2):
                second.acked(instrument, now(max(back_at, lost_at)))
        second.append(row)
    for instrument in (1, 2):
        second.acked(instrument, now(len(events)))
        got = world.ids(instrument)
        assert got == sorted(set(got))
        (gap,) = [row for row in world.sink.gaps if row[3] == instrument]
        for row in events:
            if row[3] == instrument and row[4] == Kind.TRADE and row[2] not in got:
                assert gap[7] <= row[0] <= gap[8]


# --- single rules ------------------------------------------------------------------------------------------


def outage_world() -> tuple[World, Lane]:
    """One instrument with a trade 5, a lost connection, and a new lane."""
    world = World(instruments=1)
    lane = world.lane()
    lane.acked(1, now(0))
    lane.append(trade_row(1, 5, now(5)))
    world.tracks.begin_outage(1, GapReason.DISCONNECT, now(9), now(10))
    return world, world.lane()


def test_gap_row_comes_before_the_rows_after_it():
    """Rows before the ack are held back: a reader that sees them has been told of the hole."""
    world, lane = outage_world()
    lane.append(trade_row(1, 8, now(19)))
    assert len(world.sink.data) == 1
    lane.acked(1, now(20))
    lane.append(trade_row(1, 9, now(21)))
    kinds = [row[4] for row in world.sink.rows if row[4] != Kind.STATUS]
    assert kinds == [Kind.TRADE, Kind.GAP, Kind.TRADE, Kind.TRADE]
    gap = world.sink.gaps[0]
    assert gap[7:10] == (now(5), now(20), GapReason.DISCONNECT)


def test_gap_of_a_quiet_instrument_does_not_begin_hours_ago():
    """The connection lived until a moment ago, so nothing was missing before."""
    world, _ = World(instruments=1), None
    lane = world.lane()
    lane.acked(1, now(0))
    lane.append(trade_row(1, 5, now(0)))
    hour = 3600 * 1000
    world.tracks.begin_outage(1, GapReason.DISCONNECT, now(hour), now(hour))
    assert now(hour) - 61 * 10**9 < world.tracks.outages[1].from_ns < now(hour)


def test_second_loss_does_not_shorten_the_gap():
    """Attempts that fail belong to the same outage."""
    world, _ = outage_world()
    world.tracks.begin_outage(1, GapReason.STALE, now(100), now(100))
    world.lane().acked(1, now(200))
    assert world.sink.gaps[0][7:10] == (now(5), now(200), GapReason.DISCONNECT)


def test_hole_in_contiguous_ids_at_a_handover_is_a_gap_row_with_its_count():
    """The last resort: a handover that was forced."""
    world = World(instruments=1)
    old, new = world.lane(), world.lane(succeeds=True)
    old.acked(1, now(0))
    old.append(trade_row(1, 5, now(5)))
    new.acked(1, now(6))
    new.take_over(old, ended=None, heard_ns=now(7), now_ns=now(7))
    new.append(trade_row(1, 8, now(8)))
    (gap,) = world.sink.gaps
    assert gap[7:] == (now(5), now(8), GapReason.SEQUENCE, 2)


def test_successor_is_unproven_while_its_first_trade_is_ahead():
    """The old connection may still bring what lies between."""
    world = World(instruments=1)
    old, new = world.lane(), world.lane(succeeds=True)
    for lane in (old, new):
        lane.acked(1, now(0))
    old.append(trade_row(1, 5, now(5)))
    new.append(trade_row(1, 8, now(8)))
    assert not new.proven()
    old.append(trade_row(1, 6, now(6)))
    assert not new.proven()
    old.append(trade_row(1, 7, now(7)))
    assert new.proven()


def test_muted_connection_writes_nothing_at_all():
    """Neither rows nor gap rows nor qualities."""
    world = World(instruments=1)
    old = world.lane()
    old.mute()
    old.append(trade_row(1, 5, now(5)))
    old.gap(1, GapReason.MALFORMED, now(1), now(2))
    old.quality(1, Quality.CLOSED)
    assert world.sink.rows == []
    assert world.sink.qualities == []


def test_gap_row_of_the_successor_that_the_old_connection_has_healed_is_dropped():
    """The hole was on one connection only."""
    world = World(instruments=1)
    old, new = world.lane(), world.lane(succeeds=True)
    for lane in (old, new):
        lane.acked(1, now(0))
    new.append(trade_row(1, 1, now(1)))
    new.gap(1, GapReason.SEQUENCE, now(1), now(3), 1)
    new.append(trade_row(1, 3, now(3)))
    for number in (1, 2, 3):
        old.append(trade_row(1, number, now(number)))
    new.take_over(old, ended=None, heard_ns=now(4), now_ns=now(4))
    assert world.ids(1) == [1, 2, 3]
    assert world.sink.gaps == []


def test_what_is_held_back_is_bounded(monkeypatch):
    """An ack that never comes must not fill the memory."""
    monkeypatch.setattr("marketd.feed.lane.HELD_ROWS_MAX", 10)
    world, lane = outage_world()
    for number in range(6, 40):
        lane.append(trade_row(1, number, now(number)))
    assert world.ids(1) == list(range(5, 40))
    assert len(world.sink.gaps) == 1


def test_venue_that_counts_anew_after_an_outage_is_believed():
    """Smaller ids at a later time are new trades."""
    world, lane = outage_world()
    lane.acked(1, now(20))
    lane.append(trade_row(1, 1, now(21)))
    lane.append(trade_row(1, 2, now(22)))
    assert world.ids(1) == [5, 1, 2]


def test_quality_follows_the_outage_and_readers_are_told():
    """A change of quality is a row as well."""
    world, lane = outage_world()
    assert world.sink.qualities[-1] == (1, Quality.GAP)
    lane.acked(1, now(20))
    assert world.sink.qualities[-1] == (1, Quality.OK)
    assert len(world.sink.of_kind(Kind.STATUS)) == 2


@pytest.mark.parametrize("reason", list(GapReason))
def test_every_reason_makes_some_quality_other_than_ok(reason):
    """Whatever is missing, it is not ok."""
    world = World(instruments=1)
    world.tracks.begin_outage(1, reason, 0, now(1))
    assert world.sink.qualities[-1][1] is not Quality.OK


def test_book_of_a_successor_takes_the_place_of_the_one_before():
    """It begins anew, older than where the first had got to, and all of it goes through."""
    world = World(instruments=1)
    old, new = world.lane(), world.lane(succeeds=True)
    old.acked(1, now(0))
    for step in range(3):
        old.append(level_row(step, price=100.0 + step))
    for step in (1, 2, 4):
        new.append(level_row(step, price=200.0 + step))
    new.acked(1, now(4))
    assert len(world.sink.rows) == 3
    new.take_over(old, ended=None, heard_ns=now(4), now_ns=now(5))
    assert [row[7] for row in world.sink.rows] == [100.0, 101.0, 102.0, 201.0, 202.0, 204.0]


def test_gap_begins_with_the_kind_that_spoke_longest_ago_where_there_are_levels_too():
    world = World(instruments=1)
    lane = world.lane()
    lane.acked(1, now(0))
    lane.append(quote_row(1, 1, now(1)))
    lane.append(level_row(7, price=100.0))
    world.tracks.begin_outage(1, GapReason.CHECKSUM, now(9), now(9))
    assert world.sink.qualities[-1] == (1, Quality.RESYNCING)
    world.tracks.end_outage(1, now(10))
    assert [row[7:10] for row in world.sink.gaps] == [(now(1), now(10), GapReason.CHECKSUM)]


def level_row(step: int, *, price: float) -> Row:
    return (now(step), now(step), 0, 1, int(Kind.LEVEL), 1, 1, price, 1.0, 0.0, 0.0)

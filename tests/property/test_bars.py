"""Bars, whatever comes in whatever order: held against a definition of them that is written down separately."""

from __future__ import annotations

import itertools
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.clock import MILLISECOND_NS, SECOND_NS
from marketd.periods import parse_period
from marketd.ring.bars import SLOT
from marketd.ring.steps import BarState
from marketd.sample.bar import CHANGED, NUMBER, STATE, split_volume, volume_of
from marketd.sample.bars import BarSet, private_level
from tests.bar_model import ModelGap, ModelTrade, bars_of, rows_of

PERIODS = ("1s", "5s", "15s", "1m")
BEGIN_NS = 1_700_000_000 * SECOND_NS  # a multiple of 5 s but not of 15 s
END_NS = BEGIN_NS + 200 * SECOND_NS
INSTRUMENTS = 3
ROWS = 400

prices = st.integers(1, 500).map(lambda cents: str(Decimal(cents) / 100))
sizes = st.integers(1, 10**9).map(lambda units: str(Decimal(units).scaleb(-8)))
offsets_ms = st.integers(0, 90_000)
delays_ms = st.integers(0, 400)


@st.composite
def trade_sets(draw, delays=delays_ms):
    found = draw(
        st.lists(st.tuples(st.integers(1, INSTRUMENTS), offsets_ms, delays, prices, sizes), min_size=1, max_size=60)
    )
    trades = []
    for number, (instrument, offset_ms, delay_ms, price, size) in enumerate(found):
        event_ns = BEGIN_NS + offset_ms * MILLISECOND_NS
        trades.append(ModelTrade(instrument, event_ns, event_ns + delay_ms * MILLISECOND_NS, number, price, size))
    return trades


@st.composite
def gap_sets(draw):
    found = draw(st.lists(st.tuples(st.integers(1, INSTRUMENTS), offsets_ms, st.integers(0, 20_000)), max_size=3))
    return [
        ModelGap(instrument, end, end - length_ms * MILLISECOND_NS, end)
        for instrument, offset_ms, length_ms in found
        for end in [BEGIN_NS + (offset_ms + length_ms) * MILLISECOND_NS]
    ]


def make(periods=PERIODS, lateness_ns=500 * MILLISECOND_NS):
    bars = BarSet([private_level(parse_period(p), ROWS, INSTRUMENTS) for p in periods], lateness_ns=lateness_ns)
    bars.live[:] = 1
    bars.admit(INSTRUMENTS)
    for instrument in range(1, INSTRUMENTS + 1):
        bars.cover(instrument, BEGIN_NS - SECOND_NS)
    return bars


def in_time(events):
    return sorted(events, key=lambda event: event.received_ns)


def play(events, cuts=(), periods=PERIODS):
    bars = make(periods)
    rows = rows_of(events)
    for begin, end in itertools.pairwise([0, *sorted(cut % (len(rows) + 1) for cut in cuts), len(rows)]):
        bars.take(rows[begin:end])
    bars.advance(END_NS)
    bars.flush()
    return bars


def slots(bars, level, instrument):
    return words(bars, level, instrument).view(SLOT).reshape(-1)


def words(bars, level, instrument):
    block, lane = divmod(instrument - 1, 8)
    found = bars.levels[level].words[block, :, lane]
    found = found[found[:, NUMBER] > 0]
    return found[np.argsort(found[:, NUMBER])]


def contents(bars):
    """Everything there is, but for what is listed as changed."""
    found = [words(bars, level, instrument) for level in range(4) for instrument in range(1, INSTRUMENTS + 1)]
    for bar in found:
        bar[:, STATE] &= CHANGED - 1
    return [bar.tolist() for bar in found]


def values(bars):
    """What must not depend on the order: all but the states."""
    return [[bar[:STATE] for bar in series] for series in contents(bars)]


@given(trade_sets(), gap_sets())
def test_bars_are_what_they_are_defined_to_be(trades, gaps):
    """Every period, made in one pass, equals its bars made directly from the trades."""
    check_all(play(in_time([*trades, *gaps])), trades, gaps)


def check_all(bars, trades, gaps):
    for level, instrument in itertools.product(range(4), range(1, INSTRUMENTS + 1)):
        period_ns = parse_period(PERIODS[level]).period_ns
        mine = [trade for trade in trades if trade.instrument == instrument]
        mine_gaps = [gap for gap in gaps if gap.instrument == instrument]
        last = (END_NS) // period_ns
        expected = bars_of(mine, mine_gaps, period_ns, BEGIN_NS - SECOND_NS, last)
        found = slots(bars, level, instrument)
        assert found["number"].tolist() == list(expected)
        for slot in found:
            check(slot, expected[int(slot["number"])])


def check(slot, bar):
    for name in ("open", "high", "low", "close"):
        value = getattr(bar, name)
        assert slot[name] == value or (value is None and np.isnan(slot[name])), (slot, bar)
    volume = Decimal(int(slot["volume_whole"])) + Decimal(int(slot["volume_frac"])).scaleb(-15)
    assert volume == bar.volume
    assert volume_of(int(slot["volume_whole"]), int(slot["volume_frac"])) == float(bar.volume)
    assert slot["trade_count"] == bar.trade_count
    if slot["state"] != BarState.FORMING:
        assert (slot["state"] != BarState.MISSING) == bar.whole, (slot, bar)


@given(trade_sets(delays=st.integers(0, 60_000)), gap_sets(), st.randoms())
def test_order_of_arrival_changes_no_value(trades, gaps, random):
    """However late something is. Only the states tell of it."""
    expected = values(play(in_time([*trades, *gaps])))
    shuffled = [*trades, *gaps]
    random.shuffle(shuffled)
    late_ns = BEGIN_NS + 190 * SECOND_NS
    assert values(play([event._replace(received_ns=late_ns) for event in shuffled])) == expected


@given(trade_sets(), st.randoms())
def test_order_within_the_lateness_that_is_allowed_changes_no_state_either(trades, random):
    bars = play(in_time(trades))
    delayed = [
        trade._replace(received_ns=trade.event_ns + random.randrange(0, 400) * MILLISECOND_NS) for trade in trades
    ]
    assert contents(play(in_time(delayed))) == contents(bars)


@given(trade_sets(delays=st.integers(0, 5_000)), gap_sets(), st.lists(st.integers(0, 200), max_size=8))
def test_splitting_the_input_into_any_batches_changes_nothing(trades, gaps, cuts):
    events = in_time([*trades, *gaps])
    assert contents(play(events, cuts)) == contents(play(events))


@given(trade_sets(delays=st.integers(0, 5_000)), st.lists(st.integers(0, 200), max_size=4))
def test_changes_tell_the_final_state_of_every_bar_that_is_out(trades, cuts):
    """Whoever keeps the newest row of each bar has what the levels have."""
    bars, rows = make(), rows_of(in_time(trades))
    known = {}
    for begin, end in itertools.pairwise([0, *sorted(cut % (len(rows) + 1) for cut in cuts), len(rows)]):
        bars.take(rows[begin:end])
        known |= {(r["kind"], r["instrument"], r["number"]): r for r in bars.changes(1, range(16, 20))}
    bars.advance(END_NS)
    known |= {(r["kind"], r["instrument"], r["number"]): r for r in bars.changes(1, range(16, 20))}
    for level, instrument in itertools.product(range(4), range(1, INSTRUMENTS + 1)):
        for slot in slots(bars, level, instrument):
            row = known.get((16 + level, instrument, slot["number"]))
            assert (row is None) == (slot["state"] == BarState.FORMING)
            if row is not None:
                assert (row["state"], row["trade_count"]) == (slot["state"], slot["trade_count"])
                assert row["close"] == slot["close"] or np.isnan(slot["close"])


@given(st.decimals(min_value=0, max_value=10**9, places=6))
@settings(max_examples=300)
def test_volume_survives_the_way_through_a_float(volume):
    assert volume_of(*split_volume(float(volume))) == float(volume)


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=200), st.integers(0, 8))
def test_volume_is_the_exact_decimal_sum(units, digits):
    """Where floats alone would be off: 0.1 + 0.2 is 0.3."""
    trades = [
        ModelTrade(1, BEGIN_NS + n, BEGIN_NS + n, n, "1", str(Decimal(unit).scaleb(-digits)))
        for n, unit in enumerate(units)
    ]
    [slot] = slots(play(trades), 0, 1)[:1]
    total = Decimal(sum(units)).scaleb(-digits)
    assert volume_of(int(slot["volume_whole"]), int(slot["volume_frac"])) == float(total)


@pytest.mark.parametrize("volume", [0.1, 0.00027625, 83_179.81, 1e12, 123_456_789.123456, 1e-12])
def test_volume_of_a_single_trade_is_its_size(volume):
    assert volume_of(*split_volume(volume)) == volume


milliseconds = st.integers(0, 9_000)


@given(trade_sets(), st.lists(st.tuples(milliseconds, milliseconds, milliseconds, milliseconds), max_size=4))
def test_bars_are_missing_where_gaps_are_however_late_the_end_of_an_outage_is_seen(trades, outages):
    """The feed says that data comes again some time after it does, and publishes the gap row after that."""
    events: list[tuple[int, bool | ModelTrade | ModelGap]] = [(trade.received_ns, trade) for trade in trades]
    gaps, now_ns = [], BEGIN_NS
    for pause_ms, length_ms, unseen_ms, unpublished_ms in outages:
        from_ns = now_ns + pause_ms * MILLISECOND_NS
        to_ns = from_ns + length_ms * MILLISECOND_NS
        live_ns = to_ns + unseen_ms * MILLISECOND_NS
        now_ns = live_ns + unpublished_ms * MILLISECOND_NS
        gaps.append(ModelGap(1, now_ns, from_ns, to_ns))
        events += [(from_ns, False), (live_ns, True), (now_ns, gaps[-1])]
    bars = make()
    for time_ns, event in sorted(events, key=lambda event: event[0]):
        bars.advance(time_ns)
        if isinstance(event, bool):
            bars.live[1] = event
        else:
            bars.take(rows_of([event]))
    bars.advance(END_NS)
    check_all(bars, trades, gaps)

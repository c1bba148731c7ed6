"""A feed's time: when something came, and up to which event time everything has come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from marketd.clock import MILLISECOND_NS, SECOND_NS
from marketd.model import Kind
from marketd.periods import parse_period
from marketd.sample.bars import BarSet, private_level
from marketd.sample.feed_time import FeedTime
from marketd.sample.kernel import AHEAD_NS, HEARD, NEWEST
from tests.bar_model import ModelGap, ModelTrade, rows_of

LATENESS_NS = 500 * MILLISECOND_NS
BEGIN_NS = 1_700_000_000 * SECOND_NS


def heard(newest_ns: int, at_ns: int) -> FeedTime:
    """A feed that has last had an event of ``newest_ns``, at ``at_ns``."""
    time = FeedTime(LATENESS_NS)
    time.words[NEWEST], time.words[HEARD] = newest_ns, at_ns
    time.reach(at_ns)
    return time


def taken(*events: ModelTrade | ModelGap) -> FeedTime:
    """A feed's time after these rows."""
    bars = BarSet([private_level(parse_period("1s"), 8, 1)], lateness_ns=LATENESS_NS)
    bars.take(rows_of(events))
    return bars.time


def trade(event_ns: int, received_ns: int) -> ModelTrade:
    return ModelTrade(1, event_ns, received_ns, 1, "1", "1")


def test_nothing_is_known_at_first():
    time = FeedTime(LATENESS_NS)
    assert (time.now_ns, time.watermark_ns) == (0, 0)


def test_watermark_is_the_newest_event_less_the_lateness():
    event_ns = BEGIN_NS + 300 * MILLISECOND_NS
    time = taken(trade(BEGIN_NS, BEGIN_NS), trade(event_ns, event_ns + 100 * MILLISECOND_NS))
    assert time.now_ns == event_ns + 100 * MILLISECOND_NS
    assert time.watermark_ns == event_ns - LATENESS_NS


def test_older_event_moves_no_watermark():
    time = taken(trade(BEGIN_NS, BEGIN_NS), trade(BEGIN_NS - SECOND_NS, BEGIN_NS + 8))
    assert time.now_ns == BEGIN_NS + 8
    assert time.watermark_ns == BEGIN_NS - LATENESS_NS


def test_venue_that_is_slow_but_speaks_is_waited_for():
    """Its events are three seconds behind the clock: the clock says nothing about what has come."""
    time = heard(BEGIN_NS, BEGIN_NS + 3 * SECOND_NS)
    time.reach(BEGIN_NS + 3 * SECOND_NS + LATENESS_NS - 1)
    assert time.watermark_ns == BEGIN_NS - LATENESS_NS


def test_quiet_venue_lets_the_clock_be_the_newest_event():
    time = heard(BEGIN_NS, BEGIN_NS)
    time.reach(BEGIN_NS + LATENESS_NS)
    assert time.watermark_ns == BEGIN_NS
    time.reach(BEGIN_NS + SECOND_NS)
    assert time.watermark_ns == BEGIN_NS + SECOND_NS - LATENESS_NS


def test_gap_is_no_sign_that_the_venue_speaks():
    """It is our own row: a feed that tells of nothing but gaps is quiet."""
    at_ns = BEGIN_NS + LATENESS_NS
    time = taken(trade(BEGIN_NS, BEGIN_NS), ModelGap(1, at_ns, BEGIN_NS, at_ns))
    assert time.watermark_ns == at_ns - LATENESS_NS


def test_clock_that_goes_back_is_not_followed():
    time = heard(BEGIN_NS, BEGIN_NS)
    time.reach(BEGIN_NS + 10 * SECOND_NS)
    watermark_ns = time.watermark_ns
    assert time.reach(BEGIN_NS - 3600 * SECOND_NS) == BEGIN_NS + 10 * SECOND_NS
    assert time.now_ns == BEGIN_NS + 10 * SECOND_NS
    assert time.watermark_ns == watermark_ns


def test_event_from_the_future_says_nothing_of_the_time():
    """Else one trade of next year would close every bar there is."""
    time = taken(trade(BEGIN_NS + 365 * 86_400 * SECOND_NS, BEGIN_NS))
    assert time.watermark_ns == BEGIN_NS + AHEAD_NS - LATENESS_NS


def test_quote_moves_the_watermark_as_a_trade_does():
    rows = rows_of([trade(BEGIN_NS + SECOND_NS, BEGIN_NS + SECOND_NS)]).copy()
    rows["kind"] = Kind.QUOTE
    bars = BarSet([private_level(parse_period("1s"), 8, 1)], lateness_ns=LATENESS_NS)
    bars.take(rows)
    assert bars.time.watermark_ns == BEGIN_NS + SECOND_NS - LATENESS_NS
    assert bars.traded == 0


def test_after_the_end_nothing_is_late():
    time = heard(BEGIN_NS + 5, BEGIN_NS)
    time.finish()
    assert time.watermark_ns == BEGIN_NS + 5


@given(st.lists(st.tuples(st.integers(-5_000, 5_000), st.integers(0, 2_000)), max_size=30))
def test_neither_clock_nor_watermark_ever_goes_back(events: list[tuple[int, int]]):
    bars = BarSet([private_level(parse_period("1s"), 8, 1)], lateness_ns=LATENESS_NS)
    before = (0, 0)
    for offset_ms, delay_ms in events:
        event_ns = BEGIN_NS + offset_ms * MILLISECOND_NS
        bars.take(rows_of([trade(event_ns, event_ns + delay_ms * MILLISECOND_NS)]))
        after = (bars.time.now_ns, bars.time.watermark_ns)
        assert after >= before
        assert after[1] >= before[1]
        before = after


steps_ms = st.integers(0, 5_000)


@given(steps_ms, steps_ms, steps_ms)
def test_nothing_is_due_before_the_time_that_is_named(newest_ms: int, delay_ms: int, wait_ms: int):
    """Who wakes at that time and not before misses nothing, and does not wake in vain for ever."""
    bars = BarSet([private_level(parse_period("1s"), 8, 1)], lateness_ns=LATENESS_NS)
    event_ns = BEGIN_NS + newest_ms * MILLISECOND_NS
    bars.take(rows_of([trade(event_ns, event_ns + delay_ms * MILLISECOND_NS)]))
    now_ns = bars.time.now_ns + wait_ms * MILLISECOND_NS
    bars.advance(now_ns)
    due_ns = bars.time.next_due_ns(now_ns, SECOND_NS)
    assert due_ns > now_ns
    assert not bars.is_due(due_ns - 1)
    wakes = 1
    while not bars.is_due(due_ns):
        due_ns = bars.time.next_due_ns(due_ns, SECOND_NS)
        wakes += 1
    assert wakes <= 2

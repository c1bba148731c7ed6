"""Markets with hours: no bars outside of them, and prices that carry on from one session to the next."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from marketd.clock import SECOND_NS
from marketd.model import Asset, MktPair
from marketd.periods import parse_period
from marketd.ring.bars import SLOT
from marketd.ring.steps import BarState
from marketd.sample.bars import BarSet, private_level
from marketd.sample.hours import Hours
from tests.bar_model import ModelGap, ModelTrade, rows_of

MINUTE_NS = 60 * SECOND_NS
DAY_NS = 86_400 * SECOND_NS
MIDNIGHT_NS = 1_700_006_400 * SECOND_NS  # Wednesday, 15 November 2023
OPEN_NS, CLOSE_NS = 10 * 3600 * SECOND_NS, 10 * 3600 * SECOND_NS + 5 * MINUTE_NS


def bars_with_hours(days=3):
    """Instrument 1 is open from 10:00 to 10:05 each day; instrument 2 always."""
    bars = BarSet([private_level(parse_period(period), 5000, 2) for period in ("1m", "1d")])
    sessions = [
        (1, MIDNIGHT_NS + day * DAY_NS + OPEN_NS, MIDNIGHT_NS + day * DAY_NS + CLOSE_NS) for day in range(-2, days)
    ]
    bars.set_calendars(np.array([0, 1, 0] + [0] * 6), np.array(sessions))
    bars.live[:] = 1
    bars.admit(2)
    for instrument in (1, 2):
        bars.cover(instrument, MIDNIGHT_NS)
    return bars


def trade(instrument, day, at_ns, price):
    event_ns = MIDNIGHT_NS + day * DAY_NS + at_ns
    return ModelTrade(instrument, event_ns, event_ns, day, price, "1")


def minutes(bars, instrument, level=0):
    found = bars.levels[level].words.view(SLOT)[0, :, instrument - 1, 0]
    found = found[found["number"] > 0]
    return found[np.argsort(found["number"])]


def test_there_are_no_bars_while_the_market_is_closed():
    bars = bars_with_hours()
    bars.take(rows_of([trade(1, 0, OPEN_NS + MINUTE_NS, "5"), trade(2, 0, OPEN_NS + MINUTE_NS, "7")]))
    bars.advance(MIDNIGHT_NS + DAY_NS + OPEN_NS + 2 * MINUTE_NS)
    found = minutes(bars, 1)
    assert len(found) == 4 + 3
    inside = (found["open_ns"] - MIDNIGHT_NS) % DAY_NS
    assert ((inside >= OPEN_NS) & (inside < CLOSE_NS)).all()
    assert len(minutes(bars, 2)) > 1400
    assert not any(slot["gap_ns"] for slot in found)


def test_first_bar_of_a_session_is_flat_at_the_last_close_of_the_one_before():
    bars = bars_with_hours()
    bars.take(rows_of([trade(1, 0, CLOSE_NS - MINUTE_NS, "5")]))
    bars.advance(MIDNIGHT_NS + DAY_NS + OPEN_NS + MINUTE_NS + SECOND_NS)
    found = minutes(bars, 1)
    assert found["close"].tolist() == [5.0] * 3
    assert found["state"][1] == BarState.CLOSED


def test_late_trade_changes_the_flat_bars_of_the_next_session():
    bars = bars_with_hours()
    bars.take(rows_of([trade(1, 0, OPEN_NS, "5")]))
    bars.advance(MIDNIGHT_NS + DAY_NS + OPEN_NS + 2 * MINUTE_NS)
    late = trade(1, 0, OPEN_NS + MINUTE_NS, "9")._replace(received_ns=MIDNIGHT_NS + DAY_NS + OPEN_NS + 2 * MINUTE_NS)
    bars.take(rows_of([late]))
    bars.flush()
    assert minutes(bars, 1)["close"].tolist() == [5.0] + [9.0] * 7


def test_gap_while_the_market_is_closed_costs_nothing_but_the_certainty_of_the_price():
    bars = bars_with_hours()
    bars.take(rows_of([trade(1, 0, OPEN_NS, "5")]))
    closed_ns = MIDNIGHT_NS + CLOSE_NS
    bars.advance(closed_ns + 3600 * SECOND_NS)
    bars.take(
        rows_of([ModelGap(1, closed_ns + 7200 * SECOND_NS, closed_ns + 60 * SECOND_NS, closed_ns + 7200 * SECOND_NS)])
    )
    bars.advance(MIDNIGHT_NS + DAY_NS + OPEN_NS + MINUTE_NS)
    found = minutes(bars, 1)
    assert len(found) == 5 + 2
    assert found["close"][:7].tolist() == [5.0] * 7


def test_a_day_has_a_bar_if_its_market_opens_at_all():
    bars = bars_with_hours()
    bars.take(rows_of([trade(1, 0, OPEN_NS, "5")]))
    bars.advance(MIDNIGHT_NS + 2 * DAY_NS + OPEN_NS + MINUTE_NS)
    days = minutes(bars, 1, level=1)
    assert days["open_ns"].tolist() == [MIDNIGHT_NS + day * DAY_NS for day in range(3)]
    assert [math.isnan(close) for close in days["close"]] == [False] * 3


@pytest.mark.parametrize("name", ["XNYS", "CME_FX"])
async def test_hours_come_from_the_calendar_that_an_instrument_names(name):
    hours = Hours(8)
    euro = MktPair(dst=Asset("eur"), src=Asset("usd"), venue="cme", suffix="20240318", backend="x", calendar=name)
    hours.add(3, euro)
    hours.add(4, MktPair(dst=Asset("btc"), src=Asset("usd"), venue="spot", backend="x"))
    assert hours.is_due(MIDNIGHT_NS)
    await hours.learn(MIDNIGHT_NS)
    assert not hours.is_due(MIDNIGHT_NS)
    assert hours.calendars[[3, 4]].tolist() == [1, 0]
    assert len(hours.spans) > 400
    assert all(before[2] <= after[1] for before, after in pairwise(hours.spans.tolist()))


async def test_unknown_calendar_counts_as_always_open():
    hours = Hours(8)
    hours.add(1, MktPair(dst=Asset("a"), src=Asset("b"), venue="v", backend="x", calendar="NOWHERE"))
    await hours.learn(MIDNIGHT_NS)
    assert len(hours.spans) == 0

"""Getting compiled what makes bars, before anything waits for it. The results are kept on disk, beside the modules."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marketd.clock import SECOND_NS
from marketd.model import Kind
from marketd.periods import parse_activity, parse_period
from marketd.ring import layout
from marketd.sample import bar
from marketd.sample.activity import ActivityBars
from marketd.sample.bars import BarSet, private_level

_BEGIN_NS = 1_700_000_000 * SECOND_NS


def warm_up() -> None:
    """Make a few bars of a few trades, so that every loop is compiled for the types that it will be given."""
    rows = _rows()
    bars, again = _bars(), _bars()
    bars.take(rows)
    bars.gap(1, _BEGIN_NS, _BEGIN_NS + SECOND_NS)
    bars.distrust()
    again.take(rows)
    bars.replace(1, rows["event_ns"], again, 0)
    bars.tell_again(1, _BEGIN_NS)
    bars.fill(0, 1, [(_BEGIN_NS, 1.5, 1.5, 1.5, 1.5, 1.5, 1)])
    bars.changes(_BEGIN_NS, [16])
    bars.distrust()
    other = ActivityBars(parse_activity("1t"), np.zeros((1, 8, 8, bar.WORDS), np.int64), 17)
    other.select(1)
    other.take(rows)
    other.gap(1, _BEGIN_NS)
    other.changes(_BEGIN_NS)


def _bars() -> BarSet:
    bars = BarSet([private_level(parse_period("1s"), 8, 1)])
    bars.admit(1)
    return bars


def _rows() -> NDArray[np.void]:
    rows = np.zeros(3, layout.TRADE)
    rows["event_ns"] = rows["received_ns"] = [_BEGIN_NS, _BEGIN_NS + 2 * SECOND_NS, _BEGIN_NS + SECOND_NS]
    rows["instrument"], rows["kind"] = 1, Kind.TRADE
    rows["price"] = rows["size"] = 1.5
    return rows.view(layout.ROW)

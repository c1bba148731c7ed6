"""What bars are, said once more and slowly: by definition, in decimals, without batches, rings or levels."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketd.model import GapReason, Kind
from marketd.ring import layout


class ModelTrade(NamedTuple):
    """A trade of one instrument. Prices and sizes are decimal texts."""

    instrument: int
    event_ns: int
    received_ns: int
    trade_id: int
    price: str
    size: str


class ModelGap(NamedTuple):
    """Something of one instrument is missing in ``[from_ns, to_ns)``."""

    instrument: int
    received_ns: int
    from_ns: int
    to_ns: int


class ModelBar(NamedTuple):
    """A bar's values; None where nothing is known. ``whole``: no gap touches it."""

    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: Decimal
    trade_count: int
    whole: bool


def bars_of(
    trades: Sequence[ModelTrade], gaps: Sequence[ModelGap], period_ns: int, covered_ns: int, last: int
) -> dict[int, ModelBar]:
    """Make one instrument's bars, by number: from its first trade's to ``last``, and those that a gap touches."""
    ordered = sorted(trades, key=lambda trade: (trade.event_ns, trade.trade_id))
    numbers = {
        n for gap in gaps for n in range(gap.from_ns // period_ns, max(gap.from_ns, gap.to_ns - 1) // period_ns + 1)
    }
    if ordered:
        first, newest = (trade.event_ns // period_ns for trade in (ordered[0], ordered[-1]))
        numbers.update(range(first, max(last, newest) + 1))
    bars: dict[int, ModelBar] = {}
    close: float | None = None
    for number in sorted(numbers):
        begin, end = number * period_ns, (number + 1) * period_ns
        inside = [trade for trade in ordered if begin <= trade.event_ns < end]
        gap_ends = [min(max(gap.to_ns, gap.from_ns + 1), end) for gap in gaps if _touches(gap, begin, end)]
        if begin < covered_ns:
            gap_ends.append(min(covered_ns, end))
        if inside:
            prices = [float(trade.price) for trade in inside]
            volume = sum((Decimal(trade.size) for trade in inside), Decimal(0))
            bars[number] = ModelBar(
                prices[0], max(prices), min(prices), prices[-1], volume, len(inside), whole=not gap_ends
            )
            close = prices[-1] if inside[-1].event_ns >= max(gap_ends, default=0) else None
        elif number <= last:
            close = None if gap_ends else close
            bars[number] = ModelBar(close, close, close, close, Decimal(0), 0, whole=close is not None)
        else:
            close = None  # not begun yet
    return bars


def _touches(gap: ModelGap, begin: int, end: int) -> bool:
    return gap.from_ns < end and max(gap.from_ns, gap.to_ns - 1) >= begin


def rows_of(events: Sequence[ModelTrade | ModelGap]) -> NDArray[np.void]:
    """Make rows of a tick ring, in the order given."""
    packed = [_pack(cursor, event) for cursor, event in enumerate(events, 1)]
    return np.frombuffer(b"".join(packed), layout.ROW)


def _pack(cursor: int, event: ModelTrade | ModelGap) -> bytes:
    if isinstance(event, ModelGap):
        at = event.received_ns
        values = (event.from_ns, event.to_ns, int(GapReason.DISCONNECT), -1)
        return layout.PACK_INTEGERS.pack(cursor, at, at, 0, event.instrument, Kind.GAP, 0, 1, *values)
    price, size = float(event.price), float(event.size)
    return layout.PACK.pack(
        cursor, event.event_ns, event.received_ns, event.trade_id, event.instrument, Kind.TRADE, 1, 1, price, size, 0, 0
    )

"""Bars of the past, made of a venue's trades where it has no candles any more: by the same code as live ones. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backends.live import BarRow, TradeRow
from marketd.model import Kind
from marketd.periods import Period
from marketd.ring import layout
from marketd.ring.bars import SLOT, rows_of
from marketd.sample import bar, kernel
from marketd.sample.bars import BarSet, private_level
from storage.intervals import Range


def bars_of(trades: Sequence[TradeRow], period: Period, span: Range) -> list[BarRow]:
    """Make the bars of a range of all trades in it; those before the first trade are not there.

    Args:
        trades: in any order, others than of the range too; each id once or more.
        span: of whole periods.
    """
    by_id = {trade[1]: trade for trade in trades if span[0] <= trade[0] < span[1]}
    if not by_id:
        return []
    ordered = sorted(by_id.values())
    rows = np.zeros(len(ordered), layout.TRADE)
    for name, values in zip(
        ("event_ns", "sequence", "price", "size"), list(zip(*ordered, strict=True))[:4], strict=True
    ):
        rows[name] = values
    rows["received_ns"], rows["instrument"], rows["kind"] = rows["event_ns"], 1, Kind.TRADE
    held = (span[1] - span[0]) // period.period_ns + 2
    bars = BarSet([private_level(period, held, 1)])
    bars.admit(1)
    bars.live[:] = kernel.LIVE
    bars.cover(1, span[0])
    bars.take(rows.view(layout.ROW))
    bars.advance(span[1])
    bars.time.finish()
    bars.advance(span[1])
    bars.flush()
    words = bars.levels[0].words[0, :, 0]
    slots = words[np.argsort(words[:, bar.NUMBER])].view(SLOT).reshape(-1)
    slots = slots[(slots["open_ns"] >= span[0]) & (slots["open_ns"] < span[1]) & (slots["number"] > 0)]
    made = rows_of(slots, np.ones(len(slots), np.intp), 16, period.period_ns, 0)
    columns = [made[name].tolist() for name in ("open_ns", "open", "high", "low", "close", "volume", "trade_count")]
    return list(zip(*columns, strict=True))

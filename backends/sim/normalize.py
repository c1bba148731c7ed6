"""The simulated venue's messages <-> rows. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from backends.backend import EVENT_NS_BEGIN, EVENT_NS_END, RowBlock
from backends.sim import wire
from marketd.errors import WireError
from marketd.model import Flag, Kind, Side
from marketd.ring.layout import Row

_NUMBER_END = 1 << 63
_VALUES = ["event_ns", "sequence", "instrument", "kind", "side", "flags", "v0", "v1", "v2", "v3"]


def row_of(message: wire.Quote | wire.Trade, instrument: int, received_ns: int) -> Row:
    """Make the row of a message.

    Raises:
        WireError: a value is impossible.
    """
    if isinstance(message, wire.Quote):
        values = (message.bid, message.bid_size, message.ask, message.ask_size)
        sequence, kind, side = message.update_id, Kind.QUOTE, Side.UNKNOWN
        flags = Flag.LAST | Flag.SNAPSHOT if message.snapshot else Flag.LAST
    else:
        values = (message.price, message.size, 1.0, 1.0)
        sequence, kind, side = message.trade_id, Kind.TRADE, Side.BUY if message.side == "buy" else Side.SELL
        flags = Flag.LAST
    numbers_fit = 0 <= sequence < _NUMBER_END and EVENT_NS_BEGIN <= message.time_ns < EVENT_NS_END
    if not numbers_fit or not all(0.0 < value < math.inf for value in values):
        raise WireError(f"impossible {kind.name.lower()}: {message}")
    if kind == Kind.TRADE:
        values = (*values[:2], 0.0, 0.0)
    return (message.time_ns, received_ns, sequence, instrument, int(kind), int(side), int(flags), *values)


def messages_of(rows: RowBlock, symbols: Sequence[str]) -> Iterator[wire.Message]:
    """Turn quotes and trades back into what the venue would have sent; ``instrument`` is an index into the symbols."""
    for event_ns, sequence, instrument, kind, side, flags, v0, v1, v2, v3 in rows[_VALUES].tolist():
        if kind == Kind.QUOTE:
            snapshot = bool(flags & Flag.SNAPSHOT)
            yield wire.Quote(symbols[instrument], event_ns, sequence, v0, v1, v2, v3, snapshot)
        else:
            taker: Literal["buy", "sell"] = "buy" if side == Side.BUY else "sell"
            yield wire.Trade(symbols[instrument], event_ns, sequence, v0, v1, taker)

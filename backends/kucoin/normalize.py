"""KuCoin's payloads -> rows. Pure; numbers are judged here and nowhere else.

The rules come from the pages linked in `wire.py`:

- `side` is the taker's. A trade's sequence is its `sequence`, which REST knows it by as well.
- A trade's ``event_ns`` is its `time`, in nanoseconds; that of level 1 is its `timestamp`, in milliseconds; a ticker's
  is our receive time, for its own `time` is the last trade's.
- An empty side of a book is a missing one there, and price 0 and size 0 in the row. Any other price that is not a
  finite number greater than 0, and any trade of nothing, is the venue's mistake.
"""

from __future__ import annotations

import math

from backends.backend import EVENT_NS_BEGIN, EVENT_NS_END
from backends.kucoin import wire
from backends.live import BarRow, TradeRow
from marketd.clock import MILLISECOND_NS
from marketd.errors import WireError
from marketd.model import Flag, Kind, Side
from marketd.ring.layout import Row

# Plain numbers: packing an enum member costs more than the rest of the row.
_TRADE, _QUOTE = int(Kind.TRADE), int(Kind.QUOTE)
_BUY, _SELL, _UNKNOWN = int(Side.BUY), int(Side.SELL), int(Side.UNKNOWN)
_LAST = int(Flag.LAST)

_INFINITE = math.inf
_NUMBER_END = 1 << 63


def trade(message: wire.Match, instrument: int, received_ns: int) -> Row:
    """Make the row of a trade.

    Raises:
        WireError: a value is impossible.
    """
    event_ns = message.time
    price = message.price
    size = message.size
    sequence = message.sequence
    if not (
        0.0 < price < _INFINITE
        and 0.0 < size < _INFINITE
        and EVENT_NS_BEGIN <= event_ns < EVENT_NS_END
        and 0 <= sequence < _NUMBER_END
    ):
        raise WireError(f"impossible trade: {message}")
    side = _BUY if message.side == "buy" else _SELL
    return (event_ns, received_ns, sequence, instrument, _TRADE, side, _LAST, price, size, 0.0, 0.0)


def level1(message: wire.Level1, instrument: int, received_ns: int) -> Row:
    """Make the row of the best ask and bid; there is no number, so its sequence is 0.

    Raises:
        WireError: a value is impossible.
    """
    bid, bid_size = _side(message.bids)
    ask, ask_size = _side(message.asks)
    event_ns = message.timestamp * MILLISECOND_NS
    return _quote(event_ns, 0, instrument, received_ns, (bid, bid_size, ask, ask_size))


def ticker(message: wire.Ticker, instrument: int, received_ns: int) -> Row:
    """Make the row of a ticker; its sequence is the order book's.

    Raises:
        WireError: a value is impossible.
    """
    sides = (message.bid or 0.0, message.bid_size or 0.0, message.ask or 0.0, message.ask_size or 0.0)
    return _quote(received_ns, message.sequence, instrument, received_ns, sides)


def rest_trade(message: wire.RestTrade) -> TradeRow:
    """Make a history row of a trade.

    Raises:
        WireError: a value is impossible.
    """
    if not (
        0.0 < message.price < _INFINITE
        and 0.0 < message.size < _INFINITE
        and EVENT_NS_BEGIN <= message.time < EVENT_NS_END
        and 0 <= message.sequence < _NUMBER_END
    ):
        raise WireError(f"impossible trade: {message}")
    side = _BUY if message.side == "buy" else _SELL
    return (message.time, message.sequence, message.price, message.size, side)


def is_bar(row: BarRow) -> bool:
    """Whether a candle's values are possible."""
    open_ns, open_, high, low, close, volume, _ = row
    return (
        EVENT_NS_BEGIN <= open_ns < EVENT_NS_END
        and 0.0 < low <= open_ <= high < _INFINITE
        and low <= close <= high
        and 0.0 <= volume < _INFINITE
    )


def _side(level: list[float] | None) -> tuple[float, float]:
    if not level:
        return 0.0, 0.0
    if len(level) != 2:
        raise WireError(f"a price and a size make a side of level 1, and not {level[:5]}")
    return level[0], level[1]


def _quote(
    event_ns: int, sequence: int, instrument: int, received_ns: int, sides: tuple[float, float, float, float]
) -> Row:
    bid, bid_size, ask, ask_size = sides
    if not (
        (0.0 < bid < _INFINITE or bid == bid_size == 0.0)
        and (0.0 < ask < _INFINITE or ask == ask_size == 0.0)
        and 0.0 <= bid_size < _INFINITE
        and 0.0 <= ask_size < _INFINITE
        and EVENT_NS_BEGIN <= event_ns < EVENT_NS_END
        and 0 <= sequence < _NUMBER_END
    ):
        raise WireError(f"impossible quote {sequence} at {event_ns}: bid, size, ask, size are {sides}")
    return (event_ns, received_ns, sequence, instrument, _QUOTE, _UNKNOWN, _LAST, bid, bid_size, ask, ask_size)

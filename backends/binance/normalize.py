"""Binance's payloads -> rows. Pure; numbers are judged here and nowhere else.

The rules come from the pages linked in `wire.py`:

- "m": true means that the buyer was the maker, so the taker sold.
- ``event_ns`` is ``T``, the time of the trade or of the change in the book. ``E`` is only when the message was made.
  Spot book tickers have neither: their ``event_ns`` is our receive time.
- An empty side of a book comes as price 0 and quantity 0, and so it goes into the row. Any other price that is not a
  finite number greater than 0, and any trade of nothing, is the venue's mistake.
"""

from __future__ import annotations

import math

from backends.backend import EVENT_NS_BEGIN, EVENT_NS_END
from backends.binance import wire
from marketd.errors import WireError
from marketd.model import Flag, Kind, Side
from marketd.ring.layout import Row

# Plain numbers: packing an enum member costs more than the rest of the row.
_TRADE, _QUOTE = int(Kind.TRADE), int(Kind.QUOTE)
_BUY, _SELL, _UNKNOWN = int(Side.BUY), int(Side.SELL), int(Side.UNKNOWN)
_LAST = int(Flag.LAST)

_INFINITE = math.inf
_NUMBER_END = 1 << 63


def trade(message: wire.AggTrade | wire.Trade, instrument: int, received_ns: int, time_unit_ns: int) -> Row:
    """Make the row of a trade; its sequence is the trade's id.

    Raises:
        WireError: a value is impossible.
    """
    event_ns = message.trade_time * time_unit_ns
    price = message.price
    size = message.quantity
    sequence = message.trade_id
    if not (
        0.0 < price < _INFINITE
        and 0.0 < size < _INFINITE
        and EVENT_NS_BEGIN <= event_ns < EVENT_NS_END
        and 0 <= sequence < _NUMBER_END
    ):
        raise WireError(f"impossible trade: {message}")
    side = _SELL if message.buyer_is_maker else _BUY
    return (event_ns, received_ns, sequence, instrument, _TRADE, side, _LAST, price, size, 0.0, 0.0)


def place(message: wire.Trade, time_unit_ns: int) -> tuple[int, int]:
    """Return event time and id of a trade whose price does not matter.

    Raises:
        WireError: one of them is impossible.
    """
    event_ns = message.trade_time * time_unit_ns
    if not (EVENT_NS_BEGIN <= event_ns < EVENT_NS_END and 0 <= message.trade_id < _NUMBER_END):
        raise WireError(f"impossible trade: {message}")
    return event_ns, message.trade_id


def quote(message: wire.BookTicker, instrument: int, received_ns: int, time_unit_ns: int) -> Row:
    """Make the row of a book ticker; its sequence is the book's update id.

    Raises:
        WireError: a value is impossible.
    """
    time = message.transaction_time
    event_ns = received_ns if time is None else time * time_unit_ns
    bid = message.bid
    bid_size = message.bid_quantity
    ask = message.ask
    ask_size = message.ask_quantity
    sequence = message.update_id
    if not (
        (0.0 < bid < _INFINITE or bid == bid_size == 0.0)
        and (0.0 < ask < _INFINITE or ask == ask_size == 0.0)
        and 0.0 <= bid_size < _INFINITE
        and 0.0 <= ask_size < _INFINITE
        and EVENT_NS_BEGIN <= event_ns < EVENT_NS_END
        and 0 <= sequence < _NUMBER_END
    ):
        raise WireError(f"impossible quote: {message}")
    return (event_ns, received_ns, sequence, instrument, _QUOTE, _UNKNOWN, _LAST, bid, bid_size, ask, ask_size)

"""Kraken's payloads -> rows. Pure; numbers are judged here and nowhere else.

The rules come from the pages linked in `wire.py`:

- `side` is the taker's.
- A trade's ``event_ns`` is its `timestamp`, "the book order update timestamp". A ticker's is its `timestamp`, and our
  receive time where it has none, as in websocket v1.
- A ticker's empty side goes into the row as price 0 and size 0. Any other price that is not a finite number greater
  than 0, and any trade of nothing, is the venue's mistake.
"""

from __future__ import annotations

import math

from backends.backend import EVENT_NS_BEGIN, EVENT_NS_END
from backends.kraken import wire
from backends.kraken.book import Change, Level, Told
from backends.kraken.timestamps import decimal_ns, rfc3339_ns, seconds_ns
from backends.live import BarRow, TradeRow
from marketd.errors import WireError
from marketd.model import Flag, Kind, Side
from marketd.ring.layout import Row

# Plain numbers: packing an enum member costs more than the rest of the row.
_TRADE, _QUOTE, _LEVEL = int(Kind.TRADE), int(Kind.QUOTE), int(Kind.LEVEL)
_BUY, _SELL, _UNKNOWN = int(Side.BUY), int(Side.SELL), int(Side.UNKNOWN)
_LAST = int(Flag.LAST)
_SNAPSHOT = int(Flag.LAST | Flag.SNAPSHOT)
_WHOLE = int(Flag.SNAPSHOT)

_INFINITE = math.inf
_NUMBER_END = 1 << 63


def flags(kind: str) -> int:
    """Flags of the rows of a message: each trade and each quote is an event by itself."""
    return _SNAPSHOT if kind == "snapshot" else _LAST


def trade(message: wire.Trade, instrument: int, received_ns: int, flags: int) -> Row:
    """Make the row of a trade; its sequence is the trade's id.

    Raises:
        WireError: a value is impossible.
    """
    event_ns = rfc3339_ns(message.timestamp)
    price = message.price
    size = message.qty
    sequence = message.trade_id
    if not (
        0.0 < price < _INFINITE
        and 0.0 < size < _INFINITE
        and EVENT_NS_BEGIN <= event_ns < EVENT_NS_END
        and 0 <= sequence < _NUMBER_END
    ):
        raise WireError(f"impossible trade: {message}")
    side = _BUY if message.side == "buy" else _SELL
    return (event_ns, received_ns, sequence, instrument, _TRADE, side, flags, price, size, 0.0, 0.0)


def quote(message: wire.Ticker, instrument: int, received_ns: int, flags: int) -> Row:
    """Make the row of a ticker; there is no number, so its sequence is 0.

    Raises:
        WireError: a value is impossible.
    """
    event_ns = received_ns if message.timestamp is None else rfc3339_ns(message.timestamp)
    sides = (message.bid, message.bid_qty, message.ask, message.ask_qty)
    return _quote(event_ns, instrument, received_ns, flags, sides)


def change(message: wire.Book, received_ns: int, *, snapshot: bool) -> Change:
    """Read what a message says of a book.

    Raises:
        WireError: a value is impossible.
    """
    event_ns = received_ns if message.timestamp is None else rfc3339_ns(message.timestamp)
    if not EVENT_NS_BEGIN <= event_ns < EVENT_NS_END:
        raise WireError(f"impossible time of a book: {event_ns}")
    bids = [_level(level) for level in message.bids]
    asks = [_level(level) for level in message.asks]
    return Change(snapshot, bids, asks, message.checksum, event_ns, received_ns)


def levels(told: Told, instrument: int, event_ns: int, received_ns: int) -> list[Row]:
    """Make the rows of a change of a book, or of all of it; see `marketd/ring/layout.py` for how they are read."""
    flags = _WHOLE if told.whole else 0
    rows: list[Row] = []
    if told.whole:
        rows.append((event_ns, received_ns, 0, instrument, _LEVEL, _UNKNOWN, flags, 0.0, 0.0, 0.0, 0.0))
    for price, size, _ in told.bids:
        rows.append((event_ns, received_ns, 0, instrument, _LEVEL, _BUY, flags, price, size, 0.0, 0.0))
    for price, size, _ in told.asks:
        rows.append((event_ns, received_ns, 0, instrument, _LEVEL, _SELL, flags, price, size, 0.0, 0.0))
    if rows:
        rows[-1] = (*rows[-1][:6], flags | _LAST, *rows[-1][7:])
    return rows


def v1_trade(message: wire.V1Trade, instrument: int, received_ns: int) -> Row:
    """Make the row of a trade of websocket v1, which has no id: its sequence is 0.

    Raises:
        WireError: a value is impossible.
    """
    price, size, time, taker, *_ = message
    event_ns = seconds_ns(time)
    if not (0.0 < price < _INFINITE and 0.0 < size < _INFINITE and EVENT_NS_BEGIN <= event_ns < EVENT_NS_END):
        raise WireError(f"impossible trade: {message}")
    side = _BUY if taker == "b" else _SELL
    return (event_ns, received_ns, 0, instrument, _TRADE, side, _LAST, price, size, 0.0, 0.0)


def v1_quote(message: wire.V1Ticker, instrument: int, received_ns: int) -> Row:
    """Make the row of a ticker of websocket v1; sizes are the third of each side.

    Raises:
        WireError: a value is impossible.
    """
    sides = (message.bid[0], message.bid[2], message.ask[0], message.ask[2])
    return _quote(received_ns, instrument, received_ns, _LAST, sides)


def rest_trade(message: wire.RestTrade) -> TradeRow:
    """Make a history row of a trade.

    Raises:
        WireError: a value is impossible.
    """
    price, size, time, taker, _, _, trade_id = message
    event_ns = decimal_ns(time)
    if not (
        0.0 < price < _INFINITE
        and 0.0 < size < _INFINITE
        and EVENT_NS_BEGIN <= event_ns < EVENT_NS_END
        and 0 <= trade_id < _NUMBER_END
    ):
        raise WireError(f"impossible trade: {message}")
    return (event_ns, trade_id, price, size, _BUY if taker == "b" else _SELL)


def _level(message: wire.Level) -> Level:
    """Read a level; what is no plain decimal number, such as text or an exponent, has no digits to be checked."""
    price_text, size_text = bytes(message.price), bytes(message.qty)
    digits = price_text.replace(b".", b"").lstrip(b"0") + size_text.replace(b".", b"").lstrip(b"0")
    if digits.isdigit():
        price, size = float(price_text), float(size_text)
        if 0.0 < price < _INFINITE and size < _INFINITE:
            return price, size, digits
    raise WireError(f"impossible level of a book: {price_text[:50]!r}, {size_text[:50]!r}")


def _quote(
    event_ns: int, instrument: int, received_ns: int, flags: int, sides: tuple[float, float, float, float]
) -> Row:
    bid, bid_size, ask, ask_size = sides
    if not (
        (0.0 < bid < _INFINITE or bid == bid_size == 0.0)
        and (0.0 < ask < _INFINITE or ask == ask_size == 0.0)
        and 0.0 <= bid_size < _INFINITE
        and 0.0 <= ask_size < _INFINITE
        and EVENT_NS_BEGIN <= event_ns < EVENT_NS_END
    ):
        raise WireError(f"impossible quote at {event_ns}: bid, size, ask, size are {sides}")
    return (event_ns, received_ns, 0, instrument, _QUOTE, _UNKNOWN, flags, bid, bid_size, ask, ask_size)


def is_bar(row: BarRow) -> bool:
    """Whether a candle's values are possible."""
    open_ns, open_, high, low, close, volume, count = row
    return (
        EVENT_NS_BEGIN <= open_ns < EVENT_NS_END
        and 0.0 < low <= open_ <= high < _INFINITE
        and low <= close <= high
        and 0.0 <= volume < _INFINITE
        and count >= 0
    )

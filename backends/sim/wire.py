"""The simulated venue's own messages: JSON objects, told apart by ``e``.

    {"e":"quote","s":"btc/usdt","T":1700000000000000000,"u":17,"b":64000.1,"B":0.25,"a":64000.2,"A":1.5,"x":false}
    {"e":"trade","s":"btc/usdt","T":1700000000000000000,"i":3,"p":64000.2,"q":0.01,"m":"buy"}
    {"e":"session","T":1700000000000000000,"open":false}

``T`` is the event's time in nanoseconds, ``u`` the number of the event, ``x`` marks quotes that were there already when
the connection was made, ``i`` counts the trades of an instrument, ``m`` is the taker's side. The address of a
connection, ``sim://?instruments=8`` or ``sim://?instruments=btc/usdt,eth/usdt``, tells what is traded.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import field


class Quote(msgspec.Struct, frozen=True, gc=False, tag="quote", tag_field="e"):
    """The best bid and ask."""

    symbol: str = field(name="s")
    time_ns: int = field(name="T")
    update_id: int = field(name="u")
    bid: float = field(name="b")
    bid_size: float = field(name="B")
    ask: float = field(name="a")
    ask_size: float = field(name="A")
    snapshot: bool = field(name="x")


class Trade(msgspec.Struct, frozen=True, gc=False, tag="trade", tag_field="e"):
    """One trade."""

    symbol: str = field(name="s")
    time_ns: int = field(name="T")
    trade_id: int = field(name="i")
    price: float = field(name="p")
    size: float = field(name="q")
    side: Literal["buy", "sell"] = field(name="m")


class Session(msgspec.Struct, frozen=True, gc=False, tag="session", tag_field="e"):
    """The venue has opened or closed."""

    time_ns: int = field(name="T")
    open: bool


class Kind(msgspec.Struct, frozen=True, gc=False):
    """Looked at when a message is none of the above: is it of another type, or is it broken?"""

    event: str = field(name="e", default="")


Message = Quote | Trade | Session
decode: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
decode_kind = msgspec.json.Decoder(Kind).decode
encode = msgspec.json.Encoder().encode
TYPES = frozenset({"quote", "trade", "session"})

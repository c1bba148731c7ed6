"""Kraken's payloads, in Kraken's own words.

Websocket v2: https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/trade and its neighbours.
Websocket v1: https://docs.kraken.com/exchange/api-reference/spot-websocket-v1/trade ; "frozen", for recordings only.
REST:         https://docs.kraken.com/api-reference/market-data/get-ohlc-data and its neighbours.

The documents moved there in 2026 from docs.kraken.com/api/docs. They now describe a "unified" websocket as well
(uws.kraken.com), whose trades are of derivatives only so far, so v2 is what spot speaks.

v2 sends prices and quantities as JSON numbers, v1 and REST as text. Both are read straight into floats, but for those
of books, whose very digits matter.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import field

# --- websocket v2 -------------------------------------------------------------------------------------------


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One trade of `trade`.

    .../spot-websocket-v2/trade::

        {"channel":"trade","type":"update","data":[{"symbol":"MATIC/USD","side":"sell","price":0.5117,"qty":40.0,
         "ord_type":"market","trade_id":4665906,"timestamp":"2023-09-25T07:49:37.708706Z"}]}

    "Multiple trades may be batched in a single message but that does not mean that these trades resulted from a single
    taker order." `side` is the taker's, `trade_id` "a sequence number, unique per book".
    """

    symbol: str
    side: Literal["buy", "sell"]
    price: float
    qty: float
    trade_id: int
    timestamp: str


class Ticker(msgspec.Struct, frozen=True, gc=False):
    """The best bid and ask of `ticker`.

    .../spot-websocket-v2/ticker::

        {"channel":"ticker","type":"update","data":[{"symbol":"ALGO/USD","bid":0.10025,"bid_qty":740.0,"ask":0.10035,
         "ask_qty":740.0,"last":0.10035,"volume":997038.98383185,"vwap":0.10148,"low":0.09979,"high":0.10285,
         "change":-0.00017,"change_pct":-0.17}]}

    `timestamp` came later, and older recordings do not have it.
    """

    symbol: str
    bid: float
    bid_qty: float
    ask: float
    ask_qty: float
    timestamp: str | None = None


class Level(msgspec.Struct, frozen=True, gc=False):
    """One level of a book: the text of two JSON numbers, "pushed onto the wire containing full precision"."""

    price: msgspec.Raw
    qty: msgspec.Raw


# A book has 1,000 levels a side at most. No update of it has more, and to sort a million takes too long.
_Levels = Annotated[list[Level], msgspec.Meta(max_length=1000)]


class Book(msgspec.Struct, frozen=True, gc=False):
    """All levels of a book, or those that have changed, of `book`.

    .../spot-websocket-v2/book::

        {"channel":"book","type":"update","data":[{"symbol":"MATIC/USD","bids":[{"price":0.5657,"qty":1098.3947558}],
         "asks":[],"checksum":2114181697,"timestamp":"2023-10-06T17:35:55.440295Z"}]}

    In the documents a snapshot has no `timestamp`.
    """

    symbol: str
    checksum: int
    bids: _Levels = []
    asks: _Levels = []
    timestamp: str | None = None


Data = TypeVar("Data")


class Message(msgspec.Struct, Generic[Data], frozen=True, gc=False):
    """The envelope of a channel's data."""

    type: Literal["snapshot", "update"]
    data: list[Data]


class Status(msgspec.Struct, frozen=True):
    """The state of the trading engine, one of online, cancel_only, maintenance, post_only.

    .../spot-websocket-v2/status::

        {"channel":"status","type":"update","data":[{"version":"2.0.0","system":"online","api_version":"v2",
         "connection_id":12393906104898154338}]}
    """

    system: str


class Subject(msgspec.Struct, frozen=True):
    """What a request was about; ``depth`` is that of a book, 10 unless asked for otherwise."""

    channel: str = ""
    symbol: str = ""
    depth: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10


class Reply(msgspec.Struct, frozen=True):
    """The answer to a request, one for each of its symbols.

    .../spot-websocket-v2/ticker, "Response"::

        {"method":"subscribe","req_id":1,"result":{"channel":"ticker","snapshot":true,"symbol":"BTC/USD"},
         "success":true,"time_in":"2023-09-25T09:04:31.742599Z","time_out":"2023-09-25T09:04:31.742648Z"}

    A refusal names the symbol, but not the channel::

        {"error":"Currency pair not supported XBT/USD","method":"subscribe","req_id":1,"success":false,
         "symbol":"XBT/USD","time_in":…,"time_out":…}
    """

    method: str
    req_id: int | None = None
    success: bool = True
    result: Subject = Subject()
    symbol: str = ""
    error: str = ""


class Probe(msgspec.Struct, frozen=True):
    """Looked at when the beginning of a message does not tell what it is, of either version.

    Too many requests are answered with ``{"Error":"Exceeded msg rate"}``, without a method or a number.
    """

    channel: Any = None
    method: Any = None
    event: Any = None
    error: Any = None
    fault: Any = field(name="Error", default=None)


def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 - generics and tuples have no better type
    # strict=False lets the decoder itself read numbers out of text.
    return msgspec.json.Decoder(type_, strict=False)


decode_trades = _decoder(Message[Trade]).decode
decode_tickers = _decoder(Message[Ticker]).decode
decode_books = _decoder(Message[Book]).decode
decode_statuses = _decoder(Message[Status]).decode
decode_reply = _decoder(Reply).decode
decode_probe = _decoder(Probe).decode
decode_list = _decoder(list[msgspec.Raw]).decode  # of anything

# Channels that are recognised and never become rows. https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/
ROWLESS_CHANNELS = ("heartbeat", "status", "level3", "ohlc", "instrument")


# --- websocket v1 -------------------------------------------------------------------------------------------

# [price, volume, time, side, order type, misc], "b" or "s" being the taker's side:
# [993,[["354.11000000","0.89594024","1618678142.557535","s","l",""]],"trade","XMR/USD"]
# No ids. On subscription today's v1 sends the last 50 trades first, with nothing that marks them; that of 2021 did not.
V1Trade = tuple[float, float, str, Literal["b", "s"], str, str]

# [price, whole lots, lots]
V1Side = tuple[float, Any, float]


class V1Ticker(msgspec.Struct, frozen=True, gc=False):
    """The best ask and bid; the rest is of the day.

    .../spot-websocket-v1/ticker::

        [996,{"a":["355.24000000",27,"27.19106411"],"b":["354.32000000",6,"6.87748868"],"c":[…],…},"ticker","XMR/USD"]
    """

    ask: V1Side = field(name="a")
    bid: V1Side = field(name="b")


class V1Event(msgspec.Struct, frozen=True):
    """systemStatus, subscriptionStatus, heartbeat, pong, error.

    .../spot-websocket-v1/subscriptionstatus::

        {"channelID":993,"channelName":"trade","event":"subscriptionStatus","pair":"XMR/USD","status":"subscribed",
         "subscription":{"name":"trade"}}
    """

    event: str
    pair: str = ""
    status: str = ""
    channel_name: str = field(name="channelName", default="")


V1_EVENTS = ("heartbeat", "systemStatus", "subscriptionStatus", "pong", "error")
V1_ROWLESS_CHANNELS = ("book", "ohlc", "spread")

decode_v1_trades = _decoder(tuple[int, list[V1Trade], str, str]).decode
decode_v1_ticker = _decoder(tuple[int, V1Ticker, str, str]).decode
decode_v1_event = _decoder(V1Event).decode


# --- REST ---------------------------------------------------------------------------------------------------


class AssetPair(msgspec.Struct, frozen=True):
    """One market: https://docs.kraken.com/api-reference/market-data/get-tradable-asset-pairs

    `wsname` is missing for dark pools ("XXBTZUSD.d"), which no websocket shows. `tick_size` and `status` (online,
    cancel_only, post_only, limit_only, reduce_only) came after 2021.
    """

    altname: str
    base: str
    quote: str
    pair_decimals: int
    lot_decimals: int
    wsname: str = ""
    aclass_base: str = "currency"
    tick_size: str = ""
    status: str = "online"


class AssetInfo(msgspec.Struct, frozen=True):
    """One asset: https://docs.kraken.com/api-reference/market-data/get-asset-info"""

    decimals: int


class Answer(msgspec.Struct, Generic[Data], frozen=True):
    """What every REST request is answered with; "if non-empty, the request failed".

    https://docs.kraken.com/exchange/guides/general/errors
    """

    error: list[str] = []
    result: Data | None = None


class Errors(msgspec.Struct, frozen=True):
    """The same, whatever its result."""

    error: list[str] = []


class SavedAnswer(msgspec.Struct, frozen=True):
    """The same, where it must be told from other venues' answers."""

    error: list[str]
    result: dict[str, msgspec.Raw] = {}


# [time, open, high, low, close, vwap, volume, count]; time is the candle's begin in seconds:
# {"error":[],"result":{"XXBTZUSD":[[1688671200,"30306.1","30306.2","30305.7","30305.7","30306.1","3.39243896",23]],
#  "last":1688672160}}
Candle = tuple[int, float, float, float, float, float, float, int]

# [price, volume, time, side, order type, misc, trade id]:
# {"error":[],"result":{"XXBTZUSD":[["30243.40000","0.34507674",1688669597.8277369,"b","m","",61044952]],
#  "last":"1688671969993150842"}}
RestTrade = tuple[float, float, Decimal, Literal["b", "s"], str, str, int]


class Time(msgspec.Struct, frozen=True):
    """``{"error":[],"result":{"unixtime":1688669448,"rfc1123":"Thu, 06 Jul 23 18:50:48 +0000"}}``"""

    unixtime: Annotated[int, msgspec.Meta(gt=0)]


decode_time = _decoder(Answer[Time]).decode
decode_pairs = _decoder(Answer[dict[str, AssetPair]]).decode
decode_assets = _decoder(Answer[dict[str, AssetInfo]]).decode
decode_page = _decoder(Answer[dict[str, msgspec.Raw]]).decode
decode_errors = _decoder(Errors).decode
decode_candles = _decoder(list[Candle]).decode
decode_rest_trades = _decoder(list[RestTrade]).decode
decode_rest_trade = _decoder(RestTrade).decode
decode_saved = _decoder(SavedAnswer).decode
decode_last = _decoder(int).decode

"""Binance's payloads, in Binance's own words.

Spot:          https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
USD-M futures: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams

Combined streams wrap each payload, ``{"stream":"<streamName>","data":<rawPayload>}``; raw streams send it bare. Prices
and quantities are decimal text. Times are milliseconds, or microseconds where the address of a spot stream says
``timeUnit=MICROSECOND``. Fields that we don't use are left out here and skipped by the decoder.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import field


class AggTrade(msgspec.Struct, frozen=True, gc=False):
    """Trades of one taker order at one price.

    Spot, "Aggregate Trade Streams"::

        {"e":"aggTrade","E":1672515782136,"s":"BNBBTC","a":12345,"p":"0.001","q":"100","f":100,"l":105,
         "T":1672515782136,"m":true,"M":true}

    Futures send each 100 ms, leave out insurance-fund and ADL trades, and add ``nq`` (the part that is no RPI order):
    .../websocket-market-streams/Aggregate-Trade-Streams
    """

    trade_id: int = field(name="a")
    price: float = field(name="p")
    quantity: float = field(name="q")
    trade_time: int = field(name="T")
    buyer_is_maker: bool = field(name="m")
    symbol: str = field(name="s", default="")


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One trade.

    Spot, "Trade Streams"::

        {"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100","T":1672515782136,"m":true,"M":true}

    Futures send the same and ``X``, which no page explains: ``MARKET`` is a trade of the order book; trades of the
    insurance fund and automatic deleveraging happen at prices that the market never saw
    (https://github.com/QuantConnect/Lean.Brokerages.Binance/issues/28).
    """

    trade_id: int = field(name="t")
    price: float = field(name="p")
    quantity: float = field(name="q")
    trade_time: int = field(name="T")
    buyer_is_maker: bool = field(name="m")
    symbol: str = field(name="s", default="")
    execution: str = field(name="X", default="MARKET")


class BookTicker(msgspec.Struct, frozen=True, gc=False):
    """The best bid and ask.

    Spot, "Individual Symbol Book Ticker Streams", has no time and no event type::

        {"u":400900217,"s":"BNBUSDT","b":"25.35190000","B":"31.21000000","a":"25.36520000","A":"40.66000000"}

    Futures::

        {"e":"bookTicker","u":400900217,"E":1568014460893,"T":1568014460891,"s":"BNBUSDT",
         "b":"25.35190000","B":"31.21000000","a":"25.36520000","A":"40.66000000"}
    """

    update_id: int = field(name="u")
    bid: float = field(name="b")
    bid_quantity: float = field(name="B")
    ask: float = field(name="a")
    ask_quantity: float = field(name="A")
    transaction_time: int | None = field(name="T", default=None)
    symbol: str = field(name="s", default="")


class Other(msgspec.Struct, frozen=True, gc=False):
    """Any other payload: decoded only to see that it is JSON and an object."""


Data = TypeVar("Data")


class Combined(msgspec.Struct, Generic[Data], frozen=True, gc=False):
    """The envelope of combined streams."""

    data: Data


class Probe(msgspec.Struct, frozen=True):
    """Looked at when the beginning of a message does not tell what it is.

    Replies, "Live Subscribing/Unsubscribing to streams": ``{"result":null,"id":1}``, and errors:
    ``{"code":2,"msg":"Invalid request: …"}`` as the page has them, ``{"error":{"code":2,"msg":"…"},"id":1}`` as they
    come: https://github.com/oliver-zehentleitner/unicorn-binance-websocket-api/issues/17
    """

    stream: Any = None
    event: Any = field(name="e", default=None)
    symbol: Any = field(name="s", default=None)
    update_id: Any = field(name="u", default=None)
    bid: Any = field(name="b", default=None)
    last_update_id: Any = field(name="lastUpdateId", default=None)
    id: Any = msgspec.UNSET
    result: Any = msgspec.UNSET
    error: Any = msgspec.UNSET
    code: Any = msgspec.UNSET
    msg: Any = None


def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 - unions and generics have no better type
    # strict=False lets the decoder itself read numbers out of text: twice as fast as float() afterwards.
    return msgspec.json.Decoder(type_, strict=False)


decode_agg_trade = _decoder(AggTrade).decode
decode_trade = _decoder(Trade).decode
decode_book_ticker = _decoder(BookTicker).decode
decode_combined_agg_trade = _decoder(Combined[AggTrade]).decode
decode_combined_trade = _decoder(Combined[Trade]).decode
decode_combined_book_ticker = _decoder(Combined[BookTicker]).decode
decode_combined_other = _decoder(Combined[Other | list[Other]]).decode
decode_other = _decoder(Other | list[Other]).decode
decode_probe = _decoder(Probe).decode
decode_probes = _decoder(list[Probe]).decode


# The text after the "@" (or the "!") of a stream's name, up to its first character that is no letter, and the type of
# its events. Only the first three become rows.
EVENTS_BY_STREAM = {
    "aggTrade": "aggTrade",
    "trade": "trade",
    "bookTicker": "bookTicker",
    "assetIndex": "assetIndexUpdate",
    "avgPrice": "avgPrice",
    "blockTrade": "blockTrade",
    "compositeIndex": "compositeIndex",
    "continuousKline": "continuous_kline",
    "contractInfo": "contractInfo",
    "depth": "depthUpdate",
    "forceOrder": "forceOrder",
    "kline": "kline",
    "markPrice": "markPriceUpdate",
    "miniTicker": "24hrMiniTicker",
    "referencePrice": "referencePrice",
    "rpiDepth": "depthUpdate",
    # Nobody subscribes to this one: it comes to every spot connection, and is all the warning there is before a cut.
    # https://github.com/binance/binance-spot-api-docs/blob/master/web-socket-streams.md#general-wss-information
    # {"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}, bare on raw connections. The page
    # does not say how long before the cut; "about 10 minutes" says nautilus_binance's BinanceSpotServerShutdownMsg.
    "serverShutdown": "serverShutdown",
    "ticker": "24hrTicker",
    "tradingSession": "tradingSession",
}
EVENTS = frozenset(EVENTS_BY_STREAM.values()) | {"1hTicker", "4hTicker", "1dTicker", "listenKeyExpired"}


# --- REST: exchangeInfo --------------------------------------------------------------------


class Filter(msgspec.Struct, frozen=True):
    """https://developers.binance.com/docs/binance-spot-api-docs/filters ; only the steps matter here."""

    filter_type: str = field(name="filterType", default="")
    tick_size: str = field(name="tickSize", default="")
    step_size: str = field(name="stepSize", default="")


class Symbol(msgspec.Struct, frozen=True):
    """One instrument; the second block is in futures only. ``deliveryDate`` is in milliseconds.

    The values of ``status``, spot: https://github.com/binance/binance-spot-api-docs/blob/master/enums.md
    futures: https://developers.binance.com/docs/derivatives/usds-margined-futures/common-definition
    """

    symbol: str
    base_asset: str = field(name="baseAsset")
    quote_asset: str = field(name="quoteAsset")
    base_precision: int = field(name="baseAssetPrecision", default=8)
    quote_precision: int = field(name="quotePrecision", default=8)
    filters: list[Filter] = []
    status: str = ""

    contract_type: str = field(name="contractType", default="")
    delivery_date: int = field(name="deliveryDate", default=0)
    underlying_type: str = field(name="underlyingType", default="COIN")


class ExchangeInfo(msgspec.Struct, frozen=True):
    """``GET /api/v3/exchangeInfo`` and ``GET /fapi/v1/exchangeInfo``.

    https://developers.binance.com/docs/binance-spot-api-docs/rest-api/general-endpoints
    https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Exchange-Information
    """

    symbols: list[msgspec.Raw]


decode_exchange_info = msgspec.json.Decoder(ExchangeInfo).decode
decode_symbol = msgspec.json.Decoder(Symbol).decode


# --- REST: history -------------------------------------------------------------------------


class Kline(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A bar; an array, of which what follows ``count`` is left out here. Times are milliseconds::

        [1499040000000,"0.01634790","0.80000000","0.01575800","0.01577100","148976.11427815",1499644799999,
         "2434.19055334",308,"1756.87402397","28.46694368","0"]

    Spot: https://github.com/binance/binance-spot-api-docs/blob/master/rest-api.md#klinecandlestick-data
    Futures: https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Kline-Candlestick-Data
    """

    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    close_time: int
    quote_volume: float
    count: int


class Error(msgspec.Struct, frozen=True):
    """``{"code":-1121,"msg":"Invalid symbol."}``

    https://github.com/binance/binance-spot-api-docs/blob/master/errors.md
    https://developers.binance.com/docs/derivatives/usds-margined-futures/error-code
    """

    code: int
    msg: str = ""


decode_klines = _decoder(list[Kline]).decode
# The trades of a page are the aggTrade messages' data, without their symbol:
# [{"a":26129,"p":"0.01633102","q":"4.70443515","f":27781,"l":27781,"T":1498793709153,"m":true,"M":true}]
decode_agg_trades = _decoder(list[AggTrade]).decode
decode_error = msgspec.json.Decoder(Error).decode


class Time(msgspec.Struct, frozen=True, rename="camel"):
    """``{"serverTime":1499827319559}``"""

    server_time: Annotated[int, msgspec.Meta(gt=0)]


decode_time = msgspec.json.Decoder(Time).decode

"""KuCoin's payloads, in KuCoin's own words.

Websocket: https://www.kucoin.com/docs-new/websocket-api/base-info/introduction (and …/docs-new/3470072w0 and so on, for
each topic). This is what the documents call "classic" since 2026, beside a "unified" one for unified accounts.
REST: https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-all-symbols and its neighbours.

Prices and sizes are decimal text, and so are sequences. Each message names its topic, at its beginning today and at its
end in 2021.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import field

# --- websocket ----------------------------------------------------------------------------------------------


class Match(msgspec.Struct, frozen=True, gc=False):
    """One trade, of `/market/match:SYMBOL`: https://www.kucoin.com/docs-new/3470072w0 ::

        {"topic":"/market/match:BTC-USDT","type":"message","subject":"trade.l3match","data":{
         "makerOrderId":"671b5007389355000701b1d3","price":"67523","sequence":"11067996711960577","side":"buy",
         "size":"0.003","symbol":"BTC-USDT","takerOrderId":"671b50161777ff00074c168d","time":"1729843222921000000",
         "tradeId":"11067996711960577","type":"match"}}

    `side` is the taker's: https://www.kucoin.com/docs/rest/spot-trading/market-data/get-trade-histories . `time` is in
    nanoseconds, whole milliseconds today. `tradeId` equals `sequence` today; in 2021 it was 24 hexadecimal digits.
    """

    sequence: int
    side: Literal["buy", "sell"]
    price: float
    size: float
    time: int


class Level1(msgspec.Struct, frozen=True, gc=False):
    """The best ask and bid, of `/spotMarket/level1:SYMBOL`: https://www.kucoin.com/docs-new/3470067w0 ::

        {"topic":"/spotMarket/level1:BTC-USDT","type":"message","subject":"level1","data":{
         "asks":["68145.8","0.51987471"],"bids":["68145.7","1.29267802"],"timestamp":1729816058766}}

    "If there is no change in the market, data will not be pushed. Push frequency: once every 10ms". `timestamp` is in
    milliseconds.
    """

    asks: list[float] | None
    bids: list[float] | None
    timestamp: int


class Ticker(msgspec.Struct, frozen=True, gc=False):
    """The best ask and bid beside the last trade, of `/market/ticker:SYMBOL`: https://www.kucoin.com/docs-new/3470063w0

    ::

        {"data":{"sequence":"1612844051653","bestAsk":"0.00028717","size":"0.01745248","bestBidSize":"3.70422021",
         "price":"0.00028676","time":1619378326323,"bestAskSize":"14.04274325","bestBid":"0.00028678"},
         "subject":"trade.ticker","topic":"/market/ticker:SNX-BTC","type":"message"}

    In 2021 `time` was when this was made; today it is "the matching time of the latest transaction", which may be long
    ago, and so it is not read. An empty side of a book is null.
    """

    sequence: int
    bid: float | None = field(name="bestBid")
    bid_size: float | None = field(name="bestBidSize")
    ask: float | None = field(name="bestAsk")
    ask_size: float | None = field(name="bestAskSize")


class Other(msgspec.Struct, frozen=True, gc=False):
    """Any other payload: decoded only to see that it is JSON and an object."""


Data = TypeVar("Data")


class Message(msgspec.Struct, Generic[Data], frozen=True, gc=False):
    """The envelope of a topic's data."""

    data: Data


class Probe(msgspec.Struct, frozen=True):
    """Looked at when neither end of a message tells what it is.

    https://www.kucoin.com/docs-new/websocket-api/base-info/introduction ::

        {"id":"hQvf8jkno","type":"welcome"}
        {"id":"1545910660739","type":"ack"}
        {"id":"1545910590801","type":"pong"}
        {"id":"1545910660740","type":"error","code":404,"data":"topic /market/match:XX-YY is not found"}

    "The welcome message ID and the error message ID are both connectId"; in truth an error has the id of its request,
    as https://github.com/sammchardy/python-kucoin/issues/52 and https://github.com/Kucoin/kucoin-python-sdk/issues/32
    show.
    """

    type: Any = None
    topic: Any = None
    id: Any = None
    code: Any = None
    data: Any = None


def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 - generics have no better type
    # strict=False lets the decoder itself read numbers out of text.
    return msgspec.json.Decoder(type_, strict=False)


decode_match = _decoder(Message[Match]).decode
decode_level1 = _decoder(Message[Level1]).decode
decode_ticker = _decoder(Message[Ticker]).decode
decode_other = _decoder(Message[Other]).decode
decode_probe = _decoder(Probe).decode

# Topics, up to their colon, and what messages of them are counted as. Only the first three become rows.
MATCH, LEVEL1, TICKER = "/market/match", "/spotMarket/level1", "/market/ticker"
TOPICS = {
    MATCH: "match",
    LEVEL1: "level1",
    TICKER: "ticker",
    "/market/candles": "candles",
    "/market/level2": "level2",
    "/market/level3": "level3",
    "/market/snapshot": "snapshot",
    "/spotMarket/level2Depth5": "level2Depth5",
    "/spotMarket/level2Depth50": "level2Depth50",
    "/spotMarket/level3": "level3",
    "/callauction/callauctionData": "callauction",
    "/callauction/level2Depth50": "callauction",
    "/indicator/index": "index",
    "/indicator/markPrice": "markPrice",
    "/margin/fundingBook": "fundingBook",
}


# --- REST ---------------------------------------------------------------------------------------------------


class Answer(msgspec.Struct, Generic[Data], frozen=True):
    """What every REST request is answered with. The code of success is 200000; errors have a `msg`."""

    code: str
    data: Data | None = None
    msg: str = ""


class Code(msgspec.Struct, frozen=True):
    """The same, whatever its data."""

    code: str
    msg: str = ""


class InstanceServer(msgspec.Struct, frozen=True):
    """Where to connect; times are in milliseconds."""

    endpoint: str
    ping_interval: int = field(name="pingInterval")
    ping_timeout: int = field(name="pingTimeout", default=10_000)


class Bullet(msgspec.Struct, frozen=True):
    """``POST /api/v1/bullet-public``: https://www.kucoin.com/docs-new/websocket-api/base-info/get-public-token-spot-margin

    ::

        {"code":"200000","data":{"token":"2neAi…","instanceServers":[{"endpoint":"wss://ws-api-spot.kucoin.com/",
         "encrypt":true,"protocol":"websocket","pingInterval":18000,"pingTimeout":10000}]}}
    """

    token: str
    servers: list[InstanceServer] = field(name="instanceServers")


class Symbol(msgspec.Struct, frozen=True):
    """One market: https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-all-symbols

    `symbol` is "unique code of a symbol, it would not change after renaming": `BCHSV-USDT` trades `BSV`.
    """

    symbol: str
    base: str = field(name="baseCurrency")
    quote: str = field(name="quoteCurrency")
    base_increment: str = field(name="baseIncrement", default="")
    price_increment: str = field(name="priceIncrement", default="")
    trading: bool = field(name="enableTrading", default=True)


class Currency(msgspec.Struct, frozen=True):
    """One asset: https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-all-currencies"""

    currency: str
    precision: int = 8


class RestTrade(msgspec.Struct, frozen=True, gc=False):
    """One of the last 100 trades: https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-trade-history ::

    {"sequence":"10976028003549185","price":"67122","size":"0.000025","side":"buy","time":1729177117877000000}
    """

    sequence: int
    price: float
    size: float
    side: Literal["buy", "sell"]
    time: int


# [begin in seconds, open, close, high, low, volume, turnover]:
# https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-klines
Candle = tuple[int, float, float, float, float, float, float]

decode_bullet = _decoder(Answer[Bullet]).decode
decode_symbols = _decoder(Answer[list[Symbol]]).decode
decode_currencies = _decoder(Answer[list[Currency]]).decode
decode_candles = _decoder(Answer[list[Candle]]).decode
decode_rest_trades = _decoder(Answer[list[RestTrade]]).decode
decode_time = _decoder(Answer[Annotated[int, msgspec.Meta(gt=0)]]).decode  # {"code":"200000","data":1546837113087}
decode_code = _decoder(Code).decode
SUCCESS = "200000"

"""Binance's names and numbers for the market's instruments, and its `exchangeInfo`."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

from marketd.testvenue.candles import Candle
from marketd.testvenue.market import Instrument, Market
from marketd.testvenue.texts import NumberText, decimals_of, padded

FOREVER_MS = 4_133_404_800_000  # the delivery date of perpetuals


class KlineTexts(NamedTuple):
    """A candle's numbers as text."""

    open: str
    high: str
    low: str
    close: str
    volume: str
    notional: str
    buy_volume: str
    buy_notional: str


class Symbols:
    """Names and number formats.

    Spot prints all prices and sizes with eight decimals, futures with those of the tick.
    """

    def __init__(self, market: Market, *, futures: bool) -> None:
        self._market = market
        self._futures = futures
        self.names = [instrument.base + instrument.quote for instrument in market.instruments]
        self.numbers = {name: number for number, name in enumerate(self.names)}
        self._texts = [
            (name, self._text(instrument.price_tick), self._text(instrument.size_tick), self._notional(instrument))
            for name, instrument in zip(self.names, market.instruments, strict=True)
        ]

    def texts(self, instrument: int) -> tuple[str, NumberText, NumberText]:
        """The symbol, and printers for prices and sizes."""
        return self._texts[instrument][:3]

    def notional(self, instrument: int) -> NumberText:
        """A printer for products of price and size."""
        return self._texts[instrument][3]

    def kline(self, instrument: int, candle: Candle) -> KlineTexts:
        """Print a candle."""
        _, price, size, notional = self._texts[instrument]
        return KlineTexts(
            price(candle.open),
            price(candle.high),
            price(candle.low),
            price(candle.close),
            size(candle.volume),
            notional(candle.notional),
            size(candle.buy_volume),
            notional(candle.buy_notional),
        )

    def info(self, number: int) -> dict[str, Any]:
        """One symbol's entry in `exchangeInfo`."""
        instrument = self._market.instruments[number]
        return self._futures_info(instrument) if self._futures else self._spot_info(instrument)

    def _text(self, tick: Decimal) -> NumberText:
        return padded(tick) if self._futures else padded(tick, 8)

    def _notional(self, instrument: Instrument) -> NumberText:
        tick = instrument.price_tick * instrument.size_tick
        places = max(8, decimals_of(tick)) if not self._futures else decimals_of(tick)
        return padded(tick, places)

    def _spot_info(self, instrument: Instrument) -> dict[str, Any]:
        """https://developers.binance.com/docs/binance-spot-api-docs/rest-api/general-endpoints#exchange-information"""
        price, size = padded(instrument.price_tick, 8), padded(instrument.size_tick, 8)
        return {
            "symbol": instrument.base + instrument.quote,
            "status": "TRADING",
            "baseAsset": instrument.base,
            "baseAssetPrecision": 8,
            "quoteAsset": instrument.quote,
            "quotePrecision": 8,
            "quoteAssetPrecision": 8,
            "baseCommissionPrecision": 8,
            "quoteCommissionPrecision": 8,
            "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"],
            "icebergAllowed": True,
            "ocoAllowed": True,
            "otoAllowed": True,
            "opoAllowed": True,
            "quoteOrderQtyMarketAllowed": True,
            "allowTrailingStop": True,
            "cancelReplaceAllowed": True,
            "amendAllowed": True,
            "pegInstructionsAllowed": True,
            "isSpotTradingAllowed": True,
            "isMarginTradingAllowed": False,
            "filters": [
                {
                    "filterType": "PRICE_FILTER",
                    "minPrice": price(1),
                    "maxPrice": price(1 << 30),
                    "tickSize": price(1),
                },
                {"filterType": "LOT_SIZE", "minQty": size(1), "maxQty": size(1 << 30), "stepSize": size(1)},
                {"filterType": "ICEBERG_PARTS", "limit": 10},
                {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
            ],
            "permissions": [],
            "permissionSets": [["SPOT"]],
            "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
            "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
        }

    def _futures_info(self, instrument: Instrument) -> dict[str, Any]:
        """https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Exchange-Information"""
        price, size = padded(instrument.price_tick), padded(instrument.size_tick)
        symbol = instrument.base + instrument.quote
        return {
            "symbol": symbol,
            "pair": symbol,
            "contractType": "PERPETUAL",
            "deliveryDate": FOREVER_MS,
            "onboardDate": self._market.origin_ns // 1_000_000,
            "status": "TRADING",
            "maintMarginPercent": "2.5000",
            "requiredMarginPercent": "5.0000",
            "baseAsset": instrument.base,
            "quoteAsset": instrument.quote,
            "marginAsset": instrument.quote,
            "pricePrecision": decimals_of(instrument.price_tick),
            "quantityPrecision": decimals_of(instrument.size_tick),
            "baseAssetPrecision": 8,
            "quotePrecision": 8,
            "underlyingType": "COIN",
            "underlyingSubType": [],
            "triggerProtect": "0.0500",
            "liquidationFee": "0.012500",
            "marketTakeBound": "0.05",
            "maxMoveOrderLimit": 10000,
            "filters": [
                {
                    "filterType": "PRICE_FILTER",
                    "minPrice": price(1),
                    "maxPrice": price(1 << 30),
                    "tickSize": price(1),
                },
                {"filterType": "LOT_SIZE", "minQty": size(1), "maxQty": size(1 << 20), "stepSize": size(1)},
                {"filterType": "MARKET_LOT_SIZE", "minQty": size(1), "maxQty": size(1 << 16), "stepSize": size(1)},
                {"filterType": "MAX_NUM_ORDERS", "limit": 200},
                {"filterType": "MIN_NOTIONAL", "notional": "5"},
            ],
            "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET"],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
        }

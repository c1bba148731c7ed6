"""KuCoin's names and numbers for the market's instruments. Numbers are text without zeros at the end."""

from __future__ import annotations

from typing import Any

from marketd.testvenue.candles import SECOND_NS, Candle
from marketd.testvenue.market import Market
from marketd.testvenue.texts import NumberText, trimmed


class Symbols:
    """Names and number formats."""

    def __init__(self, market: Market) -> None:
        self._instruments = market.instruments
        self.names = [f"{instrument.base}-{instrument.quote}" for instrument in market.instruments]
        self.numbers = {name: number for number, name in enumerate(self.names)}
        self._texts = [
            (trimmed(instrument.price_tick), trimmed(instrument.size_tick)) for instrument in market.instruments
        ]
        self._notionals = [trimmed(instrument.price_tick * instrument.size_tick) for instrument in market.instruments]

    def texts(self, instrument: int) -> tuple[NumberText, NumberText]:
        """Printers for prices and sizes."""
        return self._texts[instrument]

    def candle(self, instrument: int, candle: Candle) -> list[str]:
        """Begin in seconds, open, *close*, high, low, volume, turnover."""
        price, size = self._texts[instrument]
        return [
            str(candle.open_ns // SECOND_NS),
            price(candle.open),
            price(candle.close),
            price(candle.high),
            price(candle.low),
            size(candle.volume),
            self._notionals[instrument](candle.notional),
        ]

    def info(self, number: int) -> dict[str, Any]:
        """One entry of the symbols: https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-all-symbols ."""
        instrument = self._instruments[number]
        price, size = self._texts[number]
        return {
            "symbol": self.names[number],
            "name": self.names[number],
            "baseCurrency": instrument.base,
            "quoteCurrency": instrument.quote,
            "feeCurrency": instrument.quote,
            "market": "USDS" if instrument.quote == "USDT" else instrument.quote,
            "baseMinSize": size(1),
            "quoteMinSize": "0.1",
            "baseMaxSize": "10000000000",
            "quoteMaxSize": "99999999",
            "baseIncrement": size(1),
            "quoteIncrement": self._notionals[number](1),
            "priceIncrement": price(1),
            "priceLimitRate": "0.1",
            "minFunds": "0.1",
            "isMarginEnabled": False,
            "enableTrading": True,
            "feeCategory": 1,
            "makerFeeCoefficient": "1.00",
            "takerFeeCoefficient": "1.00",
            "st": False,
        }

    def currencies(self) -> list[dict[str, Any]]:
        """All currencies: https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-all-currencies ."""
        names = dict.fromkeys(name for instrument in self._instruments for name in (instrument.base, instrument.quote))
        return [
            {
                "currency": name,
                "name": name,
                "fullName": name,
                "precision": 8,
                "confirms": None,
                "contractAddress": None,
                "isMarginEnabled": False,
                "isDebitEnabled": False,
                "chains": None,
            }
            for name in names
        ]

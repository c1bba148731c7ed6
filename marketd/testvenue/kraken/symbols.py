"""Kraken's names and numbers for the market's instruments.

An asset has up to three names: the id of the REST answers (`XXBT`), the alternative name (`XBT`) and the one of
websocket v2 (`BTC`). `wsname` in `AssetPairs` still is the one of websocket v1 (`XBT/USD`), which v2 and REST refuse:
https://github.com/nautechsystems/nautilus_trader/issues/3509 .
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from marketd.testvenue.market import Instrument, Market
from marketd.testvenue.texts import NumberText, decimals_of, padded

# Our name: id, alternative name.
_OLD_NAMES = {
    "BTC": ("XXBT", "XBT"),
    "ETH": ("XETH", "ETH"),
    "XRP": ("XXRP", "XRP"),
    "DOGE": ("XXDG", "XDG"),
    "LTC": ("XLTC", "LTC"),
    "XLM": ("XXLM", "XLM"),
    "USD": ("ZUSD", "USD"),
}
# Pairs of two old assets have ids made of the assets' ids, with this exception: XDGUSD.
_PLAIN_IDS = {"DOGE"}
_DECIMALS = {"USD": (4, 2)}
_LEVERAGE = [2, 3, 4, 5, 6, 7, 8, 9, 10]


class Symbols:
    """Names and number formats."""

    def __init__(self, market: Market) -> None:
        self._instruments = market.instruments
        self.names = [instrument.symbol for instrument in market.instruments]
        self.numbers = {name: number for number, name in enumerate(self.names)}
        self.ids = [_pair_id(instrument) for instrument in market.instruments]
        # What REST takes for a pair: its id, its alternative name, its websocket v2 name.
        self.accepted: dict[str, int] = {}
        for number, instrument in enumerate(market.instruments):
            alternative = _old(instrument.base)[1] + _old(instrument.quote)[1]
            self.accepted |= {self.ids[number]: number, alternative: number, self.names[number]: number}
        self._texts = [
            (padded(instrument.price_tick), padded(instrument.size_tick)) for instrument in market.instruments
        ]
        self._rest_prices = [
            padded(instrument.price_tick, max(5, decimals_of(instrument.price_tick)))
            for instrument in market.instruments
        ]

    def texts(self, instrument: int) -> tuple[NumberText, NumberText]:
        """Printers for prices and sizes."""
        return self._texts[instrument]

    def rest_price(self, instrument: int) -> NumberText:
        """A printer for the prices of `Trades` and `Depth`: at least five decimals, ``83930.30000``."""
        return self._rest_prices[instrument]

    def vwap(self, instrument: int, notional: int, volume: int) -> str:
        """Print the mean price by volume, to the price's decimals; ``0.0`` without volume, as Kraken does."""
        if not volume:
            return padded(self._instruments[instrument].price_tick)(0)
        tick = self._instruments[instrument].price_tick
        mean = Decimal(notional) / Decimal(volume) * tick
        return str(mean.quantize(Decimal(1).scaleb(-decimals_of(tick))))

    def pair(self, number: int) -> dict[str, Any]:
        """One entry of `AssetPairs`: https://docs.kraken.com/api/docs/rest-api/get-tradable-asset-pairs ."""
        instrument = self._instruments[number]
        base, quote = _old(instrument.base), _old(instrument.quote)
        price, size = padded(instrument.price_tick), padded(instrument.size_tick)
        return {
            "altname": base[1] + quote[1],
            "wsname": f"{base[1]}/{quote[1]}",
            "aclass_base": "currency",
            "base": base[0],
            "aclass_quote": "currency",
            "quote": quote[0],
            "lot": "unit",
            "cost_decimals": 5,
            "pair_decimals": decimals_of(instrument.price_tick),
            "lot_decimals": decimals_of(instrument.size_tick),
            "lot_multiplier": 1,
            "leverage_buy": _LEVERAGE,
            "leverage_sell": _LEVERAGE,
            "fees": [],
            "fees_maker": [],
            "fee_volume_currency": "ZUSD",
            "margin_call": 80,
            "margin_stop": 40,
            "ordermin": size(5000),
            "costmin": "0.5",
            "tick_size": price(1),
            "status": "online",
            "execution_venue": "international",
        }

    def assets(self) -> dict[str, dict[str, Any]]:
        """All of `Assets`: https://docs.kraken.com/api/docs/rest-api/get-asset-info ."""
        names = dict.fromkeys(name for instrument in self._instruments for name in (instrument.base, instrument.quote))
        return {
            _old(name)[0]: {
                "aclass": "currency",
                "altname": _old(name)[1],
                "decimals": _DECIMALS.get(name, (10, 5))[0],
                "display_decimals": _DECIMALS.get(name, (10, 5))[1],
                "status": "enabled",
            }
            for name in names
        }

    def instrument_pairs(self) -> list[dict[str, Any]]:
        """The pairs of the websocket's `instrument` channel."""
        return [
            {
                "symbol": instrument.symbol,
                "base": instrument.base,
                "quote": instrument.quote,
                "status": "online",
                "qty_precision": decimals_of(instrument.size_tick),
                "qty_increment": float(instrument.size_tick),
                "qty_min": float(instrument.size_tick * 5000),
                "price_precision": decimals_of(instrument.price_tick),
                "price_increment": float(instrument.price_tick),
                "tick_size": float(instrument.price_tick),
                "cost_precision": 5,
                "cost_min": 0.5,
                "marginable": True,
                "has_index": True,
            }
            for instrument in self._instruments
        ]

    def instrument_assets(self) -> list[dict[str, Any]]:
        """The assets of the websocket's `instrument` channel."""
        names = dict.fromkeys(name for instrument in self._instruments for name in (instrument.base, instrument.quote))
        return [
            {
                "id": name,
                "status": "enabled",
                "precision": _DECIMALS.get(name, (10, 5))[0],
                "precision_display": _DECIMALS.get(name, (10, 5))[1],
                "borrowable": False,
                "collateral_value": 0.0,
                "margin_rate": 0.0,
            }
            for name in names
        ]


def _old(name: str) -> tuple[str, str]:
    return _OLD_NAMES.get(name, (name, name))


def _pair_id(instrument: Instrument) -> str:
    base, quote = _old(instrument.base), _old(instrument.quote)
    old = instrument.base in _OLD_NAMES and instrument.base not in _PLAIN_IDS
    return base[0] + quote[0] if old else base[1] + quote[1]

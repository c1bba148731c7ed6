"""Binance: spot, USD-M futures, and Binance US, which speaks the same protocol."""

from __future__ import annotations

import msgspec

from backends.backend import Backend
from backends.binance.instruments import URL_PREFIXES
from backends.binance.protocol import BinanceProtocol


class BinanceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Binance feed's table. It has no keys: so far Binance plays through `replay` only."""


BACKEND = Backend(
    name="binance",
    description="Binance spot and USD-M futures, and Binance US: trades and best quotes",
    config=BinanceConfig,
    url_prefixes=URL_PREFIXES,
    open_protocol=BinanceProtocol,
)

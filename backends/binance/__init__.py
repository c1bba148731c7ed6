"""Binance: spot, USD-M futures, and Binance US, which speaks the same protocol."""

from __future__ import annotations

from backends.backend import Backend
from backends.binance.instruments import URL_PREFIXES
from backends.binance.live import BinanceConfig, open_venues
from backends.binance.protocol import BinanceProtocol

BACKEND = Backend(
    name="binance",
    description="Binance spot and USD-M futures, and Binance US: trades and best quotes",
    config=BinanceConfig,
    open_venues=open_venues,
    url_prefixes=URL_PREFIXES,
    open_protocol=BinanceProtocol,
)

"""Kraken spot: live by websocket v2, and recordings of v1 as well."""

from __future__ import annotations

from backends.backend import Backend
from backends.kraken.live import KrakenSpot
from backends.kraken.protocol import open_protocol
from backends.kraken.saved import SAVED_TRADES
from backends.live import LiveConfig

BACKEND = Backend(
    name="kraken",
    description="Kraken spot: trades, best quotes and books",
    config=LiveConfig,
    open_venues=lambda config: [KrakenSpot(config)],
    kinds=("trade", "quote", "book"),
    url_prefixes=("wss://ws.kraken.com", "wss://beta-ws.kraken.com"),
    open_protocol=open_protocol,
    saved_trades=SAVED_TRADES,
)

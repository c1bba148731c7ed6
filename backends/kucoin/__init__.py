"""KuCoin spot."""

from __future__ import annotations

from backends.backend import Backend
from backends.kucoin.live import KucoinSpot
from backends.kucoin.protocol import open_protocol
from backends.live import LiveConfig

BACKEND = Backend(
    name="kucoin",
    description="KuCoin spot: trades and best quotes",
    config=LiveConfig,
    open_venues=lambda config: [KucoinSpot(config)],
    url_prefixes=("wss://ws-api-spot.kucoin.com", "wss://push-private.kucoin.com"),
    open_protocol=open_protocol,
)

"""KuCoin spot as a live venue: its addresses and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from backends.backend import Sink
from backends.kucoin import wire
from backends.kucoin.connection import SUBSCRIBE_CHUNK, KucoinConnection
from backends.kucoin.history import KucoinHistory
from backends.kucoin.instruments import parse_symbols
from backends.kucoin.rest import THROTTLED, code_of, read
from backends.live import (
    Bucket,
    ConnectPlan,
    History,
    HttpRequest,
    Limits,
    LiveConfig,
    LiveProtocol,
    ServerTime,
    TickKind,
)
from marketd.clock import MILLISECOND_NS
from marketd.errors import WireError
from marketd.model import MktPair

if TYPE_CHECKING:
    from marketd.http.messages import Response

# "It is recommended to use a dynamic URL": where to connect, the token's answer says. This is what it says today, and
# what recordings are known by.
WS_URL = "wss://ws-api-spot.kucoin.com"
REST_URL = "https://api.kucoin.com"

_POOL_S = 30.0
_PAUSE_S_MAX = 3600.0
_PING_SHARE = 0.8  # of the interval that KuCoin gives; it allows for pingTimeout more


class KucoinSpot:
    """See :class:`backends.live.LiveVenue`."""

    name = "kucoin"
    history: History | None = KucoinHistory()
    # https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-server-time
    server_time: ServerTime | None = ServerTime(
        HttpRequest("GET", "/api/v1/timestamp", weight=3),
        lambda body: read(body, wire.decode_time, "the server's time") * MILLISECOND_NS,
        MILLISECOND_NS,
    )

    def __init__(self, config: LiveConfig) -> None:
        self.ws_url = (config.ws_url or WS_URL).rstrip("/")
        self.rest_url = (config.rest_url or REST_URL).rstrip("/")
        # https://www.kucoin.com/docs-new/rate-limit , as of 2026
        self.limits = Limits(
            # "Spot / Margin: <= 400 topics". It was 100, then 300 until 2025, and not everybody seems to have the 400:
            # https://github.com/ccxt/ccxt/issues/25450 . A topic is one symbol of one kind.
            streams_per_connection=300,
            subscribe_chunk=SUBSCRIBE_CHUNK,
            streams_per_instrument=len(set(config.kinds)),
            messages_per_s=8.0,  # "100 messages / 10 seconds", pings among them
            connections_per_window=(30, 60.0),  # "30 connections per minute"
            # "a single connection is expected to be disconnected after 24 hours", and its token is valid for as long:
            # https://www.kucoin.com/docs-new/websocket-api/base-info/introduction
            lifetime_s=24 * 3600.0,
            # Pongs are messages here, and come every 18 s or so.
            quiet_s=60.0,
            trade_ids="rising",
            # 2000 in 30 s from one address for all that is public. The margin is for others behind the same one.
            buckets={"rest": Bucket(1800, _POOL_S)},
        )
        self.kinds: Sequence[TickKind] = config.kinds
        self._forced = bool(config.ws_url)

    def instrument_requests(self) -> list[HttpRequest]:
        """See :class:`backends.live.LiveVenue`."""
        return [HttpRequest("GET", "/api/v2/symbols", weight=4), HttpRequest("GET", "/api/v3/currencies", weight=3)]

    def parse_instruments(self, bodies: list[bytes]) -> list[MktPair]:
        """See :class:`backends.live.LiveVenue`."""
        symbols, currencies = bodies
        return parse_symbols(symbols, currencies)

    def connect_requests(self) -> list[HttpRequest]:
        """See :class:`backends.live.LiveVenue`: a token, and where to go with it."""
        return [HttpRequest("POST", "/api/v1/bullet-public", weight=10)]

    def connect_plan(self, bodies: list[bytes], markets: Sequence[MktPair]) -> ConnectPlan:
        """See :class:`backends.live.LiveVenue`."""
        bullet = read(bodies[0], wire.decode_bullet, "the token")
        if not bullet.servers or bullet.servers[0].ping_interval <= 0:
            raise WireError("the token can't be used: no server to connect to, or no interval for its pings")
        server = bullet.servers[0]
        address = self.ws_url if self._forced else server.endpoint
        return ConnectPlan(
            url=f"{address}{'&' if '?' in address else '?'}{urlencode({'token': bullet.token})}",
            message_ping_s=server.ping_interval / 1000 * _PING_SHARE,
        )

    def open_protocol(self, sink: Sink, markets: Sequence[MktPair], plan: ConnectPlan) -> LiveProtocol:
        """See :class:`backends.live.LiveVenue`."""
        return KucoinConnection(sink, self.kinds, plan)

    def weight_used(self, headers: Mapping[str, str]) -> dict[str, int]:
        """See :class:`backends.live.LiveVenue`: "gw-ratelimit-limit": 500, "gw-ratelimit-remaining": 300."""
        limit, remaining = (_whole(headers.get(f"gw-ratelimit-{name}")) for name in ("limit", "remaining"))
        return {"rest": max(0, limit - remaining)} if limit is not None and remaining is not None else {}

    def throttled(self, response: Response) -> float | None:
        """See :class:`backends.live.LiveVenue`.

        "an error message of http code:429, error code:429000 will be returned, and the request can be re-requested
        after the length of time displayed in the request header", in ms. An overloaded server says the same code
        without the header.
        """
        if response.status != 429 and not _says_throttled(response.body):
            return None
        wait_ms = _whole(response.headers.get("gw-ratelimit-reset"))
        return _POOL_S if wait_ms is None else min(wait_ms / 1000, _PAUSE_S_MAX)


def _says_throttled(body: bytes) -> bool:
    short = len(body) <= 1024  # as errors are
    return short and THROTTLED.encode() in body and code_of(body) == THROTTLED


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) < 19 else None

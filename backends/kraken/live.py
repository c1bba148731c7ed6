"""Kraken spot as a live venue: its addresses and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from backends.backend import Sink
from backends.kraken import wire
from backends.kraken.connection import SUBSCRIBE_CHUNK, KrakenConnection
from backends.kraken.history import KrakenHistory
from backends.kraken.instruments import parse_pairs, read
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
from marketd.clock import SECOND_NS
from marketd.model import MktPair

if TYPE_CHECKING:
    from marketd.http.messages import Response

WS_URL = "wss://ws.kraken.com/v2"
REST_URL = "https://api.kraken.com"

# How long to leave a bucket alone after an error: https://docs.kraken.com/exchange/guides/general/errors . They come
# with status 200, and say nothing of how long.
_PAUSES_S = {
    "EGeneral:Too many requests": 15.0,
    "EAPI:Rate limit exceeded": 15.0,
    "EService:Throttled": 15.0,
    "EGeneral:Temporary lockout": 300.0,
    "EService:Unavailable": 5.0,
    "EService:Busy": 5.0,
}
_BANNED_S = 600.0  # by Cloudflare, which is in front of Kraken: "the IP is banned for 10 minutes"
_WAIT_S_MAX = 3600.0


class KrakenSpot:
    """See :class:`backends.live.LiveVenue`."""

    name = "kraken"
    history: History | None = KrakenHistory()
    # https://docs.kraken.com/api/docs/rest-api/get-server-time ; in whole seconds
    server_time: ServerTime | None = ServerTime(
        HttpRequest("GET", "/0/public/Time"),
        lambda body: read("the server's time", wire.decode_time, body).unixtime * SECOND_NS,
        SECOND_NS,
    )

    def __init__(self, config: LiveConfig) -> None:
        self.ws_url = (config.ws_url or WS_URL).rstrip("/")
        self.rest_url = (config.rest_url or REST_URL).rstrip("/")
        self.limits = Limits(
            # Kraken names no limits for these three. Too many messages are answered with "Exceeded msg rate".
            streams_per_connection=1000,
            subscribe_chunk=SUBSCRIBE_CHUNK,
            messages_per_s=5.0,
            streams_per_instrument=len(set(config.kinds)),
            # "Cloudflare imposes a connection/re-connection rate limit (per IP address) of approximately 150 attempts
            # per rolling 10 minutes": https://docs.kraken.com/exchange/guides/websockets/introduction . The margin is
            # for others behind the same address.
            connections_per_window=(120, 600.0),
            # "set a deadline timer (e.g. 5 seconds)", as heartbeats come each second:
            # https://docs.kraken.com/exchange/guides/websockets/reconnection
            quiet_s=5.0,
            trade_ids="contiguous",
            # "Calling the public endpoints at a frequency of 1 per second (or less) would remain within the rate
            # limits": https://support.kraken.com/articles/206548367-what-are-the-api-rate-limits- . Trades and OHLC are
            # counted for each pair by itself, of which no use is made.
            buckets={"rest": Bucket(1, 1.0)},
        )
        self.kinds: Sequence[TickKind] = config.kinds

    def instrument_requests(self) -> list[HttpRequest]:
        """See :class:`backends.live.LiveVenue`."""
        return [HttpRequest("GET", "/0/public/AssetPairs"), HttpRequest("GET", "/0/public/Assets")]

    def parse_instruments(self, bodies: list[bytes]) -> list[MktPair]:
        """See :class:`backends.live.LiveVenue`."""
        pairs, assets = bodies
        return parse_pairs(pairs, assets)

    def connect_requests(self) -> list[HttpRequest]:
        """See :class:`backends.live.LiveVenue`: nothing."""
        return []

    def connect_plan(self, bodies: list[bytes], markets: Sequence[MktPair]) -> ConnectPlan:
        """See :class:`backends.live.LiveVenue`."""
        return ConnectPlan(self.ws_url)

    def open_protocol(self, sink: Sink, markets: Sequence[MktPair], plan: ConnectPlan) -> LiveProtocol:
        """See :class:`backends.live.LiveVenue`."""
        return KrakenConnection(sink, self.kinds)

    def weight_used(self, headers: Mapping[str, str]) -> dict[str, int]:
        """See :class:`backends.live.LiveVenue`: Kraken does not tell."""
        return {}

    def throttled(self, response: Response) -> float | None:
        """See :class:`backends.live.LiveVenue`."""
        if response.status == 429:
            wait_s = response.headers.get("Retry-After", "")
            return min(float(wait_s), _WAIT_S_MAX) if wait_s.isdecimal() else _BANNED_S
        if len(response.body) > 4096 or b'"E' not in response.body:  # errors are short
            return None
        try:
            errors = wire.decode_errors(response.body).error
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None
        pauses_s = [pause_s for error in errors for text, pause_s in _PAUSES_S.items() if error.startswith(text)]
        return max(pauses_s, default=None)

"""Binance as a live venue: addresses, limits, instruments, connections. Pure; see `backends/live.py`.

Spot has all streams at one address. USD-M futures have had three since 2026-04-23: ``/public`` carries book tickers,
``/market`` carries aggregate trades, ``/private`` is not for us. A connection to the wrong one, or to none of them,
acks every subscription and never says a word of it. So futures are one venue for each address in use.
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Important-WebSocket-Change-Notice
https://github.com/binance/binance-futures-connector-python/issues/261

Trades are the aggregate ones. Their ids are those of the history pages; ``trade`` is not documented for futures at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from backends.backend import Sink
from backends.binance import wire
from backends.binance.history import BinanceHistory
from backends.binance.instruments import Host, host_of, parse_listed
from backends.binance.live_protocol import BinanceLiveProtocol
from backends.binance.stream_requests import CHUNK
from backends.live import (
    Bucket,
    ConnectPlan,
    History,
    HttpRequest,
    Limits,
    LiveConfig,
    LiveVenue,
    ServerTime,
    TickKind,
)
from marketd.clock import MILLISECOND_NS, SECOND_NS
from marketd.errors import WireError
from marketd.model import MktPair

if TYPE_CHECKING:
    from marketd.http.messages import Response

Route = Literal["market", "public"]

_STREAM_TYPES: dict[TickKind, str] = {"trade": "aggTrade", "quote": "bookTicker"}
# "A Retry-After header is sent with a 418 or 429". Without one: a minute is the window of the weights, and what a
# firewall (403) counts nobody tells. https://developers.binance.com/docs/binance-spot-api-docs/rest-api/http-return-codes
_THROTTLED = (429, 418, 403)
_THROTTLED_S = 60.0
_BANNED_UNTIL = re.compile(rb"IP banned until (\d{13})")


class BinanceConfig(LiveConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Binance feed's table.

    Attributes:
        market: `spot`, or `usdm`: the futures that are paid in USDT and other dollars.
    """

    market: Literal["spot", "usdm"] = "spot"


def open_venues(config: BinanceConfig) -> list[LiveVenue]:
    """Make one venue for each address that the configured kinds are at."""
    if config.market == "spot":
        return [BinanceSpot(config)]
    routes: list[tuple[Route, TickKind]] = [("market", "trade"), ("public", "quote")]
    return [BinanceUsdm(config, route) for route, kind in routes if kind in config.kinds]


class _Binance:
    """What both markets have in common; see :class:`backends.live.LiveVenue`."""

    name: str
    ws_url: str
    rest_url: str
    limits: Limits
    history: History | None
    server_time: ServerTime | None
    _host: Host
    _path: str
    kinds: Sequence[TickKind]

    def connect_requests(self) -> list[HttpRequest]:
        """See :class:`backends.live.LiveVenue`: nothing."""
        return []

    def connect_plan(self, bodies: list[bytes], markets: Sequence[MktPair]) -> ConnectPlan:
        """See :class:`backends.live.LiveVenue`.

        No streams in the address: live subscribing is acked, and can be changed. Below ``/stream`` messages come
        combined, with the stream's name. The venue pings; the websocket answers.
        """
        return ConnectPlan(f"{self.ws_url}{self._path}/stream")

    def open_protocol(self, sink: Sink, markets: Sequence[MktPair], plan: ConnectPlan) -> BinanceLiveProtocol:
        """See :class:`backends.live.LiveVenue`."""
        return BinanceLiveProtocol(sink, [_STREAM_TYPES[kind] for kind in self.kinds], self.limits.subscribe_chunk)

    def parse_instruments(self, bodies: list[bytes]) -> list[MktPair]:
        """See :class:`backends.live.LiveVenue`.

        Raises:
            WireError: the answer can't be used.
        """
        return parse_listed(bodies[0], self._host)

    def weight_used(self, headers: Mapping[str, str]) -> dict[str, int]:
        """See :class:`backends.live.LiveVenue`.

        "Every request will contain X-MBX-USED-WEIGHT-(intervalNum)(intervalLetter) in the response headers"; the case
        is not the same everywhere: ``x-mbx-used-weight-1m``.
        """
        used = next((value for name, value in headers.items() if name.lower() == "x-mbx-used-weight-1m"), "")
        return {"rest": int(used)} if used.isascii() and used.isdigit() else {}

    def throttled(self, response: Response) -> float | None:
        """See :class:`backends.live.LiveVenue`.

        "IP bans are tracked and scale in duration for repeat offenders, from 2 minutes to 3 days."
        https://github.com/binance/binance-spot-api-docs/blob/master/rest-api.md#ip-limits
        """
        if response.status not in _THROTTLED:
            return None
        asked = response.headers.get("Retry-After", "").strip()
        if asked.isascii() and asked.isdigit():
            return max(1.0, float(asked[:9]))
        banned = _BANNED_UNTIL.search(response.body)
        if banned is None:
            return _THROTTLED_S
        return max(1.0, (int(banned[1]) * MILLISECOND_NS - response.received_ns) / SECOND_NS)


class BinanceSpot(_Binance):
    """Spot, and Binance US, which has the same protocol: ``rest_url`` tells which, by its host."""

    def __init__(self, config: BinanceConfig) -> None:
        self.name = "binance.spot"
        # General WSS information, and "General API Information":
        # https://github.com/binance/binance-spot-api-docs/blob/master/rest-api.md#general-api-information
        self.ws_url = (config.ws_url or "wss://stream.binance.com:9443").rstrip("/")
        self.rest_url = (config.rest_url or "https://api.binance.com").rstrip("/")
        self.history = BinanceHistory(futures=False)
        # https://developers.binance.com/docs/binance-spot-api-docs/rest-api/general-endpoints#check-server-time
        self.server_time = ServerTime(HttpRequest("GET", "/api/v3/time"), _server_ns, MILLISECOND_NS)
        self._host = Host(host_of(self.rest_url).backend, futures=False)
        self._path = ""
        self.kinds = tuple(dict.fromkeys(config.kinds))
        # https://github.com/binance/binance-spot-api-docs/blob/master/web-socket-streams.md#websocket-limits
        self.limits = Limits(
            streams_per_connection=1024,  # "A single connection can listen to a maximum of 1024 streams."
            streams_per_instrument=len(self.kinds),
            subscribe_chunk=CHUNK,
            messages_per_s=4.0,  # of "5 incoming messages per second", pongs included
            connections_per_window=(300, 300.0),  # "300 connections per attempt every 5 minutes per IP"
            lifetime_s=86_400.0,  # "only valid for 24 hours"
            quiet_s=_quiet_s(self.kinds),
            # "rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":6000; 1200 at Binance US,
            # as their exchangeInfo says.
            buckets={"rest": Bucket(1200 if self._host.backend == "binanceus" else 6000, 60.0)},
        )

    def instrument_requests(self) -> list[HttpRequest]:
        """See :class:`backends.live.LiveVenue`. Without the sets of permissions the answer has a fraction of its size.

        https://developers.binance.com/docs/binance-spot-api-docs/rest-api/general-endpoints
        """
        params = {"showPermissionSets": "false"} if self._host.backend == "binance" else {}
        return [HttpRequest("GET", "/api/v3/exchangeInfo", params, weight=20)]


class BinanceUsdm(_Binance):
    """USD-M futures, one of their addresses."""

    def __init__(self, config: BinanceConfig, route: Route) -> None:
        self.name = f"binance.usdm.{route}"
        # https://developers.binance.com/docs/derivatives/usds-margined-futures/general-info
        self.ws_url = (config.ws_url or "wss://fstream.binance.com").rstrip("/")
        self.rest_url = (config.rest_url or "https://fapi.binance.com").rstrip("/")
        self.history = BinanceHistory(futures=True)
        # https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Check-Server-Time
        self.server_time = ServerTime(HttpRequest("GET", "/fapi/v1/time"), _server_ns, MILLISECOND_NS)
        self._host = Host("binance", futures=True)
        self._path = f"/{route}"
        self.kinds = ("trade",) if route == "market" else ("quote",)
        # https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams
        self.limits = Limits(
            streams_per_connection=1024,
            streams_per_instrument=1,
            subscribe_chunk=CHUNK,
            messages_per_s=8.0,  # of "10 incoming messages per second"
            connections_per_window=(300, 300.0),  # spot's: there is no word of such a limit for futures
            lifetime_s=86_400.0,
            quiet_s=_quiet_s(self.kinds),
            buckets={"rest": Bucket(2400, 60.0)},  # the same in futures' exchangeInfo
        )

    def instrument_requests(self) -> list[HttpRequest]:
        """See :class:`backends.live.LiveVenue`.

        https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Exchange-Information
        """
        return [HttpRequest("GET", "/fapi/v1/exchangeInfo", weight=1)]


def _server_ns(body: bytes) -> int:
    try:
        return wire.decode_time(body).server_time * MILLISECOND_NS
    except msgspec.MsgspecError as error:
        raise WireError(f"the server's time can't be used: {error}") from error


def _quiet_s(kinds: Sequence[TickKind]) -> float:
    """Say how long a connection may be silent. Binance has no heartbeat messages, so its markets must speak for it.

    The best quote of any market that is open changes within minutes; many a pair goes without a trade for longer.
    Connections that go dead behind living pings are real: https://github.com/binance/binance-connector-java/issues/139
    """
    return 300.0 if "quote" in kinds else 1800.0

"""KuCoin as a whole: the token endpoint, connections, limits. https://www.kucoin.com/docs-new/rate-limit"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from marketd.testvenue.kucoin.rest import Refused, Rest
from marketd.testvenue.kucoin.session import KucoinSession
from marketd.testvenue.kucoin.streams import Streams
from marketd.testvenue.kucoin.symbols import Symbols
from marketd.testvenue.limits import Window
from marketd.testvenue.market import MILLISECOND_NS, Market
from marketd.testvenue.venue import SECOND_NS, Bye, Reply, Request, Response, Session, Venue, encode

POOL, POOL_S = 2000, 30  # weight by address, counted from the first request
TOKEN_NS = 24 * 3600 * SECOND_NS
TOKENS_KEPT = 1000
TOKEN_WEIGHT, STATUS_WEIGHT = 10, 3


class Kucoin(Venue):
    """KuCoin spot."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.name = "kucoin"
        self.prefix = "/kucoin"
        self._symbols = Symbols(market)
        self._streams = Streams(self, self._symbols)
        self._pool = Window(POOL, POOL_S * SECOND_NS, aligned=False)
        self._banned_until_ns = 0
        self._tokens: dict[str, int] = {}  # to when it was given out
        self._rest = Rest(market, self.candles, self._symbols)

    def session(self, request: Request, now_ns: int) -> Session | Response:
        """See :class:`Venue`. A wrong token is told over the connection."""
        if self.maintenance:
            return self.unavailable()
        given_ns = self._tokens.get(request.query.get("token", ""))
        return KucoinSession(
            self._streams,
            self.tuning,
            request.query.get("connectId", ""),
            now_ns,
            token_known=given_ns is not None and now_ns - given_ns < TOKEN_NS,
            known_all=self.known_all,
        )

    def rest(self, request: Request, now_ns: int) -> Response:
        """See :class:`Venue`."""
        if request.path == "/api/v1/timestamp":  # the one without rate limit headers
            return Response(200, _data((now_ns + request.skew_ns) // MILLISECOND_NS))
        if self.maintenance and request.path != "/api/v1/status":
            return self.unavailable()
        weight, answer = self._endpoint(request)
        if answer is None:
            missing = {"code": "404", "msg": "Not Found", "retry": False, "success": False}
            return Response(404, encode(missing))
        self._pool.limit = self.tuning.weight_limit or POOL
        if now_ns < self._banned_until_ns:
            return self.refuse((self._banned_until_ns - now_ns) / SECOND_NS, now_ns)
        if not self._pool.take(weight, now_ns):
            return self.refuse(self._pool.resets_in_ns(now_ns) / SECOND_NS, now_ns)
        try:
            body = _data(answer(now_ns))
        except Refused as refused:
            body = encode({"code": refused.code, "msg": refused.text})
        except ValueError:
            body = encode({"code": "400100", "msg": "Parameter Error"})
        return Response(200, body, self._usage_headers(self._pool.resets_in_ns(now_ns) / SECOND_NS, now_ns))

    def refuse(self, seconds: float, now_ns: int) -> Response:
        """429 with code 429000; how long to wait is in `gw-ratelimit-reset`, ms. There is no `Retry-After`."""
        body = encode({"code": "429000", "msg": "Too many requests"})
        return Response(429, body, self._usage_headers(seconds, now_ns))

    def ban(self, seconds: float, now_ns: int) -> None:
        """See :class:`Venue`."""
        self._banned_until_ns = now_ns + int(seconds * SECOND_NS)

    def unavailable(self) -> Response:
        """See :class:`Venue`."""
        return Response(503, encode({"code": "503000", "msg": "Server is busy"}))

    def closing(self, session: Session, now_ns: int) -> list[Reply]:
        """KuCoin announces no cut."""
        return []

    def maintained(self, session: Session, now_ns: int) -> list[Reply]:
        """Cut; the status endpoint tells why."""
        return [Bye(1001, "Going away")] if self.maintenance else []

    def usage(self, now_ns: int) -> dict[str, int]:
        """See :class:`Venue`."""
        left = self._pool.remaining(now_ns)
        return {
            "weight_limit": self.tuning.weight_limit or POOL,
            "weight_left": left,
            "weight_used": self._pool.used,
            "banned_s": max(-(-(self._banned_until_ns - now_ns) // SECOND_NS), 0),
        }

    def forgive(self) -> None:
        """See :class:`Venue`."""
        self._pool.reset()
        self._banned_until_ns = 0

    def _endpoint(self, request: Request) -> tuple[int, Callable[[int], object] | None]:
        """The weight of a request, and what answers it."""
        if request.path == "/api/v1/bullet-public" and request.method == "POST":
            return TOKEN_WEIGHT, lambda now_ns: self._token(request, now_ns)
        if request.method != "GET":
            return 0, None
        if request.path == "/api/v1/status":
            return STATUS_WEIGHT, lambda now_ns: self._status()
        weight = self._rest.weight(request.path)
        if weight is None:
            return 0, None
        return weight, lambda now_ns: self._rest.answer(request.path, request.query, now_ns)

    def _usage_headers(self, seconds: float, now_ns: int) -> tuple[tuple[str, str], ...]:
        return (
            ("gw-ratelimit-limit", str(self._pool.limit)),
            ("gw-ratelimit-remaining", str(self._pool.remaining(now_ns))),
            ("gw-ratelimit-reset", str(max(int(seconds * 1000), 0))),
        )

    def _token(self, request: Request, now_ns: int) -> dict[str, Any]:
        """https://www.kucoin.com/docs-new/websocket-api/base-info/get-public-token-spot-margin"""
        token = secrets.token_urlsafe(32)
        self._tokens[token] = now_ns
        while len(self._tokens) > TOKENS_KEPT:
            del self._tokens[next(iter(self._tokens))]
        server = {
            "endpoint": f"{'wss' if request.secure else 'ws'}://{request.host}{self.prefix}/",
            "encrypt": request.secure,
            "protocol": "websocket",
            "pingInterval": self.tuning.ping_interval_ms,
            "pingTimeout": self.tuning.ping_timeout_ms,
        }
        return {"token": token, "instanceServers": [server]}

    def _status(self) -> dict[str, Any]:
        """https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-service-status"""
        if self.maintenance:
            return {"status": "close", "msg": "upgrade match engine"}
        return {"status": "open", "msg": ""}


def _data(value: object) -> bytes:
    return encode({"code": "200000", "data": value})

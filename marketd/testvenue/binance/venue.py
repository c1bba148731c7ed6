"""Binance as a whole: connections, REST, limits and bans. One class for spot and futures."""

from __future__ import annotations

import math

from marketd.testvenue.binance.rest import Refused, Rest
from marketd.testvenue.binance.session import FUTURES_PACE, SPOT_PACE, BinanceSession, not_found, parse_address
from marketd.testvenue.binance.streams import Streams
from marketd.testvenue.binance.symbols import Symbols
from marketd.testvenue.limits import SECOND_NS, Bans, Window
from marketd.testvenue.market import MILLISECOND_NS, Market
from marketd.testvenue.venue import Bye, Reply, Request, Response, Say, Session, Venue, encode

WINDOW_S = 60
# "There is a limit of 300 connections per attempt every 5 minutes per IP."
CONNECTIONS_MAX, CONNECTIONS_WINDOW_S = 300, 300


class Binance(Venue):
    """Spot, or USD-M futures."""

    def __init__(self, market: Market, *, futures: bool) -> None:
        super().__init__(market)
        self.name = "binance-futures" if futures else "binance"
        self.prefix = f"/{self.name}"
        self._futures = futures
        self._symbols = Symbols(market, futures=futures)
        self._streams = Streams(self, self._symbols, futures=futures)
        self._rest = Rest(market, self.candles, self._symbols, futures=futures)
        self._weights = Window(self._rest.weight_limit, WINDOW_S * SECOND_NS, aligned=True)
        self._opened = Window(CONNECTIONS_MAX, CONNECTIONS_WINDOW_S * SECOND_NS, aligned=True)
        self._bans = Bans()

    def session(self, request: Request, now_ns: int) -> Session | Response:
        """See :class:`Venue`."""
        if parse_address(request, routed=self._futures) is None:
            return not_found(request.path)
        if self.maintenance:
            return self.unavailable()
        if not self._opened.take(1, now_ns):
            return self.refuse(self._opened.resets_in_ns(now_ns) / SECOND_NS, now_ns)
        pace = FUTURES_PACE if self._futures else SPOT_PACE
        return BinanceSession(self._streams, request, pace, now_ns, futures=self._futures)

    def rest(self, request: Request, now_ns: int) -> Response:
        """See :class:`Venue`."""
        if request.path == "/sapi/v1/system/status":
            status = {"status": int(self.maintenance), "msg": "system_maintenance" if self.maintenance else "normal"}
            return Response(200, encode(status))
        if not self._rest.knows(request.path) or request.method != "GET":
            return not_found(request.path)
        if self.maintenance:
            return self.unavailable()
        banned_ns = self._bans.banned_ns(now_ns)
        if banned_ns:
            return self._banned(banned_ns)
        self._weights.limit = self._limit()
        try:
            if not self._weights.take(self._rest.weight(request.path, request.query), now_ns):
                self._bans.refused(now_ns)
                return self.refuse(self._weights.resets_in_ns(now_ns) / SECOND_NS, now_ns)
            self._bans.accepted()
            skew_ns = request.skew_ns if request.path.endswith("/time") else 0
            answer = self._rest.answer(request.path, request.query, now_ns + skew_ns)
        except Refused as refused:
            return Response(400, encode({"code": refused.code, "msg": refused.text}), self._used())
        return Response(200, encode(answer), self._used())

    def refuse(self, seconds: float, now_ns: int) -> Response:
        """429 with `Retry-After`: https://developers.binance.com/docs/binance-spot-api-docs/rest-api/limits ."""
        del now_ns
        text = (
            f"Too much request weight used; current limit is {self._limit()} request weight per 1 MINUTE. "
            "Please use WebSocket Streams for live updates to avoid polling the API."
        )
        return Response(429, encode({"code": -1003, "msg": text}), (*self._used(), _retry_after(seconds)))

    def ban(self, seconds: float, now_ns: int) -> None:
        """See :class:`Venue`."""
        self._bans.ban(seconds, now_ns)

    def unavailable(self) -> Response:
        """See :class:`Venue`."""
        text = "Server is currently overloaded with other requests. Please try again in a few minutes."
        return Response(503, encode({"code": -1008, "msg": text}))

    def closing(self, session: Session, now_ns: int) -> list[Reply]:
        """`serverShutdown`: spot has it since 2026-05-08; how long before the end it comes is not promised.

        https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams#server-shutdown
        """
        if self._futures or not isinstance(session, BinanceSession):
            return []
        event = {"e": "serverShutdown", "E": now_ns // MILLISECOND_NS}
        return [Say(session.event(event, "!serverShutdown"), "notice")]

    def maintained(self, session: Session, now_ns: int) -> list[Reply]:
        """Announce the end, and end: nobody stays connected through maintenance."""
        return [*self.closing(session, now_ns), Bye(1001, "Going away")] if self.maintenance else []

    def usage(self, now_ns: int) -> dict[str, int]:
        """See :class:`Venue`."""
        left = self._weights.remaining(now_ns)  # which begins a new window, if it is time
        return {
            "weight_limit": self._limit(),
            "weight_left": left,
            "weight_used": self._weights.used,
            "banned_s": math.ceil(self._bans.banned_ns(now_ns) / SECOND_NS),
            "connections_left": self._opened.remaining(now_ns),
        }

    def forgive(self) -> None:
        """See :class:`Venue`."""
        self._weights.reset()
        self._opened.reset()
        self._bans.reset()

    def _limit(self) -> int:
        return self.tuning.weight_limit or self._rest.weight_limit

    def _banned(self, banned_ns: int) -> Response:
        until_ms = self._bans.until_ns // MILLISECOND_NS
        text = (
            f"Way too much request weight used; IP banned until {until_ms}. "
            "Please use WebSocket Streams for live updates to avoid bans."
        )
        return Response(418, encode({"code": -1003, "msg": text}), (_retry_after(banned_ns / SECOND_NS),))

    def _used(self) -> tuple[tuple[str, str], ...]:
        used = str(self._weights.used)
        if self._futures:
            return (("X-MBX-USED-WEIGHT-1M", used),)
        return (("X-MBX-USED-WEIGHT", used), ("X-MBX-USED-WEIGHT-1M", used))


def _retry_after(seconds: float) -> tuple[str, str]:
    return "Retry-After", str(max(math.ceil(seconds), 1))

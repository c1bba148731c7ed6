"""Kraken as a whole: connections, status, limits."""

from __future__ import annotations

import datetime
from typing import Any

from marketd.testvenue.kraken.rest import Refused, Rest
from marketd.testvenue.kraken.session import KrakenSession
from marketd.testvenue.kraken.streams import Streams
from marketd.testvenue.kraken.symbols import Symbols
from marketd.testvenue.limits import Bucket, Window
from marketd.testvenue.market import Market
from marketd.testvenue.texts import rfc3339
from marketd.testvenue.venue import SECOND_NS, Reply, Request, Response, Session, Venue, encode

# "Calling the public endpoints at a frequency of 1 per second (or less) would remain within the rate limits";
# counted by address, for Trades and OHLC by address and pair. A short burst passes in practice.
# https://support.kraken.com/articles/206548367-what-are-the-api-rate-limits-
BURST = 8
INTERVAL_NS = SECOND_NS
ROOT = "/0/public/"
# "Cloudflare imposes a connection/re-connection rate limit of approximately 150 attempts per rolling 10 minutes. If the
# limit is exceeded, the IP address is banned for 10 minutes." https://docs.kraken.com/api/docs/guides/spot-ws-intro
CONNECTIONS_MAX, CONNECTIONS_WINDOW_S = 150, 600


class Kraken(Venue):
    """Kraken spot."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.name = "kraken"
        self.prefix = "/kraken"
        self._symbols = Symbols(market)
        self._streams = Streams(self, self._symbols)
        self._buckets: dict[str, Bucket] = {}
        self._opened = Window(CONNECTIONS_MAX, CONNECTIONS_WINDOW_S * SECOND_NS, aligned=False)
        self._banned_until_ns = 0
        self._refused = 0
        self._rest = Rest(market, self.candles, self._symbols)

    def session(self, request: Request, now_ns: int) -> Session | Response:
        """See :class:`Venue`. Maintenance refuses no connection: it is told by the status message."""
        if request.path.strip("/") not in ("", "v2"):
            return Response(404, b"")
        if not self._opened.take(1, now_ns):
            return Response(429, b"")
        return KrakenSession(
            self._streams, self._symbols, now_ns, maintenance=self.maintenance, known_all=self.known_all
        )

    def rest(self, request: Request, now_ns: int) -> Response:
        """Errors come with HTTP status 200 and a list of texts."""
        endpoint = request.path.removeprefix(ROOT)
        if not request.path.startswith(ROOT) or endpoint not in (*self._rest.endpoints, "Time", "SystemStatus"):
            return _errors("EGeneral:Unknown method")
        if self.maintenance and endpoint != "SystemStatus":
            return self.unavailable()
        if now_ns < self._banned_until_ns or not self._take(endpoint, request.query.get("pair"), now_ns):
            self._refused += 1
            return self.refuse(1, now_ns)
        if endpoint == "Time":
            return _result(_time(now_ns + request.skew_ns))
        if endpoint == "SystemStatus":
            return _result(self._status(now_ns))
        try:
            return _result(self._rest.answer(endpoint, request.query, now_ns))
        except Refused as refused:
            return _errors(str(refused))
        except ValueError:
            return _errors("EGeneral:Invalid arguments")

    def refuse(self, seconds: float, now_ns: int) -> Response:
        """There is no `Retry-After`, and the status is 200."""
        del seconds, now_ns
        return _errors("EGeneral:Too many requests")

    def ban(self, seconds: float, now_ns: int) -> None:
        """See :class:`Venue`."""
        self._banned_until_ns = now_ns + int(seconds * SECOND_NS)

    def unavailable(self) -> Response:
        """See :class:`Venue`."""
        return Response(503, encode({"error": ["EService:Unavailable"]}))

    def closing(self, session: Session, now_ns: int) -> list[Reply]:
        """Kraken announces no cut."""
        return []

    def maintained(self, session: Session, now_ns: int) -> list[Reply]:
        """Tell the status; connections stay."""
        return [session.status("notice", maintenance=self.maintenance)] if isinstance(session, KrakenSession) else []

    def usage(self, now_ns: int) -> dict[str, int]:
        """See :class:`Venue`."""
        return {
            "refused": self._refused,
            "banned_s": max(-(-(self._banned_until_ns - now_ns) // SECOND_NS), 0),
            "connections_left": self._opened.remaining(now_ns),
        }

    def forgive(self) -> None:
        """See :class:`Venue`."""
        self._buckets.clear()
        self._opened.reset()
        self._banned_until_ns = 0
        self._refused = 0

    def _take(self, endpoint: str, pair: str | None, now_ns: int) -> bool:
        own = endpoint in ("OHLC", "Trades") and pair in self._symbols.accepted
        bucket = self._buckets.setdefault(f"{endpoint}:{pair}" if own else "", Bucket(BURST, INTERVAL_NS))
        bucket.burst = self.tuning.weight_limit or BURST
        return bucket.take(now_ns)

    def _status(self, now_ns: int) -> dict[str, Any]:
        """https://docs.kraken.com/api/docs/rest-api/get-system-status"""
        status = "maintenance" if self.maintenance else "online"
        return {"status": status, "timestamp": rfc3339(now_ns)[:19] + "Z"}


def _errors(text: str) -> Response:
    return Response(200, encode({"error": [text]}))


def _result(value: object) -> Response:
    return Response(200, encode({"error": [], "result": value}))


def _time(now_ns: int) -> dict[str, Any]:
    """``{"unixtime":1762820224,"rfc1123":"Tue, 11 Nov 25 00:17:04 +0000"}``"""
    seconds = now_ns // SECOND_NS
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return {"unixtime": seconds, "rfc1123": moment.strftime("%a, %d %b %y %H:%M:%S +0000")}

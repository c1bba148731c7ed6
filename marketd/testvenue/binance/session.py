"""Binance's side of a websocket connection: spot and USD-M futures.

Spot: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
Futures: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams and, since
2026, https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Important-WebSocket-Change-Notice
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from marketd.testvenue.binance.streams import Form, Streams
from marketd.testvenue.venue import SECOND_NS, Bye, Ping, Reply, Request, Response, Say, Session, encode

Route = Literal["public", "market", "private", ""]

STREAMS_MAX = 1024  # "A single connection can listen to a maximum of 1024 streams."
METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")

# Which streams the futures' routed addresses carry. `trade` is in no document; that it comes from /public is observed:
# https://github.com/BYTEX-TRADE/bytex/issues/7 .
_PUBLIC_STREAMS = re.compile(r"@(bookTicker|trade|depth|rpiDepth)")


class Pace:
    """What differs between the two markets in how a connection is kept.

    Attributes:
        messages_max: messages of the client in a second, pings and pongs included; more cut the connection.
        ping_every_ns, pong_within_ns: the server's pings and its patience.
    """

    def __init__(self, messages_max: int, ping_every_s: int, pong_within_s: int) -> None:
        self.messages_max = messages_max
        self.ping_every_ns = ping_every_s * SECOND_NS
        self.pong_within_ns = pong_within_s * SECOND_NS


SPOT_PACE = Pace(5, 20, 60)
FUTURES_PACE = Pace(10, 180, 600)


def parse_address(request: Request, *, routed: bool) -> tuple[Route, bool, list[str]] | None:
    """Take a websocket address apart: ``/ws/NAME/NAME``, ``/stream?streams=NAME/NAME``, either with no names at all.

    Returns:
        Route, whether messages are wrapped as combined, stream names; None when there is no such address.
    """
    path = request.path.strip("/")
    route: Route = ""
    if routed:
        for known in ("public", "market", "private"):
            if path == known or path.startswith(known + "/"):
                route, path = known, path[len(known) :].strip("/")
                break
    head, _, rest = path.partition("/")
    if head == "stream" and not rest:
        return route, True, [name for name in request.query.get("streams", "").split("/") if name]
    if head in ("ws", ""):
        return route, False, [name for name in rest.split("/") if name]
    return None


class BinanceSession(Session):
    """One connection. Requests are answered in the order they came."""

    def __init__(self, streams: Streams, request: Request, pace: Pace, now_ns: int, *, futures: bool) -> None:
        super().__init__(now_ns)
        address = parse_address(request, routed=futures)
        assert address is not None, "the venue has refused all others"
        self.route, combined, self.first_names = address
        unit = request.query.get("timeUnit", "").upper()
        self.form = Form(combined=combined, microseconds=unit == "MICROSECOND" and not futures)
        self._streams = streams
        self._pace = pace
        self._futures = futures
        self._names: dict[str, None] = {}
        self._pinged_ns = now_ns
        self._second = 0
        self._messages = 0

    def greet(self, now_ns: int) -> list[Reply]:
        """Binance says nothing first; streams in the address are subscribed without an ack."""
        self._subscribe(self.first_names)
        return []

    def receive(self, payload: bytes, now_ns: int) -> list[Reply]:
        """Answer one request."""
        self.heard_ns = now_ns
        if self._too_many(now_ns):
            return [Bye(1008, "Too many requests")]
        try:
            request = msgspec.json.decode(payload)
        except (msgspec.DecodeError, RecursionError, ValueError):
            return [_error(3, "Invalid JSON: expected value at line 1 column 1")]
        if not isinstance(request, dict):
            return [_error(2, "Invalid request: expected an object")]
        return [self._answer(request)]

    def pong(self, now_ns: int) -> None:
        """Pongs count as messages, but are never too many by themselves: the server asked for them."""
        self.heard_ns = now_ns

    def ping(self, now_ns: int) -> list[Reply]:
        """See :class:`Session`; "A message is considered: a PING frame, a PONG frame, a JSON controlled message"."""
        self.heard_ns = now_ns
        return [Bye(1008, "Too many requests")] if self._too_many(now_ns) else []

    def tick(self, now_ns: int, spoke_ns: int) -> list[Reply]:
        """Ping; cut who has not answered for too long."""
        if now_ns - max(self.heard_ns, self.opened_ns) > self._pace.pong_within_ns:
            return [Bye(1008, "Pong timeout")]
        if now_ns - self._pinged_ns < self._pace.ping_every_ns:
            return []
        self._pinged_ns = now_ns
        return [Ping(str(now_ns // 1_000_000).encode())]

    def event(self, payload: dict[str, Any], name: str) -> bytes:
        """Encode an event about the connection itself, wrapped as its streams are."""
        return encode({"stream": name, "data": payload} if self.form.combined else payload)

    def _too_many(self, now_ns: int) -> bool:
        second = now_ns // SECOND_NS
        if second != self._second:
            self._second, self._messages = second, 0
        self._messages += 1
        return self._messages > self._pace.messages_max

    def _answer(self, request: dict[str, Any]) -> Say:
        method, params, number = request.get("method"), request.get("params"), request.get("id")
        if method is None:
            return _error(2, "Invalid request: missing field `method` at line 1 column 1", number)
        if method not in METHODS:
            known = ", ".join(f"`{name}`" for name in METHODS)
            return _error(2, f"Invalid request: unknown variant `{method}`, expected one of {known}", number)
        if not _is_id(number):
            return _error(2, "Invalid request: request ID must be an unsigned integer")
        if method == "LIST_SUBSCRIPTIONS":
            return _result(list(self._names), number)
        if not isinstance(params, list):
            return _error(2, "Invalid request: missing field `params` at line 1 column 1", number)
        if method in ("SUBSCRIBE", "UNSUBSCRIBE"):
            return self._change(method, params, number)
        return self._property(method, params, number)

    def _change(self, method: str, params: list[Any], number: object) -> Say:
        if not all(isinstance(name, str) for name in params):
            return _error(2, "Invalid request: stream names must be strings", number)
        if method == "UNSUBSCRIBE":
            for name in params:
                self._names.pop(name, None)
                self.remove(name)
        elif len(self._names | dict.fromkeys(params)) > STREAMS_MAX:
            return _error(4, "Too many subscriptions", number)
        else:
            self._subscribe(params)
        return _result(None, number)

    def _property(self, method: str, params: list[Any], number: object) -> Say:
        if not params or not isinstance(params[0], str):
            return _error(2, "Invalid request: property name must be a string", number)
        if params[0] != "combined":
            return _error(0, "Unknown property", number)
        if method == "GET_PROPERTY":
            return _result(self.form.combined, number)
        if len(params) < 2 or not isinstance(params[1], bool):
            return _error(1, "Invalid value type: expected Boolean", number)
        self.form = Form(combined=params[1], microseconds=self.form.microseconds)
        self._subscribe(list(self._names))
        return _result(None, number)

    def _subscribe(self, names: Iterable[str]) -> None:
        """Take any name: the venue acks what it doesn't know as well, and never sends anything for it."""
        for name in names:
            self._names[name] = None
            channel = self._streams.channel(name, self.form) if self._carries(name) else None
            if channel is None:
                self.silent[name] = None
            else:
                self.add(channel)

    def _carries(self, name: str) -> bool:
        """Whether this address has data for a stream. The futures' addresses without a route are as /public now:

        the handshake and acks still work there, but what belongs to /market never comes
        (https://github.com/Tucsky/aggr/pull/444, https://github.com/bmoscon/cryptofeed/issues/1128).
        """
        if not self._futures:
            return True
        if self.route == "private":
            return False
        return (self.route != "market") == bool(_PUBLIC_STREAMS.search(name))


def not_found(path: str) -> Response:
    """What an unknown address gives."""
    return Response(404, encode({"status": 404, "error": "Not Found", "message": "No message available", "path": path}))


def _is_id(number: object) -> bool:
    """Accept "64-bit signed integer; alphanumeric strings, max length 36; null"."""
    if number is None or (isinstance(number, int) and not isinstance(number, bool)):
        return True
    return isinstance(number, str) and len(number) <= 36


def _result(result: object, number: object) -> Say:
    return Say(encode({"result": result, "id": number}), "ack")


def _error(code: int, text: str, number: object = None) -> Say:
    # The documents print these errors bare; on the wire they are wrapped in `error`, as
    # https://github.com/oliver-zehentleitner/unicorn-binance-websocket-api/issues/17 shows.
    answer: dict[str, Any] = {"error": {"code": code, "msg": text}}
    if number is not None:
        answer["id"] = number
    return Say(encode(answer), "ack")

"""Kraken's side of a websocket connection, version 2 of its protocol.

https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/ticker and its neighbours (trade, book, ohlc,
instrument, status, heartbeat, ping).
"""

from __future__ import annotations

import random
from typing import Any

from marketd.testvenue.kraken.streams import BOOK_DEPTHS, PERIODS, Streams, Wanted
from marketd.testvenue.kraken.symbols import Symbols
from marketd.testvenue.texts import rfc3339
from marketd.testvenue.venue import SECOND_NS, Bye, Reply, Role, Say, Session, decode_object, encode

CHANNELS = ("ticker", "trade", "book", "ohlc", "instrument")
INACTIVE_NS = 60 * SECOND_NS  # a connection with neither subscriptions nor messages is closed about then
# "Exceeded msg rate": the limit is not published. This is far above what a client that behaves needs.
MESSAGES_MAX = 50


class KrakenSession(Session):
    """One connection. Each symbol of a request is acknowledged by itself."""

    def __init__(self, streams: Streams, symbols: Symbols, now_ns: int, *, maintenance: bool, known_all: bool) -> None:
        super().__init__(now_ns)
        self._streams = streams
        self._symbols = symbols
        self._maintenance = maintenance
        self._known_all = known_all
        # A 64-bit number beyond what a float holds, as the real ones are.
        self._connection_id = random.getrandbits(63) | 1 << 62
        self._second = 0
        self._messages = 0

    def greet(self, now_ns: int) -> list[Reply]:
        """Kraken tells its status first."""
        return [self.status("greeting", maintenance=self._maintenance)]

    def status(self, role: Role, *, maintenance: bool) -> Say:
        """https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/status"""
        data: dict[str, Any] = {
            "version": "2.0.10",
            "system": "maintenance" if maintenance else "online",
            "api_version": "v2",
            "connection_id": self._connection_id,
            "upcoming_maintenance": [],
            "emergency": [],
        }
        return Say(encode({"channel": "status", "type": "update", "data": [data]}), role)

    def receive(self, payload: bytes, now_ns: int) -> list[Reply]:
        """Answer one request."""
        self.heard_ns = now_ns
        second = now_ns // SECOND_NS
        if second != self._second:
            self._second, self._messages = second, 0
        self._messages += 1
        if self._messages > MESSAGES_MAX:
            return [Say(encode({"Error": "Exceeded msg rate"}), "notice")]
        request = decode_object(payload)
        if request is None:
            return [self._failure("", {}, "JSON Parse error", now_ns)]
        method = request.get("method")
        if method == "ping":
            return [self._pong(request, now_ns)]
        if method not in ("subscribe", "unsubscribe"):
            return [self._failure(str(method), request, "Unsupported method", now_ns)]
        params = request.get("params")
        if not isinstance(params, dict) or params.get("channel") not in CHANNELS:
            return [self._failure(method, request, "Invalid arguments: channel", now_ns)]
        return (
            self._subscribe(request, params, now_ns)
            if method == "subscribe"
            else self._unsubscribe(request, params, now_ns)
        )

    def tick(self, now_ns: int, spoke_ns: int) -> list[Reply]:
        """A heartbeat "approximately once every second in the absence of any other channel updates"."""
        if self.channels or self.silent:
            return [Say(b'{"channel":"heartbeat"}', "heartbeat")] if now_ns - spoke_ns >= SECOND_NS else []
        return [Bye(1000)] if now_ns - max(self.heard_ns, self.opened_ns) > INACTIVE_NS else []

    def _subscribe(self, request: dict[str, Any], params: dict[str, Any], now_ns: int) -> list[Reply]:
        channel = params["channel"]
        if channel == "instrument":
            return self._instruments(request, params, now_ns)
        wanted = _wanted(params)
        symbols = params.get("symbol")
        if not isinstance(symbols, list) or not symbols:
            return [self._failure("subscribe", request, "Symbol(s) not specified", now_ns)]
        if wanted is None:
            return [self._failure("subscribe", request, f"Subscription {channel} has invalid parameters", now_ns)]
        acks: list[Reply] = []
        snapshots: list[Reply] = []
        for symbol in symbols:
            self._subscribe_one(str(symbol), wanted, request, now_ns, acks, snapshots)
        return acks + snapshots

    def _subscribe_one(
        self,
        symbol: str,
        wanted: Wanted,
        request: dict[str, Any],
        now_ns: int,
        acks: list[Reply],
        snapshots: list[Reply],
    ) -> None:
        number = self._symbols.numbers.get(symbol)
        name = wanted.name(symbol)
        if number is None and not self._known_all:
            acks.append(self._failure("subscribe", request, f"Currency pair not supported {symbol}", now_ns, symbol))
            return
        if name in self.channels:
            acks.append(self._failure("subscribe", request, "Already subscribed", now_ns, symbol))
            return
        result = {"channel": wanted.channel} | wanted.echo() | {"snapshot": wanted.snapshot, "symbol": symbol}
        acks.append(self._ack("subscribe", result, request, now_ns))
        if number is None:
            self.silent[name] = None
            return
        channel = self._streams.channel(number, wanted)
        self.add(channel)
        if wanted.snapshot:
            payload = self._streams.snapshot(number, wanted, now_ns)
            if payload:
                snapshots.append(Say(payload, "data", channel.name))

    def _unsubscribe(self, request: dict[str, Any], params: dict[str, Any], now_ns: int) -> list[Reply]:
        wanted = _wanted(params)
        symbols = params.get("symbol")
        if params["channel"] == "instrument":
            return [self._ack("unsubscribe", {"channel": "instrument"}, request, now_ns)]
        if wanted is None or not isinstance(symbols, list):
            return [self._failure("unsubscribe", request, "Symbol(s) not specified", now_ns)]
        replies: list[Reply] = []
        for symbol in map(str, symbols):
            if self.remove(wanted.name(symbol)):
                result = {"channel": wanted.channel} | wanted.echo() | {"symbol": symbol}
                replies.append(self._ack("unsubscribe", result, request, now_ns))
            else:
                replies.append(self._failure("unsubscribe", request, "Subscription Not Found", now_ns, symbol))
        return replies

    def _instruments(self, request: dict[str, Any], params: dict[str, Any], now_ns: int) -> list[Reply]:
        """https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/instrument"""
        snapshot = params.get("snapshot", True)
        replies: list[Reply] = [
            self._ack("subscribe", {"channel": "instrument", "snapshot": snapshot}, request, now_ns)
        ]
        self.silent["instrument"] = None  # nothing about instruments ever changes here
        if snapshot:
            data = {"assets": self._symbols.instrument_assets(), "pairs": self._symbols.instrument_pairs()}
            replies.append(
                Say(encode({"channel": "instrument", "type": "snapshot", "data": data}), "data", "instrument")
            )
        return replies

    def _pong(self, request: dict[str, Any], now_ns: int) -> Say:
        """https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/ping"""
        return Say(encode({"method": "pong", **_number(request), **_times(now_ns)}), "pong")

    def _ack(self, method: str, result: dict[str, Any], request: dict[str, Any], now_ns: int) -> Say:
        answer = {"method": method, "result": result, "success": True, **_times(now_ns), **_number(request)}
        return Say(encode(answer), "ack")

    def _failure(self, method: str, request: dict[str, Any], error: str, now_ns: int, symbol: str = "") -> Say:
        """``{"error":"Currency pair not supported XBT/USD","method":"subscribe","success":false,…}``"""
        answer: dict[str, Any] = {"error": error, "method": method, "success": False}
        if symbol:
            answer["symbol"] = symbol
        return Say(encode(answer | _times(now_ns) | _number(request)), "ack")


def _wanted(params: dict[str, Any]) -> Wanted | None:
    channel = params["channel"]
    # "Default: trades" for the ticker's trigger; snapshots are the default for all but trades.
    wanted = Wanted(
        channel,
        str(params.get("event_trigger", "trades")) if channel == "ticker" else "",
        params.get("interval", 1) if channel == "ohlc" else 0,
        params.get("depth", 10) if channel == "book" else 0,
        bool(params.get("snapshot", channel != "trade")),
    )
    valid = (
        wanted.trigger in ("", "trades", "bbo")
        and (channel != "ohlc" or wanted.interval in tuple(PERIODS))
        and (channel != "book" or wanted.depth in BOOK_DEPTHS)
    )
    return wanted if valid else None


def _times(now_ns: int) -> dict[str, Any]:
    return {"time_in": rfc3339(now_ns), "time_out": rfc3339(now_ns + 30_000)}


def _number(request: dict[str, Any]) -> dict[str, Any]:
    return {"req_id": request["req_id"]} if isinstance(request.get("req_id"), int) else {}

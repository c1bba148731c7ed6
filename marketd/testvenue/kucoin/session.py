"""KuCoin's side of a websocket connection.

https://www.kucoin.com/docs-new/websocket-api/base-info/introduction
"""

from __future__ import annotations

import secrets
from typing import Any

from marketd.testvenue.kucoin.streams import Streams
from marketd.testvenue.limits import Window
from marketd.testvenue.venue import SECOND_NS, Bye, Reply, Say, Session, Tuning, decode_object, encode

TOPICS_MAX, TOPICS_IN_REQUEST_MAX = 400, 100
# "Number of messages sent by the client: 100 per 10 seconds".
MESSAGES_MAX, MESSAGES_WINDOW_S = 100, 10


class KucoinSession(Session):
    """One connection.

    Args:
        connect_id: the client's own, or made up; the welcome repeats it.
        token_known: whether the token is one that was given out and is not too old.
    """

    def __init__(
        self, streams: Streams, tuning: Tuning, connect_id: str, now_ns: int, *, token_known: bool, known_all: bool
    ) -> None:
        super().__init__(now_ns)
        self._streams = streams
        self._tuning = tuning
        self._connect_id = connect_id or secrets.token_hex(5)
        self._token_known = token_known
        self._known_all = known_all
        self._messages = Window(MESSAGES_MAX, MESSAGES_WINDOW_S * SECOND_NS, aligned=False)

    def greet(self, now_ns: int) -> list[Reply]:
        """``{"id":"hQvf8jkno","type":"welcome"}``: "The connection will only be available once" it has come."""
        if not self._token_known:
            return [_error(self._connect_id, 401, "token is invalid"), Bye(1008, "token is invalid")]
        return [Say(encode({"id": self._connect_id, "type": "welcome"}), "greeting")]

    def receive(self, payload: bytes, now_ns: int) -> list[Reply]:
        """Answer one request."""
        self.heard_ns = now_ns
        request = decode_object(payload)
        if request is None:
            return [_error(self._connect_id, 400, "invalid request data")]
        number = str(request.get("id", ""))
        if not self._messages.take(1, now_ns):
            return [_error(number, 509, "exceed max permits per second")]
        kind = request.get("type")
        if kind == "ping":
            return [Say(encode({"id": number, "type": "pong", "timestamp": now_ns // 1000}), "pong")]
        if kind not in ("subscribe", "unsubscribe"):
            return [_error(number, 415, "type is not supported")]
        topic = request.get("topic")
        if not isinstance(topic, str) or not topic:
            return [_error(number, 406, "topic is required")]
        refusal = self._subscribe(topic, number) if kind == "subscribe" else self._unsubscribe(topic)
        if refusal:
            return [refusal]
        return [Say(encode({"id": number, "type": "ack"}), "ack")] if request.get("response") else []

    def tick(self, now_ns: int, spoke_ns: int) -> list[Reply]:
        """Close what has been silent for the ping interval and the timeout: "the client side needs to send ping"."""
        patience_ns = (self._tuning.ping_interval_ms + self._tuning.ping_timeout_ms) * 1_000_000
        return [Bye(1000, "ping timeout")] if now_ns - max(self.heard_ns, self.opened_ns) > patience_ns else []

    def _subscribe(self, topic: str, number: str) -> Say | None:
        """All topics of a request, or none of them."""
        names = _split(topic)
        if len(names) > TOPICS_IN_REQUEST_MAX:
            return _error(number, 509, f"exceed max subscription count limitation of {TOPICS_IN_REQUEST_MAX} per time")
        held = self.channels.keys() | self.silent.keys()
        if len(held | {f"{prefix}:{argument}" for prefix, argument in names}) > TOPICS_MAX:
            return _error(number, 509, f"exceed max subscription count limitation of {TOPICS_MAX} per session")
        channels = [self._streams.channel(prefix, argument) for prefix, argument in names]
        for (prefix, argument), channel in zip(names, channels, strict=True):
            if channel is None and not self._known_all:
                return _error(number, 404, f"topic {prefix}:{argument} is not found")
        for (prefix, argument), channel in zip(names, channels, strict=True):
            if channel is None:
                self.silent[f"{prefix}:{argument}"] = None
            else:
                self.add(channel)
        return None

    def _unsubscribe(self, topic: str) -> Say | None:
        for prefix, argument in _split(topic):
            self.remove(f"{prefix}:{argument}")
        return None


def _split(topic: str) -> list[tuple[str, str]]:
    """``/market/match:BTC-USDT,ETH-USDT`` names two topics."""
    prefix, _, arguments = topic.partition(":")
    return [(prefix, argument) for argument in arguments.split(",")]


def _error(number: str, code: int, text: str) -> Say:
    data: dict[str, Any] = {"id": number, "type": "error", "code": code, "data": text}
    return Say(encode(data), "ack")

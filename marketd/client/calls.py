"""A request under way."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from marketd.client.subscription import Subscription
from marketd.rpc import messages
from marketd.rpc.framing import frame

_encode = msgspec.msgpack.Encoder().encode

ADMIN_TIMEOUT_S = 120.0  # actors may have to stop, and to start again, one after the other
HEARTBEAT = frame(_encode({"method": "heartbeat", "params": {}}))


class Call:
    """A request under way. ``done`` once it has an answer or an error."""

    def __init__(self, number: int, method: str, params: messages.Params, timeout_s: float | None = None) -> None:
        self.id = number
        self.method = method
        self.params = params
        self.deadline_ms = None if timeout_s is None else max(1, int(timeout_s * 1000))
        self.sent = False
        self.subscription: Subscription | None = None  # what it opens or changes
        self.hits: deque[messages.SearchHit] = deque()  # a search's, as they come
        self.batches: dict[str, list[memoryview]] = {}  # of history, by instrument, as they come
        self.progress: deque[messages.BackfillProgress] = deque()  # a backfill's, as it goes on
        self.asked: messages.SubscribeParams | None = None
        self.answer: messages.Result | None = None
        self.error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.answer is not None or self.error is not None

    def result(self) -> Any:  # noqa: ANN401 - METHODS says which; the shells annotate what they return
        """Return the answer.

        Raises:
            RequestError: the server refused.
            ConnectionLost: the connection broke, and the request must not be sent twice.
        """
        if self.error is not None:
            raise self.error
        return self.answer

    def payload(self) -> bytes:
        """Return the request as it is sent. A stream is asked for with the position that it has by now."""
        params = self.params
        self.batches = {}
        if self.method == "subscribe" and self.subscription is not None:
            self.asked = self.subscription.params
            params = self.subscription.resume_params()
        return frame(_encode(messages.Request(self.id, self.method, msgspec.Raw(_encode(params)), self.deadline_ms)))

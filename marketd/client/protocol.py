"""The client's half of the protocol, without I/O: bytes in, answers and frames out; requests in, bytes out.

One :class:`ClientProtocol` lives as long as the client does, through any number of connections:

    connection_made() -> data_to_send() -> [receive_data() -> data_to_send()] ... -> connection_lost()

What was asked for is state that is applied again after each `hello`: requests that may be repeated are, and every
subscription is asked for with the position that it has reached. A shell moves the bytes, keeps the deadlines and
wakes whoever waits for one of the objects that :meth:`ClientProtocol.receive_data` says have changed.
"""

from __future__ import annotations

import itertools
from typing import Any, cast

import msgspec

from marketd.client.calls import HEARTBEAT, Call
from marketd.client.errors import ConnectionLost, DeadlineExceeded, ProtocolError, RequestError
from marketd.client.layouts import layout_problem
from marketd.client.subscription import BUFFER_BYTES, Message, State, Subscription
from marketd.errors import MarketdError
from marketd.rpc import messages
from marketd.rpc.framing import PREFIX, Deframer

# Far above what a server sends: it only keeps a stream of nonsense from being taken for the length of a message.
FRAME_BYTES_MAX = 1 << 28

# These change nothing at the server, so one that was under way when the connection broke is simply asked again.
REPEATABLE = frozenset(
    {
        "ping",
        "status",
        "backends",
        "instrument",
        "why",
        "debug",
        "bars",
        "history",
        "ticks",
        "coverage",
        "gaps",
        "backfill",
        "subscribe",
        "services.list",
        "clients.list",
    }
)

# A subscription that was live and is refused after a reconnect with one of these is asked for again, every second: a
# daemon that has just started may not have heard of all its instruments yet.
RETRYABLE = frozenset(
    {"unknown_instrument", "unknown_feed", "unavailable", "limit_exceeded", "deadline_exceeded", "internal"}
)
RETRY_S = 1.0

RECEIVE_BYTES_MAX = 1 << 18  # read from the socket at once

# The server says something at least every `heartbeat_s`; after so many of them in vain it counts as gone.
SILENT_HEARTBEATS = 2.5

_answer = msgspec.msgpack.Decoder(messages.Answer)
_notifications: dict[str, msgspec.msgpack.Decoder[Any]] = {
    name: msgspec.msgpack.Decoder(message) for name, message in messages.NOTIFICATIONS.items()
}
_results: dict[str, msgspec.msgpack.Decoder[Any]] = {
    name: msgspec.msgpack.Decoder(result) for name, (_, result) in messages.METHODS.items()
}
STREAM_METHODS = frozenset(
    {"rows", "columns", "frame", "bars", "snapshot", "replay_completed", "gap_filled", "gap", "instruments", "status"}
)

Changed = set[Call | Subscription]


class ClientProtocol:
    """See the module. ``server`` is what `hello` was answered with, once it was."""

    def __init__(self, hello: messages.HelloParams, *, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.server: messages.HelloResult | None = None
        self.ready = False
        self.subscriptions: list[Subscription] = []
        self._hello = hello
        self._buffer_bytes = buffer_bytes
        # Little enough that a stream which is not crowded yet has room for all of it, and need not be parked.
        self.receive_bytes = max(1, min(RECEIVE_BYTES_MAX, buffer_bytes // 4))
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._live: dict[int, Subscription] = {}
        self._deframer = Deframer(FRAME_BYTES_MAX)
        self._outgoing: list[bytes] = []
        self._changed: Changed = set()

    # --- connections ------------------------------------------------------------------------------------------------

    def connection_made(self) -> Call:
        """Begin to talk; the answer of the returned call makes the protocol ready."""
        self._deframer = Deframer(FRAME_BYTES_MAX)
        self._outgoing.clear()
        call = self._new_call("hello", self._hello)
        self._send(call)
        return call

    def connection_lost(self, reason: str) -> Changed:
        """End the talk. What can be asked again waits for the next connection, the rest fails; streams are told."""
        self.ready = False
        self._live.clear()
        self._outgoing.clear()
        for call in [call for call in self._calls.values() if call.sent]:
            call.sent = False
            if call.method not in REPEATABLE:
                self._finish(call, error=ConnectionLost(f"no answer to {call.method}, the connection broke: {reason}"))
        asked = {call.subscription for call in self._calls.values()}
        for subscription in self.subscriptions:
            subscription.lost(reason, asked=subscription in asked)
            self._changed.add(subscription)
        return self._take_changed()

    def fail(self, error: Exception) -> Changed:
        """Give up for good: every call and every stream ends with this error."""
        self.ready = False
        for call in list(self._calls.values()):
            self._finish(call, error=error)
        for subscription in list(self.subscriptions):
            self._end(subscription, error)
        return self._take_changed()

    def rewind(self) -> None:
        """Forget what streams have received and readers not taken; for a shell that was interrupted in between."""
        for subscription in self.subscriptions:
            subscription.rewind()

    def data_to_send(self) -> bytes:
        """Return and forget the bytes that are to be sent."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    @property
    def has_data_to_send(self) -> bool:
        """Whether :meth:`data_to_send` would return anything."""
        return bool(self._outgoing)

    def heartbeat(self) -> None:
        """Tell the server that this side is there."""
        self._outgoing.append(HEARTBEAT)

    # --- requests ---------------------------------------------------------------------------------------------------

    def request(self, method: str, params: messages.Params, timeout_s: float | None = None) -> Call:
        """Ask something; sent at once, or as soon as there is a connection."""
        return self._submit(self._new_call(method, params, timeout_s))

    def forget(self, call: Call) -> None:
        """Wait no more for an answer.

        A change of a stream that is under way may be made yet: its answer is still taken, so that the stream is known
        as the server has it.
        """
        if call.method == "subscribe" and call.subscription is not None and not call.done:
            # The call stays: should it be answered yet, the stream must be closed at the server.
            self._end(call.subscription, None)
        elif call.method != "update":
            self._calls.pop(call.id, None)

    def subscribe(self, params: messages.SubscribeParams, timeout_s: float | None = None) -> Call:
        """Open a stream, the call's ``subscription``.

        Raises:
            ProtocolError: rows were asked for, but the server's have another layout than this version's.
        """
        problem = layout_problem(self.server, params) if self.server is not None else None
        if problem is not None:
            raise problem
        subscription = Subscription(params, self._buffer_bytes)
        self.subscriptions.append(subscription)
        return self._subscribe(subscription, timeout_s)

    def update(
        self, subscription: Subscription, change: messages.UpdateParams, timeout_s: float | None = None
    ) -> Call | None:
        """Change a stream.

        Returns:
            None for one that is not open at the server at the moment: it will be opened with the change.
        """
        if subscription.id is None:
            subscription.changed(change)
            self.reopen()
            return None
        call = self._new_call("update", msgspec.structs.replace(change, subscription=subscription.id), timeout_s)
        call.subscription = subscription
        return self._submit(call)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Close a stream; no answer is waited for, and what is still on its way is dropped."""
        self._close_at_server(subscription)
        subscription.rewind()
        self._end(subscription, None)

    def reopen(self) -> None:
        """Ask for the streams that are not open at the server and should be, if there is a connection."""
        for subscription in self.subscriptions:
            if self.ready and subscription.reopens:
                self._subscribe(subscription)

    @property
    def refused(self) -> bool:
        """Whether some stream waits for :meth:`retry`."""
        return any(each.state is State.REFUSED and each.wanted for each in self.subscriptions)

    def retry(self) -> None:
        """Ask again for the streams that the server would not have back."""
        for subscription in self.subscriptions:
            if subscription.state is State.REFUSED and subscription.wanted:
                self._subscribe(subscription)

    def _subscribe(self, subscription: Subscription, timeout_s: float | None = None) -> Call:
        subscription.state = State.OPENING
        call = self._new_call("subscribe", subscription.params, timeout_s)
        call.subscription = subscription
        return self._submit(call)

    def _close_at_server(self, subscription: Subscription) -> None:
        if subscription.id is not None:
            self._live.pop(subscription.id, None)
            self.request("unsubscribe", messages.UnsubscribeParams(subscription.id))
            subscription.id = None

    def _end(self, subscription: Subscription, error: Exception | None) -> None:
        subscription.state = State.ENDED
        subscription.error = error
        if subscription in self.subscriptions:
            self.subscriptions.remove(subscription)
        self._changed.add(subscription)

    def _new_call(self, method: str, params: messages.Params, timeout_s: float | None = None) -> Call:
        return Call(next(self._numbers), method, params, timeout_s)

    def _submit(self, call: Call) -> Call:
        self._calls[call.id] = call
        if self.ready:
            self._send(call)
        return call

    def _send(self, call: Call) -> None:
        payload = call.payload()
        limit = self.server.limits.frame_bytes_max if self.server is not None else len(payload)
        if len(payload) - PREFIX.size > limit:
            # The server would say the same, and then end the connection.
            sentence = f"{call.method} makes {len(payload)} bytes; the server takes {limit}"
            self._refuse(call, messages.ErrorBody(messages.ErrorCode.FRAME_TOO_LARGE, sentence, {"limit": limit}))
            return
        self._calls[call.id] = call
        call.sent = True
        self._outgoing.append(payload)

    def _finish(self, call: Call, *, answer: messages.Result | None = None, error: Exception | None = None) -> None:
        call.answer = answer
        call.error = error
        self._calls.pop(call.id, None)
        self._changed.add(call)

    # --- what comes in ----------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes | memoryview) -> Changed:
        """Take what was received; return the calls and subscriptions that have something new.

        Raises:
            ProtocolError: it is not this protocol. The connection is of no use any more.
        """
        try:
            for payload in self._deframer.receive_data(data):
                self._receive(_answer.decode(payload))
        except ProtocolError:
            raise
        except (msgspec.MsgspecError, MarketdError, ValueError) as error:
            raise ProtocolError(f"the server sent what is not in the protocol: {error}") from error
        return self._take_changed()

    def _take_changed(self) -> Changed:
        changed, self._changed = self._changed, set()
        return changed

    def _receive(self, message: messages.Answer) -> None:
        if not message.method:
            self._receive_answer(message)
        elif message.method in STREAM_METHODS:
            self._receive_stream(_notifications[message.method].decode(message.params))
        elif message.method == "search.hits":
            self._receive_hits(_notifications[message.method].decode(message.params))
        elif message.method == "history.batch":
            self._receive_batch(_notifications[message.method].decode(message.params))
        elif message.method == "backfill.progress":
            self._receive_progress(_notifications[message.method].decode(message.params))
        elif message.method == "notice":
            self._receive_notice(_notifications[message.method].decode(message.params))
        # Heartbeats need no more than to have come; other methods belong to later versions.

    def _receive_stream(self, message: Message) -> None:
        subscription = self._live.get(message.subscription)
        if subscription is None:
            return  # the rest of a stream that was closed here and not yet there
        if not subscription.receive(message):
            self._close_at_server(subscription)
            subscription.state = State.PARKED
        self._changed.add(subscription)

    def _receive_hits(self, message: messages.SearchHits) -> None:
        call = self._calls.get(cast(int, message.id))
        if call is not None:
            call.hits.extend(message.hits)
            self._changed.add(call)

    def _receive_batch(self, message: messages.HistoryBatch) -> None:
        call = self._calls.get(cast(int, message.id))
        if call is not None:
            call.batches.setdefault(message.fqme, []).append(message.data)
            self._changed.add(call)

    def _receive_progress(self, message: messages.BackfillProgress) -> None:
        call = self._calls.get(cast(int, message.id))
        if call is not None:
            call.progress.append(message)
            self._changed.add(call)

    def _receive_notice(self, notice: messages.Notice) -> None:
        for number, subscription in self._live.items():
            if not notice.positions or number in notice.positions:
                subscription.tell(notice.code, notice.message)
                self._changed.add(subscription)

    def _receive_answer(self, message: messages.Answer) -> None:
        call = self._calls.get(cast(int, message.id))
        if call is None:
            if message.id is None and message.error is not None:
                raise ProtocolError(f"the server ended the connection: {message.error.message}")
            return  # the answer to a call that was given up
        if message.error is not None:
            self._refuse(call, message.error)
            return
        answer = _results[call.method].decode(message.result)
        if call.method == "hello":
            self._greet(answer)
        elif call.subscription is not None:
            self._opened(call.subscription, call, answer)
        self._finish(call, answer=answer)

    def _greet(self, server: messages.HelloResult) -> None:
        self.server = server
        self.ready = True
        for subscription in list(self.subscriptions):
            problem = layout_problem(server, subscription.params)
            if problem is not None:
                self._end(subscription, problem)
        for call in [call for call in self._calls.values() if call.method != "hello"]:
            if call.subscription is not None and call.subscription.error is not None:
                self._finish(call, error=call.subscription.error)
            elif call.subscription is not None and not call.subscription.wanted:
                call.subscription.state = State.LOST  # it was changed meanwhile, and is asked for when it is wanted
                del self._calls[call.id]
            else:
                self._send(call)
        self.reopen()

    def _opened(self, subscription: Subscription, call: Call, answer: messages.SubscribeResult) -> None:
        ended = subscription.state is State.ENDED
        if call.method == "subscribe" and (ended or not subscription.wanted or call.asked is not subscription.params):
            self.request("unsubscribe", messages.UnsubscribeParams(answer.subscription))
            if not ended:
                # It was changed while it was being opened. That is rare, and opening it once more is always right.
                subscription.state = State.LOST
                self.reopen()
            return
        if ended:
            return
        if call.method == "update":
            subscription.updated(cast(messages.UpdateParams, call.params), answer)
        else:
            subscription.opened(answer)
        if subscription.state is State.LIVE:
            self._live[answer.subscription] = subscription
        self._changed.add(subscription)

    def _refuse(self, call: Call, body: messages.ErrorBody) -> None:
        code = _code(body)
        error: Exception = RequestError(code, body.message, body.data)
        if code == "deadline_exceeded":
            error = DeadlineExceeded(body.message)
        elif call.method == "hello" and code in RETRYABLE:
            error = ConnectionRefusedError(str(error))  # too many clients, say: the next attempt may be luckier
        subscription = call.subscription
        if call.method == "subscribe" and subscription is not None and subscription.state is not State.ENDED:
            if subscription.result is not None and code in RETRYABLE:
                subscription.state = State.REFUSED
                subscription.tell("waiting", str(error))
            else:
                self._end(subscription, error)
            self._changed.add(subscription)
        self._finish(call, error=error)


def _code(body: messages.ErrorBody) -> str:
    if isinstance(body.data.get("code"), str):
        return str(body.data["code"])
    known = {code.value for code in messages.ErrorCode}
    return messages.ErrorCode(body.code).name.lower() if body.code in known else str(body.code)

"""A control link: requests with deadlines and notifications, both ways, over any carrier of whole messages.

Each side gives the messages of the carrier to :meth:`Link.run` and sends through the callable given to it. Grammar of a
message, MessagePack:

    request       ["q", id, method, params]        answered once, in any order
    notification  ["n", method, params]            not answered; those of one method are handled in the order sent
    answer        ["a", id, result]
    refusal       ["e", id, code, text]

The reader waits for no handler: each has a task of its own, so a slow one holds up neither answers nor other methods.
What can grow has a bound: see the constants.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import structlog
import trio

from marketd.errors import LinkClosed, RequestRefused, RequestTimeout

OUTBOX_MESSAGES_MAX = 1024  # full: `notify` and `request` wait (the latter no longer than its deadline)
INBOX_MESSAGES_MAX = 1024  # per method; full: the oldest notification is dropped and counted
HANDLERS_MAX = 256  # requests being answered; full: refused with the code `overloaded`
REFUSALS_MAX = 256  # such refusals on their way; full: not answered, and the asker's deadline tells it
DRAIN_S = 0.2  # how long notifications that have come are still handled once the other side is gone

R = TypeVar("R")
P = TypeVar("P")
Handler = Callable[..., Awaitable[object]]

log = structlog.get_logger("marketd.supervise.link")


class _Request(msgspec.Struct, frozen=True, array_like=True, tag="q"):
    id: int
    method: str
    params: msgspec.Raw


class _Notification(msgspec.Struct, frozen=True, array_like=True, tag="n"):
    method: str
    params: msgspec.Raw


class _Answer(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    id: int
    result: msgspec.Raw


class _Refusal(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    id: int
    code: str
    text: str


_Message = _Request | _Notification | _Answer | _Refusal
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Message).decode


@dataclass
class _Pending:
    """A request of ours that waits for its answer."""

    done: trio.Event = field(default_factory=trio.Event)
    reply: _Answer | _Refusal | None = None


@dataclass
class _Inbox:
    """The notifications of one method that wait for its handler, and whether a task is serving them."""

    waiting: deque[_Notification] = field(default_factory=deque)
    served: bool = False


@dataclass(frozen=True)
class _Method:
    handler: Handler
    decode: Callable[[msgspec.Raw], Any] | None
    early: bool


@dataclass(frozen=True)
class LinkStatistics:
    """A snapshot: what is under way, and how many messages were ``dropped`` in all."""

    pending: int
    answering: int
    inboxes: int
    outbox: int
    dropped: int


class Link:
    """One end of a control link.

    Args:
        send: sends one message; raises ``trio.BrokenResourceError`` or ``trio.ClosedResourceError`` once the carrier is
            gone. Only one task calls it, and it is not cancelled while :meth:`run` runs, whatever becomes of requests:
            half a message would be the end of any carrier.
        name: who is at the other end, for error texts.
        held: let what the other side asks wait until :meth:`release`, so that handlers can be registered meanwhile.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None]], *, name: str, held: bool = False) -> None:
        self.name = name
        self.closed = trio.Event()
        self._send = send
        self._ids = itertools.count(1)
        self._methods: dict[str, _Method] = {}
        self._inboxes: dict[str, _Inbox] = {}
        self._pending: dict[int, _Pending] = {}
        self._answering = 0
        self._refusing = 0
        self._dropped = 0
        self._released = trio.Event()
        self._outbox_send, self._outbox_receive = trio.open_memory_channel[bytes](OUTBOX_MESSAGES_MAX)
        if not held:
            self.release()

    def handle(self, method: str, params: type[P] | None, handler: Handler, *, early: bool = False) -> None:
        """Let the other side call ``handler(params)``, or ``handler()`` when ``params`` is None.

        What it returns answers a request. A :class:`RequestRefused` from it reaches the asker as it is; any other
        exception is logged here and reaches the asker with the code ``internal``. ``early`` calls are not held.
        """
        decode = None if params is None else msgspec.msgpack.Decoder(params).decode
        self._methods[method] = _Method(handler, decode, early)

    def release(self) -> None:
        """Let the handlers see what was held."""
        self._released.set()

    async def request(self, method: str, params: object = None, *, result: type[R], timeout_s: float) -> R:
        """Ask the other side and return its answer as ``result``.

        Raises:
            RequestTimeout: no answer within ``timeout_s``; the other side may do what was asked all the same.
            LinkClosed: the other side is gone, or went while we waited.
            RequestRefused: it said no.
        """
        request = _Request(next(self._ids), method, msgspec.Raw(_encode(params)))
        pending = self._pending[request.id] = _Pending()
        try:
            with trio.move_on_after(timeout_s):
                await self._post(request)
                await pending.done.wait()
        finally:
            del self._pending[request.id]
        if not pending.done.is_set():
            raise RequestTimeout(f"{self.name} did not answer {method!r} within {timeout_s:g} s")
        if pending.reply is None:
            raise self._gone()
        if isinstance(pending.reply, _Refusal):
            raise RequestRefused(pending.reply.code, pending.reply.text)
        try:
            return msgspec.msgpack.decode(pending.reply.result, type=result)
        except msgspec.ValidationError as error:
            raise RequestRefused("invalid_result", f"the answer to {method!r} is no {result}: {error}") from error

    async def notify(self, method: str, params: object = None) -> None:
        """Tell the other side; returns when the message is queued, and waits while the queue is full.

        Raises:
            LinkClosed: the other side is gone. That it is not raised does not say that the message has arrived.
        """
        await self._post(_Notification(method, msgspec.Raw(_encode(params))))

    async def run(self, receive: AsyncIterator[bytes]) -> None:
        """Serve the link until the other side is gone, then fail what still waits for it with :class:`LinkClosed`.

        Raises:
            msgspec.DecodeError: the other side talks nonsense: a bug of ours.
        """
        try:
            with trio.CancelScope() as drain:
                async with trio.open_nursery() as inboxes:
                    async with trio.open_nursery() as answering:
                        answering.start_soon(self._write)
                        await self._read(receive, answering, inboxes)
                        answering.cancel_scope.cancel()
                    self._close()
                    drain.deadline = trio.current_time() + DRAIN_S
        finally:
            self._close()

    def statistics(self) -> LinkStatistics:
        """Count what is under way."""
        return LinkStatistics(
            pending=len(self._pending),
            answering=self._answering,
            inboxes=sum(len(inbox.waiting) for inbox in self._inboxes.values()),
            outbox=self._outbox_send.statistics().current_buffer_used,
            dropped=self._dropped,
        )

    def _gone(self) -> LinkClosed:
        return LinkClosed(f"{self.name} is gone")

    def _close(self) -> None:
        self.closed.set()
        self._outbox_send.close()
        self._outbox_receive.close()
        for pending in self._pending.values():
            pending.done.set()

    # --- out ----------------------------------------------------------------------------------------------------------

    async def _post(self, message: _Message) -> None:
        try:
            await self._outbox_send.send(_encode(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._gone() from None

    async def _write(self) -> None:
        try:
            async for message in self._outbox_receive:
                await self._send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Reading goes on to its own end: what the other side said before it died may still lie there.
            self._outbox_receive.close()

    # --- in -----------------------------------------------------------------------------------------------------------

    async def _read(self, receive: AsyncIterator[bytes], answering: trio.Nursery, inboxes: trio.Nursery) -> None:
        try:
            async for data in receive:
                self._take(_decode(data), answering, inboxes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("link.broken", other=self.name)  # the end all the same, only less polite

    def _take(self, message: _Message, answering: trio.Nursery, inboxes: trio.Nursery) -> None:
        """Act on one message without waiting: the reader must always be ready for the next."""
        match message:
            case _Answer() | _Refusal():
                pending = self._pending.get(message.id)
                if pending is not None:  # else its deadline has passed
                    pending.reply = message
                    pending.done.set()
            case _Request() if self._answering < HANDLERS_MAX:
                self._answering += 1
                answering.start_soon(self._answer, message)
            case _Request() if self._refusing < REFUSALS_MAX:
                self._refusing += 1
                answering.start_soon(self._refuse, message.id)
            case _Request():
                self._drop(message.method, "too many requests")
            case _Notification():
                self._take_notification(message, inboxes)

    async def _answer(self, request: _Request) -> None:
        try:
            reply: _Answer | _Refusal
            try:
                reply = _Answer(request.id, msgspec.Raw(_encode(await self._call(request))))
            except RequestRefused as error:
                reply = _Refusal(request.id, error.code, str(error))
            except Exception as error:
                log.exception("request.failed", method=request.method, asker=self.name)
                reply = _Refusal(request.id, "internal", f"{type(error).__name__}: {error}")
            await self._reply(reply)
        finally:
            self._answering -= 1

    async def _refuse(self, request_id: int) -> None:
        try:
            await self._reply(_Refusal(request_id, "overloaded", f"{HANDLERS_MAX} requests are being answered"))
        finally:
            self._refusing -= 1

    async def _reply(self, reply: _Answer | _Refusal) -> None:
        try:
            await self._post(reply)
        except LinkClosed:
            log.debug("reply.undeliverable", asker=self.name)

    async def _call(self, message: _Request | _Notification) -> object:
        method = self._methods.get(message.method)
        if not (self._released.is_set() or (method is not None and method.early)):
            await self._released.wait()
            method = self._methods.get(message.method)
        if method is None:
            raise RequestRefused("unknown_method", f"there is no method {message.method!r}")
        if method.decode is None:
            return await method.handler()
        try:
            params = method.decode(message.params)
        except msgspec.ValidationError as error:
            raise RequestRefused("invalid_params", f"{message.method}: {error}") from error
        return await method.handler(params)

    def _take_notification(self, notification: _Notification, inboxes: trio.Nursery) -> None:
        inbox = self._inboxes.setdefault(notification.method, _Inbox())
        if len(inbox.waiting) >= INBOX_MESSAGES_MAX:
            # The newest says most: notifications tell of states, and a later one supersedes an earlier one.
            inbox.waiting.popleft()
            self._drop(notification.method, "its handler is too slow")
        inbox.waiting.append(notification)
        if not inbox.served:
            inbox.served = True
            inboxes.start_soon(self._serve, inbox)

    async def _serve(self, inbox: _Inbox) -> None:
        while inbox.waiting:
            notification = inbox.waiting.popleft()
            try:
                await self._call(notification)
            except RequestRefused as error:
                self._drop(notification.method, str(error))
            except Exception:
                log.exception("notification.failed", method=notification.method, sender=self.name)
        inbox.served = False

    def _drop(self, method: str, reason: str) -> None:
        self._dropped += 1
        if self._dropped == 1:  # once per link; the count is in the statistics
            log.warning("message.dropped", method=method, sender=self.name, reason=reason)

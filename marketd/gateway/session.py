"""One client, from its connection to its end.

Two tasks: one reads requests and answers them, one writes (`writer.py`). What takes long gets a task of its own. While
a client does not read its answers, its requests are not read either.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import socket
import struct
import sys
from operator import itemgetter
from typing import TYPE_CHECKING

import structlog
import trio

from marketd.clock import SystemClock
from marketd.gateway.decode import Refusal
from marketd.gateway.delivery import Behind
from marketd.gateway.encode import Buffer, encode_notification
from marketd.gateway.feed import Feed
from marketd.gateway.listen import undrained_bytes
from marketd.gateway.requests import serve
from marketd.gateway.subscription import Subscription
from marketd.gateway.watchdog import Times, judge
from marketd.gateway.writer import Writer
from marketd.rpc import messages
from marketd.rpc.framing import Deframer, FrameTooLarge
from marketd.rpc.messages import ErrorCode
from marketd.rpc.positions import format_token
from marketd.security.access import Access
from marketd.security.doors import Door
from marketd.supervise.messages import FilledRange

if TYPE_CHECKING:
    from marketd.gateway.actor import Gateway

RECEIVE_BYTES = 32 * 1024
REQUESTS_IN_ONE_GO = 32  # served between two turns of the event loop
SEARCHES_MAX = 4  # that run at a time for one client
FLUSH_S = 1.0  # for the last messages to go out
TICKS_OF_PROGRESS = 2  # 0.2 s
SLOW_FROM, SLOW_UNTIL = 0.5, 0.1  # of what a ring keeps; the client is told once, and told again when it has caught up
LEAVE_S = 0.3  # for the client to see them and hang up
LEAVE_BYTES_MAX = 4 << 20  # of what it still sends meanwhile

LINGER_NOT = struct.pack("ii", 1, 0)
_HEARTBEAT = encode_notification("heartbeat", messages.Heartbeat())

log = structlog.get_logger("marketd.gateway")


class Session:
    """A connected client.

    Attributes:
        number: counts connections, for logs and status.
        address: of the client.
        door: by which it came in.
        bearer: the token that it showed before hello, over HTTP.
        access: what it may do; None before hello.
        times: what the watchdog looks at.
        hello: what the client said of itself; None before.
        heartbeat_s: the longest silence of ours; infinity for any.
        subscriptions: by their numbers.
        requests_running: how many requests are answered in tasks of their own.
        searching: lets a few searches through at a time.
        slow: whether it was told that it is about to lose rows.
        ended: why its connection ends, in a word or two; empty before.
    """

    def __init__(
        self,
        sock: socket.socket,
        address: str,
        number: int,
        gateway: Gateway,
        door: Door = "unix",
        bearer: str | None = None,
    ) -> None:
        self.number = number
        self.address = address
        self.door: Door = door
        self.bearer = bearer
        self.access: Access | None = None
        self.gateway = gateway
        self.times = Times(trio.current_time())
        self.writer = Writer(sock, self.times, gateway.delivery)
        self.hello: messages.HelloParams | None = None
        self.heartbeat_s = math.inf
        self.subscriptions: dict[int, Subscription] = {}
        self.requests_running = 0
        self.searching = trio.Semaphore(SEARCHES_MAX)
        self.nursery: trio.Nursery
        self._socket = sock
        self._counted_bytes = 0
        self._reading = trio.CancelScope()
        self._numbers = itertools.count(1)
        self._after_answer: list[Buffer] = []
        self._undrained_bytes = sys.maxsize
        self._ticks = number  # so that not all clients are told of progress at once
        self.slow = False
        self.ended = ""

    # --- its life ---

    async def run(self) -> None:
        """Serve the client until either side has had enough. Nothing that goes wrong here reaches another client."""
        log.debug("client.accepted", client=self.number, address=self.address)
        try:
            async with trio.open_nursery() as self.nursery:
                self.nursery.start_soon(self._read)
                await self._write()
                self.nursery.cancel_scope.cancel()
            if self.writer.finished:
                await leave(self._socket)
        except Exception:
            log.exception("client.failed", client=self.number)
            self.ended = "failed"
        finally:
            self._log_end()
            self.drop_subscriptions()
            self.follows_changed()
            if self.ended == "stalled" and not self.writer.finished:
                # The kernel is to throw away what the client does not take, and not to go on trying.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            close_socket(self._socket)
            self.count_bytes()
            if self.access is not None:
                self.gateway.guard.leave(self.access)

    def _log_end(self) -> None:
        writer = self.writer
        facts: dict[str, object] = {"rows": writer.rows_sent, "bytes": writer.bytes_sent, "lost": writer.lost}
        if self.subscriptions:
            facts["at"] = {number: format_token(positions) for number, positions in self._positions().items()}
        if not writer.finished:
            facts["unsent_bytes"] = writer.unsent_bytes
        log.info("client.gone", client=self.number, reason=self.ended or "cancelled", **facts)

    def begin(self, access: Access, params: messages.HelloParams, heartbeat_s: float) -> None:
        """Take hello."""
        self.access = access
        self.hello = params
        self.times.greeted = True
        self.heartbeat_s = heartbeat_s
        self.times.promised_s = heartbeat_s if params.heartbeat_s else 0.0
        facts = {"token": access.name} if access.name else {}
        log.info("client.connected", client=self.number, address=self.address, name=params.client[:64], **facts)

    @property
    def rights(self) -> Access:
        """What the client may do, once it has said hello."""
        assert self.access is not None  # no other request is served before
        return self.access

    def close(self, reason: str, last_words: Buffer | None = None) -> None:
        """End the connection once the answers that wait, and then the last words, are written; or in a second."""
        self.writer.set_follows([])
        if last_words is not None:
            self.writer.put(last_words)
        self._end(reason)
        self.writer.finish()

    def dismiss(self, code: str, sentence: str) -> None:
        """End the connection at once, and tell the client why and where each of its streams stands."""
        log.warning("client.dismissed", client=self.number, address=self.address, reason=code, detail=sentence)
        words = messages.Notice(code, sentence, self._positions(), self.writer.lost)
        self.close(code, encode_notification("notice", words))

    def stop(self) -> None:
        """End the connection once the client has had every row that is published by now; or in a second."""
        self._end("closing")
        self.writer.finish(self._closing_notice)

    def _part(self, sentence: str) -> None:
        """Give a client that takes nothing as long again to wake up and read where it can go on; then cut it off.

        What it was about to be sent comes before that, so the positions are exact for whoever reads them.
        """
        words = messages.Notice("stalled", sentence, self._positions(), self.writer.lost)
        self.writer.set_follows([])
        self.writer.put(encode_notification("notice", words))
        self._end("stalled", within_s=self.gateway.limits.stall_timeout_s)
        self.writer.finish()

    def kick(self, reason: str) -> None:
        """End the connection at an operator's request. The client is told where it stood, and may come back."""
        log.warning("client.kicked", client=self.number, name=self.hello.client[:64] if self.hello else "", why=reason)
        sentence = "an operator has ended this connection" + (f": {reason}" if reason else "")
        notice = messages.Notice("kicked", sentence, self._positions(), self.writer.lost)
        self.close("kicked", encode_notification("notice", notice))

    def _end(self, reason: str, within_s: float = FLUSH_S) -> None:
        self.ended = self.ended or reason
        self._reading.cancel()
        scope = self.nursery.cancel_scope
        scope.deadline = min(scope.deadline, trio.current_time() + within_s)

    def _closing_notice(self) -> Buffer:
        notice = messages.Notice("closing", "the daemon is shutting down", self._positions(), self.writer.lost)
        return encode_notification("notice", notice)

    async def _write(self) -> None:
        # Caught here and not around the nursery: together with a cancellation from outside it would come as a group.
        try:
            await self.writer.run()
        except OSError as error:
            self.ended = self.ended or f"connection lost: {error.strerror}"

    # --- requests ---

    async def _read(self) -> None:
        with self._reading:
            deframer = Deframer(self.gateway.limits.frame_bytes_max)
            while data := await self._receive(deframer.pending):
                too_large = None
                try:
                    payloads = deframer.receive_data(data)
                except FrameTooLarge as error:
                    payloads, too_large = error.frames, error
                if payloads:
                    self.times.frame_s = None
                for i, payload in enumerate(payloads):
                    if i % REQUESTS_IN_ONE_GO == REQUESTS_IN_ONE_GO - 1:
                        await trio.lowlevel.checkpoint()
                    await self.writer.wait_room()
                    if reason := await serve(self, payload):
                        return self.close(reason)
                if too_large is not None:
                    return self.close("frame too large", _too_large(too_large))
            return self.close("left")

    async def _receive(self, pending: int) -> bytes:
        """Return what the client sent; nothing when it has hung up."""
        await trio.lowlevel.checkpoint()
        self.times.reading_s = trio.current_time()
        if pending and self.times.frame_s is None:
            self.times.frame_s = self.times.reading_s
        try:
            while True:
                try:
                    return self._socket.recv(RECEIVE_BYTES)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._socket.fileno())
        except OSError:
            return b""
        finally:
            self.times.reading_s = None

    def put(self, frame: Buffer) -> None:
        """Send an answer, or a message that is not a stream's, and then what was to come after it."""
        self.writer.put(frame)
        for later in self._after_answer:
            self.writer.put(later)
        self._after_answer.clear()

    def put_after_answer(self, frame: Buffer) -> None:
        """Send a message right after the answer of the request that is being served."""
        self._after_answer.append(frame)

    # --- streams ---

    def add_subscription(self, subscription: Subscription) -> None:
        """Serve one more."""
        self.subscriptions[subscription.id] = subscription
        self.rights.usage.subscriptions += 1

    def drop_subscription(self, subscription: Subscription) -> None:
        """Serve one less."""
        del self.subscriptions[subscription.id]
        self.rights.usage.subscriptions -= 1

    def drop_subscriptions(self) -> None:
        """Serve none any more."""
        for subscription in list(self.subscriptions.values()):
            self.drop_subscription(subscription)

    def next_subscription(self) -> int:
        """Return a number for a new subscription."""
        return next(self._numbers)

    def follows_changed(self) -> None:
        """Follow the feeds that the subscriptions read by now."""
        pairs = [(s, follow) for s in self.subscriptions.values() for follow in s.follows.values()]
        self.writer.set_follows(pairs)
        followed = {follow.feed for _, follow in pairs}
        for feed in self.gateway.feeds.all_and_retired:
            (feed.listeners.add if feed in followed else feed.listeners.discard)(self.writer)
        self.gateway.demand_changed()

    def feed_changed(self, feed: Feed) -> None:
        """Take notice that a feed is new, has new instruments, or another state."""
        joined = [subscription.join(feed) for subscription in self.subscriptions.values()]
        if any(joined):
            self.follows_changed()
        elif self.writer in feed.listeners:
            self.writer.wake()

    def _let_go(self) -> None:
        """Read feeds no more that have gone, once the client has had all of them; and what has come in their place."""
        left = [subscription.leave_retired() for subscription in self.subscriptions.values()]
        if not any(left):
            return
        for subscription in self.subscriptions.values():
            for feed in self.gateway.feeds.all:
                subscription.join(feed, from_first=True)
        self.follows_changed()

    def tell_filled(self, told: FilledRange) -> None:
        """Tell the subscriptions that have such bars of the instrument that the venue has told some afterwards."""
        kind = f"bar.{told.period}"
        for number, subscription in self.subscriptions.items():
            if kind in subscription.kinds and subscription.selection.selects(told.fqme):
                where = (told.feed, told.fqme, kind, told.from_ns, told.to_ns, told.bars)
                self.writer.put(encode_notification("gap_filled", messages.GapFilled(number, *where)))

    # --- the watchdog's ---

    def tick(self, now_s: float) -> None:
        """Do what time alone makes due. Called a few times a second."""
        if self.ended:
            return
        self._notice_lag()
        self._notice_draining(now_s)
        self._let_go()
        verdict = judge(self.times, self.gateway.limits, now_s)
        if verdict is not None:
            self._dismiss(verdict.reason, verdict.sentence)
        elif self.times.blocked_s is None:
            if now_s - self.writer.sent_s >= self.heartbeat_s:
                self.writer.put(_HEARTBEAT)
            self._ticks += 1
            if self._ticks % TICKS_OF_PROGRESS == 0:
                self._tell_progress()

    def _notice_lag(self) -> None:
        """Tell the client when it is about to lose rows, and when it is not any more."""
        lags = [(each.lag(follow), follow) for each in self.subscriptions.values() for follow in each.follows.values()]
        lag, follow = max(lags, key=itemgetter(0), default=(0.0, None))
        if self.slow and lag < SLOW_UNTIL:
            self.slow = False
            self._tell("caught_up", "nothing is about to be overwritten any more that was not sent yet")
        elif follow is not None and not self.slow and lag >= SLOW_FROM:
            self.slow = True
            behind, kept = follow.feed.head - follow.cursor, follow.feed.ring.rows
            log.warning("client.slow", client=self.number, feed=follow.feed.name, behind=behind, kept=kept)
            sentence = f"{follow.feed.name} is {behind} rows ahead of what was sent; beyond {kept} they are overwritten"
            self._tell("slow", f"{sentence}, and told as a gap: read faster, or ask for less")

    def _tell(self, code: str, sentence: str) -> None:
        self.writer.put(
            encode_notification("notice", messages.Notice(code, sentence, self._positions(), self.writer.lost))
        )

    def _positions(self) -> dict[int, dict[str, messages.Position]]:
        return {number: subscription.positions() for number, subscription in self.subscriptions.items()}

    def _notice_draining(self, now_s: float) -> None:
        """See whether a blocked client reads at all: the kernel takes no more before it has read a good part."""
        if self.times.blocked_s is None:
            self._undrained_bytes = sys.maxsize
            return
        undrained = undrained_bytes(self._socket)
        if undrained < self._undrained_bytes < sys.maxsize:
            self.times.blocked_s = now_s
        self._undrained_bytes = undrained

    def _dismiss(self, reason: str, sentence: str) -> None:
        if reason == "stalled":
            self._part(sentence)
        elif reason == "silent":
            self.close(reason, encode_notification("notice", messages.Notice(reason, sentence)))
        else:
            code = ErrorCode.INVALID_REQUEST if self.times.greeted else ErrorCode.HELLO_REQUIRED
            self.close(reason, Refusal(code, sentence).frame(None))

    def _tell_progress(self) -> None:
        """Let subscriptions that were passed over by rows of other instruments say how far they are."""
        for subscription in self.subscriptions.values():
            for follow in subscription.follows.values():
                if follow.sent < follow.cursor and not subscription.paused:
                    follow.silent = True
                    self.writer.wake()

    def status(self, now_s: float) -> messages.ClientStatus:
        """What an operator wants to know of the client."""
        follows = [(each, follow) for each in self.subscriptions.values() for follow in each.follows.values()]
        behind = Behind.of(follows)
        return messages.ClientStatus(
            id=self.number,
            name=self.hello.client[:64] if self.hello is not None else "",
            address=self.address,
            subscriptions=len(self.subscriptions),
            rows_sent=self.writer.rows_sent,
            bytes_sent=self.writer.bytes_sent,
            lost=self.writer.lost,
            connected_s=round(now_s - self.times.connected_s, 3),
            kinds=sorted({kind for each in self.subscriptions.values() for kind in each.kinds}),
            instruments=sum(len(follow.choice.ids) for _, follow in follows),
            lag_rows=behind.rows,
            lag_s=behind.age_s,
            slow=self.slow,
            token=self.access.name if self.access is not None else "",
        )

    def count_bytes(self) -> None:
        """Add what was sent since the last time to what the token has used."""
        if self.access is not None:
            sent = self.writer.bytes_sent
            self.access.usage.add_bytes(sent - self._counted_bytes, SystemClock().now_ns())
            self._counted_bytes = sent


def _too_large(error: FrameTooLarge) -> Buffer:
    sentence = f"{error}; a frame is a length, 4 bytes, big endian, and so many bytes of MessagePack"
    return Refusal(ErrorCode.FRAME_TOO_LARGE, sentence, size=error.size, limit=error.limit).frame(None)


async def leave(sock: socket.socket) -> None:
    """Let the client read what was written last. To close with bytes of its unread would throw that away (RFC 1122,
    4.2.2.13), so they are read, up to a limit, until it hangs up too."""
    drained = 0
    with contextlib.suppress(OSError), trio.move_on_after(LEAVE_S):
        sock.shutdown(socket.SHUT_WR)
        while drained < LEAVE_BYTES_MAX:
            await trio.lowlevel.wait_readable(sock.fileno())
            data = sock.recv(RECEIVE_BYTES)
            if not data:
                return
            drained += len(data)


def close_socket(sock: socket.socket) -> None:
    """Close a socket on which tasks may still wait."""
    trio.lowlevel.notify_closing(sock.fileno())
    sock.close()

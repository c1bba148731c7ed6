"""One client's way out: the only one that writes to its socket.

It keeps no queue of rows. Each time the socket takes more, it asks the subscriptions what there is by then, a little
from each in turn, and writes that in one go: a client that keeps up gets every row at once, one that lags gets few
large messages. Only answers wait in a queue, and whoever puts them there waits for room in it.

A client that keeps up costs no turn of the event loop: while its task has nothing to do but wait, whoever brings the
news of more rows sends them (:meth:`Writer.wake_for_rows`). What the socket does not take then is the task's to send.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Callable, Sequence

import trio

from marketd.gateway.delivery import Delivery
from marketd.gateway.encode import Buffer
from marketd.gateway.fanout import NewsKey
from marketd.gateway.subscription import Batch, Follow, Subscription, take_news
from marketd.gateway.wakeup import Wakeup
from marketd.gateway.watchdog import Times

BATCH_BYTES = 256 * 1024  # written in one go, up to the end of the message that exceeds it
BATCH_EXAMINED_MAX = 64 * 1024  # rows looked at for one go, wanted or not
OUTBOX_BYTES_MAX = 256 * 1024
_BUFFERS_MAX = 1024  # IOV_MAX of Linux: what one system call takes


class Writer:
    """Writes answers and streams to one client's socket.

    Attributes:
        sent_s: when it last took something.
        rows_sent, bytes_sent, lost: counts.
        finished: whether everything was written that was to be written before the end.
    """

    def __init__(self, sock: socket.socket, times: Times, delivery: Delivery) -> None:
        self._socket = sock
        self._delivery = delivery
        self._times = times
        self._outbox: deque[tuple[Buffer, ...]] = deque()
        self._outbox_bytes = 0
        self._room = trio.Event()
        self._wakeup = Wakeup()
        self._deaf = False
        self._error: Exception | None = None
        self._unsent: Sequence[Buffer | memoryview] = ()
        self._follows: list[tuple[Subscription, Follow]] = []
        # While the task waits: the only one of them, if there is nothing but rows to tell of it.
        self._plain: tuple[Follow, NewsKey] | None = None
        self._turn = 0
        self._last_words: Callable[[], Buffer] | None = None
        self._finishing = False
        self.finished = False
        self.sent_s = trio.current_time()
        self.rows_sent = 0
        self.bytes_sent = 0
        self.lost = 0

    async def run(self) -> None:
        """Write until :meth:`finish` was called and nothing is left.

        Raises:
            OSError: the client is gone.
        """
        while True:
            if self._error is not None:
                raise self._error
            await self._send_rest()
            now_s = trio.current_time()
            batch, due_s = self._gather(now_s)
            self._send_nowait(batch.buffers, now_s)
            await self._send_rest()
            if due_s == -math.inf:
                await trio.lowlevel.checkpoint()
            elif not self._finishing:
                # Whatever has come up while we were sending has set the wake-up.
                await self._wait(due_s)
            elif not batch.buffers and not self._take_last_words():
                self.finished = True
                return

    def put(self, *frame: Buffer) -> None:
        """Send an answer or a notification of its own after what was put before, in front of any further rows.

        Args:
            frame: in one piece or several.
        """
        self._outbox.append(frame)
        self._outbox_bytes += sum(map(len, frame))
        self._wakeup.set()

    def put_batch(self, batch: Batch) -> None:
        """Do the same with messages of rows."""
        self.rows_sent += batch.rows
        self.lost += batch.lost
        if batch.buffers:
            self.put(*batch.buffers)

    @property
    def unsent_bytes(self) -> int:
        """How many bytes wait that the socket did not take."""
        return sum(map(len, self._unsent)) + self._outbox_bytes

    async def wait_room(self) -> None:
        """Return when less is waiting than the client may let wait."""
        while self._outbox_bytes >= OUTBOX_BYTES_MAX:
            await self._room.wait()

    def wake(self) -> None:
        """Take notice that there may be news to send."""
        self._wakeup.set()

    def wake_for_rows(self, now_s: float) -> None:
        """Take notice that a feed's head has moved, and send what the socket takes at once if nothing is before it."""
        if self._deaf:
            return
        if self._wakeup.task is None:
            self._wakeup.set()
            return
        due_s = math.inf
        try:
            if self._plain is None or not self._push_news(*self._plain, now_s):
                batch, due_s = self._gather(now_s)
                self._send_nowait(batch.buffers, now_s)
        except Exception as error:  # noqa: BLE001 - not swallowed, see below
            # The task raises it, so that what is wrong with one client does not reach those whose turn comes after.
            self._error = error
            self._wakeup.set()
            return
        if self._unsent or due_s < math.inf:
            self._wakeup.set()

    def _push_news(self, follow: Follow, key: NewsKey, now_s: float) -> bool:
        """Send what is new in the one feed that is followed, if that is one small message; return whether it was."""
        news = take_news(follow, key)
        if news is None:
            return False
        rows, data = news
        self.rows_sent += rows
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent:
            self.sent_s = now_s
            self.bytes_sent += sent
        if sent < len(data):
            self._times.blocked_s = now_s
            self._unsent = [memoryview(data)[sent:]]
        elif self._delivery.left:
            self._delivery.note(self._follows)
        return True

    def set_follows(self, follows: list[tuple[Subscription, Follow]]) -> None:
        """Send what these have from now on, and nothing of any others."""
        self._follows = follows
        self._wakeup.set()

    def finish(self, last_words: Callable[[], Buffer] | None = None) -> None:
        """End once all that is there by now is written, and then what ``last_words()`` returns."""
        self._finishing = True
        self._last_words = last_words
        for _, follow in self._follows:
            follow.due_s = -math.inf
        self._wakeup.set()

    def _take_last_words(self) -> bool:
        if self._last_words is None:
            return False
        self.put(self._last_words())
        self._last_words = None
        return True

    def _gather(self, now_s: float) -> tuple[Batch, float]:
        """Collect what is to go out next, and tell when there will be more.

        Returns:
            A batch, empty if there is nothing; and a time: minus infinity when there is more already, infinity when
            there will be once somebody wakes us.
        """
        batch = Batch()
        while self._outbox and batch.size_bytes < BATCH_BYTES:
            batch.add(*self._outbox.popleft())
        if batch.size_bytes:
            self._outbox_bytes -= batch.size_bytes
            self._room.set()
            self._room = trio.Event()
        due_s = -math.inf if self._outbox else math.inf
        follows = self._follows
        count = len(follows)
        for step in range(count):
            place = (self._turn + step) % count
            if batch.size_bytes >= BATCH_BYTES or batch.examined >= BATCH_EXAMINED_MAX:
                self._turn = place
                due_s = -math.inf
                break
            subscription, follow = follows[place]
            if not subscription.paused:
                subscription.take(follow, batch, now_s)
                due_s = min(due_s, subscription.more_s(follow))
        self.rows_sent += batch.rows
        self.lost += batch.lost
        return batch, due_s

    def _send_nowait(self, buffers: Sequence[Buffer | memoryview], now_s: float) -> None:
        """Send what the socket takes, and keep the rest. Raises OSError: the client is gone."""
        while buffers:
            try:
                sent = self._socket.sendmsg(buffers if len(buffers) <= _BUFFERS_MAX else buffers[:_BUFFERS_MAX])
            except BlockingIOError:
                self._times.blocked_s = self._times.blocked_s or now_s
                break
            self.sent_s = now_s
            self.bytes_sent += sent
            self._times.blocked_s = None
            buffers = _without(buffers, sent)
        self._unsent = buffers
        if not buffers and self._delivery.left:
            self._delivery.note(self._follows)

    async def _send_rest(self) -> None:
        while self._unsent:
            await trio.lowlevel.wait_writable(self._socket.fileno())
            self._send_nowait(self._unsent, trio.current_time())

    async def _wait(self, due_s: float) -> None:
        if due_s == math.inf:
            if len(self._follows) == 1:
                subscription, follow = self._follows[0]
                if (key := subscription.plain(follow)) is not None:
                    self._plain = follow, key
            await self._wakeup.wait()
            self._plain = None
            return
        # Until a message or frame is due, the arrival of more rows is no news, unless somebody wants each row at once.
        self._deaf = all(each.paced(follow) or each.framed(follow) for each, follow in self._follows)
        with trio.move_on_at(due_s):
            await self._wakeup.wait()
        self._deaf = False


def _without(buffers: Sequence[Buffer | memoryview], sent: int) -> Sequence[Buffer | memoryview]:
    """Return what is left of the buffers when their first ``sent`` bytes are gone."""
    for i, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[i + 1 :]]
        sent -= len(buffer)
    return ()

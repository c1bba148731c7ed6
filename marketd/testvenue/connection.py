"""The shell around a session: one websocket connection, and what faults do to it."""

from __future__ import annotations

import contextlib
import heapq
import socket
import struct
from collections.abc import Callable
from typing import Any

import trio
import wsproto
from wsproto import events
from wsproto.utilities import RemoteProtocolError

from marketd.testvenue import frames
from marketd.testvenue.counts import StreamCount, VenueCounts
from marketd.testvenue.faults import Active, Board, spoil, spoil_checksum
from marketd.testvenue.venue import Bye, Channel, Ping, Reply, Say, Session, Venue

TICK_S = 0.05
CLOSE_WAIT_S = 2.0  # for the client's answer to a close frame
OUTBOX_BYTES_MAX = 64 << 20  # a client that is so far behind is cut off
HELD_MAX = 1_000_000
RECEIVE_BYTES = 65_536
MESSAGE_BYTES_MAX = 1 << 20


class Connection:
    """One client's websocket.

    Args:
        now: the time up to which the market's events have been sent, so that a snapshot fits what follows it.

    Attributes:
        closed_by: ``client``, ``venue``, ``fault`` or ``slow``; empty while it is open.
    """

    def __init__(
        self,
        number: int,
        venue: Venue,
        session: Session,
        stream: trio.abc.Stream,
        board: Board,
        counts: VenueCounts,
        now: Callable[[], int],
        address: str,
    ) -> None:
        self.number = number
        self.venue = venue
        self.session = session
        self.address = address
        self.closed_by = ""
        self._stream = stream
        self._board = board
        self._counts = counts
        self._now = now
        self._scope = trio.CancelScope()
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._wake = trio.Event()
        self._bye = False
        self._later: list[tuple[int, int, bytes]] = []  # due, number, frame
        self._later_count = 0
        self._held: list[bytes] = []  # frames of a stall that are to be sent after it
        self._group: list[tuple[StreamCount, bytes]] = []  # messages about to change places
        self._reorder: Active | None = None  # the fault that gathers them
        self._spoke_ns = self._opened_ns = now()
        self._closed_ns = 0
        self._sent = self._received = 0

    async def serve(self, websocket: wsproto.WSConnection) -> None:
        """Talk until either side closes."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._tick)
                await self._read(websocket)
                self._leave("client")
        self._closed_ns = self._now()
        await trio.aclose_forcefully(self._stream)

    def say(self, replies: list[Reply]) -> None:
        """Send what the venue says, as far as faults let it."""
        for reply in replies:
            if isinstance(reply, Bye):
                self.close(reply.code, reply.reason, "venue")
            elif isinstance(reply, Ping):
                if not self._stalled(frames.frame(frames.PING, reply.payload)):
                    self._push(frames.frame(frames.PING, reply.payload))
            elif reply.role == "data":
                channel = self.session.channels.get(reply.channel)
                self.deliver(channel, self._counts.stream(reply.channel), 0, reply.payload, frames.text(reply.payload))
            else:
                self._speak(reply)

    def deliver(self, channel: Channel | None, count: StreamCount, number: int, payload: bytes, frame: bytes) -> None:
        """Send a data message; ``frame`` is ``payload`` as a frame, made once for all connections."""
        if number:
            count.last = number
            if not count.first:
                count.first = number
        if self._board.busy:
            self._distort(channel, count, payload, frame)
        else:
            count.sent += 1
            self._push(frame)

    def close(self, code: int, reason: str, by: str) -> None:
        """Send a close frame after what is queued, and end when the client has answered, or soon after."""
        if not self._bye:
            self._push(frames.close(code, reason))
            self._bye = True
            self.closed_by = self.closed_by or by
            self._wake.set()

    def cut(self, by: str = "fault") -> None:
        """Break the connection with a TCP reset."""
        reset(self._stream)
        self._leave(by)

    def release(self) -> None:
        """Send what a stall has held back."""
        for frame in self._held:
            self._push(frame)
        self._held.clear()

    def state(self) -> dict[str, Any]:
        """Everything that is known of it, ready for JSON."""
        return {
            "connection": self.number,
            "address": self.address,
            "opened_ns": self._opened_ns,
            "closed_ns": self._closed_ns,
            "closed_by": self.closed_by,
            "subscriptions": len(self.session.channels),
            "silent": list(self.session.silent),
            "sent": self._sent,
            "received": self._received,
            "queued_bytes": self._outbox_bytes,
        }

    async def _read(self, websocket: wsproto.WSConnection) -> None:
        message: list[bytes] = []
        while True:
            for event in _events(websocket):
                if isinstance(event, events.Message):
                    message.append(event.data.encode() if isinstance(event.data, str) else bytes(event.data))
                    if event.message_finished:
                        self._received += 1
                        self.say(self.session.receive(b"".join(message), self._now()))
                        message.clear()
                    elif sum(map(len, message)) > MESSAGE_BYTES_MAX:
                        self.close(1009, "Message too big", "venue")
                elif isinstance(event, events.Ping):
                    self.say(self.session.ping(self._now()))
                    self._push(frames.frame(frames.PONG, bytes(event.payload)))
                elif isinstance(event, events.Pong):
                    self.session.pong(self._now())
                elif isinstance(event, events.CloseConnection):
                    if not self._bye:
                        self.close(event.code, "", "client")
                        await trio.sleep(CLOSE_WAIT_S)  # the writer ends it earlier
                    return
            await self._blackhole()
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            await self._blackhole()
            if not data:
                return
            try:
                websocket.receive_data(data)
            except RemoteProtocolError:
                self.close(1002, "Protocol error", "venue")
                await trio.sleep(CLOSE_WAIT_S)
                return

    async def _write(self) -> None:
        while True:
            if not self._outbox:
                if self._bye:
                    await trio.sleep(0 if self.closed_by == "client" else CLOSE_WAIT_S)
                    self._leave("venue")
                    return
                self._wake = trio.Event()
                await self._wake.wait()
            await self._blackhole()
            chunk = b"".join(self._outbox)
            self._outbox.clear()
            self._outbox_bytes = 0
            try:
                await self._stream.send_all(chunk)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._leave("client")
                return

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            now_ns = self._now()
            while self._later and self._later[0][0] <= now_ns:
                self._push(heapq.heappop(self._later)[2])
            if self._group and not (self._reorder and self._board.is_on(self._reorder)):
                self._regroup()
            self.say(self.session.tick(now_ns, self._spoke_ns))
            if now_ns - self._opened_ns > self.venue.tuning.connection_max_s * 1e9:
                self.close(1008, "Connection expired", "venue")
            if self._outbox_bytes > OUTBOX_BYTES_MAX:
                self.cut("slow")

    def _speak(self, say: Say) -> None:
        frame = frames.text(say.payload)
        if not self._board.busy:
            self._push(frame)
            return
        board, venue, number = self._board, self.venue.name, self.number
        silenced = {"ack": "no_acks", "pong": "no_pong"}.get(say.role)
        if silenced and board.take(silenced, venue, number):
            return
        if self._stalled(frame):
            return
        delayed = {"ack": "slow_acks", "greeting": "late_welcome"}.get(say.role)
        fault = board.take(delayed, venue, number) if delayed else None
        if fault is None:
            self._push(frame)
        else:
            self._later_count += 1
            due_ns = self._now() + int(fault.delay_s * 1e9)
            heapq.heappush(self._later, (due_ns, self._later_count, frame))

    def _stalled(self, frame: bytes) -> bool:
        """Whether a stall keeps this back; it is then held or gone."""
        stall = self._board.find("stall", self.venue.name, self.number) if self._board.busy else None
        if stall is not None and stall.fault.hold:
            self._hold(frame)
        return stall is not None

    def _distort(self, channel: Channel | None, count: StreamCount, payload: bytes, frame: bytes) -> None:
        """Send a data message as the active faults leave it."""
        venue, number, board = self.venue.name, self.number, self._board
        stall = board.find("stall", venue, number, channel)
        if stall is not None and stall.fault.hold:
            self._hold(frame)
            count.sent += 1
            return
        if stall is not None or board.take("drop", venue, number, channel):
            count.lost += 1
            return
        wrong = spoil_checksum(payload)
        if wrong != payload and board.take("bad_checksum", venue, number, channel):
            frame = frames.text(wrong)
        bad = self._malformed(channel, payload)
        if bad:
            self._push(bad[0])
            if not bad[1]:
                count.lost += 1
                return
        if board.take("duplicate", venue, number, channel):
            count.sent += 1
            self._push(frame)
        reorder = board.find("reorder", venue, number, channel)
        if reorder is None:
            count.sent += 1
            self._push(frame)
            return
        self._reorder = reorder
        self._group.append((count, frame))
        if len(self._group) >= reorder.fault.depth:
            self._group.reverse()
            self._regroup()
            if not reorder.use():
                board.end(reorder)

    def _malformed(self, channel: Channel | None, payload: bytes) -> tuple[bytes, bool] | None:
        """The spoiled frame, if there is to be one, and whether the good one follows."""
        fault = self._board.take("malformed_message", self.venue.name, self.number, channel)
        if fault is not None:
            return frames.text(spoil(payload, fault.variant)), fault.extra
        fault = self._board.take("malformed_frame", self.venue.name, self.number, channel)
        return (frames.broken(payload, fault.variant), fault.extra) if fault is not None else None

    def _hold(self, frame: bytes) -> None:
        if len(self._held) >= HELD_MAX:
            self.cut("slow")
        self._held.append(frame)

    def _regroup(self) -> None:
        for count, frame in self._group:
            count.sent += 1
            self._push(frame)
        self._group.clear()

    async def _blackhole(self) -> None:
        """Do nothing at all while there is a black hole: nothing is read or written, and the kernel's buffers fill."""
        while self._board.busy and self._board.find("blackhole", self.venue.name, self.number):
            await self._board.changed.wait()

    def _push(self, frame: bytes) -> None:
        if self._bye or self._scope.cancel_called:
            return
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)
        self._sent += 1
        self._spoke_ns = self._now()
        self._wake.set()

    def _leave(self, by: str) -> None:
        self.closed_by = self.closed_by or by
        self._scope.cancel()


def reset(stream: trio.abc.Stream) -> None:
    """Close a TCP connection with a reset: SO_LINGER with no time to linger, socket(7)."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    assert isinstance(transport, trio.SocketStream), "only TCP connections are served"
    with contextlib.suppress(OSError):
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.socket.close()


def _events(websocket: wsproto.WSConnection) -> list[events.Event]:
    try:
        return list(websocket.events())
    except RemoteProtocolError:
        return [events.CloseConnection(code=1002)]

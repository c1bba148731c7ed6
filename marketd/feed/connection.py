"""One connection to a venue, from its first request to its end: a plain task that receives, sends and watches.

    connect requests -> plan -> websocket -> protocol -> subscribe
    pump:   socket.receive -> protocol.receive, for each message of the read -> events -> sink.publish, once a read
    send:   what the protocol wants to say, as fast as the venue allows, and pings
    watch:  the protocol's timers, silence, the end of its time

It never raises on a venue's doing, and it never reconnects: it ends with an :class:`Outcome`, and its shard decides.
Durations are measured on trio's clock, which nobody can set back; times in rows and protocols are the feed's clock.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import structlog
import trio

from backends.backend import MessageCounts, Sink
from backends.live import ConnectPlan, LiveConfig, LiveVenue
from marketd.clock import SECOND_NS, Clock
from marketd.errors import ConfigError, WireError
from marketd.feed.budget import Priority
from marketd.feed.dialogue import Dialogue, Outcome
from marketd.feed.fetch import Fetcher, FetchFailed
from marketd.feed.lane import Lane
from marketd.feed.pacer import Pacer
from marketd.feed.quiet import QuietWatch, Verdict
from marketd.feed.tracks import Tracks
from marketd.feed.websocket import ConnectFailed, HandshakeRefused, WebSocketClosed
from marketd.http import ONCE, Response
from marketd.model import GapReason, MktPair

PLAN_TIMEOUT_S = 30.0
PAUSE_S_MIN = 0.01
LIFETIME_SHARE = (0.90, 0.97)  # of the venue's, so that not all connections are replaced at once


class Socket(Protocol):
    """What is needed of :class:`marketd.feed.websocket.WebSocket`."""

    heard_s: float

    async def receive(self) -> list[bytes]:
        """Return all messages of one read; raises ``WebSocketClosed``."""
        ...

    async def send(self, message: str | bytes) -> None:
        """Send one message; raises ``WebSocketClosed``."""
        ...

    async def ping(self, payload: bytes = b"") -> None:
        """Send a ping; raises ``WebSocketClosed``."""
        ...


Dial = Callable[[ConnectPlan], AbstractAsyncContextManager[Socket]]


@dataclass(eq=False)
class Surroundings:
    """What all connections of one venue share.

    Attributes:
        refused: instruments that the venue does not want to give, and why; not asked for until the list changes.
        dialogues: of the connections that are open.
        past_counts: the messages of those that are not any more.
    """

    venue: LiveVenue
    config: LiveConfig
    dial: Dial
    fetcher: Fetcher
    clock: Clock
    rng: random.Random
    sink: Sink
    tracks: Tracks
    refused: dict[str, str] = field(default_factory=dict)
    dialogues: list[Dialogue] = field(default_factory=list)
    past_counts: MessageCounts = field(default_factory=MessageCounts)

    def counts(self) -> MessageCounts:
        """Every message of all connections, accounted for."""
        total = MessageCounts()
        for counts in (self.past_counts, *(dialogue.protocol.counts for dialogue in self.dialogues)):
            total.add(counts)
        return total

    def live(self) -> set[str]:
        """The instruments that are subscribed to."""
        return {name for dialogue in self.dialogues for name in dialogue.protocol.live}


class Connection:
    """See the module.

    Attributes:
        settled: set once every instrument is acked or refused.
        expiring: set when the venue is about to cut the connection, so that another should take over.
        ended: set when no row will come from it any more; ``outcome`` then says why.
        dialogue: None until the connection is open.
        heard_ns: when a message last came, by the feed's clock; 0 before there was a connection.
        opened_s: when it was opened, by trio's clock.
    """

    def __init__(
        self,
        around: Surroundings,
        lane: Lane,
        wanted: Callable[[], list[MktPair]],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.lane = lane
        self.settled = trio.Event()
        self.expiring = trio.Event()
        self.ended = trio.Event()
        self.outcome: Outcome | None = None
        self.dialogue: Dialogue | None = None
        self.heard_ns = 0
        self.opened_s = trio.current_time()
        self._message_s = self.opened_s
        self._around = around
        self._wanted = wanted
        self._log = log
        self._scope = trio.CancelScope()
        self._ping_due = False
        self._wake_sender = trio.Event()

    async def run(self) -> None:
        """Connect, and stay until something ends it."""
        try:
            with self._scope:
                await self._live()
        finally:
            self.outcome = self.outcome or Outcome("cancelled")
            self.ended.set()

    def leave(self, outcome: Outcome) -> None:
        """End the connection; the first reason counts."""
        self.outcome = self.outcome or outcome
        self._scope.cancel()

    def reconcile(self) -> None:
        """Subscribe and unsubscribe as is wanted now."""
        if self.dialogue is not None and self.outcome is None:
            self.dialogue.want(self._wanted(), self._around.clock.now_ns())
            self._heed(self.dialogue)

    @property
    def instruments(self) -> list[int]:
        """The row ids of what it is to bring."""
        return [] if self.dialogue is None else list(self.dialogue.ids.values())

    @property
    def brought_data(self) -> bool:
        """Whether any message became rows."""
        return self.dialogue is not None and self.dialogue.brought_data

    # --- opening ------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            plan = await self._plan()
            async with self._around.dial(plan) as socket:
                await self._converse(socket, plan)
                self.ended.set()  # whoever comes next need not wait for the goodbyes
        except FetchFailed as error:
            self.leave(Outcome("unprepared", str(error), asked_s=error.retry_s))
        except (WireError, ConfigError) as error:
            # What the venue told us about how to connect to it is of no use.
            self.leave(Outcome("unprepared", str(error), hopeless=True))
        except HandshakeRefused as error:
            self.leave(Outcome("refused", str(error), asked_s=await self._note_refusal(error)))
        except ConnectFailed as error:
            self.leave(Outcome("unreachable", str(error)))

    async def _plan(self) -> ConnectPlan:
        around = self._around
        requests = around.venue.connect_requests()
        # Once: when to ask again is for the shard to say, as of every other way in which an attempt can fail.
        bodies = await around.fetcher.fetch_all(requests, Priority.REPAIR, timeout_s=PLAN_TIMEOUT_S, policy=ONCE)
        return around.venue.connect_plan(bodies, self._wanted())

    async def _note_refusal(self, error: HandshakeRefused) -> float:
        """Tell the budget if the venue does not want connections for a while; return for how many seconds."""
        response = Response(error.status, error.headers, error.body, self._around.clock.now_ns())
        asked_s = self._around.venue.throttled(response)
        if asked_s is not None:
            await self._around.fetcher.gate.rest("connect", asked_s)
        return asked_s or 0.0

    async def _converse(self, socket: Socket, plan: ConnectPlan) -> None:
        around = self._around
        markets = self._wanted()
        self.opened_s = self._message_s = trio.current_time()
        self.heard_ns = around.clock.now_ns()
        self._log.info("feed.connected", url=plan.url.partition("?")[0], instruments=len(markets))
        protocol = around.venue.open_protocol(self.lane, markets, plan)
        dialogue = self.dialogue = Dialogue(protocol, self.lane, around.refused, self._log)
        dialogue.want(markets, self.heard_ns)
        protocol.timer(self.heard_ns)
        around.dialogues.append(dialogue)
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(self._pump, socket, dialogue)
                nursery.start_soon(self._send, socket, dialogue)
                nursery.start_soon(self._watch, socket, dialogue, plan)
                self._heed(dialogue)
        finally:
            around.dialogues.remove(dialogue)
            around.past_counts.add(protocol.counts)
            around.sink.publish()

    # --- the three tasks ----------------------------------------------------------------------------------

    async def _pump(self, socket: Socket, dialogue: Dialogue) -> None:
        clock = self._around.clock
        try:
            while True:
                batch = await socket.receive()
                self.heard_ns = clock.now_ns()
                self._message_s = trio.current_time()
                dialogue.receive(batch, self.heard_ns)
                self._heed(dialogue)
        except WebSocketClosed as closed:
            self.leave(Outcome("closed", str(closed)))

    async def _send(self, socket: Socket, dialogue: Dialogue) -> None:
        pacer = Pacer(self._around.venue.limits.messages_per_s)
        try:
            while True:
                await self._wake_sender.wait()
                self._wake_sender = trio.Event()
                while dialogue.outbox or self._ping_due:
                    await trio.sleep(pacer.wait_s(trio.current_time()))
                    pacer.note(trio.current_time())
                    if self._ping_due:
                        self._ping_due = False
                        await socket.ping()
                    else:
                        await socket.send(dialogue.outbox.popleft().decode())
                dialogue.sent(self._around.clock.now_ns())
                self._heed(dialogue)
        except WebSocketClosed as closed:
            self.leave(Outcome("closed", str(closed)))

    async def _watch(self, socket: Socket, dialogue: Dialogue, plan: ConnectPlan) -> None:
        config, limits = self._around.config, self._around.venue.limits
        quiet = QuietWatch(
            timeout_s=config.msg_recv_timeout_s,
            reset_after=config.reset_after,
            quiet_s=limits.quiet_s,
            now_s=self.opened_s,
        )
        share = self._around.rng.uniform(*LIFETIME_SHARE)
        expires_s = self.opened_s + (limits.lifetime_s or math.inf) * share
        ping_every_s = plan.ping_interval_s or math.inf
        pinged_s = self.opened_s
        while True:
            now_s, now_ns = trio.current_time(), self._around.clock.now_ns()
            quiet.message(self._message_s)
            verdict = quiet.check(now_s, socket.heard_s)
            if verdict in (Verdict.DEAD, Verdict.SILENT):
                silence_s = now_s - self._message_s
                self.leave(Outcome(verdict.value, f"no message for {silence_s:.1f} s", GapReason.STALE))
            else:
                dialogue.vouched_ns = now_ns
            if verdict is Verdict.PROBE or now_s - pinged_s >= ping_every_s:
                pinged_s = now_s
                self._ping_due = True
                self._wake_sender.set()
            if now_s >= expires_s:
                self.expiring.set()
            timer_ns = dialogue.run_timers(now_ns)
            self._around.sink.publish()
            self._heed(dialogue)
            wake_s = min(quiet.next_s, pinged_s + ping_every_s, now_s + (timer_ns - now_ns) / SECOND_NS)
            await trio.sleep(max(PAUSE_S_MIN, wake_s - now_s))

    def _heed(self, dialogue: Dialogue) -> None:
        """Do what the dialogue has come to."""
        if dialogue.outbox:
            self._wake_sender.set()
        if dialogue.settled:
            self.settled.set()
        if dialogue.expiring:
            self.expiring.set()
        if dialogue.outcome is not None:
            self.leave(dialogue.outcome)

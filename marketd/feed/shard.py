"""A share of a venue's instruments, kept connected for ever: one connection after the other, or into the other.

lost connection     gap begins for each of its instruments -> wait as the policy says -> next connection, whose acks
                    end the gaps
expiring connection the next one is opened beside it, and takes over once it has all that the first one had
                    (`lane.py`); then the first is left. No gap, unless the first ends before that.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
import trio

from backends.live import TickKind
from marketd.feed.budget import Priority
from marketd.feed.connection import Connection, Surroundings
from marketd.feed.dialogue import Outcome
from marketd.feed.gate import BudgetError
from marketd.feed.lane import Lane
from marketd.feed.reconnect import ReconnectPolicy
from marketd.model import GapReason, Kind, MktPair

CONNECT_WAIT_S = 60.0  # for the budget of connections, before the log says so and the wait begins anew
DETAIL_MAX = 500
PROOF_EVERY_S = 0.1
PROOF_MAX_S = 30.0  # after that the next connection takes over, proven or not

_KINDS: dict[TickKind, Kind] = {"trade": Kind.TRADE, "quote": Kind.QUOTE, "book": Kind.LEVEL}


@dataclass
class ShardReport:
    """Counts of one shard."""

    connects: int = 0
    losses: int = 0
    handovers: int = 0

    def add(self, other: ShardReport) -> None:
        """Count what another shard has counted as well."""
        self.connects += other.connects
        self.losses += other.losses
        self.handovers += other.handovers


class Shard:
    """See the module.

    Attributes:
        markets: the instruments that it is to carry; change it by :meth:`carry`.
        connection: the one whose rows count; None while there is none.
    """

    def __init__(self, around: Surroundings, number: int) -> None:
        self.markets: dict[str, MktPair] = {}
        self.connection: Connection | None = None
        self.report = ShardReport()
        self._around = around
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("marketd.feed").bind(
            venue=around.venue.name, connection=number
        )
        self._policy = ReconnectPolicy(rng=around.rng)
        self._delay_s = 0.0
        self._lost: Outcome | None = None
        self._successor: Connection | None = None
        self._scope = trio.CancelScope()

    async def keep(self) -> None:
        """Keep its instruments connected until cancelled."""
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            if not self.markets:
                nursery.cancel_scope.cancel()
            while True:
                if self.connection is None:
                    self.connection = await self._open(nursery, None)
                current = self.connection
                await _first(current.ended, current.expiring)
                if current.ended.is_set():
                    self._note_loss(current)
                    self._begin_outages(current)
                    self.connection = None
                else:
                    self.connection = await self._replace(nursery, current)

    @property
    def lost(self) -> str:
        """Why the last connection ended, as long as there is none that brings anything; empty if there is one."""
        newest = self.connection
        if self._lost is None or (newest is not None and newest.dialogue is not None):
            return ""
        return ": ".join(filter(None, [self._lost.reason, self._lost.detail[:DETAIL_MAX]]))

    def stop(self) -> None:
        """Leave the venue for good."""
        self._scope.cancel()

    def carry(self, markets: dict[str, MktPair]) -> None:
        """Carry these instruments from now on."""
        self.markets = markets
        newest = self._successor or self.connection
        if newest is not None:
            newest.reconcile()

    # --- one connection after the other -------------------------------------------------------------------

    async def _open(self, nursery: trio.Nursery, predecessor: Connection | None) -> Connection:
        """Start the next connection when it may be; it may come to nothing."""
        around = self._around
        await trio.sleep(self._delay_s)
        await self._wait_budget()
        lane = Lane(
            around.sink,
            around.tracks,
            kinds=frozenset(_KINDS[kind] for kind in around.venue.kinds),
            contiguous=around.venue.limits.trade_ids == "contiguous",
            succeeds=frozenset(predecessor.instruments) if predecessor is not None else frozenset(),
        )
        log = self._log.bind(attempt=self._policy.attempt)
        connection = Connection(around, lane, lambda: list(self.markets.values()), log)
        self.report.connects += 1
        nursery.start_soon(connection.run)
        return connection

    async def _wait_budget(self) -> None:
        gate = self._around.fetcher.gate
        while True:
            try:
                grant = await gate.acquire("connect", 1, Priority.REPAIR, timeout_s=CONNECT_WAIT_S)
            except BudgetError as error:
                self._log.warning("feed.connect_waits", reason=str(error), retry_s=round(error.retry_s, 1))
                await trio.sleep(min(error.retry_s, CONNECT_WAIT_S))
            else:
                gate.settle(grant)
                return

    def _note_loss(self, connection: Connection) -> None:
        """Let the policy decide when to try again."""
        outcome = self._lost = connection.outcome
        assert outcome is not None
        attempt = self._policy.attempt
        self._delay_s = self._policy.lost(
            brought_data=connection.brought_data,
            lived_s=trio.current_time() - connection.opened_s,
            hopeless=outcome.hopeless,
            asked_s=outcome.asked_s,
        )
        self.report.losses += 1
        say = self._log.error if outcome.hopeless else self._log.warning
        say(
            "feed.disconnected",
            reason=outcome.reason,
            detail=outcome.detail[:DETAIL_MAX],
            attempt=attempt,
            retry_s=round(self._delay_s, 3),
        )

    def _begin_outages(self, connection: Connection) -> None:
        outcome, now_ns = connection.outcome, self._around.clock.now_ns()
        assert outcome is not None
        for instrument in connection.instruments:
            self._around.tracks.begin_outage(instrument, outcome.gap, connection.heard_ns, now_ns)
        self._around.sink.publish()

    # --- one connection into the other --------------------------------------------------------------------

    async def _replace(self, nursery: trio.Nursery, old: Connection) -> Connection | None:
        """Open connections until one has taken over from ``old``, and return it; None if ``old`` ended before."""
        self._delay_s = 0.0
        while not old.ended.is_set():
            new = await self._open_beside(nursery, old)
            if new is None:
                break
            self._successor = new
            try:
                await self._wait_overlap(old, new)
                if not new.ended.is_set():
                    self._hand_over(old, new)
                    return new
            finally:
                self._successor = None
            new.lane.mute()
            self._note_loss(new)
            old.reconcile()  # what was added meanwhile went to the new one
        self._note_loss(old)
        self._begin_outages(old)
        return None

    async def _open_beside(self, nursery: trio.Nursery, old: Connection) -> Connection | None:
        """As :meth:`_open`, but None as soon as the old connection ends."""
        opened: Connection | None = None
        async with trio.open_nursery() as race:

            async def give_up() -> None:
                await old.ended.wait()
                race.cancel_scope.cancel()

            race.start_soon(give_up)
            opened = await self._open(nursery, old)
            race.cancel_scope.cancel()
        return opened

    async def _wait_overlap(self, old: Connection, new: Connection) -> None:
        """Return when the new connection can take over, or either has ended."""
        await _first(new.settled, new.ended, old.ended)
        begun_s = trio.current_time()
        while not (new.ended.is_set() or old.ended.is_set()):
            age_s = trio.current_time() - begun_s
            if age_s >= PROOF_MAX_S or (age_s >= self._around.venue.limits.overlap_s and new.lane.proven()):
                return
            with trio.move_on_after(PROOF_EVERY_S):
                await _first(new.ended, old.ended)

    def _hand_over(self, old: Connection, new: Connection) -> None:
        """Let the new connection's rows through, and leave the old one."""
        ended: GapReason | None = None
        if old.outcome is not None:
            ended = old.outcome.gap
            self._note_loss(old)
        elif not new.lane.proven():
            ended = GapReason.DISCONNECT
        now_ns = self._around.clock.now_ns()
        if ended is not None:
            carried = {self._around.sink.instrument(market) for market in self.markets.values()}
            for instrument in carried.intersection(old.instruments) - set(new.instruments):
                self._around.tracks.begin_outage(instrument, ended, old.heard_ns, now_ns)
        new.lane.take_over(old.lane, ended=ended, heard_ns=old.heard_ns, now_ns=now_ns)
        old.leave(Outcome("replaced"))
        self._around.sink.publish()
        self._delay_s = 0.0
        self.report.handovers += 1
        self._log.info("feed.handed_over", duplicates=self._around.tracks.duplicates)


async def _first(*events: trio.Event) -> None:
    """Return when any of the events is set."""
    if any(event.is_set() for event in events):
        return
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)

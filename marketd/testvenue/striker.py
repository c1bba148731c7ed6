"""Lets faults happen: waits for their time, strikes, and ends what lasts."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import trio

from marketd.testvenue.connection import Connection
from marketd.testvenue.faults import Active, Board, Fault
from marketd.testvenue.pump import VenuePump
from marketd.testvenue.venue import Venue

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # trio's own is missing from the stubs

BAN_S = 60.0


class Striker:
    """One task for each fault that was asked for and is not over."""

    def __init__(
        self, board: Board, venues: Mapping[str, Venue], pumps: Mapping[str, VenuePump], now: Callable[[], int]
    ) -> None:
        self._board = board
        self._all = venues
        self._pumps = pumps
        self._now = now
        self._nursery: trio.Nursery | None = None
        self._numbers = itertools.count(1)
        self._scopes: set[trio.CancelScope] = set()
        self._pending: dict[int, Fault] = {}

    async def run(self, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def inject(self, fault: Fault) -> None:
        """Let a fault happen, which has been checked: at once, or in its time."""
        if not fault.after_s:
            self._strike(fault)
            return
        number = next(self._numbers)
        self._pending[number] = fault

        def begin() -> None:
            del self._pending[number]
            self._strike(fault)

        self._in(fault.after_s, begin)

    def pending(self) -> list[Fault]:
        """What has been asked for and has not begun."""
        return list(self._pending.values())

    def reset(self) -> None:
        """End all faults, and forget those to come."""
        for scope in self._scopes:
            scope.cancel()
        self._pending.clear()
        self._board.clear()
        for venue in self._all.values():
            self._maintain(venue, on=False)
            for connection in self._pumps[venue.name].connections.values():
                connection.release()

    def _in(self, seconds: float, act: Callable[[], None]) -> None:
        assert self._nursery is not None, "faults can be asked for once this runs"
        scope = trio.CancelScope()
        self._scopes.add(scope)
        self._nursery.start_soon(self._wait, scope, seconds, act)

    async def _wait(self, scope: trio.CancelScope, seconds: float, act: Callable[[], None]) -> None:
        with scope:
            await trio.sleep(seconds)
            act()
        self._scopes.discard(scope)

    def _strike(self, fault: Fault) -> None:
        """Begin a fault, and see to its end."""
        if fault.fault in ("cut", "close", "announced_cut", "lose_subscription"):
            self._strike_connections(fault)
        elif fault.fault == "ban":
            for venue in self._venues(fault):
                venue.ban(fault.for_s or BAN_S, self._now())
        else:
            active = self._board.begin(fault, self._now())
            if fault.fault == "maintenance":
                for venue in self._venues(fault):
                    self._maintain(venue, on=True)
            if fault.for_s:
                self._in(fault.for_s, functools.partial(self._end, active))

    def _end(self, active: Active) -> None:
        self._board.end(active)
        if active.fault.fault == "maintenance":
            for venue in self._venues(active.fault):
                self._maintain(venue, on=False)
        elif active.fault.fault == "stall":
            for connection in self._connections(active.fault):
                connection.release()

    def _strike_connections(self, fault: Fault) -> None:
        left = fault.left()
        for connection in self._connections(fault):
            if left == 0:
                break
            if fault.fault == "lose_subscription":
                left = self._lose(fault, connection, left)
                continue
            left -= 1
            if fault.fault == "cut":
                connection.cut()
            elif fault.fault == "close":
                connection.close(fault.code, fault.reason, "fault")
            else:
                connection.say(connection.venue.closing(connection.session, self._now()))
                end = functools.partial(connection.close, fault.code, fault.reason, "fault")
                self._in(fault.delay_s, end)

    def _lose(self, fault: Fault, connection: Connection, left: int) -> int:
        """Forget subscriptions without a word; returns how many more may be."""
        probe = Active(0, fault, 0)
        for channel in list(connection.session.channels.values()):
            if left and probe.matches(connection.venue.name, connection.number, channel):
                connection.session.remove(channel.name)
                left -= 1
        return left

    def _maintain(self, venue: Venue, *, on: bool) -> None:
        if venue.maintenance != on:
            venue.maintenance = on
            for connection in list(self._pumps[venue.name].connections.values()):
                connection.say(venue.maintained(connection.session, self._now()))

    def _venues(self, fault: Fault) -> list[Venue]:
        return [venue for venue in self._all.values() if fault.venue in ("*", venue.name)]

    def _connections(self, fault: Fault) -> list[Connection]:
        return [
            connection
            for venue in self._venues(fault)
            for connection in self._pumps[venue.name].connections.values()
            if _concerns(fault, connection)
        ]


def _concerns(fault: Fault, connection: Connection) -> bool:
    """Whether a connection is meant: by itself, and by what it carries."""
    probe, venue = Active(0, fault, 0), connection.venue.name
    if not fault.instrument and not fault.stream:
        return probe.matches(venue, connection.number, None)
    return any(probe.matches(venue, connection.number, channel) for channel in connection.session.channels.values())

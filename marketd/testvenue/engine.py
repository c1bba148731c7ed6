"""Everything that runs: venues, connections, the pump, and the faults that were asked for."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec
import trio
import wsproto

from marketd.clock import Clock
from marketd.errors import ConfigError
from marketd.testvenue import script
from marketd.testvenue.connection import Connection
from marketd.testvenue.counts import VenueCounts
from marketd.testvenue.faults import Board, Fault
from marketd.testvenue.pump import Pump, VenuePump
from marketd.testvenue.recording import Recording, play
from marketd.testvenue.striker import Striker
from marketd.testvenue.venue import Session, Venue

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # trio's own is missing from the stubs


class Engine:
    """The venues and what is going on at them."""

    def __init__(
        self, venues: list[Venue], clock: Clock, recordings: dict[str, Recording] | None = None, speed: float = 1.0
    ) -> None:
        self.venues = {venue.name: venue for venue in venues}
        self.recordings = recordings or {}
        self.board = Board()
        self.counts = {name: VenueCounts() for name in self.venues}
        self.pumps = {name: VenuePump(venue, self.counts[name], self.board) for name, venue in self.venues.items()}
        self.pump = Pump(self.pumps.values(), clock)
        self._speed = speed
        self._numbers = itertools.count(1)
        self.striker = Striker(self.board, self.venues, self.pumps, self.now_ns)

    async def run(self, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.striker.run)
            nursery.start_soon(self.pump.run)
            task_status.started()

    def now_ns(self) -> int:
        """The venues' idea of now."""
        return self.pump.now_ns

    async def serve_websocket(
        self, venue: Venue, session: Session, stream: trio.abc.Stream, websocket: wsproto.WSConnection, address: str
    ) -> None:
        """Talk to one client until it or the venue closes."""
        connections = self.pumps[venue.name].connections
        counts = self.counts[venue.name]
        number = next(self._numbers)
        connection = Connection(number, venue, session, stream, self.board, counts, self.now_ns, address)
        connections[number] = connection
        try:
            connection.say(session.greet(self.now_ns()))
            async with trio.open_nursery() as nursery:
                recording = self.recordings.get(venue.name)
                if recording is not None and recording.messages:
                    nursery.start_soon(play, recording, connection, self._speed)
                await connection.serve(websocket)
                nursery.cancel_scope.cancel()
        finally:
            del connections[number]
            counts.closed.append(connection.state())

    def inject_table(self, table: object) -> Fault:
        """Let a fault happen that is given as JSON or TOML has it.

        Raises:
            ConfigError: it is none.
        """
        fault = self.parse(table)
        self.striker.inject(fault)
        return fault

    def parse(self, table: object) -> Fault:
        """Make a fault of its table, without letting it happen.

        Raises:
            ConfigError: it is none.
        """
        return script.parse("fault", table, tuple(self.venues))

    def tune(self, table: dict[str, Any]) -> None:
        """Change a venue's :class:`Tuning`.

        Raises:
            ConfigError: the venue or a key isn't known, or a value can't be meant.
        """
        names = dict(table)
        venue = self.venues.get(names.pop("venue", ""))
        if venue is None:
            raise ConfigError(f"venue is {table.get('venue')!r}: allowed are {', '.join(self.venues)}")
        for name, value in names.items():
            if name not in venue.tuning.__dataclass_fields__ or not isinstance(value, int | float) or value < 0:
                allowed = ", ".join(venue.tuning.__dataclass_fields__)
                raise ConfigError(f"{name} = {value!r}: allowed are numbers for {allowed}")
            setattr(venue.tuning, name, value)

    def reset(self) -> None:
        """End all faults, forgive all limits and bans, and set all counts to zero. Connections stay."""
        self.striker.reset()
        for venue in self.venues.values():
            venue.forgive()
            counts = self.counts[venue.name]
            for stream in counts.streams.values():  # they are in use
                stream.sent = stream.lost = stream.first = stream.last = 0
            for kept in (counts.attempts, counts.closed, counts.requests, counts.recent_requests):
                kept.clear()

    def state(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        now_ns = self.now_ns()
        active = [
            {"number": one.number, "began_ns": one.began_ns, "struck": one.struck, **msgspec.to_builtins(one.fault)}
            for one in self.board.all()
        ]
        return {
            "now_ns": now_ns,
            "skipped_ns": self.pump.skipped_ns,
            "faults": {"active": active, "pending": [msgspec.to_builtins(fault) for fault in self.striker.pending()]},
            "venues": {
                name: {
                    "maintenance": venue.maintenance,
                    "limits": venue.usage(now_ns),
                    "tuning": vars(venue.tuning),
                    "connections": [connection.state() for connection in self.pumps[name].connections.values()],
                    **self.counts[name].state(),
                }
                for name, venue in self.venues.items()
            },
        }

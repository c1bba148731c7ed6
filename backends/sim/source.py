"""The simulated feed: emits the venue's events as their time comes, and plays its sessions and outages."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np

from backends.backend import MessageCounts, RowBlock, Sink
from backends.sim import normalize, wire
from backends.sim.config import SimConfig
from backends.sim.instruments import market_of, symbol_of
from backends.sim.market import Market
from backends.sim.protocol import status_row
from marketd.clock import MILLISECOND_NS, SECOND_NS, Clock
from marketd.errors import ConfigError
from marketd.model import Flag, GapReason, Kind, MktPair, Quality

URL_PREFIX = "sim://"
BATCH_NS = 10 * MILLISECOND_NS  # how long a row may wait for others
# Rows that are later than this are not made up for: a machine that was suspended, or a loop that was held.
LATE_NS_MAX = 10 * SECOND_NS


class State(Enum):
    """How the venue is to be seen."""

    LIVE = "live"
    AWAY = "away"
    CLOSED = "closed"


class SimSource:
    """See :class:`backends.backend.Source`.

    Raises:
        ConfigError: the configuration's values don't go together.
    """

    def __init__(self, config: SimConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._outages: list[tuple[int, int]] = []
        self._counts = MessageCounts()
        try:
            self._market = Market(config)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self._markets = [market_of(name) for name in self._market.names]
        self._symbols = [symbol_of(name) for name in self._market.names]
        self._ids = np.zeros(0, np.uint32)
        self._state: State | None = None
        self._away_from = 0  # the first event that an outage took
        self._away_from_ns = 0
        self._next = 0  # the next event
        self._reached_ns = 0

    @property
    def url(self) -> str:
        """See :class:`backends.backend.Source`."""
        given = self._config.instruments
        return f"{URL_PREFIX}?instruments={given if isinstance(given, int) else ','.join(self._symbols)}"

    def now_ns(self) -> int:
        """See :class:`backends.backend.Source`."""
        return self._clock.now_ns()

    def search_space(self) -> Sequence[MktPair]:
        """See :class:`backends.backend.Source`."""
        return self._markets

    def begin(self) -> None:
        """Do nothing: the venue does not wait."""

    def outage(self, duration_s: float) -> None:
        """Let the venue be away from now on."""
        now_ns = self._clock.now_ns()
        self._outages.append((now_ns, now_ns + round(duration_s * SECOND_NS)))

    def counts(self) -> MessageCounts:
        """See :class:`backends.backend.Source`: each row counts as one message."""
        return self._counts

    def quiet(self) -> bool:
        """See :class:`backends.backend.Source`."""
        return self._state is not State.LIVE

    async def run(self, sink: Sink) -> None:
        """See :class:`backends.backend.Source`. Never returns."""
        self._start(sink)
        while True:
            now_ns = self._clock.now_ns()
            self._catch_up(sink, now_ns)
            sink.publish()
            await self._clock.sleep_until(self._wake_ns(now_ns))

    def _start(self, sink: Sink) -> None:
        now_ns = self._clock.now_ns()
        self._ids = np.array([sink.instrument(market) for market in self._markets], np.uint32)
        if self._config.timeline == "zero":
            now_ns -= now_ns % SECOND_NS
            self._market = Market(self._config, now_ns)
        self._outages += [
            (now_ns + round(outage.after_s * SECOND_NS), now_ns + round((outage.after_s + outage.for_s) * SECOND_NS))
            for outage in self._config.outages
        ]
        self._next = 0 if self._config.timeline == "zero" else self._market.index_after(now_ns)
        self._reached_ns = now_ns
        self._enter(self._state_at(now_ns), sink, now_ns, now_ns)

    # --- states -----------------------------------------------------------------------------------

    def _catch_up(self, sink: Sink, now_ns: int) -> None:
        """Do everything that happens up to now, in order of time."""
        if self._state is State.LIVE and now_ns - self._reached_ns > LATE_NS_MAX:
            self._outages.append((self._reached_ns, now_ns))
        while True:
            state = self._state_at(self._reached_ns)
            if state is not self._state:
                self._enter(state, sink, self._reached_ns, now_ns)
            until_ns = min(now_ns, self._next_change_ns(self._reached_ns) or now_ns)
            if self._state is State.LIVE:
                self._emit(sink, until_ns, now_ns)
            self._reached_ns = until_ns
            if until_ns == now_ns and self._state_at(now_ns) is self._state:
                break
        self._outages = [outage for outage in self._outages if outage[1] > now_ns]

    def _state_at(self, time_ns: int) -> State:
        if not self._market.sessions.is_open(time_ns):
            return State.CLOSED
        away = any(begin_ns <= time_ns < end_ns for begin_ns, end_ns in self._outages)
        return State.AWAY if away else State.LIVE

    def _next_change_ns(self, after_ns: int) -> int | None:
        edges = [edge for outage in self._outages for edge in outage if edge > after_ns]
        change_ns = self._market.sessions.next_change_ns(after_ns)
        return min(edges if change_ns is None else [*edges, change_ns], default=None)

    def _enter(self, state: State, sink: Sink, event_ns: int, received_ns: int) -> None:
        """Change the state, and tell readers."""
        before, self._state = self._state, state
        if before is State.AWAY:
            back = self._market.index_after(event_ns)
            sink.gap(0, GapReason.DISCONNECT, self._away_from_ns, event_ns, back - self._away_from)
            self._next = back
        if state is State.AWAY:
            self._away_from, self._away_from_ns = self._next, event_ns
            sink.quality(0, Quality.GAP)
            return
        quality = Quality.OK if state is State.LIVE else Quality.CLOSED
        if State.CLOSED in (state, before):
            self._tell_session(sink, quality, event_ns, received_ns)
        sink.quality(0, quality)
        if state is State.LIVE and before is not State.CLOSED:
            self._send_snapshot(sink, received_ns)

    # --- rows -------------------------------------------------------------------------------------

    def _emit(self, sink: Sink, until_ns: int, received_ns: int) -> None:
        """Write the events up to a time."""
        while True:
            number, offset = divmod(self._next, self._market.chunk_events)
            rows = self._market.chunk(number).rows
            end = int(np.searchsorted(rows["event_ns"], until_ns, side="right"))
            if end > offset:
                self._write(sink, rows[offset:end].copy(), received_ns)
                self._next += end - offset
            if end < len(rows):
                return

    def _send_snapshot(self, sink: Sink, received_ns: int) -> None:
        """Write the quotes as they stand, as a venue does when one connects."""
        if self._next == 0:
            return
        quotes = self._market.quotes_before(self._next)
        quotes["flags"] = int(Flag.LAST | Flag.SNAPSHOT)
        self._write(sink, quotes, received_ns)

    def _write(self, sink: Sink, rows: RowBlock, received_ns: int) -> None:
        if sink.recording:
            for message in normalize.messages_of(rows, self._symbols):
                sink.message(wire.encode(message), received_ns)
        rows["received_ns"] = received_ns
        rows["instrument"] = self._ids[rows["instrument"]]
        sink.append_block(rows)
        trades = int(np.count_nonzero(rows["kind"] == Kind.TRADE))
        self._count("trade", trades)
        self._count("quote", len(rows) - trades)

    def _tell_session(self, sink: Sink, quality: Quality, event_ns: int, received_ns: int) -> None:
        if sink.recording:
            sink.message(wire.encode(wire.Session(event_ns, open=quality is Quality.OK)), received_ns)
        sink.append_block(status_row(quality, event_ns, received_ns))
        self._count("session", 1)

    def _count(self, name: str, count: int) -> None:
        if count:
            self._counts.used[name] = self._counts.used.get(name, 0) + count

    def _wake_ns(self, now_ns: int) -> int:
        """When there is something to do again: the next event, but not before the next batch, or the next change."""
        change_ns = self._next_change_ns(now_ns)
        if self._state is not State.LIVE:
            # An outage can be asked for at any time; only its end is waited for to the moment.
            return min(change_ns or now_ns + SECOND_NS, now_ns + SECOND_NS)
        number, offset = divmod(self._next, self._market.chunk_events)
        event_ns = int(self._market.chunk(number).rows["event_ns"][offset])
        if offset > self._market.chunk_events // 2:
            self._market.chunk(number + 1)  # now, while no row waits for it
        wake_ns = min(max(event_ns, now_ns + BATCH_NS), now_ns + SECOND_NS)
        return min(wake_ns, change_ns) if change_ns else wake_ns

"""Stand-ins for the seams: a clock that tests move, and a sink that keeps what it is given."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import trio

from backends.backend import RowBlock
from marketd.model import Flag, GapReason, Kind, MktPair, Quality
from marketd.ring import layout
from marketd.ring.layout import Row


class FakeClock:
    """A :class:`marketd.clock.Clock` that stands still until it is told to move, or until somebody sleeps on it.

    With ``jumps`` it goes to whatever is waited for, so that a source runs as fast as it can; ``until_ns`` then is
    where it stops for good.
    """

    def __init__(self, now_ns: int = 1_700_000_000 * 10**9, *, jumps: bool = False, until_ns: int = 1 << 62) -> None:
        self._now_ns = now_ns
        self._jumps = jumps
        self._until_ns = until_ns
        self._moved = trio.Event()

    def now_ns(self) -> int:
        """See :class:`marketd.clock.Clock`."""
        return self._now_ns

    def advance_to(self, now_ns: int) -> None:
        """Move, and wake those whose time has come."""
        self._now_ns = now_ns
        self._moved.set()
        self._moved = trio.Event()

    def advance(self, seconds: float) -> None:
        """Move by seconds."""
        self.advance_to(self._now_ns + round(seconds * 1e9))

    async def sleep_until(self, deadline_ns: int) -> None:
        """See :class:`marketd.clock.Clock`."""
        await trio.lowlevel.checkpoint()
        if self._jumps and self._now_ns < deadline_ns <= self._until_ns:
            self.advance_to(deadline_ns)
        while self._now_ns < deadline_ns:
            await self._moved.wait()


@dataclass
class ListSink:
    """A :class:`backends.backend.Sink` that keeps rows in memory.

    ``rows`` are tuples as a source hands them in, gap rows among them; ``published`` is how many readers could see.
    """

    rows: list[Row] = field(default_factory=list)
    markets: list[MktPair] = field(default_factory=list)
    qualities: list[tuple[int, Quality]] = field(default_factory=list)
    messages: list[tuple[bytes, int]] = field(default_factory=list)
    published: int = 0
    recording: bool = False
    last_received_ns: int = 0

    def instrument(self, market: MktPair) -> int:
        """See :class:`backends.backend.Sink`."""
        names = [known.fqme for known in self.markets]
        if market.fqme in names:
            return names.index(market.fqme) + 1
        self.markets.append(market)
        return len(self.markets)

    def append(self, row: Row) -> None:
        """See :class:`backends.backend.Sink`; refuses what a ring would refuse."""
        layout.PACK.pack(1, *row)
        self.rows.append(row)

    def append_block(self, rows: RowBlock) -> None:
        """See :class:`backends.backend.Sink`."""
        for values in rows[list(layout.ROW.names or ())[1:]].tolist():
            self.rows.append(values if values[4] not in (Kind.GAP, Kind.STATUS) else _integers(values))

    def publish(self) -> None:
        """See :class:`backends.backend.Sink`."""
        self.published = len(self.rows)

    def gap(self, instrument: int, reason: GapReason, from_ns: int, to_ns: int, lost: int = -1) -> None:
        """See :class:`backends.backend.Sink`."""
        row = (to_ns, to_ns, 0, instrument, int(Kind.GAP), 0, int(Flag.LAST), from_ns, to_ns, int(reason), lost)
        layout.PACK_INTEGERS.pack(1, *row)
        self.rows.append(row)

    def quality(self, instrument: int, quality: Quality) -> None:
        """See :class:`backends.backend.Sink`."""
        self.qualities.append((instrument, quality))

    def message(self, payload: bytes, received_ns: int) -> None:
        """See :class:`backends.backend.Sink`."""
        self.messages.append((payload, received_ns))

    # --- what tests ask ---------------------------------------------------------------------------

    def of_kind(self, *kinds: Kind) -> list[Row]:
        """The rows of some kinds, in order."""
        return [row for row in self.rows if row[4] in kinds]

    @property
    def data(self) -> list[Row]:
        """Trades, quotes and levels, in order."""
        return self.of_kind(Kind.TRADE, Kind.QUOTE, Kind.LEVEL)

    @property
    def gaps(self) -> list[Row]:
        """Gap rows, in order."""
        return self.of_kind(Kind.GAP)


def _integers(values: Row) -> Row:
    """Read a status row's values as the integers that they are."""
    return (*values[:7], *np.array(values[7:]).view("<i8").tolist())

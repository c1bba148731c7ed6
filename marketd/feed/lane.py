"""Where one connection ends and the next goes on: the seams, pure. No trade twice, none out of order, no silent hole.

Each connection's protocol writes through a :class:`Lane` of its own, and all lanes of a venue share one
:class:`Tracks`, which remembers each instrument's newest rows. Mostly a lane notes the row and hands it on. Around a
seam it does more, for each instrument until its first rows are through:

- *after an outage* rows are held back until the subscription is acked; the gap row goes first, then they.
- *as a successor*, while two connections run side by side, everything is held back until the overlap is proven: the
  old connection has brought all that came before the successor's first trade. Then the old one falls silent, and what
  is held back goes through, all but what the old one brought.
- *in both cases* an instrument's first trade is compared with its newest from the connection before: one that is not
  newer is a duplicate, and if the venue's ids are contiguous, a hole that no gap row tells of yet becomes one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from backends.backend import RowBlock, Sink
from marketd.feed.tracks import Tracks
from marketd.model import GapReason, Kind, MktPair, Quality
from marketd.ring.layout import Row

HELD_ROWS_MAX = 200_000
_TRADE, _QUOTE, _LEVEL = int(Kind.TRADE), int(Kind.QUOTE), int(Kind.LEVEL)


class HeldGap(NamedTuple):
    """A gap row that is held back."""

    instrument: int
    reason: GapReason
    from_ns: int
    to_ns: int
    lost: int


@dataclass(eq=False)
class Seam:
    """An instrument whose first rows on this lane have not all come.

    Attributes:
        held: what is held back, each with a number by which all of a lane's are in order; None: nothing, any more.
        kinds: those of which no new row came yet.
        covered: whether a gap row tells already that something may be missing here.
        acked_ns: when its subscription was acked; 0: not yet.
        first_trade: the first one that came.
    """

    held: list[tuple[int, Row | HeldGap]] | None
    kinds: set[int]
    covered: bool = False
    acked_ns: int = 0
    first_trade: Row | None = None


@dataclass(eq=False)
class Lane:
    """One connection's way to the feed's sink; see :class:`backends.backend.Sink`.

    Args:
        sink: the feed's.
        kinds: the row kinds that this connection is to bring.
        contiguous: whether trade ids go up by one each.
        succeeds: instruments that another connection carries until :meth:`take_over`.
    """

    sink: Sink
    tracks: Tracks
    kinds: frozenset[int]
    contiguous: bool
    succeeds: frozenset[int] = frozenset()
    append: Callable[[Row], None] = field(init=False)
    _seams: dict[int, Seam] = field(default_factory=dict)
    _held_rows: int = 0
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _muted: bool = False

    def __post_init__(self) -> None:
        self.append = self._append
        self._newest, self._trades = self.tracks.newest, self.tracks.newest[_TRADE]
        self._write = self.sink.append
        self.message = self.sink.message
        self.publish = self.sink.publish

    # --- backends.backend.Sink ----------------------------------------------------------------------------

    def _append(self, row: Row) -> None:
        instrument = row[3]
        if instrument in self._seams and not self._pass(self._seams[instrument], row):
            return
        self._newest[row[4]][instrument] = row
        self._write(row)

    def append_block(self, rows: RowBlock) -> None:
        """See :class:`backends.backend.Sink`. Live protocols write data rows one by one; this is for others."""
        if not self._muted:
            self.sink.append_block(rows)

    def instrument(self, market: MktPair) -> int:
        """See :class:`backends.backend.Sink`."""
        return self.sink.instrument(market)

    def gap(self, instrument: int, reason: GapReason, from_ns: int, to_ns: int, lost: int = -1) -> None:
        """See :class:`backends.backend.Sink`."""
        if self._muted:
            return
        seam = self._seams.get(instrument)
        if seam is not None and seam.held is not None:
            self._hold(seam, HeldGap(instrument, reason, from_ns, to_ns, lost))
        else:
            self.sink.gap(instrument, reason, from_ns, to_ns, lost)

    def quality(self, instrument: int, quality: Quality) -> None:
        """See :class:`backends.backend.Sink`."""
        if not self._muted:
            self.sink.quality(instrument, quality)

    @property
    def recording(self) -> bool:
        """See :class:`backends.backend.Sink`."""
        return self.sink.recording

    @property
    def last_received_ns(self) -> int:
        """See :class:`backends.backend.Sink`."""
        return self.sink.last_received_ns

    # --- seams --------------------------------------------------------------------------------------------

    def join(self, instrument: int) -> None:
        """Note that an instrument is about to be subscribed to on this connection, or is once more."""
        if instrument in self._seams:
            return
        held = instrument in self.succeeds or instrument in self.tracks.outages
        self._seams[instrument] = Seam([] if held else None, set(self.kinds))

    def leave(self, instrument: int) -> None:
        """Note that an instrument is no longer subscribed to; what is held back of it goes."""
        seam = self._seams.pop(instrument, None)
        self._held_rows -= len(seam.held) if seam is not None and seam.held else 0

    def acked(self, instrument: int, now_ns: int) -> None:
        """Note that an instrument's subscription is whole."""
        seam = self._seams.get(instrument)
        if seam is not None:
            seam.acked_ns = now_ns
        if instrument in self.succeeds:
            return
        covered = self.tracks.end_outage(instrument, now_ns)
        if seam is not None:
            seam.covered = seam.covered or covered
            self._release([seam])

    def proven(self) -> bool:
        """Whether the connection before has brought everything that comes before the first trades held back here."""
        if self._held_rows > HELD_ROWS_MAX:
            return True
        seams = self._seams
        return all(self._is_proven(instrument, seams[instrument]) for instrument in self.succeeds & seams.keys())

    def take_over(self, predecessor: Lane, *, ended: GapReason | None, heard_ns: int, now_ns: int) -> None:
        """Silence the connection before, and let everything through that it did not bring.

        Args:
            ended: why the predecessor was lost, if it was, before the overlap was proven.
            heard_ns: when it last gave a sign of life.
        """
        predecessor.mute()
        seams = {instrument: seam for instrument, seam in self._seams.items() if instrument in self.succeeds}
        self.succeeds = frozenset()
        ready = []
        for instrument, seam in seams.items():
            # What came between the predecessor's last sign of life and the ack, nobody has.
            proven = ended is None or (seam.acked_ns < heard_ns and self._is_proven(instrument, seam))
            if not seam.acked_ns or not proven:
                self.tracks.begin_outage(instrument, ended or GapReason.DISCONNECT, heard_ns, now_ns)
            if seam.acked_ns:
                seam.covered = self.tracks.end_outage(instrument, seam.acked_ns)
                ready.append(seam)
        self._release(ready)

    def mute(self) -> None:
        """Let nothing through any more: the connection is about to be left."""
        self._muted = True
        self.append = _drop
        self._seams.clear()
        self._held_rows = 0

    def _is_proven(self, instrument: int, seam: Seam) -> bool:
        if seam.first_trade is None:
            return True
        newest = self._trades.get(instrument)
        return newest is not None and newest[2] >= seam.first_trade[2] - self.contiguous

    def _pass(self, seam: Seam, row: Row) -> bool:
        """Say whether a row of an instrument with a seam goes through now."""
        if seam.held is not None:
            if self._held_rows < HELD_ROWS_MAX or row[3] in self.succeeds:
                if row[4] == _TRADE and seam.first_trade is None:
                    seam.first_trade = row
                self._hold(seam, row)
                return False
            self.acked(row[3], row[1])  # as good as: it brings more than anybody can hold
        if row[4] in seam.kinds:
            newest = self._newest[row[4]].get(row[3])
            if newest is not None and not self._follows(seam, row, newest):
                self.tracks.duplicates += 1
                return False
            seam.kinds.discard(row[4])
            if not seam.kinds:
                del self._seams[row[3]]
        return True

    def _follows(self, seam: Seam, row: Row, newest: Row) -> bool:
        """Say whether a connection's first row is newer than the newest before; tell of a hole between two trades."""
        if row[4] == _LEVEL:
            return True  # a book begins anew on each connection, whatever there was before
        if row[4] == _QUOTE:
            # After an outage any quote is news. In an overlap those with a number are compared by that, for some
            # venues give quotes no time of their own.
            return seam.covered or (row[2] > newest[2] if row[2] else row[0] > newest[0])
        if row[2] <= newest[2] and row[0] <= newest[0]:
            return False
        if row[2] != newest[2] + 1 and not seam.covered and (self.contiguous or row[2] < newest[2]):
            lost = row[2] - newest[2] - 1 if row[2] > newest[2] else -1
            self.sink.gap(row[3], GapReason.SEQUENCE, newest[0], max(newest[0], row[0]), lost)
        return True

    def _hold(self, seam: Seam, item: Row | HeldGap) -> None:
        assert seam.held is not None
        seam.held.append((next(self._numbers), item))
        self._held_rows += 1

    def _release(self, seams: Iterable[Seam]) -> None:
        """Let through what these held back, in the order in which it came."""
        items: list[tuple[int, Row | HeldGap]] = []
        for seam in seams:
            items += seam.held or []
            self._held_rows -= len(seam.held or [])
            seam.held = None
        items.sort(key=lambda item: item[0])
        for _, item in items:
            if not isinstance(item, HeldGap):
                self.append(item)
            elif item.to_ns > self.tracks.newest_ns(item.instrument):
                self.sink.gap(*item)


def _drop(_row: Row) -> None:
    pass

"""Pure: the newest quote and trade of each instrument of a feed, and how many of them there were.

One `LatestState` serves all `latest` subscriptions of a feed; each keeps a `Seen` of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marketd.gateway.selection import Choice
from marketd.model import Kind
from marketd.ring import layout

EVENTS_MAX = 4096  # gap and status rows kept for subscriptions that have not taken them yet

_STATE_KINDS = (Kind.QUOTE, Kind.TRADE)
_NO_ROWS = np.empty(0, layout.ROW)
_BLOB = np.dtype(f"V{layout.ROW_BYTES}")  # a row copied in one move; field by field takes ten times as long


class _Newest:
    """The newest row of one kind of each instrument, and how many there were of it, by instrument id."""

    def __init__(self) -> None:
        self.rows = np.zeros(1, layout.ROW)
        self.cursors = np.zeros(1, np.uint64)
        self.counts = np.zeros(1, np.uint32)

    def grow(self, size: int) -> None:
        for name in ("rows", "cursors", "counts"):
            old = getattr(self, name)
            new = np.zeros(size, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def take(self, rows: NDArray[np.void]) -> None:
        # Where an instrument occurs more than once, the last assignment is the one that stays.
        ids = rows["instrument"]
        self.rows.view(_BLOB)[ids] = rows.view(_BLOB)
        self.cursors[ids] = rows["cursor"]
        np.add.at(self.counts, ids, 1)


@dataclass
class Seen:
    """What one subscription was told: all that happened up to ``cursor``.

    Attributes:
        counts: by kind, how many rows there were of each of its choice's instruments then.
        fresh: of those instruments, which the subscription knows nothing about yet.
    """

    cursor: int
    lost: int
    counts: dict[Kind, NDArray[np.uint32]]
    fresh: NDArray[np.bool_]

    def move(self, old: Choice, new: Choice) -> None:
        """Keep what is known about the instruments that stay when one choice takes another's place."""
        self.grow(len(old.ids))
        places = {instrument: place for place, instrument in enumerate(old.ids)}
        from_places = np.array([places.get(instrument, -1) for instrument in new.ids], np.intp)
        stays = from_places >= 0
        for kind, counts in self.counts.items():
            self.counts[kind] = np.zeros(len(new.ids), np.uint32)
            self.counts[kind][stays] = counts[from_places[stays]]
        fresh = np.ones(len(new.ids), np.bool_)
        fresh[stays] = self.fresh[from_places[stays]]
        self.fresh = fresh

    def grow(self, size: int) -> None:
        """Make room for instruments that the choice has got since: none of their rows was told."""
        for kind, counts in self.counts.items():
            self.counts[kind] = np.pad(counts, (0, size - len(counts)))
        self.fresh = np.pad(self.fresh, (0, size - len(self.fresh)))


class LatestState:
    """The state of all instruments of a feed after the row ``cursor``.

    Attributes:
        cursor: of the last row taken in.
        lost: how many rows could not be taken in.
        lost_cursor: what happened up to this cursor is not known in full any more: rows could not be taken in, or
            gap and status rows were too many to be kept.
    """

    def __init__(self, cursor: int = 0) -> None:
        self.cursor = cursor
        self.lost = 0
        self.lost_cursor = cursor
        self._newest = {kind: _Newest() for kind in _STATE_KINDS}
        self._size = 1
        self._events: deque[NDArray[np.void]] = deque()

    def take(self, rows: NDArray[np.void]) -> None:
        """Take in the rows that follow on ``cursor``, of any kind, dtype ``layout.ROW``."""
        self._grow(int(rows["instrument"].max(initial=0)))
        kinds = rows["kind"]
        for kind, newest in self._newest.items():
            newest.take(rows[kinds == kind])
        self._keep_events(rows[(kinds == Kind.GAP) | (kinds == Kind.STATUS)])
        self.cursor += len(rows)

    def skip(self, cursor: int) -> None:
        """Go on after ``cursor``: it and the rows before it that were not taken in can't be read any more."""
        self.lost += cursor - self.cursor
        self.cursor = self.lost_cursor = cursor
        self._events.clear()

    def begin(self, choice: Choice) -> Seen:
        """Return what a new subscription has seen: nothing, and of the past it wants the newest rows only."""
        size = len(choice.ids)
        counts = {kind: np.zeros(size, np.uint32) for kind in _STATE_KINDS}
        return Seen(self.cursor, self.lost, counts, np.ones(size, np.bool_))

    def changes(self, choice: Choice, seen: Seen) -> tuple[NDArray[np.void], list[int]]:
        """Return what happened since ``seen``, and note there that it was told.

        Returns:
            In cursor order, dtype ``layout.ROW``, the newest quote and trade of each instrument that had one, and
            every gap and status row; and for each of them how many rows of its instrument and kind it stands for:
            for itself alone if it is the first that is told of an instrument.
        """
        events = [row for row in self._events if row["cursor"][0] > seen.cursor]
        found = [choice.filter(np.concatenate(events))] if events else [_NO_ROWS]
        merged = [np.ones(len(found[0]), np.uint32)]
        seen.grow(len(choice.ids))
        self._grow(int(choice.id_array.max(initial=0)))
        for kind in _STATE_KINDS:
            if kind in choice.selection.kinds:
                rows, numbers = self._changed(kind, choice.id_array, seen)
                found.append(rows)
                merged.append(numbers)
        seen.cursor, seen.lost = self.cursor, self.lost
        seen.fresh[:] = False
        all_rows = np.concatenate(found)
        order = np.argsort(all_rows["cursor"])
        return all_rows[order], np.concatenate(merged)[order].tolist()

    def _changed(self, kind: Kind, ids: NDArray[np.intp], seen: Seen) -> tuple[NDArray[np.void], NDArray[np.uint32]]:
        newest = self._newest[kind]
        cursors, counts = newest.cursors[ids], newest.counts[ids]
        changed = (cursors > seen.cursor) | (seen.fresh & (cursors > 0))
        merged = np.where(seen.fresh, np.uint32(1), counts - seen.counts[kind])
        seen.counts[kind] = counts
        return newest.rows[ids[changed]], merged[changed]

    def _grow(self, instrument: int) -> None:
        if instrument >= self._size:
            self._size = 2 * instrument + 1
            for newest in self._newest.values():
                newest.grow(self._size)

    def _keep_events(self, rows: NDArray[np.void]) -> None:
        self._events.extend(rows[i : i + 1] for i in range(len(rows)))
        while len(self._events) > EVENTS_MAX:
            self.lost_cursor = int(self._events.popleft()["cursor"][0])

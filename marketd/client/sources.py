"""The messages of a stream, as sources of frames."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from marketd.client.errors import ProtocolError
from marketd.client.frames import STRUCTS, Frame, Gap, Source, Struct, family
from marketd.model import GapReason, Kind
from marketd.ring import layout, steps
from marketd.rpc import messages

# What a message costs in a buffer besides its rows: about the size of the objects that keep it.
OVERHEAD_BYTES = 512

_STEPS = {"bar": steps.BAR, "index": steps.INDEX}

_NO_CURSOR = bytes(8)  # what a row begins with that is in no ring

_REASONS = {reason.name.lower(): int(reason) for reason in GapReason}


def is_forming(message: messages.Rows | messages.Columns | messages.Bars) -> bool:
    """Whether its rows are bars that are still forming. They have no cursors, and the message no place in its feed."""
    if isinstance(message, messages.Columns):
        return message.columns.get("cursor", [])[:1] == [0]
    return isinstance(message, messages.Bars) and message.data.startswith(_NO_CURSOR)


class RowsSource:
    """A ``rows`` or ``bars`` message, or what is left of it from ``cursor_first`` on.

    Args:
        latest: its rows are states, which may be older than its range.
        by_kind: its rows are put by kind.
        kinds: the names of its rows' kinds.
    """

    def __init__(
        self,
        message: messages.Rows | messages.Bars,
        names: Mapping[int, str],
        cursor_first: int,
        *,
        latest: bool,
        by_kind: bool = False,
        kinds: Mapping[int, str] = layout.KIND_NAMES,
    ) -> None:
        row = layout.ROW if isinstance(message, messages.Rows) else steps.BAR
        if len(message.data) % row.itemsize:
            raise ProtocolError(f"{len(message.data)} bytes are not whole rows of {row.itemsize} bytes")
        self.feed = message.feed
        self.epoch = message.epoch
        self.cursor_first = cursor_first
        self.cursor_last = message.cursor_last
        self.forming = is_forming(message)
        self.names = names
        self.size_bytes = len(message.data) + OVERHEAD_BYTES
        self._kinds = kinds
        self._placed = not (latest or self.forming)  # each row's cursor lies in the message's range
        self._framed = by_kind
        self._data = message.data
        self._merged = message.merged if isinstance(message, messages.Rows) else None
        self._all = np.frombuffer(message.data, dtype=row)
        if by_kind and (old := self._all["cursor"] < cursor_first).any():
            self._all = self._all[~old]
            self._data = self._all.tobytes()
            self._merged = None if self._merged is None else np.array(self._merged)[~old].tolist()
        self._by_kind: dict[str, NDArray[np.void]] = {}

    def frames(self) -> Iterator[Frame]:
        """See :class:`marketd.client.frames.Source`."""
        skipped = self._first_row()
        rows = self._all[skipped:]
        if not len(rows):
            return iter(())
        kinds = rows["kind"]
        edges = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
        starts = np.append(0, edges)
        # A frame reaches up to the next frame's first row; the first and the last reach to the message's own ends.
        nexts = rows["cursor"][edges].astype(np.int64)
        if not self._placed:
            # State may be older than the message's range: a row without an own place in it gets an empty one.
            nexts = np.maximum.accumulate(np.clip(nexts, self.cursor_first, self.cursor_last + 1))
        names = [self._kinds.get(kind, "unknown") for kind in kinds[starts].tolist()]
        firsts = [self.cursor_first, *nexts.tolist()]
        lasts = [*(nexts - 1).tolist(), self.cursor_last]
        if self._framed:
            firsts, lasts = _whole_with_the_last(self.cursor_first, self.cursor_last, len(names))
        begins = (starts + skipped).tolist()
        return map(Frame, names, firsts, lasts, repeat(self), begins, [*begins[1:], len(self._all)])

    def _first_row(self) -> int:
        if not self._placed or self._framed or not len(self._all) or self._all["cursor"][0] >= self.cursor_first:
            return 0
        return int(np.searchsorted(self._all["cursor"], self.cursor_first))

    def rows(self, kind: str, start: int, stop: int) -> NDArray[np.void]:
        """See :attr:`marketd.client.frames.Frame.rows`."""
        every = self._by_kind.get(kind)
        if every is None:
            every = self._by_kind[kind] = np.frombuffer(self._data, _dtype(kind, self._all.dtype))
        return every[start:stop]

    def columns(self, kind: str, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """See :attr:`marketd.client.frames.Frame.columns`."""
        rows = self.rows(kind, start, stop)
        return {name: rows[name] for name in rows.dtype.names or ()}

    def merged(self, start: int, stop: int) -> NDArray[np.int64] | None:
        """See :attr:`marketd.client.frames.Frame.merged`."""
        return None if self._merged is None else np.array(self._merged[start:stop], np.int64)


class ColumnsSource:
    """A ``columns`` message, or what is left of it from ``cursor_first`` on."""

    def __init__(self, message: messages.Columns, names: Mapping[int, str], cursor_first: int, *, latest: bool) -> None:
        lengths = {len(values) for values in message.columns.values()}
        if len(lengths) > 1:
            raise ProtocolError(f"the columns of one message have different lengths: {sorted(lengths)}")
        struct = STRUCTS.get(family(message.kind))
        missing = set(struct.__struct_fields__ if struct else ()) - set(message.columns)
        if missing and any(lengths):
            raise ProtocolError(f"a message of {message.kind} columns lacks {', '.join(sorted(missing))}")
        self.feed = message.feed
        self.epoch = message.epoch
        self.cursor_first = cursor_first
        self.cursor_last = message.cursor_last
        self.forming = is_forming(message)
        self.names = names
        self.size_bytes = 8 * sum(map(len, message.columns.values())) + OVERHEAD_BYTES
        self._count = max(lengths, default=0)
        self._placed = not (latest or self.forming)
        self._kind = message.kind
        self._columns = {name: _numbers(values) for name, values in message.columns.items()}
        self._merged = message.merged

    def frames(self) -> Iterator[Frame]:
        """See :class:`marketd.client.frames.Source`."""
        start = 0
        if self._count and self._placed:
            start = int(np.searchsorted(np.array(self._columns["cursor"], np.int64), self.cursor_first))
        if start < self._count:
            yield Frame(self._kind, self.cursor_first, self.cursor_last, self, start, self._count)

    def rows(self, kind: str, start: int, stop: int) -> list[Struct]:
        """See :attr:`marketd.client.frames.Frame.rows`."""
        struct = STRUCTS[family(kind)]
        return list(map(struct, *(self._columns[name][start:stop] for name in struct.__struct_fields__)))

    def columns(self, kind: str, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """See :attr:`marketd.client.frames.Frame.columns`."""
        types = {name: found[0] for name, found in (_dtype(kind).fields or {}).items()}
        return {name: np.array(values[start:stop], types.get(name)) for name, values in self._columns.items()}

    def merged(self, start: int, stop: int) -> NDArray[np.int64] | None:
        """See :attr:`marketd.client.frames.Frame.merged`."""
        return None if self._merged is None else np.array(self._merged[start:stop], np.int64)


def columns_of(message: messages.TickFrame, cursor_first: int) -> list[messages.Columns]:
    """Make a message of each kind's rows, from ``cursor_first`` on; the last one has the whole range."""
    where = (message.subscription, message.feed, message.epoch)
    kinds = message.kinds or [messages.KindColumns("trade", {})]
    firsts, lasts = _whole_with_the_last(cursor_first, message.cursor_last, len(kinds))
    return [
        messages.Columns(*where, first, last, part.kind, part.columns, part.merged)
        for part, first, last in zip(kinds, firsts, lasts, strict=True)
    ]


def snapshot_sources(message: messages.Snapshot, names: Mapping[int, str]) -> list[Source]:
    """Make sources of a snapshot; their frames stand for no cursors."""
    where = (message.subscription, message.feed, message.epoch, message.cursor + 1, message.cursor)
    if not message.kinds:
        return [RowsSource(messages.Rows(*where, data=message.data), names, message.cursor + 1, latest=True)]
    parts = [messages.Columns(*where, part.kind, part.columns) for part in message.kinds]
    return [ColumnsSource(part, names, message.cursor + 1, latest=True) for part in parts]


def _whole_with_the_last(first: int, last: int, count: int) -> tuple[list[int], list[int]]:
    """Return the ranges of a message's frames that are put by kind: who has had some of them has had no cursor yet."""
    return [first] * count, [*[first - 1] * (count - 1), last]


class EventSource:
    """One frame that no feed wrote: a gap that the server tells of, or news of a feed or of the connection."""

    forming = False

    def __init__(self, feed: str, names: Mapping[int, str], form: messages.Format) -> None:
        self.feed = feed
        self.epoch = 0
        self.cursor_first = 0
        self.cursor_last = 0
        self.names = names
        self.size_bytes = OVERHEAD_BYTES
        self._form = form
        self._row: Gap | None = None
        self._state = ""
        self._detail = ""

    @classmethod
    def news(cls, state: str, detail: str, *, feed: str = "", form: messages.Format) -> EventSource:
        """A ``status`` frame without rows."""
        source = cls(feed, {}, form)
        source._state = state
        source._detail = detail
        return source

    @classmethod
    def gap(cls, message: messages.Gap, names: Mapping[int, str], *, form: messages.Format) -> EventSource:
        """A ``gap`` frame with one row, of instrument 0, that stands for the message's cursors."""
        source = cls(message.feed, names, form)
        source.epoch = message.epoch
        source.cursor_first = message.cursor_first
        source.cursor_last = message.cursor_last
        source._detail = message.reason
        source._row = Gap(
            cursor=message.cursor_last,
            event_ns=message.to_ns,
            received_ns=message.to_ns,
            sequence=0,
            instrument=0,
            side=0,
            flags=0,
            from_ns=message.from_ns,
            to_ns=message.to_ns,
            reason=_REASONS.get(message.reason, 0),
            lost=message.lost,
        )
        return source

    def frames(self) -> Iterator[Frame]:
        """See :class:`marketd.client.frames.Source`."""
        kind, count = ("status", 0) if self._row is None else ("gap", 1)
        yield Frame(kind, self.cursor_first, self.cursor_last, self, 0, count, self._state, self._detail)

    def rows(self, kind: str, start: int, stop: int) -> NDArray[np.void] | list[Struct]:
        """See :attr:`marketd.client.frames.Frame.rows`."""
        if self._form == "columns":
            return [self._row] if self._row is not None else []
        rows = np.zeros(stop - start, dtype=_dtype(kind))
        if self._row is not None:
            rows["kind"] = Kind.GAP
            for name in self._row.__struct_fields__:
                rows[name] = getattr(self._row, name)
        return rows

    def columns(self, kind: str, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """See :attr:`marketd.client.frames.Frame.columns`."""
        dtype = _dtype(kind)
        if self._row is None:
            return {name: np.zeros(0, dtype[name]) for name in dtype.names or ()}
        return {name: np.array([getattr(self._row, name)], dtype[name]) for name in self._row.__struct_fields__}

    def merged(self, start: int, stop: int) -> NDArray[np.int64] | None:
        """See :attr:`marketd.client.frames.Frame.merged`."""
        return None


def _dtype(kind: str, unknown: np.dtype[np.void] = layout.ROW) -> np.dtype[np.void]:
    return _STEPS.get(family(kind)) or layout.BY_KIND.get(layout.KINDS_BY_NAME.get(kind, 0), unknown)


def _numbers(values: list[int | float | None]) -> list[float]:
    """Put NaN where a column has nothing."""
    return [math.nan if value is None else value for value in values] if None in values else cast(list[float], values)

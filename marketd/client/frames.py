"""What a stream yields: frames, each a run of consecutive rows of one kind.

A frame is a small handle on the message that it came in. Its rows are views on the received bytes, made when they are
asked for, so that a reader who only wants the newest of a thousand rows pays for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

ALL_INSTRUMENTS = "*"
"""What :meth:`Frame.fqme` says for id 0, which means all instruments of the feed."""


class _Row(msgspec.Struct, frozen=True, gc=False):
    cursor: int
    event_ns: int
    received_ns: int
    sequence: int
    instrument: int
    side: int
    flags: int


class Trade(_Row, frozen=True, gc=False):
    """A trade; ``side`` is the taker's: 1 bought, -1 sold, 0 unknown."""

    price: float
    size: float


class Quote(_Row, frozen=True, gc=False):
    """Best bid and ask."""

    bid: float
    bid_size: float
    ask: float
    ask_size: float


class Level(_Row, frozen=True, gc=False):
    """One level of a book: ``side`` 1 is a bid, -1 an ask; size 0 removes it. Side 0: forget all levels."""

    price: float
    size: float


class Gap(_Row, frozen=True, gc=False):
    """Rows are missing.

    ``reason`` is a :class:`marketd.model.GapReason`, or 0 for one that this version does not know. ``lost`` is how many
    rows at most, of all instruments; -1 where nobody can say.
    """

    from_ns: int
    to_ns: int
    reason: int
    lost: int


class StatusChange(_Row, frozen=True, gc=False):
    """A feed or an instrument changed its state."""

    code: int


class _Step(msgspec.Struct, frozen=True, gc=False):
    cursor: int
    open_ns: int
    made_ns: int
    period_ns: int
    instrument: int
    state: int
    flags: int


class Bar(_Step, frozen=True, gc=False):
    """A bar as it was at ``made_ns``; ``state`` is a :class:`marketd.ring.steps.BarState`. NaN: nobody knows."""

    open: float
    high: float
    low: float
    close: float
    volume: float
    trade_count: int
    first_id: int
    last_id: int
    number: int


class IndexEvent(_Step, frozen=True, gc=False):
    """A step has begun or ended, or a bar was revised; ``state`` is a :class:`marketd.ring.steps.IndexState`."""

    instruments: int
    revised: int


Struct = Trade | Quote | Level | Gap | StatusChange | Bar | IndexEvent

STRUCTS: dict[str, type[Struct]] = {
    "trade": Trade,
    "quote": Quote,
    "level": Level,
    "gap": Gap,
    "status": StatusChange,
    "bar": Bar,
    "index": IndexEvent,
}

STEP_FAMILIES = frozenset({"bar", "index"})


def family(kind: str) -> str:
    """Return what a kind's rows have their fields by: ``bar`` of ``bar.1m``, ``trade`` of ``trade``."""
    return kind.partition(".")[0]


class Source(Protocol):
    """The message that frames were cut from."""

    feed: str
    epoch: int
    cursor_last: int
    forming: bool
    names: Mapping[int, str]
    size_bytes: int

    def frames(self) -> Iterator[Frame]:
        """Cut the message into frames, whose cursor ranges partition its own; put by kind, the last has all of it."""

    def rows(self, kind: str, start: int, stop: int) -> Any:  # noqa: ANN401 - an array or a list, by the stream's format
        """See :attr:`Frame.rows`."""

    def columns(self, kind: str, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """See :attr:`Frame.columns`."""

    def merged(self, start: int, stop: int) -> NDArray[np.int64] | None:
        """See :attr:`Frame.merged`."""


class Frame(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Consecutive rows of one kind from one feed.

    ``kind`` is ``trade``, ``quote``, ``level``, ``gap``, ``status``, or a series' own: ``bar.1m``, ``index.1m``. The
    frame says everything there is for this subscription about the cursors ``cursor_first`` to ``cursor_last`` (both
    included) of ``epoch``: cursors without a row belong to instruments or kinds that were not asked for. A ``status``
    frame without rows is news of the feed or of the connection: then ``state`` and ``detail`` tell it, and ``epoch``
    and the cursors are 0. A frame of bars that are still ``forming`` stands for no cursors.
    """

    kind: str
    cursor_first: int
    cursor_last: int
    source: Source
    start: int
    stop: int
    state: str = ""
    detail: str = ""

    @property
    def feed(self) -> str:
        """The feed's name; empty for news of the connection."""
        return self.source.feed

    @property
    def epoch(self) -> int:
        """The epoch of the cursors."""
        return self.source.epoch

    @property
    def forming(self) -> bool:
        """Whether these are bars that are not out yet: their rows have the cursor 0, and no position moves by them."""
        return self.source.forming

    @property
    def rows(self) -> Any:  # noqa: ANN401 - which of the two is the caller's choice of format, which no type can follow
        """The rows, oldest first.

        Format ``rows``: a structured array, shape ``(n,)``, dtype ``marketd.ring.layout.BY_KIND`` of the kind (of bars
        and index events ``marketd.ring.steps.BAR`` and ``INDEX``), a read-only view on the received bytes. Format
        ``columns``: a list of :data:`Struct`.
        """
        return self.source.rows(self.kind, self.start, self.stop)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The rows as one array for each field."""
        return self.source.columns(self.kind, self.start, self.stop)

    @property
    def merged(self) -> NDArray[np.int64] | None:
        """Contracts ``latest`` and ``trade_safe``: for each row, how many of its kind and instrument it stands for."""
        return self.source.merged(self.start, self.stop)

    def fqme(self, instrument: int) -> str:
        """Return the name of a row's ``instrument``; ``*`` for 0, which means all of the feed.

        Raises:
            KeyError: there is no such instrument in this feed and epoch.
        """
        number = int(instrument)
        return self.source.names[number] if number else ALL_INSTRUMENTS

    def __len__(self) -> int:
        return self.stop - self.start

    def __repr__(self) -> str:
        said = f", state={self.state!r}, detail={self.detail!r}" if self.state or self.detail else ""
        return (
            f"Frame(kind={self.kind!r}, feed={self.feed!r}, epoch={self.epoch}, "
            f"cursors={self.cursor_first}..{self.cursor_last}, rows={len(self)}{said})"
        )

"""What a gateway asks the history manager, over its Unix socket: one query a connection, and what comes of it.

query  -> frame: a tagged struct in MessagePack
answer <- frames: b"d" data (of bars: messages of an Arrow IPC stream, each whole; or rows of a step ring),
                  then b"r" the result in MessagePack, or b"e" [code, text]
"""

from __future__ import annotations

import msgspec

from marketd.rpc.messages import Order
from storage.tickreplay import Start

DATA, RESULT, ERROR = b"d", b"r", b"e"
QUERY_BYTES_MAX = 1 << 20


class BarsQuery(msgspec.Struct, frozen=True, tag="bars"):
    """Bars of one instrument; answered with data and a :class:`marketd.rpc.messages.HistorySeries`."""

    fqme: str
    period: str
    start_ns: int | None
    end_ns: int | None
    limit: int | None
    order: Order
    columns: list[str] | None
    rows: bool = False  # as rows of a step ring, and not as Arrow


class TicksQuery(msgspec.Struct, frozen=True, tag="ticks"):
    """Ticks of one instrument, ``trade`` or ``quote``; answered as :class:`BarsQuery` is."""

    fqme: str
    kind: str
    start_ns: int | None
    end_ns: int | None
    limit: int | None
    order: Order
    columns: list[str] | None


class ReplayStartQuery(msgspec.Struct, frozen=True, tag="replay_start"):
    """Where a stream of a feed's recorded ticks can go on: after a position, or with what came from a time on.

    Answered with a list of one :class:`storage.tickreplay.Start`, or of none: not here.
    """

    feed: str
    epoch: int = 0
    cursor: int = 0
    from_ns: int | None = None


class ReplayQuery(msgspec.Struct, frozen=True, tag="replay"):
    """All recorded ticks of a feed from there on, as they came; answered with data, each a
    :class:`storage.tickreplay.Page` in MessagePack, and None.
    """

    feed: str
    start: Start


class CoverageQuery(msgspec.Struct, frozen=True, tag="coverage"):
    """Answered with a list of :class:`marketd.rpc.messages.CoverageSpan`."""

    fqme: str
    period: str
    start_ns: int | None
    end_ns: int | None


class GapsQuery(msgspec.Struct, frozen=True, tag="gaps"):
    """Answered with a list of :class:`marketd.rpc.messages.GapSpan`."""

    fqme: str
    period: str
    start_ns: int | None
    end_ns: int | None


class WantQuery(msgspec.Struct, frozen=True, tag="want"):
    """Let a range be asked of the venue; answered with :class:`Left`."""

    fqme: str
    period: str
    start_ns: int
    end_ns: int


class LeftQuery(msgspec.Struct, frozen=True, tag="left"):
    """How far that is; answered with :class:`Left`."""

    fqme: str
    period: str
    start_ns: int
    end_ns: int


class Left(msgspec.Struct, frozen=True):
    """``bars`` in the range, of which ``missing``; ``detail``: why none comes now. ``over``: none will come."""

    bars: int
    missing: int
    detail: str
    over: bool


Query = BarsQuery | TicksQuery | ReplayStartQuery | ReplayQuery | CoverageQuery | GapsQuery | WantQuery | LeftQuery

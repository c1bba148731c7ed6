"""Ring rows to messages, encoded once for all clients that want the same.

Clients that follow a ring at their own pace share work only if they ask for the same ranges. So ranges end at fixed
cursors, or at the newest row: who is up to date is so with everybody else, and who lags falls into step at the next
fixed cursor.
"""

from __future__ import annotations

import itertools
from typing import Generic, NamedTuple, Protocol, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from marketd.errors import Lapped
from marketd.gateway.encode import Buffer, NewsFrame, encode_shared, encode_tail
from marketd.gateway.rowsort import TICK_ROWS, RowSort
from marketd.gateway.selection import Choice
from marketd.gateway.shape import SHAPES, Shaped
from marketd.rpc.messages import Contract, Format, KindColumns

ROWS_MAX = 4096  # in one message: 288 KiB
FRAME_ROWS_MAX = 16384  # looked at for one frame: of its quotes not many are left
COLUMNS_ROWS_MAX = 512  # to make columns of a row takes up to 4 us, for which everybody waits: 2 ms
NEWS_BYTES_MAX = 16 << 10  # beyond that a message is not worth a copy of its own
CACHE_BYTES_MAX = 8 << 20  # of copied rows, and once more of encoded messages, for each feed
CACHE_ENTRIES_MAX = 1024

_EMPTY_COST_BYTES = 256

NewsKey = tuple[Choice, Format, int]  # what decides a client's news: the last is the number of its subscription

K = TypeVar("K")
V = TypeVar("V")


class Ring(Protocol):
    """What is needed of a ring reader."""

    rows: int
    epoch: int

    def read_range(self, cursor_first: int, cursor_last: int) -> NDArray[np.void]:
        """Copy published rows, both ends included. Raises Lapped."""
        ...

    def read_few(self, cursor_first: int, cursor_last: int) -> bytes | None:
        """Copy a few of them, if that is simple."""
        ...


class Chunk(NamedTuple):
    """The messages of one range: each the first cursor that it covers, and a frame that lacks its tail."""

    rows: int
    frames: tuple[tuple[int, Buffer], ...]


class Fanout:
    """One feed's ring, as messages."""

    def __init__(self, feed: str, ring: Ring, sort: RowSort = TICK_ROWS) -> None:
        self._feed = feed
        self._ring = ring
        self._sort = sort
        # A small ring is read in small pieces, so that a writer in full flight doesn't lap every copy.
        self._rows_max: dict[tuple[Format, Contract], int] = {
            (form, contract): max(1, min(_rows_max(form, contract), ring.rows // 4))
            for form, contract in itertools.product(get_args(Format), SHAPES)
        }
        self._blocks: Cache[tuple[int, int], NDArray[np.void]] = Cache()
        self._chunks: Cache[tuple[int, int, int, Format, Contract], Chunk] = Cache()
        self._news: dict[NewsKey, tuple[int, bytes]] = {}
        self._news_first = self._news_last = 0
        self._news_frame = NewsFrame(sort.method, feed, ring.epoch)
        self._few: bytes | None = None  # the rows of that range, if they are few
        self._few_kinds = b""
        self._kinds_of_few = slice(sort.of.offset("kind"), None, sort.of.row_bytes)
        self.encoded = 0

    def rows_max(self, form: Format, contract: Contract) -> int:
        """Return how many cursors a message may cover."""
        return self._rows_max[form, contract]

    def range_last(self, cursor_first: int, head: int, form: Format = "rows", contract: Contract = "lossless") -> int:
        """Return where a message that begins at ``cursor_first`` ends, when rows up to ``head`` can be read."""
        rows_max = self.rows_max(form, contract)
        return min(head, cursor_first - cursor_first % rows_max + rows_max - 1)

    def chunk(
        self, choice: Choice, form: Format, cursor_first: int, cursor_last: int, contract: Contract = "lossless"
    ) -> Chunk:
        """Return the messages about these cursors, both included, for one choice; without frames if it has none there.

        Raises:
            Lapped: some of the rows are overwritten already, and nobody has asked for them before.
        """
        key = (cursor_first, cursor_last, choice.key, form, contract)
        chunk = self._chunks.get(key)
        if chunk is None:
            rows = choice.filter(self.rows(cursor_first, cursor_last))
            chunk = self.encode(rows, form, cursor_first, cursor_last, contract, self._ring.epoch)
            self._chunks.put(key, chunk, _EMPTY_COST_BYTES + sum(len(frame) for _, frame in chunk.frames))
        return chunk

    def news(self, key: NewsKey, cursor_first: int, head: int) -> tuple[int, bytes] | None:
        """Return how many rows, and the bytes of the one small message, tell a lossless client all that is new.

        It is made once for all that are up to date and have given their subscription the same number. None: it takes
        more than that, or none.
        """
        if head != self._news_last or cursor_first != self._news_first:
            self._begin_news(cursor_first, head)
        found = self._news.get(key)
        if found is None:
            choice, form, subscription = key
            if form == "rows" and self._few is not None and choice.takes_all(self._few_kinds):
                found = len(self._few_kinds), self._news_frame.encode(self._few, cursor_first, head, subscription)
            else:
                found = self._join_news(choice, form, subscription)
            if found is not None:
                self._news[key] = found
        return found

    def _begin_news(self, cursor_first: int, head: int) -> None:
        self._news_first, self._news_last = cursor_first, head
        self._news.clear()
        self._few = self._ring.read_few(cursor_first, head)
        self._few_kinds = b"" if self._few is None else self._few[self._kinds_of_few]

    def _join_news(self, choice: Choice, form: Format, subscription: int) -> tuple[int, bytes] | None:
        first, last = self._news_first, self._news_last
        if self.range_last(first, last, form) < last:
            return None
        try:
            chunk = self.chunk(choice, form, first, last)
        except Lapped:
            return None
        if len(chunk.frames) != 1 or len(chunk.frames[0][1]) > NEWS_BYTES_MAX:
            return None
        return chunk.rows, b"".join((chunk.frames[0][1], encode_tail(subscription, first)))

    def rows(self, cursor_first: int, cursor_last: int) -> NDArray[np.void]:
        """Return rows, both ends included, of the ring's dtype; not to be written to.

        Raises:
            Lapped: see :meth:`chunk`.
        """
        block = self._blocks.get((cursor_first, cursor_last))
        if block is None:
            block = self._ring.read_range(cursor_first, cursor_last)
            self._blocks.put((cursor_first, cursor_last), block, _EMPTY_COST_BYTES + block.nbytes)
        return block

    def encode(
        self,
        rows: NDArray[np.void],
        form: Format,
        cursor_first: int,
        cursor_last: int,
        contract: Contract,
        epoch: int,
    ) -> Chunk:
        """Make the messages of a range of which these rows are all that is to be told, in order of cursor."""
        if not len(rows):
            return Chunk(0, ())
        self.encoded += 1
        common: dict[str, object] = {"feed": self._feed, "epoch": epoch}
        if form == "columns" and contract == "lossless":
            return Chunk(len(rows), tuple(_columns(rows, common, cursor_first, cursor_last, self._sort)))
        shaped = SHAPES[contract](rows)
        if form == "columns":
            fields = common | {"cursor_last": cursor_last, "kinds": kind_columns(shaped, self._sort)}
            return Chunk(len(shaped.rows), ((cursor_first, encode_shared("frame", fields)),))
        fields = common | {"cursor_last": cursor_last, "data": shaped.rows.view(np.uint8).data}
        if shaped.merged is not None:
            fields["merged"] = shaped.merged
        return Chunk(len(shaped.rows), ((cursor_first, encode_shared(self._sort.method, fields)),))


def _rows_max(form: Format, contract: Contract) -> int:
    if form == "columns":
        return COLUMNS_ROWS_MAX
    return FRAME_ROWS_MAX if contract == "trade_safe" else ROWS_MAX


def kind_columns(shaped: Shaped, sort: RowSort = TICK_ROWS) -> list[KindColumns]:
    """Make columns of rows that are put by kind."""
    merged = shaped.merged
    return [
        KindColumns(run.kind, run.columns, None if merged is None else merged[run.start : run.end])
        for run in column_runs(shaped.rows, sort)
    ]


def _columns(
    rows: NDArray[np.void], common: dict[str, object], cursor_first: int, cursor_last: int, sort: RowSort
) -> list[tuple[int, Buffer]]:
    """Encode one message for each run of a kind; their ranges partition the whole range."""
    frames = []
    for run in column_runs(rows, sort):
        run_last = run.cursor_last(cursor_last)
        fields = {**common, "cursor_last": run_last, "kind": run.kind, "columns": run.columns}
        frames.append((cursor_first, encode_shared("columns", fields)))
        cursor_first = run_last + 1
    return frames


class ColumnRun(NamedTuple):
    """Consecutive rows of one kind, ``[start, end)`` of the rows that it was cut from.

    ``follower`` is the cursor of the row after it, 0 for the last run.
    """

    kind: str
    columns: dict[str, list[int | float | None]]
    start: int
    end: int
    follower: int

    def cursor_last(self, range_last: int) -> int:
        """Where the run's range ends: in front of the next run's first row, or with the whole range."""
        return self.follower - 1 if self.follower else range_last


def column_runs(rows: NDArray[np.void], sort: RowSort = TICK_ROWS) -> list[ColumnRun]:
    """Cut rows into runs of one kind."""
    kinds = rows["kind"]
    starts = [0, *(np.flatnonzero(kinds[1:] != kinds[:-1]) + 1).tolist()] if len(rows) else []
    ends = [*starts[1:], len(rows)]
    followers = [*rows["cursor"][starts[1:]].tolist(), 0]
    # To turn a column of a whole block into a list costs hardly more than that of a single row: once for all runs.
    lists = {kind: _lists(rows, sort.dtype_of(kind)) for kind in set(kinds[starts].tolist())}
    runs = []
    for kind, start, end, follower in zip(kinds[starts].tolist(), starts, ends, followers, strict=bool(starts)):
        columns = {name: values[start:end] for name, values in lists[kind]}
        runs.append(ColumnRun(sort.name(kind), columns, start, end, follower))
    return runs


def _lists(rows: NDArray[np.void], dtype: np.dtype[np.void]) -> list[tuple[str, list[int | float | None]]]:
    """Return all rows' columns under the names and types that they have in rows of one kind."""
    view = rows.view(dtype)
    return [(name, plain(view[name])) for name in dtype.names or ()]


def plain(column: NDArray[np.number]) -> list[int | float | None]:
    """Make a list of a column; what is no number in it becomes None, as JSON knows no other word for it."""
    values: list[int | float | None] = column.tolist()
    if column.dtype.kind == "f" and np.isnan(column).any():
        return [None if value != value else value for value in values]
    return values


class Cache(Generic[K, V]):
    """The newest few values, oldest out first, bounded in number and in bytes."""

    def __init__(self, bytes_max: int = CACHE_BYTES_MAX, entries_max: int = CACHE_ENTRIES_MAX) -> None:
        self._bytes_max = bytes_max
        self._entries_max = entries_max
        self._values: dict[K, tuple[V, int]] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """Return what was put there, if it is still held."""
        found = self._values.get(key)
        return None if found is None else found[0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep a value under a key that holds none, and let the oldest go while there is too much."""
        self._values[key] = (value, size_bytes)
        self.size_bytes += size_bytes
        while self.size_bytes > self._bytes_max or len(self._values) > self._entries_max:
            self.size_bytes -= self._values.pop(next(iter(self._values)))[1]

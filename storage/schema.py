"""The columns of stored rows. Units are in the metadata of each field, the schema's name and version in the file's.

    bars    open_ns, open, high, low, close, volume, trade_count, state, provenance, first_id, last_id
    trade   event_ns, received_ns, sequence, cursor, side, flags, price, size
    quote   event_ns, received_ns, sequence, cursor, flags, bid, bid_size, ask, ask_size

Times are int64 nanoseconds since 1970-01-01 UTC and never in a time zone. ``trade_count``, ``first_id`` and ``last_id``
are -1 where the venue does not say. ``state`` is a number of :class:`marketd.ring.steps.BarState`.

Bars are unique by ``open_ns``. Ticks may share a time: those with a sequence are unique by time and sequence, those
without one (0) by time, received time and ring cursor.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from marketd.errors import StorageError

VERSION = 1
VERSION_KEY = b"marketd.schema"
UNKNOWN = -1


class Provenance(enum.IntEnum):
    """Where a row, or what is known of a range, comes from.

    Observed live; backfilled from the venue; a revision of what was out; made without a trade; imported from a file.
    """

    OBSERVED = 1
    BACKFILLED = 2
    REVISED = 3
    SYNTHETIC = 4
    IMPORTED = 5


class Schema(NamedTuple):
    """What the rows of a series are.

    Attributes:
        name: ``bars``, ``trade``, ``quote``.
        arrow: columns in order, with units.
        polars: the same for polars, which has no metadata.
        time: the column that rows are sorted and found by.
        key: what is different between any two rows, the time first.
    """

    name: str
    arrow: pa.Schema
    polars: pl.Schema
    time: str
    key: tuple[str, ...]

    @property
    def floats(self) -> list[str]:
        """The columns of prices and sizes."""
        return [field.name for field in self.arrow if pa.types.is_floating(field.type)]


def _schema(name: str, time: str, key: tuple[str, ...], *fields: tuple[str, pa.DataType, str]) -> Schema:
    arrow = pa.schema(
        [pa.field(column, type_, nullable=False, metadata={"unit": unit}) for column, type_, unit in fields],
        metadata={VERSION_KEY: f"{name}/{VERSION}".encode()},
    )
    return Schema(name, arrow, pl.Schema(arrow), time, key)


_NS = "ns since 1970-01-01 UTC"
_STATES = "1 forming, 2 closed, 3 revised, 4 missing"
_PROVENANCES = ", ".join(f"{value.value} {value.name.lower()}" for value in Provenance)
_PRICE, _SIZE = "price", "size"

BARS = _schema(
    "bars",
    "open_ns",
    ("open_ns",),
    ("open_ns", pa.int64(), _NS),
    *((column, pa.float64(), _PRICE) for column in ("open", "high", "low", "close")),
    ("volume", pa.float64(), _SIZE),
    ("trade_count", pa.int64(), "trades; -1 unknown"),
    ("state", pa.uint8(), _STATES),
    ("provenance", pa.uint8(), _PROVENANCES),
    ("first_id", pa.int64(), "the venue's trade id; -1 unknown"),
    ("last_id", pa.int64(), "the venue's trade id; -1 unknown"),
)
_TICK = (
    ("event_ns", pa.int64(), _NS),
    ("received_ns", pa.int64(), _NS),
    ("sequence", pa.int64(), "the venue's number; 0 none"),
    ("cursor", pa.int64(), "row of the ring it came through; 0 none"),
)
_FLAGS = ("flags", pa.uint16(), "bits: 1 last, 2 snapshot, 4 backfilled, 8 revised, 16 synthetic")
TICK_KEY = ("event_ns", "sequence", "received_ns", "cursor")
TRADE = _schema(
    "trade",
    "event_ns",
    TICK_KEY,
    *_TICK,
    ("side", pa.int8(), "the taker's: -1 sell, 0 unknown, 1 buy"),
    _FLAGS,
    ("price", pa.float64(), _PRICE),
    ("size", pa.float64(), _SIZE),
)
QUOTE = _schema(
    "quote",
    "event_ns",
    TICK_KEY,
    *_TICK,
    _FLAGS,
    ("bid", pa.float64(), _PRICE),
    ("bid_size", pa.float64(), _SIZE),
    ("ask", pa.float64(), _PRICE),
    ("ask_size", pa.float64(), _SIZE),
)
TICKS = {"trade": TRADE, "quote": QUOTE}


def key_columns(schema: Schema) -> list[pl.Expr]:
    """Return what tells rows apart, as columns named after the key: ticks with a sequence need nothing beyond it."""
    if schema is BARS:
        return [pl.col("open_ns")]
    bare = pl.col("sequence") == 0
    rest = (pl.when(bare).then(pl.col(column)).otherwise(0) for column in schema.key[2:])
    return [pl.col("event_ns"), pl.col("sequence"), *rest]


def conform(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return a frame's rows in the schema's columns and types, in order of their key.

    Raises:
        StorageError: a column is missing or foreign, a value has no place in its column, or two rows have one key.
    """
    wanted = schema.polars
    if problems := _column_problems(frame.columns, list(wanted)):
        raise StorageError(f"rows of {schema.name} {problems}")
    try:
        rows = frame.select(pl.col(name).cast(type_) for name, type_ in wanted.items())
    except pl.exceptions.PolarsError as error:
        raise StorageError(f"rows of {schema.name} have a column of another type: {error}") from error
    holes = [name for name, count in rows.null_count().row(0, named=True).items() if count]
    if holes:
        raise StorageError(f"rows of {schema.name} lack values in {', '.join(holes)}")
    rows = rows.sort(schema.key, maintain_order=True)
    keys = rows.select(key_columns(schema))
    if keys.is_duplicated().any():
        time = rows[schema.time].filter(keys.is_duplicated())[0]
        raise StorageError(f"rows of {schema.name} have two of one key at {schema.time} {time}")
    return rows


def _column_problems(found: list[str], wanted: list[str]) -> str:
    lacking = [name for name in wanted if name not in found]
    foreign = [name for name in found if name not in wanted]
    parts = [f"lack {', '.join(lacking)}"] if lacking else []
    parts += [f"have {', '.join(foreign)}, which they can't"] if foreign else []
    return " and ".join(parts)

"""One parquet file: written beside and renamed, read by row groups, and whole or refused.

zstd, times as differences, prices and sizes split by bytes, 65,536 rows a group. Each page has a checksum. A footer has
none, so the rows and times of the groups are among the metadata once more, and must agree with it. Plain polars writes
a file a fifth smaller, but neither units into the fields nor checksums: a flipped bit would be a wrong price.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from marketd.errors import StorageError
from storage.intervals import Range
from storage.schema import VERSION, VERSION_KEY, Schema
from storage.staging import replacing

ROWS_IN_GROUP = 65_536
GROUPS_KEY = b"marketd.groups"
_DICTIONARY = ("trade_count", "state", "provenance", "side", "flags")


class Damaged(StorageError):  # noqa: N818 - the state of a file
    """A file is not what the store wrote: cut, changed, or of somebody else."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}")
        self.path = path
        self.reason = reason


class Group(NamedTuple):
    """Rows that are together in a file: how many rows, and the times of its first and last."""

    rows: int
    first_ns: int
    last_ns: int


def write(path: Path, schema: Schema, groups: Iterable[pl.DataFrame]) -> int:
    """Replace a file, see :func:`write_to`; return how many rows it has. Raises as :func:`storage.staging.staged`."""
    with replacing(path) as file:
        return write_to(file, schema, groups)


def write_to(file: IO[bytes], schema: Schema, frames: Iterable[pl.DataFrame]) -> int:
    """Write frames that follow each other in time; return how many rows.

    Args:
        frames: in the schema's columns and types. Each is written before the next is asked for. There must be a row.
    """
    groups: list[Group] = []
    with _writer(file, schema) as out:
        for frame in frames:
            for part in frame.iter_slices(ROWS_IN_GROUP):
                out.write_table(part.to_arrow().select(schema.arrow.names).cast(schema.arrow))
                groups.append(Group(len(part), part[schema.time][0], part[schema.time][-1]))
        out.add_key_value_metadata({GROUPS_KEY: msgspec.json.encode(groups)})
    return sum(group.rows for group in groups)


def read_footer(path: Path, schema: Schema) -> Group:
    """Read what a file says of itself, as if it were one group; its rows are not looked at.

    Raises:
        Damaged: see the class.
        StorageError: a later version of this program wrote it.
        FileNotFoundError: it is gone.
    """
    with _opened(path, schema) as (_, groups):
        return Group(sum(group.rows for group in groups), groups[0].first_ns, groups[-1].last_ns)


def read(path: Path, schema: Schema, span: Range, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read the rows of a range, in order; the time's column is there in any case.

    Raises: as :func:`read_footer`.
    """
    wanted = [name for name in schema.arrow.names if columns is None or name in columns or name == schema.time]
    with _opened(path, schema) as (file, groups):
        places = [n for n, group in enumerate(groups) if group.first_ns < span[1] and span[0] <= group.last_ns]
        rows = to_frame(file.read_row_groups(places, columns=wanted, use_threads=len(places) > 1))
        _check_count(path, rows, [groups[n] for n in places])
    return _cut(rows, schema, span)


def read_groups(path: Path, schema: Schema) -> Iterator[pl.DataFrame]:
    """Read a file group by group, with no more than one in memory. Raises as :func:`read_footer`."""
    with _opened(path, schema) as (file, groups):
        for place, group in enumerate(groups):
            rows = to_frame(file.read_row_group(place, use_threads=False))
            _check_count(path, rows, [group])
            yield rows


def full_groups(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Put small frames together to such as a file should have for row groups."""
    held: list[pl.DataFrame] = []
    for frame in frames:
        held.append(frame)
        if sum(map(len, held)) >= ROWS_IN_GROUP:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)


def rewrite(path: Path, schema: Schema, keep: Callable[[pl.DataFrame], pl.DataFrame]) -> int:
    """Replace a file by what ``keep`` leaves of its rows, group by group; return how many are left, at least one."""
    return write(path, schema, (left for group in read_groups(path, schema) if len(left := keep(group))))


def first_line(error: Exception) -> str:
    """Return what an error says, in one line; pyarrow's go on about where in its own code."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _cut(rows: pl.DataFrame, schema: Schema, span: Range) -> pl.DataFrame:
    times = rows[schema.time]
    first, last = (int(times.search_sorted(bound, "left")) for bound in span)
    return rows[first:last]


def to_frame(table: pa.Table) -> pl.DataFrame:
    """Make a frame of a table without its metadata, which polars can't do without it being UTF-8."""
    frame = pl.from_arrow(pa.Table.from_arrays(table.columns, names=table.column_names))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _check_count(path: Path, rows: pl.DataFrame, groups: Iterable[Group]) -> None:
    if len(rows) != sum(group.rows for group in groups):
        raise Damaged(path, "it has not as many rows as it says")


@contextlib.contextmanager
def _opened(path: Path, schema: Schema) -> Iterator[tuple[pq.ParquetFile, list[Group]]]:
    """Open a file and see to it that it is one of ours; turn what pyarrow finds wrong with it into `Damaged`."""
    try:
        raw = path.open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    with raw:
        try:
            with pq.ParquetFile(raw, page_checksum_verification=True) as file:
                _check_schema(path, file, schema)
                yield file, _read_group_facts(path, file)
        except pa.ArrowMemoryError:
            raise  # the file may be well
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise Damaged(path, first_line(error)) from error


def _check_schema(path: Path, file: pq.ParquetFile, schema: Schema) -> None:
    said = (file.schema_arrow.metadata or {}).get(VERSION_KEY, b"").decode("ascii", "replace")
    name, _, version = said.partition("/")
    if name == schema.name and version.isdecimal() and int(version) > VERSION:
        raise StorageError(f"{path} was written by a later version of marketd (schema {name}/{version})")
    found = list(file.schema_arrow)
    same = [ours.equals(theirs, check_metadata=True) for ours, theirs in zip(schema.arrow, found, strict=False)]
    if name != schema.name or len(found) != len(schema.arrow) or not all(same):
        raise Damaged(path, f"its columns are not those of {schema.name}")


def _read_group_facts(path: Path, file: pq.ParquetFile) -> list[Group]:
    """Read what a file says of its row groups, which it says twice: a footer has no checksum.

    The time is the first column.
    """
    try:
        groups = msgspec.json.decode(file.metadata.metadata.get(GROUPS_KEY, b""), type=list[Group])
    except msgspec.DecodeError as error:
        raise Damaged(path, "it does not say which times it has") from error
    counted = []
    for place in range(file.num_row_groups):
        group = file.metadata.row_group(place)
        statistics = group.column(0).statistics
        if statistics is not None and statistics.has_min_max:
            counted.append(Group(group.num_rows, statistics.min, statistics.max))
    if not groups or counted != groups or file.metadata.num_rows != sum(group.rows for group in groups):
        raise Damaged(path, "what it says of its times does not fit itself")
    return groups


def _writer(file: IO[bytes], schema: Schema) -> Any:  # noqa: ANN401 - pyarrow has no types
    plain = [field for field in schema.arrow if field.name not in _DICTIONARY]
    return pq.ParquetWriter(
        file,
        schema.arrow,
        compression="zstd",
        use_dictionary=[name for name in schema.arrow.names if name in _DICTIONARY],
        column_encoding={
            field.name: "BYTE_STREAM_SPLIT" if pa.types.is_floating(field.type) else "DELTA_BINARY_PACKED"
            for field in plain
        },
        write_page_checksum=True,
    )

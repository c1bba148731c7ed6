"""Pure: tables to the bytes of a file that is made while it is sent: CSV, JSON, Arrow and parquet.

A table comes as Arrow record batches. In what people and their programs read, ``state`` and ``provenance`` are words
and a price that nobody knows is null; the instruments' names are a column where there may be several.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Protocol

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc, parquet

from marketd.ring.steps import BarState
from storage.schema import Provenance

BAR_COLUMNS = ("open_ns", "open", "high", "low", "close", "volume", "trade_count", "state", "provenance")
ROW_GROUP_ROWS = 1 << 17
_WORDS: dict[str, type[IntEnum]] = {"state": BarState, "provenance": Provenance}


class Writer(Protocol):
    """Makes the bytes of one file.

    Attributes:
        media_type: for the header ``Content-Type``.
        ending: of the file's name.
    """

    media_type: str
    ending: str

    def begin(self) -> bytes:
        """Return what comes before any row."""
        ...

    def rows(self, batch: pa.RecordBatch) -> bytes:
        """Return rows; nothing yet if they wait for more."""
        ...

    def end(self, facts: dict[str, Any]) -> bytes:
        """Return what comes after the last row; ``facts`` of the whole table go in where the format has a place."""
        ...


def rows_schema(stored: pa.Schema, columns: Sequence[str], *, named: bool) -> pa.Schema:
    """Return the schema of a file: these columns of what is stored, and ``instrument`` in front if named.

    Raises:
        ValueError: there is no such column.
    """
    if foreign := [name for name in columns if name not in stored.names]:
        raise ValueError(f"there is no column {foreign[0]!r}; there are {', '.join(stored.names)}")
    fields = [pa.field("instrument", pa.dictionary(pa.int32(), pa.string()))] if named else []
    for name in columns:
        field = stored.field(name)
        type_ = pa.dictionary(pa.int8(), pa.string()) if name in _WORDS else field.type
        fields.append(pa.field(name, type_, nullable=pa.types.is_floating(type_), metadata=field.metadata))
    return pa.schema(fields)


def rows_batch(batch: pa.RecordBatch, schema: pa.Schema, names: Sequence[str], place: int) -> pa.RecordBatch:
    """Make stored rows what :func:`rows_schema` says.

    Args:
        batch: with the columns of the schema, as they are stored.
        names: of all instruments of the table.
        place: of the one whose rows these are.
    """
    arrays = []
    for field in schema:
        if field.name == "instrument":
            indices = pa.array(np.full(len(batch), place, np.int32))
            arrays.append(pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string())))
        elif words := _WORDS.get(field.name):
            indices = pc.cast(batch.column(field.name), pa.int8())
            arrays.append(pa.DictionaryArray.from_arrays(indices, _words(words)))
        elif pa.types.is_floating(field.type):
            column = batch.column(field.name)
            arrays.append(pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column))
        else:
            arrays.append(batch.column(field.name))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _words(enum: type[IntEnum]) -> pa.Array:
    """Return the word of each number, from 0 on."""
    by_number = {member.value: member.name.lower() for member in enum}
    return pa.array([by_number.get(number, "") for number in range(max(by_number) + 1)], pa.string())


class CsvWriter:
    """A head, then a line for each row; floats in the shortest text that is exact."""

    media_type, ending = "text/csv; charset=utf-8", "csv"

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def begin(self) -> bytes:
        """Return the line of names."""
        return (",".join(self._schema.names) + "\n").encode()

    def rows(self, batch: pa.RecordBatch) -> bytes:
        """Return a line for each row."""
        return _plain(batch).write_csv(include_header=False).encode()

    def end(self, _facts: dict[str, Any]) -> bytes:
        """Return nothing: a CSV file has no place for anything else."""
        return b""


class JsonWriter:
    """One object: a list of objects under the table's name, then the facts."""

    media_type, ending = "application/json", "json"

    def __init__(self, name: str) -> None:
        self._name = name
        self._between = b""

    def begin(self) -> bytes:
        """Return the beginning of the object."""
        return b'{"' + self._name.encode() + b'":['

    def rows(self, batch: pa.RecordBatch) -> bytes:
        """Return an object for each row."""
        if not len(batch):
            return b""
        # A line break inside of a text is escaped: those that are there are between objects.
        text = self._between + _plain(batch).write_ndjson().strip().replace("\n", ",\n").encode()
        self._between = b",\n"
        return text

    def end(self, facts: dict[str, Any]) -> bytes:
        """Return the facts and the end of the object."""
        rest = msgspec.json.encode(facts)
        return b"]" + (b"," + rest[1:] if facts else b"}") + b"\n"


class ArrowWriter:
    """An Arrow IPC stream."""

    media_type, ending = "application/vnd.apache.arrow.stream", "arrows"

    def __init__(self, schema: pa.Schema) -> None:
        self._sink = _Sink()
        self._writer = ipc.new_stream(self._sink, schema)

    def begin(self) -> bytes:
        """Return the schema."""
        return self._sink.take()

    def rows(self, batch: pa.RecordBatch) -> bytes:
        """Return a record batch."""
        self._writer.write_batch(batch)
        return self._sink.take()

    def end(self, _facts: dict[str, Any]) -> bytes:
        """Return the mark of the end."""
        self._writer.close()
        return self._sink.take()


class ParquetWriter:
    """A parquet file, a row group at a time. The facts are JSON under the key ``marketd`` of the file's metadata."""

    media_type, ending = "application/vnd.apache.parquet", "parquet"

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._sink = _Sink()
        self._writer = parquet.ParquetWriter(self._sink, schema, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []

    def begin(self) -> bytes:
        """Return the magic bytes."""
        return self._sink.take()

    def rows(self, batch: pa.RecordBatch) -> bytes:
        """Return a row group once there are enough rows for one."""
        self._waiting.append(batch)
        return self._flush() if sum(map(len, self._waiting)) >= ROW_GROUP_ROWS else b""

    def end(self, facts: dict[str, Any]) -> bytes:
        """Return the last row group and the footer."""
        rest = self._flush()
        self._writer.add_key_value_metadata({"marketd": msgspec.json.encode(facts).decode()})
        self._writer.close()
        return rest + self._sink.take()

    def _flush(self) -> bytes:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema))
            self._waiting = []
        return self._sink.take()


FORMATS = ("json", "csv", "arrow", "parquet")


def open_writer(form: str, name: str, schema: pa.Schema) -> Writer:
    """Return the writer of one of :data:`FORMATS`; ``name`` is the table's."""
    writers: dict[str, Callable[[], Writer]] = {
        "json": lambda: JsonWriter(name),
        "csv": lambda: CsvWriter(schema),
        "arrow": lambda: ArrowWriter(schema),
        "parquet": lambda: ParquetWriter(schema),
    }
    return writers[form]()


class _Sink(io.RawIOBase):
    """A file that is only written; what was written is taken from it."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        part = bytes(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def tell(self) -> int:
        return self._size

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _plain(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return frame

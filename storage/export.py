"""Rows as files for others: CSV, parquet, Arrow. Written as they come, so that no more than a part is in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Literal

import polars as pl
import pyarrow as pa

from storage.files import write_to
from storage.schema import Schema

Format = Literal["csv", "parquet", "arrow"]


def write_rows(out: IO[bytes], kind: Format, schema: Schema, chunks: Iterable[pl.DataFrame]) -> int:
    """Write frames that follow each other; return how many rows. Without any there is still a file with the columns.

    Args:
        chunks: in the schema's columns and types. Each is written before the next is asked for.
    """
    if kind == "csv":
        return _write_csv(out, schema, chunks)
    if kind == "parquet":
        return write_to(out, schema, _filled(chunks))
    rows = 0
    with pa.ipc.new_file(out, schema.arrow) as writer:
        for frame in chunks:
            rows += len(frame)
            writer.write_table(frame.to_arrow().cast(schema.arrow))
    return rows


def _write_csv(out: IO[bytes], schema: Schema, chunks: Iterable[pl.DataFrame]) -> int:
    rows = 0
    out.write((",".join(schema.arrow.names) + "\n").encode())
    for frame in chunks:
        rows += len(frame)
        frame.write_csv(out, include_header=False)
    return rows


def _filled(chunks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    return (frame for frame in chunks if len(frame))

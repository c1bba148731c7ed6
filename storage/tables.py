"""Files of others, read as tables: CSV (gzipped too), parquet, Arrow. Their bytes tell which, and not their names.

Text stays text here: who takes it for numbers can then say which row was none.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from marketd.errors import InputError
from storage.files import first_line, to_frame

TEXT_BYTES_MAX = 1 << 29  # 11 million bars; reading them takes seven times as much memory
ROWS_MAX = 20_000_000
_SEPARATORS = ",;\t|"
_HEAD_BYTES = 4096


class Table(NamedTuple):
    """Rows of a file.

    Attributes:
        path: of the file.
        frame: its columns as they are there; those of CSV are text.
        row: what a row is called, and ``first`` the number of the first: line 2, row 1.
    """

    path: Path
    frame: pl.DataFrame
    row: str
    first: int

    def place(self, index: int) -> str:
        """Say where a row is, as the file's owner counts."""
        return f"{self.path.name}, {self.row} {self.first + index}"


def read_table(path: Path, *, text_bytes_max: int = TEXT_BYTES_MAX, rows_max: int = ROWS_MAX) -> Table:
    """Read a file whole.

    Raises:
        InputError: it can't be read, is damaged, of no known sort, without rows, or too large; the text says where.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if head.startswith(b"\x1f\x8b"):
            table = _read_csv(path, _gunzip(path, text_bytes_max))
        elif head.startswith(b"PAR1"):
            table = Table(path, _read_parquet(path, rows_max), "row", 1)
        elif head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
            table = Table(path, _read_arrow(path, head, rows_max), "row", 1)
        else:
            _check_size(path, path.stat().st_size, text_bytes_max)
            table = _read_csv(path, path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    if table.frame.is_empty():
        raise InputError(f"{path} has no rows")
    return table


def _read_parquet(path: Path, rows_max: int) -> pl.DataFrame:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_rows(path, file.metadata.num_rows, rows_max)
            return to_frame(file.read())
    except pa.ArrowMemoryError:
        raise  # the file may be well
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged parquet: {first_line(error)}") from error


def _read_arrow(path: Path, head: bytes, rows_max: int) -> pl.DataFrame:
    try:
        with pa.OSFile(str(path)) as file:
            if head.startswith(b"ARROW1"):
                batches = pa.ipc.open_file(file)
                table = batches.read_all()
            else:
                table = pa.ipc.open_stream(file).read_all()
            _check_rows(path, table.num_rows, rows_max)
            return to_frame(table)
    except pa.ArrowMemoryError:
        raise  # the file may be well
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged Arrow: {first_line(error)}") from error


def _gunzip(path: Path, bytes_max: int) -> bytes:
    try:
        with gzip.open(path) as file:
            data = file.read(bytes_max + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged gzip: {error}") from error
    _check_size(path, len(data), bytes_max)
    return data


def _read_csv(path: Path, data: bytes) -> Table:
    if b"\0" in data[:_HEAD_BYTES]:
        raise InputError(f"{path} is none of CSV, parquet and Arrow")
    separator, header = _header(path, data)
    try:
        frame = pl.read_csv(data, separator=separator, infer_schema=False, new_columns=header)
    except pl.exceptions.NoDataError:
        raise InputError(f"{path} has no rows") from None
    except pl.exceptions.PolarsError as error:
        raise InputError(_csv_problem(path, data, separator, len(header)) or f"{path} is no CSV: {error}") from error
    return Table(path, frame, "line", 2)


def _header(path: Path, data: bytes) -> tuple[str, list[str]]:
    """Return the separator and the names of the first line."""
    try:
        line = data.partition(b"\n")[0].decode("utf-8-sig").strip("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error.reason} in line 1") from error
    separator = max(_SEPARATORS, key=line.count)
    names = [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
    if not any(names):
        raise InputError(f"{path} has no rows")
    if any(_is_number(name) for name in names):
        raise InputError(f"{path}: line 1 must name the columns, and has a number")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{path} has two columns {twice[0]!r}")
    return separator, names


def _csv_problem(path: Path, data: bytes, separator: str, columns: int) -> str | None:
    """Find the first line that polars could not read. Slow, and only for files that are refused anyway."""
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    reader = csv.reader(text, delimiter=separator)
    try:
        for fields in reader:
            if len(fields) > columns:
                return f"{path.name}, line {reader.line_num}: {len(fields)} values where line 1 names {columns} columns"
    except (UnicodeDecodeError, csv.Error) as error:
        return f"{path.name}, after line {reader.line_num}: {error}"
    return None


def _check_size(path: Path, size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise InputError(f"{path} has more than {bytes_max:,} bytes of text: split it, or make it parquet")


def _check_rows(path: Path, rows: int, rows_max: int) -> None:
    if rows > rows_max:
        raise InputError(f"{path} has {rows:,} rows, more than {rows_max:,}: split it")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

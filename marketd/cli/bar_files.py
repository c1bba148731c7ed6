"""Bars as files: what each format has in it, and a file that is never seen half written."""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from marketd.cli.common import EXIT_USAGE, fail

if TYPE_CHECKING:
    from marketd.client.bars import BarSeries


class Form(StrEnum):
    """What bars can be written as. Each is what a file's name ends in."""

    csv = "csv"
    json = "json"
    jsonl = "jsonl"
    parquet = "parquet"
    arrow = "arrow"


def form_of(output: str, otherwise: str = "") -> Form:
    """Return the format that a file's name ends in; ends the command where that is none, saying what to do then."""
    ending = Path(output).suffix.removeprefix(".").lower()
    if ending not in set(Form):
        names = ", ".join(f".{form}" for form in Form)
        fail(f"-o {output}: its name ends in none of {names}{otherwise}", EXIT_USAGE)
    return Form(ending)


def write(data: bytes, output: str) -> None:
    """Write to a file, or to standard output for ``-``; ends the command where it can't be written."""
    if output == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        save(Path(output), data)
    except OSError as error:
        fail(f"can't write {output}: {error.strerror}")


def encode(series: BarSeries, form: Form) -> bytes:
    """Return a file's contents, the columns those of :data:`marketd.client.bars.COLUMNS`.

    csv: a head, floats in the shortest text that is exact, nothing where nobody knows a price. json: one array.
    jsonl: an object a line. parquet, arrow (an IPC file): times are int64, the field's metadata have their unit.

    Raises:
        PackageMissing: parquet and arrow need pyarrow.
    """
    return _ENCODERS[form](series)


def save(path: Path, data: bytes) -> None:
    """Write a file, or replace it: the old one is there until the new one is whole.

    Raises:
        OSError: it can't be written.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)  # a device or a pipe: to be written to, not to be replaced
        return
    target = path.resolve()  # of a link, the file that it points to is replaced, and not the link
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        beside.replace(target)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def records(series: BarSeries) -> Iterator[dict[str, Any]]:
    """Yield each bar as plain values by the name of the column, None for NaN."""
    columns = {name: array.tolist() for name, array in series.columns.items()}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, map(_known, values), strict=True))


def _known(value: Any) -> Any:  # noqa: ANN401 - a number or a text, as it came
    return None if isinstance(value, float) and math.isnan(value) else value


def _csv(series: BarSeries) -> bytes:
    lines = [",".join(series.columns)]
    lines += [",".join(map(_csv_text, record.values())) for record in records(series)]
    return "".join(f"{line}\n" for line in lines).encode()


def _csv_text(value: object) -> str:
    # `repr` of a float is its shortest exact text.
    return "" if value is None else value if isinstance(value, str) else repr(value)


def _json(series: BarSeries) -> bytes:
    return b"[" + b",\n ".join(map(msgspec.json.encode, records(series))) + b"]\n"


def _json_lines(series: BarSeries) -> bytes:
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records(series))


def _parquet(series: BarSeries) -> bytes:
    table = series.to_arrow()
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(table, file, compression="zstd")
    return file.getvalue()


def _arrow(series: BarSeries) -> bytes:
    table = series.to_arrow()
    from pyarrow import ipc

    file = io.BytesIO()
    with ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


_ENCODERS: dict[Form, Callable[[BarSeries], bytes]] = {
    Form.csv: _csv,
    Form.json: _json,
    Form.jsonl: _json_lines,
    Form.parquet: _parquet,
    Form.arrow: _arrow,
}

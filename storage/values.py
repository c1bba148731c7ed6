"""The values of a file's columns as times and numbers, or the first that is none. Pure."""

from __future__ import annotations

from typing import Literal

import polars as pl

from marketd.clock import SECOND_NS
from marketd.errors import InputError
from storage.tables import Table

_UNITS_NS = (SECOND_NS, 1_000_000, 1000, 1)
_YEAR_S = 31_556_952
_YEARS = (1, 290)  # since 1970, in which numbers are looked for: 1971 to 2260
_FORMATS = (
    *("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"),
    *("%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M:%S%.f%z"),
)
_DATE = "%Y-%m-%d"


def times_ns(table: Table, name: str) -> pl.Series:
    """Read a column of times: text in ISO 8601, numbers since 1970, or times of a file that has such a type.

    Where no zone is named it is UTC. Numbers are seconds, or milli-, micro- or nanoseconds, whichever puts all of them
    in the years 1971 to 2260; no two units can.

    Returns:
        int64 ns.

    Raises:
        InputError: the first row that is no such time.
    """
    column = table.frame[name]
    _refuse_null(table, column, "is empty")
    if column.dtype == pl.String:
        column = column.str.strip_chars()
        numbers = column.cast(pl.Float64, strict=False)
        if numbers[0] is None:
            return _parse_texts(table, column)
        whole = column.cast(pl.Int64, strict=False)
        column = numbers if whole.null_count() else whole
        _refuse_null(table, column.alias(name), "is no number as those before it")
    if isinstance(column.dtype, pl.Datetime):
        return column.dt.cast_time_unit("ns").cast(pl.Int64)  # of the instant, whatever zone it is shown in
    if column.dtype == pl.Date:
        return column.cast(pl.Datetime("ns")).cast(pl.Int64)
    if not column.dtype.is_numeric():
        raise InputError(f"{table.path.name}: the column {name} of type {column.dtype} holds no times")
    return _scale(table, column, name)


def numbers(table: Table, name: str, type_: pl.DataType | type[pl.DataType], default: Literal[-1] | None) -> pl.Series:
    """Read a column of numbers.

    Args:
        default: what an empty value stands for; None if there may be none.

    Raises:
        InputError: the first row that has no such number.
    """
    column = table.frame[name]
    if column.dtype == pl.String:
        column = column.str.strip_chars().replace("", None)
    elif not column.dtype.is_numeric():
        raise InputError(f"{table.path.name}: the column {name} is of type {column.dtype}, and no numbers")
    if default is None:
        _refuse_null(table, column, "is empty")
    read = column.cast(type_, strict=False)
    wrong = (read.is_null() & column.is_not_null()).arg_true()
    if len(wrong):
        raise InputError(f"{table.place(wrong[0])}: {name} is {column[wrong[0]]!r}, and no such number")
    return read if default is None else read.fill_null(default)


def _refuse_null(table: Table, column: pl.Series, what: str) -> None:
    null = column.is_null().arg_true()
    if len(null):
        raise InputError(f"{table.place(null[0])}: {column.name} {what}")


def _parse_texts(table: Table, column: pl.Series) -> pl.Series:
    """Read text in the one format that the first row is in."""
    column = column.str.replace("(?i)z$", "+00:00")
    for format_ in (*_FORMATS, _DATE):
        if format_ == _DATE:
            read = column.str.to_date(format_, strict=False).cast(pl.Datetime("ns"))
        else:
            read = column.str.to_datetime(format_, time_unit="ns", strict=False)
        if read[0] is not None:
            wrong = read.is_null().arg_true()
            if len(wrong):
                place = table.place(wrong[0])
                raise InputError(f"{place}: {column.name} is {column[wrong[0]]!r}, not written as {column[0]!r} is")
            return read.cast(pl.Int64)
    raise InputError(
        f"{table.place(0)}: {column.name} is {column[0]!r}, and no time: 2024-01-31 12:30:00 is (UTC where no zone is "
        "named), and numbers since 1970 are"
    )


def _scale(table: Table, column: pl.Series, name: str) -> pl.Series:
    """Find the unit of numbers since 1970 by the years that they are of."""
    _refuse_null(table, column, "is empty")
    first = column[0]
    for unit_ns in _UNITS_NS:
        low, high = (years * _YEAR_S * SECOND_NS // unit_ns for years in _YEARS)
        if low <= first < high:
            wrong = (~column.is_between(low, high, closed="left")).arg_true()
            if len(wrong):
                raise InputError(f"{table.place(wrong[0])}: {name} is {column[wrong[0]]}, and {first} in the first row")
            if column.dtype.is_integer():
                return column.cast(pl.Int64) * unit_ns
            # A float of seconds since 1970 is exact to the microsecond.
            return (column * (unit_ns / 1000)).round().cast(pl.Int64) * 1000
    raise InputError(
        f"{table.place(0)}: {name} is {first}: neither seconds nor milli-, micro- or nanoseconds of our times"
    )

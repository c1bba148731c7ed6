"""A file's rows as bars to be stored, or the first row that can't be one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import polars as pl

from marketd.errors import InputError
from marketd.periods import print_period
from marketd.ring.steps import BarState
from storage import values
from storage.gaps import detect_period, holes
from storage.intervals import Range, shrink, subtract
from storage.layout import Series
from storage.schema import BARS, UNKNOWN, Provenance
from storage.tables import Table
from storage.validate import first_problem

Labels = Literal["start", "end"]
_DEFAULTS = {
    "trade_count": UNKNOWN,
    "state": BarState.CLOSED,
    "provenance": Provenance.IMPORTED,
    "first_id": UNKNOWN,
    "last_id": UNKNOWN,
}
_MAY_BE_EMPTY = ("trade_count", "first_id", "last_id")
_FEW = 10  # rows from which on it is told that no two of them are a period apart


class Incoming(NamedTuple):
    """Bars in order of time, and whether they were in order before."""

    rows: pl.DataFrame
    in_order: bool


def to_bars(table: Table, chosen: Mapping[str, str], series: Series, labels: Labels, now_ns: int) -> Incoming:
    """Take a file's rows for bars of a series.

    Args:
        chosen: the file's column of each of ours that it has.
        labels: whether the file's times are the bars' opens, or their ends.
        now_ns: no bar may end after that.

    Raises:
        InputError: with the first row that is no bar, of the future, or there twice.
    """
    opens = values.times_ns(table, chosen["open_ns"]) - (series.period_ns if labels == "end" else 0)
    made = {"open_ns": opens}
    for name, type_ in BARS.polars.items():
        if name == "open_ns":
            continue
        if name in chosen:
            made[name] = values.numbers(table, chosen[name], type_, -1 if name in _MAY_BE_EMPTY else None)
        else:
            made[name] = pl.repeat(int(_DEFAULTS[name]), len(opens), dtype=type_, eager=True)
    rows = pl.DataFrame(made)
    _refuse_wrong(table, rows, series, now_ns)
    in_order = opens.is_sorted()
    rows = rows if in_order else rows.sort("open_ns")
    _refuse_other_period(table, rows, series)
    return Incoming(rows, in_order)


def vouched(rows: pl.DataFrame, period_ns: int, closed: Iterable[Range], quiet_bars: int) -> list[Range]:
    """Return the ranges of which a file counts as having all that there was.

    That is from its first bar to its last, but for holes of more than ``quiet_bars`` bars while the market was open,
    and bars that are not known whole. Shorter holes are taken for times without a trade.
    """
    times = rows["open_ns"]
    lacking = subtract(holes(rows, period_ns), shrink(closed, period_ns))
    long = [(start, end) for start, end in lacking if end - start > quiet_bars * period_ns]
    broken = rows.filter(pl.col("state") == BarState.MISSING)["open_ns"].to_list()
    partial = [(open_ns, open_ns + period_ns) for open_ns in broken]
    return subtract([(times[0], times[-1] + period_ns)], [*long, *partial])


def _refuse_wrong(table: Table, rows: pl.DataFrame, series: Series, now_ns: int) -> None:
    if problem := first_problem(rows, series):
        raise InputError(f"{table.place(problem.row)}: {problem.reason}")
    opens = rows["open_ns"]
    future = (opens > now_ns - series.period_ns).arg_true()
    if len(future):
        raise InputError(f"{table.place(future[0])}: the bar of {_time(opens[future[0]])} is not over yet")
    twice = (~opens.is_first_distinct()).arg_true()
    if len(twice):
        time = opens[twice[0]]
        first = table.place(int(opens.index_of(time) or 0)).rpartition(", ")[2]
        raise InputError(f"{table.place(twice[0])}: the bar of {_time(time)} is there already, in {first}")


def _refuse_other_period(table: Table, rows: pl.DataFrame, series: Series) -> None:
    """Refuse rows of which no two are a period apart: they are bars of another one."""
    if len(rows) < _FEW or (rows["open_ns"].diff() == series.period_ns).any():
        return
    usual = print_period(detect_period(rows))
    raise InputError(f"{table.path.name}: no two rows are {series.what} apart, most are {usual}: is --period right?")


def _time(at_ns: int) -> str:
    return str(pl.Series([at_ns]).cast(pl.Datetime("ns")).dt.strftime("%Y-%m-%dT%H:%M:%SZ")[0])

"""What no stored row may be. Pure."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from marketd.ring.steps import BarState
from storage.layout import Series
from storage.schema import BARS, QUOTE

_OVER = [BarState.CLOSED, BarState.REVISED, BarState.MISSING]


class Problem(NamedTuple):
    """The first row at fault: its place in the frame, its time, and what is wrong with it."""

    row: int
    time_ns: int
    reason: str


def first_problem(rows: pl.DataFrame, series: Series) -> Problem | None:
    """Return the first row that can't be one of a series, None if all can.

    Args:
        rows: in the columns and types of the series' schema, in any order.
    """
    schema = series.schema
    rules = {f"{name} is no finite number": ~pl.col(name).is_finite() for name in schema.floats}
    if schema is QUOTE:  # a side of a book that is empty has no price
        rules = {f"{name} is infinite": pl.col(name).is_infinite() for name in schema.floats}
    if schema is BARS:
        rules |= _bar_rules(series)
    wrong = rows.select(pl.any_horizontal(*rules.values()).arg_true()).to_series()
    if wrong.is_empty():
        return None
    row = int(wrong[0])
    found = rows[row]
    reason = next(reason for reason, rule in rules.items() if found.select(rule).item())
    return Problem(row, int(found[schema.time][0]), reason)


def _bar_rules(series: Series) -> dict[str, pl.Expr]:
    low, high = pl.col("low"), pl.col("high")
    return {
        f"open_ns is no whole multiple of {series.what}": pl.col("open_ns") % series.period_ns != 0,
        "high is below low": high < low,
        "open is not between low and high": ~pl.col("open").is_between(low, high),
        "close is not between low and high": ~pl.col("close").is_between(low, high),
        "volume is below 0": pl.col("volume") < 0,
        "the bar is not over yet": ~pl.col("state").is_in(_OVER),
    }

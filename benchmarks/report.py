"""Print the figures of a benchmark: an aligned table for people, or one JSON object a line for programs."""

from __future__ import annotations

import json as json_text
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured value beside what it is compared with, measured in the same run and in the same unit."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    baseline_name: str = ""

    @property
    def ratio(self) -> float | None:
        """``value / baseline``; None without a baseline."""
        return self.value / self.baseline if self.baseline else None


def report(figures: Sequence[Figure], *, json: bool = False) -> None:
    """Print the figures to standard output in the order given."""
    print("\n".join(_json_line(figure) for figure in figures) if json else _table(figures))


def _json_line(figure: Figure) -> str:
    return json_text.dumps(
        {
            "name": figure.name,
            "value": figure.value,
            "unit": figure.unit,
            "baseline": figure.baseline,
            "ratio": figure.ratio,
        }
    )


def _table(figures: Sequence[Figure]) -> str:
    rows = [("figure", "value", "unit", "baseline", "ratio", "compared with")]
    rows += [
        (
            figure.name,
            _number(figure.value),
            figure.unit,
            _number(figure.baseline),
            _number(figure.ratio),
            figure.baseline_name,
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    numeric = (1, 3, 4)
    cells = [
        text.rjust(width) if column in numeric else text.ljust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _number(value: float | None) -> str:
    """Print with three significant digits or more: ``1,234,567``, ``21.7``, ``0.043``."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"

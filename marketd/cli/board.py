"""The board: the newest state of each instrument, made from a stream's frames and drawn as a table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from marketd.cli.output import duration_text

if TYPE_CHECKING:
    from marketd.client.frames import Frame

Order = Literal["activity", "name"]
STALE_AFTER_S = 10.0
_SIDE_STYLES = {1: "green", -1: "red"}


@dataclass
class Line:
    """One instrument. Prices that nobody has told yet are NaN. ``seen_s`` is by the board's own clock."""

    fqme: str
    feed: str
    bid: float = math.nan
    ask: float = math.nan
    last: float = math.nan
    size: float = math.nan
    side: int = 0
    trades: int = 0
    ticks: int = 0
    gaps: int = 0
    gap_open: bool = False  # nothing has come since the last gap
    seen_s: float = 0.0


class Board:
    """Takes frames in, gives tables out.

    Args:
        clock: seconds, monotonic. The age of a line is measured by it and not by the rows' times, because those of a
            replay are years old.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.rows = 0
        self.news = ""
        self._clock = clock
        self._lines: dict[str, Line] = {}

    def apply(self, frame: Frame) -> None:
        """Take one frame over."""
        if frame.state:
            self.news = f"{frame.feed or 'connection'}: {frame.state} {frame.detail}".strip()
        elif frame.kind == "gap":
            self._apply_gaps(frame)
        elif frame.kind in ("trade", "quote") and len(frame):
            self._apply_ticks(frame)

    def lines(self, order: Order) -> list[Line]:
        """All lines, the busiest or the alphabetically first on top."""
        if order == "name":
            return sorted(self._lines.values(), key=lambda line: line.fqme)
        return sorted(self._lines.values(), key=lambda line: (-line.ticks, line.fqme))

    def render(self, order: Order = "activity", height: int = 24) -> Table:
        """Draw as many lines as fit in ``height`` rows of a terminal, frame and all."""
        lines = self.lines(order)
        shown = lines[: max(1, height - 5)]
        hidden = f"  (+{len(lines) - len(shown)} more)" if len(shown) < len(lines) else ""
        caption = f"{len(lines)} instruments{hidden}, {self.rows:,} rows  {self.news}"
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=Text(caption), caption_justify="left")
        table.add_column("instrument", no_wrap=True)
        for heading in ("bid", "ask", "last", "size", "trades", "age"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        now_s = self._clock()
        for line in shown:
            table.add_row(*_cells(line, now_s - line.seen_s))
        return table

    def _apply_ticks(self, frame: Frame) -> None:
        columns = frame.columns
        # The newest row of each instrument is the first one seen from the end.
        instruments = columns["instrument"][::-1]
        numbers, newest, inverse = np.unique(instruments, return_index=True, return_inverse=True)
        merged = frame.merged
        weights = None if merged is None else merged[::-1]
        counts = np.bincount(inverse, weights=weights).astype(int)
        now_s = self._clock()
        self.rows += len(instruments)
        for number, back, count in zip(numbers.tolist(), newest.tolist(), counts.tolist(), strict=True):
            line = self._line(frame, frame.fqme(number))
            at = len(instruments) - 1 - back
            line.ticks += count
            line.seen_s, line.gap_open = now_s, False
            if frame.kind == "quote":
                line.bid, line.ask = float(columns["bid"][at]), float(columns["ask"][at])
            else:
                line.last, line.size = float(columns["price"][at]), float(columns["size"][at])
                line.side, line.trades = int(columns["side"][at]), line.trades + count

    def _apply_gaps(self, frame: Frame) -> None:
        for number in frame.columns["instrument"].tolist():
            fqme = frame.fqme(number)
            hit: Iterable[Line] = [self._line(frame, fqme)] if number else self._lines.values()
            for line in hit:
                if line.feed == frame.feed:
                    line.gaps += 1
                    line.gap_open = True
            self.rows += 1

    def _line(self, frame: Frame, fqme: str) -> Line:
        line = self._lines.get(fqme)
        if line is None:
            line = self._lines[fqme] = Line(fqme, frame.feed, seen_s=self._clock())
        return line


def _cells(line: Line, age_s: float) -> tuple[Text | str, ...]:
    return (
        Text(line.fqme),
        number_text(line.bid),
        number_text(line.ask),
        Text(number_text(line.last), style=_SIDE_STYLES.get(line.side, "")),
        number_text(line.size),
        str(line.trades),
        duration_text(age_s),
        _marks(line, age_s),
    )


def _marks(line: Line, age_s: float) -> Text:
    if line.gap_open:
        return Text("gap", style="bold red")
    if age_s > STALE_AFTER_S:
        return Text("stale", style="yellow")
    return Text(f"{line.gaps} gaps" if line.gaps > 1 else "1 gap" if line.gaps else "", style="dim")


def number_text(value: float) -> str:
    """The shortest text of a price or a size, without an exponent; ``-`` for none."""
    if math.isnan(value):
        return "-"
    return np.format_float_positional(value, precision=12, trim="-")

"""The board of bars: the newest bar of each instrument and series, made from a stream's frames."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from marketd.cli.bars import STATE_STYLES
from marketd.cli.board import Order, number_text
from marketd.cli.output import time_text
from marketd.client.bars import state_texts
from marketd.client.frames import family

if TYPE_CHECKING:
    from marketd.client.frames import Frame

_PRICES = ("open", "high", "low", "close", "volume")


class BarBoard:
    """Takes frames in, gives tables out. A bar that came late does not push a newer one away."""

    def __init__(self) -> None:
        self.rows = 0
        self.news = ""
        self._bars: dict[tuple[str, str], dict[str, Any]] = {}
        self._told: Counter[tuple[str, str]] = Counter()

    def apply(self, frame: Frame) -> None:
        """Take one frame over."""
        if frame.state:
            self.news = f"{frame.feed or 'connection'}: {frame.state} {frame.detail}".strip()
        elif frame.kind == "gap":
            self.news = f"{frame.feed}: bars were lost"
        elif family(frame.kind) == "bar":
            self.rows += len(frame)
            self._apply_bars(frame)

    def render(self, order: Order = "activity", height: int = 24) -> Table:
        """Draw as many lines as fit in ``height`` rows of a terminal, frame and all."""
        lines = sorted(self._bars.items(), key=lambda item: (0 if order == "name" else -self._told[item[0]], *item[0]))
        shown = lines[: max(1, height - 5)]
        hidden = f"  (+{len(lines) - len(shown)} more)" if len(shown) < len(lines) else ""
        caption = f"{len(lines)} series{hidden}, {self.rows:,} rows  {self.news}"
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=Text(caption), caption_justify="left")
        for heading in ("instrument", "bar", "opens"):
            table.add_column(heading, no_wrap=True)
        for heading in (*_PRICES, "trades"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for (fqme, kind), bar in shown:
            table.add_row(
                Text(fqme),
                kind.partition(".")[2],
                time_text(bar["open_ns"]),
                *(number_text(bar[name]) for name in _PRICES),
                str(bar["trade_count"]),
                Text(bar["state"], style=STATE_STYLES.get(bar["state"], "")),
            )
        return table

    def _apply_bars(self, frame: Frame) -> None:
        columns = {name: array.tolist() for name, array in frame.columns.items()}
        columns["state"] = state_texts(frame.columns["state"]).tolist()
        for values in zip(*columns.values(), strict=True):
            bar = dict(zip(columns, values, strict=True))
            key = (frame.fqme(bar["instrument"]), frame.kind)
            self._told[key] += 1
            if bar["number"] >= self._bars.get(key, bar)["number"]:
                self._bars[key] = bar

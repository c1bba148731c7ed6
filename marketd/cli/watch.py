"""`marketd watch`: a live table for people, one line of JSON a row for pipes."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from marketd.cli.common import EXIT_USAGE, AddressOption, exits, fail, resolve_address

if TYPE_CHECKING:
    from rich.console import RenderableType

    from marketd.cli.board import Order
    from marketd.client.frames import Frame
    from marketd.rpc.messages import Contract as ContractName
    from marketd.rpc.messages import KindName

EXAMPLE = "marketd watch '*/usdt.spot.*' --kinds trade --json | head"
KIND = re.compile(r"trade|quote|level|(bar|index)\.[0-9][0-9a-z.]{0,31}")
ON_A_BOARD = ({"trade", "quote"}, {"bar"})  # what has a table: one of these, or a part of it
TABLE_RATE_HZ = 4.0
FORMING_HZ_MAX = 100.0
CHECK_S = 0.25


class Contract(StrEnum):
    """What to do with rows that come faster than they are wanted."""

    latest = "latest"
    lossless = "lossless"
    frames = "frames"
    trade_safe = "trade_safe"


class Sort(StrEnum):
    """The order of the table."""

    activity = "activity"
    name = "name"


class Output(Protocol):
    """Where frames go; ``rows`` counts what has."""

    rows: int

    def apply(self, frame: Frame) -> None:
        """Take one frame."""


@dataclass(frozen=True)
class Wanted:
    """What to subscribe to, and when to stop: after so many rows or seconds, whichever comes first."""

    patterns: list[str]
    kinds: list[KindName]
    contract: ContractName
    rate_hz: float
    forming_hz: float = 0.0
    count: int | None = None
    seconds: float | None = None


@exits()
def watch(
    patterns: Annotated[list[str], typer.Argument(metavar="PATTERN", help="Names and globs; '*' is all.")],
    kinds: Annotated[
        str, typer.Option("--kinds", help="trade, quote, level, bar.1m, index.1m, with commas.")
    ] = "trade,quote",
    contract: Annotated[
        Contract | None,
        typer.Option(
            "--contract",
            help="The newest state; every row; every row, by kind; every trade.",
            show_default="latest; lossless with --json or levels",
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option("--rate", min=0.1, max=1000, help="Updates a second (all but lossless).")
    ] = TABLE_RATE_HZ,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after so many rows.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.1, help="Stop after so many seconds.")] = None,
    sort: Annotated[Sort, typer.Option("--sort", help="The order of the table.")] = Sort.activity,
    address: AddressOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON a row, gaps included.")] = False,
) -> None:
    """Watch ticks or bars: a live table on a terminal, lines of text elsewhere, lines of JSON with --json.

    Levels, index events, and ticks together with bars are lines of text on a terminal too. The table of bars has those
    that are still forming; lines are of bars that are out, or have changed after that.
    """
    from marketd.cli import lines
    from marketd.cli.output import console

    names = list(dict.fromkeys(part.strip() for part in kinds.split(",")))
    if not all(map(KIND.fullmatch, names)):
        fail(
            f"--kinds {kinds!r}: allowed are trade, quote, level, bar.1m, index.1m and the like, with commas between",
            EXIT_USAGE,
        )
    sorts = {name.partition(".")[0] for name in names}
    drawn = console().is_terminal and not json and any(sorts <= board for board in ON_A_BOARD)
    chosen = contract or (Contract.lossless if json or "level" in names else Contract.latest)
    forming_hz = rate if drawn and "bar" in sorts else 0.0
    wanted = Wanted(patterns, names, chosen.value, rate, min(forming_hz, FORMING_HZ_MAX), count, seconds)
    where = resolve_address(address)
    if drawn:
        follow_on_board(where, wanted, sort.value)
    else:
        form = lines.json if json else lines.text
        follow(where, wanted, lines.LineOutput(form, rows_max=count))


def follow(address: str, wanted: Wanted, output: Output, check: Callable[[], None] = lambda: None) -> None:
    """Give the stream's frames to the output, until the count or the time ends it.

    Args:
        check: called at least every quarter of a second; what it raises ends it too.
    """
    from marketd.client import connect

    with (
        connect(address, client="marketd watch") as md,
        md.subscribe(
            wanted.patterns,
            kinds=wanted.kinds,
            contract=wanted.contract,
            rate_hz=wanted.rate_hz,
            forming_hz=wanted.forming_hz,
        ) as stream,
    ):
        if stream.result.unmatched:
            print(f"marketd: nothing is called {', '.join(stream.result.unmatched)} yet", file=sys.stderr)
        end_s = math.inf if wanted.seconds is None else time.monotonic() + wanted.seconds
        while (left_s := end_s - time.monotonic()) > 0 and (wanted.count is None or output.rows < wanted.count):
            frame = stream.wait_next(min(CHECK_S, left_s))
            check()
            if frame is not None:
                output.apply(frame)


def follow_on_board(address: str, wanted: Wanted, order: Order, check: Callable[[], None] = lambda: None) -> None:
    """Show the stream as a live table."""
    from rich.live import Live

    from marketd.cli.bar_board import BarBoard
    from marketd.cli.board import Board
    from marketd.cli.output import console

    board = BarBoard() if wanted.kinds[0].startswith("bar.") else Board()
    screen = console()

    def draw() -> RenderableType:
        return board.render(order, screen.height)

    # Live draws from a thread of its own: the ages in the table go on when nothing comes.
    with Live(console=screen, get_renderable=draw, refresh_per_second=TABLE_RATE_HZ, vertical_overflow="crop"):
        follow(address, wanted, board, check)

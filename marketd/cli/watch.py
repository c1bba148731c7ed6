"""`marketd watch`: a live table for people, one line of JSON a row for pipes."""

from __future__ import annotations

import math
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
KINDS: tuple[KindName, ...] = ("trade", "quote")
TABLE_RATE_HZ = 4.0
CHECK_S = 0.25


class Contract(StrEnum):
    """What to do with rows that come faster than they are wanted."""

    latest = "latest"
    lossless = "lossless"


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
    count: int | None = None
    seconds: float | None = None


@exits()
def watch(
    patterns: Annotated[list[str], typer.Argument(metavar="PATTERN", help="Names and globs; '*' is all.")],
    kinds: Annotated[str, typer.Option("--kinds", help="trade, quote, or both with a comma between.")] = "trade,quote",
    contract: Annotated[
        Contract | None,
        typer.Option("--contract", help="The newest state, or every row.", show_default="latest, with --json lossless"),
    ] = None,
    rate: Annotated[
        float, typer.Option("--rate", min=0.1, max=1000, help="Updates a second (contract latest).")
    ] = TABLE_RATE_HZ,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after so many rows.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.1, help="Stop after so many seconds.")] = None,
    sort: Annotated[Sort, typer.Option("--sort", help="The order of the table.")] = Sort.activity,
    address: AddressOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON a row, gaps included.")] = False,
) -> None:
    """Watch ticks: a live table on a terminal, lines of text elsewhere, lines of JSON with --json."""
    from marketd.cli import lines
    from marketd.cli.output import console

    parts = {part.strip() for part in kinds.split(",")}
    if not parts <= set(KINDS):
        fail(f"--kinds {kinds!r}: allowed are trade, quote and trade,quote", EXIT_USAGE)
    names = [kind for kind in KINDS if kind in parts]
    chosen = contract or (Contract.lossless if json else Contract.latest)
    wanted = Wanted(patterns, names, chosen.value, rate, count, seconds)
    where = resolve_address(address)
    if console().is_terminal and not json:
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
        md.subscribe(wanted.patterns, kinds=wanted.kinds, contract=wanted.contract, rate_hz=wanted.rate_hz) as stream,
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

    from marketd.cli.board import Board
    from marketd.cli.output import console

    board, screen = Board(), console()

    def draw() -> RenderableType:
        return board.render(order, screen.height)

    # Live draws from a thread of its own: the ages in the table go on when nothing comes.
    with Live(console=screen, get_renderable=draw, refresh_per_second=TABLE_RATE_HZ, vertical_overflow="crop"):
        follow(address, wanted, board, check)

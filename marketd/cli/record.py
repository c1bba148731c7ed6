"""`marketd record`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Annotated

import typer

from marketd.cli.common import AddressOption, JsonOption, exits, resolve_address

EXAMPLE = "marketd record binance --name monday --seconds 60"
STEP_S = 0.1


@exits()
def record(
    feed: Annotated[str, typer.Argument(metavar="FEED", help="The feed's name, see `marketd status`.")],
    name: Annotated[str, typer.Option("--name", help="The recording's name.")],
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=86_400, help="For how long.")],
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Record a feed's raw venue traffic, on the daemon's machine, to be played with `marketd replay`."""
    from marketd.cli.output import bytes_text, print_json
    from marketd.client import connect

    with connect(resolve_address(address), client="marketd record") as md, _progress(feed, seconds):
        result = md.record(feed, name, seconds)
    if json:
        print_json(result)
    else:
        print(f"{result.path}: {result.messages} messages, {bytes_text(result.bytes)}")


@contextlib.contextmanager
def _progress(feed: str, seconds: float) -> Iterator[None]:
    """Show on standard error, if that is a terminal, how much of the time has passed."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("recording {task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    done = threading.Event()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(feed, total=seconds)

        def advance() -> None:
            while not done.wait(STEP_S):
                progress.advance(bar, STEP_S)

        thread = threading.Thread(target=advance, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

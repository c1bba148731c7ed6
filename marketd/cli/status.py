"""`marketd status`: what runs, what is live, what lags and what is missing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from marketd.cli.common import EXIT_USAGE, AddressOption, JsonOption, exits, fail, resolve_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from marketd.rpc.messages import StatusResult

EXAMPLE = "marketd status --json | jq .ready"
EVERY_S = 1.0


@exits()
def status(
    address: AddressOption = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")] = False,
    every: Annotated[
        float | None,
        typer.Option("--every", min=0.1, max=3600, metavar="SECONDS", help="Between two looks.", show_default="1"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show the daemon's actors, feeds and clients, its history and its store.

    With --watch the picture is renewed in place on a terminal; elsewhere one follows the other, and with --json one
    line of JSON.
    """
    from marketd.cli.output import console, print_json
    from marketd.cli.status_board import render
    from marketd.client import connect

    if every is not None and not watch:
        fail("--every SECONDS goes with --watch", EXIT_USAGE)
    screen = console()
    with connect(resolve_address(address), client="marketd status") as md:
        if watch and screen.is_terminal and not json:
            _watch_on_screen(md.status, every or EVERY_S)
        while True:
            result = md.status()
            if json:
                print_json(result)
            else:
                screen.print(render(result))
            if not watch:
                return
            time.sleep(every or EVERY_S)


def _watch_on_screen(ask: Callable[[], StatusResult], every_s: float) -> None:
    """Renew the picture in place, until Ctrl-C or the daemon's end."""
    from rich.live import Live

    from marketd.cli.output import console
    from marketd.cli.status_board import render

    with Live(render(ask()), console=console(), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            time.sleep(every_s)
            live.update(render(ask()), refresh=True)

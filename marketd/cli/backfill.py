"""`marketd backfill`: let a daemon ask the venue for what is not stored."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from marketd.cli.common import EXIT_ERROR, EXIT_USAGE, AddressOption, JsonOption, exits, fail, resolve_address
from marketd.cli.store.common import ToOption, to_ns

if TYPE_CHECKING:
    from marketd.rpc.messages import BackfillProgress

EXAMPLE = "marketd backfill btc/usdt.spot.binance --period 1m --from 2024-01-01"


@exits()
def backfill(
    fqme: Annotated[str, typer.Argument(metavar="NAME", help="dst/src.venue.backend, in any case.")],
    begin: Annotated[str, typer.Option("--from", metavar="TIME", help="From when on: a date, or an ISO time.")],
    end: ToOption = None,
    period: Annotated[str, typer.Option("--period", "-p", help="Of which bars; history.periods has it.")] = "1m",
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds to wait; the daemon goes on after that.")
    ] = 86_400.0,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Ask the venue for what is not stored, and show how far that is.

    Without --to, up to now. The daemon does it, within the venue's limits and behind everything live: Ctrl-C ends the
    showing and not the work, which also outlives a restart of the daemon.
    """
    from marketd.cli.output import print_json
    from marketd.client import connect

    start_ns, end_ns = to_ns(begin, "--from"), to_ns(end, "--to")
    if start_ns is not None and end_ns is not None and end_ns < start_ns:
        fail(f"--to {end} is before --from {begin}", EXIT_USAGE)
    with connect(resolve_address(address), client="marketd backfill") as md, _progress(fqme) as show:
        result = md.backfill(fqme, period, start_ns, end_ns, on_progress=show, timeout_s=timeout)
    if json:
        print_json(result)
    elif not result.missing:
        print(f"all {result.bars:,} bars of {result.fqme} {result.period} are there")
    if result.missing:
        why = result.detail or "the venue does not reach back that far, or has not told them yet"
        print(f"marketd: {result.missing:,} of {result.bars:,} bars are missing: {why}", file=sys.stderr)
        raise typer.Exit(EXIT_ERROR)


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[BackfillProgress], None]]:
    """Give a function to call with how far it is; shown on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        bar = shown.add_task(what, total=None, detail="")

        def show(progress: BackfillProgress) -> None:
            done = progress.bars - progress.missing
            shown.update(bar, total=progress.bars, completed=done, detail=progress.detail)

        yield show

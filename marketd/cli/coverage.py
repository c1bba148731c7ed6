"""`marketd coverage`: what a daemon knows of its stored bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from marketd.cli.common import AddressOption, JsonOption, exits, resolve_address
from marketd.cli.store.common import FromOption, ToOption, time_text, to_ns

if TYPE_CHECKING:
    from rich.table import Table

    from marketd.rpc.messages import CoverageResult

EXAMPLE = "marketd coverage btc/usdt.spot.binance --period 1m --from 2026-11-24"
STYLES = {"complete": "green", "empty": "dim", "missing": "red", "unverified": "yellow"}


@exits()
def coverage(
    fqme: Annotated[str, typer.Argument(metavar="NAME", help="dst/src.venue.backend, in any case.")],
    period: Annotated[str, typer.Option("--period", "-p", help="Of which bars.")] = "1m",
    begin: FromOption = None,
    end: ToOption = None,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Show which ranges are complete, known to be empty, missing, or unverified; with --json one line a range.

    What is missing the daemon asks the venue for, as far back as `history.depth_days` or `marketd backfill` say.
    """
    from marketd.cli.output import console, print_json
    from marketd.client import connect

    start_ns, end_ns = to_ns(begin, "--from"), to_ns(end, "--to")
    with connect(resolve_address(address), client="marketd coverage") as md:
        found = md.coverage(fqme, period, start_ns, end_ns)
    if json:
        for span in found.spans:
            print_json(span)
    else:
        console().print(render(found))


def render(found: CoverageResult) -> Table:
    """Draw what is known."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    caption = f"{found.fqme} {found.period}" + ("" if found.spans else ": nothing is known of it")
    table = Table("from", "to", box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("state")
    table.add_column("from where")
    for span in found.spans:
        state = Text(span.state, style=STYLES.get(span.state, ""))
        table.add_row(time_text(span.from_ns), time_text(span.to_ns), state, span.provenance)
    return table

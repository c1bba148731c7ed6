"""`marketd store ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from marketd.cli.common import JsonOption, exits
from marketd.cli.store.common import StoreOption, opened, time_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from storage.facts import SeriesFacts

EXAMPLE = "marketd store ls '*.binance'"


@exits()
def ls(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="A name or glob of instruments.")] = "*",
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """List what is stored; with --json one line a series."""
    from marketd.cli.output import console, print_json
    from marketd.fqme import glob_pattern

    wanted = glob_pattern(pattern)
    with opened(store) as client:
        chosen = [series for series in client.series() if wanted.fullmatch(series.fqme)]
        every = [facts for series in chosen if (facts := client.facts(series)) is not None]
    if json:
        for facts in every:
            print_json(record(facts))
    else:
        console().print(render(every))


def record(facts: SeriesFacts) -> dict[str, Any]:
    """Return a series as JSON shows it."""
    return {
        "fqme": facts.series.fqme,
        "period": facts.series.what,
        "rows": facts.rows,
        "from": time_text(facts.start_ns),
        "to": time_text(facts.end_ns),
        "from_ns": facts.start_ns,
        "to_ns": facts.end_ns,
        "files": facts.files,
        "bytes": facts.bytes,
        "calendar": facts.calendar,
    }


def render(every: Iterable[SeriesFacts]) -> Table:
    """Draw them for people."""
    from rich import box
    from rich.table import Table

    from marketd.cli.output import bytes_text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("instrument", no_wrap=True)
    table.add_column("period", no_wrap=True)
    for heading in ("rows", "from", "to", "size"):
        table.add_column(heading, justify="right")
    for facts in every:
        begin, end = (time_text(at_ns)[:16].replace("T", " ") for at_ns in (facts.start_ns, facts.end_ns))
        table.add_row(*facts.series, f"{facts.rows:,}", begin, end, bytes_text(facts.bytes))
    return table

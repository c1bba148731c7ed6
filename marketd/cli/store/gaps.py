"""`marketd store gaps`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from marketd.cli.common import JsonOption, daemon_packages, exits
from marketd.cli.store.common import (
    FqmeArgument,
    FromOption,
    PeriodOption,
    StoreOption,
    ToOption,
    bars_of,
    facts_of,
    opened,
    span_of,
    time_text,
    to_ns,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from storage.gaps import Gap

EXAMPLE = "marketd store gaps 6e/usd.cme.ib --period 1m --kind real"


@exits()
def gaps(
    fqme: FqmeArgument,
    period: PeriodOption,
    begin: FromOption = None,
    end: ToOption = None,
    kind: Annotated[Literal["all", "real", "expected", "no_trade"], typer.Option("--kind", help="Only these.")] = "all",
    calendar: Annotated[
        str | None,
        typer.Option("--calendar", metavar="NAME", help="Hours of the market.", show_default="the series' own"),
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """List the bars that are not there, in order of time; with --json one line a gap.

    Without --from and --to, between the first and the last bar. Gaps are *expected* while the market is closed or where
    nothing is known to be, *no_trade* where the source had all that there was, and else *real*.
    """
    with daemon_packages():
        from marketd.cli.output import console, print_json
        from storage.find_gaps import find_gaps

    series = bars_of(fqme, period)
    asked = to_ns(begin, "--from"), to_ns(end, "--to")
    with opened(store) as client:
        facts = facts_of(client, series)
        found = find_gaps(client, series, span_of(facts, *asked), calendar or facts.calendar)
    chosen = [gap for gap in found if kind in ("all", gap.kind)]
    if json:
        for gap in chosen:
            print_json(record(gap))
    else:
        console().print(render(chosen))


def record(gap: Gap) -> dict[str, Any]:
    """Return a gap as JSON shows it."""
    return {
        "from": time_text(gap.start_ns),
        "to": time_text(gap.end_ns),
        "from_ns": gap.start_ns,
        "to_ns": gap.end_ns,
        "rows": gap.rows,
        "kind": gap.kind.value,
    }


def render(found: Sequence[Gap]) -> Table:
    """Draw gaps for people, and sum them up."""
    from rich import box
    from rich.table import Table

    sums = {kind: [gap.rows for gap in found if gap.kind == kind] for kind in ("real", "expected", "no_trade")}
    summary = ", ".join(f"{len(rows):,} {kind} ({sum(rows):,} bars)" for kind, rows in sums.items() if rows)
    table = Table(
        "from", "to", box=box.SIMPLE_HEAD, pad_edge=False, caption=summary or "no gap", caption_justify="left"
    )
    table.add_column("bars", justify="right")
    table.add_column("kind")
    for gap in found:
        table.add_row(time_text(gap.start_ns), time_text(gap.end_ns), f"{gap.rows:,}", gap.kind)
    return table

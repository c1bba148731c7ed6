"""`marketd store import`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from marketd.cli.common import JsonOption, daemon_packages, exits
from marketd.cli.store.common import PeriodOption, StoreOption, bars_of, opened, progress, time_text
from marketd.errors import Overlap

if TYPE_CHECKING:
    from storage.incoming import Incoming
    from storage.layout import Series
    from storage.writer import SeriesWriter, Written

EXAMPLE = "marketd store import 6e.csv.gz --as 6e/usd.cme.ib --period 1m --labels end --calendar CME_FX"


@exits()
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="CSV (gzipped too), parquet or Arrow.")
    ],
    fqme: Annotated[str, typer.Option("--as", metavar="NAME", help="The instrument: dst/src.venue.backend.")],
    period: PeriodOption,
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", metavar="OURS=THEIRS,…", help="Which column is which, where names do not tell."),
    ] = None,
    labels: Annotated[
        Literal["start", "end"], typer.Option("--labels", help="Whether times are the bars' opens or their ends.")
    ] = "start",
    calendar: Annotated[
        str | None, typer.Option("--calendar", metavar="NAME", help="Hours of the market, kept with the series.")
    ] = None,
    on_overlap: Annotated[
        Literal["refuse", "keep", "replace"],
        typer.Option("--on-overlap", help="Where bars are stored: refuse the file, keep those, or replace them."),
    ] = "refuse",
    quiet_bars: Annotated[
        int,
        typer.Option("--quiet-bars", min=0, help="A hole of up to so many bars is a time without a trade."),
    ] = 10,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Take a file's bars into the store: all of them, or none if one is wrong.

    Columns open_ns, open, high, low, close and volume are needed, trade_count, first_id and last_id may be there. They
    are found by the names that they usually have. Times are ISO 8601 text (UTC where no zone is named) or numbers since
    1970, whose unit is told by their size.
    """
    with daemon_packages():
        from marketd import calendars
        from marketd.cli.output import print_json
        from storage.columns import choose, parse_given
        from storage.incoming import to_bars
        from storage.tables import read_table

    series = bars_of(fqme, period)
    given = parse_given(columns or [])
    if calendar is not None:
        calendars.bounds(calendar)
    table = read_table(file)
    incoming = to_bars(table, choose(table.frame.columns, given), series, labels, time.time_ns())
    with opened(store) as client, client.writer(series) as writer:
        report = _store(writer, incoming, calendar, on_overlap, quiet_bars)
    if json:
        print_json({"file": str(file)} | report)
    else:
        print(
            f"{series}: {report['rows']:,} bars from {report['from']} to {report['to']}: {report['added']:,} new, "
            f"{report['replaced']:,} replaced, {report['kept']:,} stored already"
        )


def _store(
    writer: SeriesWriter, incoming: Incoming, calendar: str | None, on_overlap: str, quiet_bars: int
) -> dict[str, Any]:
    from marketd import calendars
    from storage.combine import OnOverlap
    from storage.incoming import vouched
    from storage.schema import Provenance

    series, rows = writer.series, incoming.rows
    span = (rows["open_ns"][0], rows["open_ns"][-1] + series.period_ns)
    closed = calendars.expected_gaps(calendar or writer.calendar, *span)
    covers = vouched(rows, series.period_ns, closed, quiet_bars)
    with progress(f"importing {series}", len(rows)) as done:
        try:
            written = writer.write(
                rows,
                OnOverlap(on_overlap),
                covers=covers,
                provenance=Provenance.IMPORTED,
                progress=lambda so_far: done(sum(so_far)),
            )
        except Overlap as overlap:
            raise Overlap(f"{overlap}; --on-overlap keep leaves those, replace takes the file's") from overlap
    if calendar is not None:
        writer.set_calendar(calendar)
    return _report(series, incoming, span, written)


def _report(series: Series, incoming: Incoming, span: tuple[int, int], written: Written) -> dict[str, Any]:
    return {
        "fqme": series.fqme,
        "period": series.what,
        "rows": len(incoming.rows),
        "from": time_text(span[0]),
        "to": time_text(span[1]),
        "from_ns": span[0],
        "to_ns": span[1],
        "in_order": incoming.in_order,
        "added": written.added,
        "replaced": written.replaced,
        "kept": written.kept,
    }

"""`marketd store delete`."""

from __future__ import annotations

from typing import Annotated

import typer

from marketd.cli.common import JsonOption, exits
from marketd.cli.store.common import (
    FqmeArgument,
    StoreOption,
    YesOption,
    confirm,
    facts_of,
    opened,
    series_of,
    time_text,
)

EXAMPLE = "marketd store delete btc/usdt.spot.binance --period 1s --yes"


@exits()
def delete(
    fqme: FqmeArgument,
    period: Annotated[str, typer.Option("--period", "-p", metavar="PERIOD", help="1s, 1m; trade, quote; or all.")],
    yes: YesOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Remove a series, or all of an instrument: the files, and what was known of them. Asks first."""
    from marketd.cli.output import bytes_text, print_json

    with opened(store) as client:
        if period == "all":
            name = series_of(fqme, "trade").fqme
            chosen = [series for series in client.series() if series.fqme == name] or [series_of(fqme, "1m")]
        else:
            chosen = [series_of(fqme, period)]
        for series in chosen:
            facts = facts_of(client, series)
            confirm(
                f"{series}: {facts.rows:,} rows from {time_text(facts.start_ns)} to {time_text(facts.end_ns)}, "
                f"{facts.files:,} files, {bytes_text(facts.bytes)}, would be removed.",
                yes=yes,
            )
            with client.writer(series) as writer:
                writer.delete()
            if json:
                print_json({"fqme": series.fqme, "period": series.what, "rows": facts.rows, "files": facts.files})
            else:
                print(f"{series}: {facts.rows:,} rows removed")

"""`marketd store trim`."""

from __future__ import annotations

from marketd.cli.common import JsonOption, exits
from marketd.cli.store.common import (
    FqmeArgument,
    FromOption,
    PeriodOption,
    StoreOption,
    ToOption,
    YesOption,
    confirm,
    facts_of,
    opened,
    series_of,
    span_of,
    time_text,
    to_ns,
)
from marketd.errors import ConfigError

EXAMPLE = "marketd store trim btc/usdt.spot.binance --period 1s --to 2024-01-01"


@exits()
def trim(
    fqme: FqmeArgument,
    period: PeriodOption,
    begin: FromOption = None,
    end: ToOption = None,
    yes: YesOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Remove the rows of a range, and what was known of it. Asks first.

    Without --from, all before --to; without --to, all from --from on. To remove everything is what delete is for.
    """
    from marketd.cli.output import print_json

    series = series_of(fqme, period)
    asked = to_ns(begin, "--from"), to_ns(end, "--to")
    if asked == (None, None):
        raise ConfigError("--from or --to is needed: trim removes a range")
    with opened(store) as client:
        facts = facts_of(client, series)
        span = span_of(facts, *asked)
        confirm(f"{series}: all rows from {time_text(span[0])} to {time_text(span[1])} would be removed.", yes=yes)
        with client.writer(series) as writer:
            removed = writer.trim(span)
    if json:
        print_json({"fqme": series.fqme, "period": series.what, "rows": removed, "from_ns": span[0], "to_ns": span[1]})
    else:
        print(f"{series}: {removed:,} rows removed")

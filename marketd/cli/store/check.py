"""`marketd store check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from marketd.cli.common import EXIT_ERROR, JsonOption, exits
from marketd.cli.store.common import StoreOption, opened

if TYPE_CHECKING:
    from storage.client import StorageClient
    from storage.facts import Finding
    from storage.layout import Series

EXAMPLE = "marketd store check '*.binance' --json"
PatternArgument = Annotated[str, typer.Argument(metavar="PATTERN", help="A name or glob of instruments.")]


@exits()
def check(pattern: PatternArgument = "*", store: StoreOption = None, json: JsonOption = False) -> None:
    """Read every file, and say what is wrong, one line a finding. Changes nothing. Exit 1 if there is any.

    Of a series that a daemon is writing to, a finding about its ledger or a temporary file may be of that moment.
    """
    from marketd.cli.output import print_json

    wrong = False
    with opened(store) as client:
        chosen = choose(client, pattern)
        for series in chosen:
            for finding in client.check(series):
                wrong = True
                if json:
                    print_json(record(finding))
                else:
                    hint = "" if finding.repairable else " (look at it yourself: repair leaves it)"
                    print(f"{series}: {finding.file}: {finding.what}{hint}")
    if wrong:
        raise typer.Exit(EXIT_ERROR)
    if not json:
        print(f"{len(chosen)} series, nothing wrong")


def choose(client: StorageClient, pattern: str) -> list[Series]:
    """Return the series of the instruments that a pattern selects."""
    from marketd.fqme import glob_pattern

    wanted = glob_pattern(pattern)
    return [series for series in client.series() if wanted.fullmatch(series.fqme)]


def record(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON shows it."""
    return {
        "fqme": finding.series.fqme,
        "period": finding.series.what,
        "file": str(finding.file),
        "what": finding.what,
        "repairable": finding.repairable,
    }

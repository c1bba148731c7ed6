"""`marketd store repair`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from marketd.cli.common import EXIT_ERROR, JsonOption, exits
from marketd.cli.store.check import PatternArgument, choose, record
from marketd.cli.store.common import StoreOption, opened
from marketd.errors import SeriesBusy

if TYPE_CHECKING:
    from storage.client import StorageClient
    from storage.facts import Finding
    from storage.layout import Series

EXAMPLE = "marketd store repair btc/usdt.spot.binance"


@exits()
def repair(pattern: PatternArgument = "*", store: StoreOption = None, json: JsonOption = False) -> None:
    """Put right what check finds, one line a finding. Exit 1 if something is left.

    Damaged files go to quarantine/ in the store, and their ranges are missing from then on. What killed writers have
    left is removed. Files that are not the store's are left alone.
    """
    from marketd.cli.output import print_json

    left = False
    with opened(store) as client:
        for series in choose(client, pattern):
            for finding, repaired in _repair(client, series):
                left = left or not repaired
                if json:
                    print_json(record(finding) | {"repaired": repaired})
                else:
                    print(f"{series}: {finding.file}: {finding.what}: {'repaired' if repaired else 'left'}")
    if left:
        raise typer.Exit(EXIT_ERROR)


def _repair(client: StorageClient, series: Series) -> list[tuple[Finding, bool]]:
    """Return what was wrong, and of each thing whether it is right now; one series that is busy stops no other."""
    before = client.check(series)
    if any(finding.repairable for finding in before):
        try:
            with client.writer(series) as writer:
                writer.verify()
        except SeriesBusy as busy:
            print(f"marketd: {busy}", file=sys.stderr)
    after = {finding.file for finding in client.check(series)}
    return [(finding, finding.file not in after) for finding in before]

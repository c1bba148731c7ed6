"""`marketd store export`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from marketd.cli.common import JsonOption, daemon_packages, exits
from marketd.cli.store.common import (
    FqmeArgument,
    FromOption,
    PeriodOption,
    StoreOption,
    ToOption,
    facts_of,
    opened,
    progress,
    series_of,
    to_ns,
)
from marketd.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    from storage.client import StorageClient
    from storage.layout import Series

EXAMPLE = "marketd store export btc/usdt.spot.binance january.parquet --period 1m --from 2024-01-01 --to 2024-02-01"
Format = Literal["csv", "parquet", "arrow"]
STANDARD_OUTPUT = Path("-")
FORMATS: dict[str, Format] = {".csv": "csv", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}


@exits()
def export(
    fqme: FqmeArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; - is standard output.")],
    period: PeriodOption,
    begin: FromOption = None,
    end: ToOption = None,
    format_: Annotated[Format | None, typer.Option("--format", show_default="by the file's name")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Write the rows of a range to a file: CSV, parquet or Arrow, with the store's columns; times are ns, UTC."""
    with daemon_packages():
        from marketd.cli.output import print_json
        from storage.export import write_rows
        from storage.staging import replacing

    series = series_of(fqme, period)
    asked = to_ns(begin, "--from"), to_ns(end, "--to")
    kind: Format | None = format_ or FORMATS.get(file.suffix.lower())
    if kind is None:
        raise ConfigError(f"--format csv, parquet or arrow is needed: the name {file} does not say it")
    if file.exists() and not overwrite:
        raise ConfigError(f"{file} is there already; --overwrite replaces it")
    with opened(store) as client:
        facts = facts_of(client, series)
        start_ns = facts.start_ns if asked[0] is None else max(asked[0], facts.start_ns)
        end_ns = facts.end_ns if asked[1] is None else min(asked[1], facts.end_ns)
        with progress(f"exporting {series}", facts.rows) as done:
            chunks = _chunks(client, series, start_ns, end_ns, done)
            if file == STANDARD_OUTPUT:
                rows = write_rows(sys.stdout.buffer, kind, series.schema, chunks)
            else:
                with replacing(file.absolute()) as out:
                    rows = write_rows(out, kind, series.schema, chunks)
    if json and file != STANDARD_OUTPUT:
        print_json({"fqme": series.fqme, "period": series.what, "file": str(file), "rows": rows})
    elif file != STANDARD_OUTPUT:
        print(f"{file}: {rows:,} rows")


def _chunks(
    client: StorageClient, series: Series, start_ns: int, end_ns: int, done: Callable[[int], None]
) -> Iterator[pl.DataFrame]:
    """Read a range month by month, so that no more is in memory."""
    from storage.bounds import exactly
    from storage.layout import Grain, partition_at

    rows = 0
    while start_ns < end_ns:
        month = partition_at(start_ns, Grain.MONTH)
        chunk = client.read(series, exactly(start_ns), exactly(min(month.end_ns, end_ns)))
        yield chunk
        rows += len(chunk)
        done(rows)
        start_ns = month.end_ns

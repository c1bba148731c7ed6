"""`marketd ticks`: the trades and quotes that a daemon holds, for people, for pipes, and as files."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from marketd.cli.bar_files import Form, form_of, write
from marketd.cli.common import EXIT_USAGE, AddressOption, JsonOption, exits, fail, resolve_address
from marketd.cli.store.common import FromOption, ToOption, to_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

    from marketd.client.history import History

EXAMPLE = "marketd ticks btc/usdt.spot.sim --kind trade --from 2026-11-25 -o trades.parquet"
LAST = 20  # for people who have not said how many
MISSING_TOLD_MAX = 3
WIDTH = 120


@exits()
def ticks(
    name: Annotated[str, typer.Argument(metavar="NAME", help="dst/src.venue.backend in any case, or a glob.")],
    kind: Annotated[str, typer.Option("--kind", "-k", help="trade or quote.")] = "trade",
    last: Annotated[
        int | None,
        typer.Option("--last", min=1, help="The newest so many.", show_default=f"{LAST}; with --from, --to or -o all"),
    ] = None,
    first: Annotated[int | None, typer.Option("--first", min=1, help="The oldest so many.")] = None,
    begin: FromOption = None,
    end: ToOption = None,
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="A file by its ending.")] = None,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Print trades or quotes, the newest last, or write them into a file: csv, json, jsonl, parquet or arrow.

    There are those that the feed's ring still holds, and all that are stored of the instruments that
    `history.record_ticks` names. Times of which some may be missing are told on standard error.
    """
    from marketd.client import connect

    if first is not None and last is not None:
        fail("--first and --last exclude each other", EXIT_USAGE)
    form = form_of(output) if output else None
    limit = first or last or (LAST if begin is None and end is None and not output else None)
    start_ns, end_ns = to_ns(begin, "--from"), to_ns(end, "--to")
    with connect(resolve_address(address), client="marketd ticks") as md:
        order: Literal["newest", "oldest"] = "newest" if first is None else "oldest"
        found = md.tick_history(name, _kind(kind), start_ns, end_ns, limit=limit, order=order)
    tell_missing(found)
    frame = found.to_polars()
    if form is not None and output is not None:
        write(_encode(frame, form), output)
    elif json:
        sys.stdout.write(frame.write_ndjson())
    else:
        _print(frame)


def tell_missing(found: History) -> None:
    """Say on standard error of which times there may have been more."""
    from marketd.cli.output import time_text

    for fqme, ranges in found.missing.items():
        for first_ns, after_ns in ranges[:MISSING_TOLD_MAX]:
            text = f"ticks may be missing {time_text(first_ns)} to {time_text(after_ns)}"
            print(f"marketd: {fqme}: {text}", file=sys.stderr)
        if len(ranges) > MISSING_TOLD_MAX:
            print(f"marketd: {fqme}: and in {len(ranges) - MISSING_TOLD_MAX} more ranges", file=sys.stderr)


def _kind(text: str) -> Literal["trade", "quote"]:
    if text == "trade":
        return "trade"
    if text != "quote":
        fail(f"--kind {text}: it is trade or quote", EXIT_USAGE)
    return "quote"


def _encode(frame: pl.DataFrame, form: Form) -> bytes:
    file = io.BytesIO()
    writers: dict[Form, Callable[[io.BytesIO], object]] = {
        Form.csv: frame.write_csv,
        Form.json: frame.write_json,
        Form.jsonl: frame.write_ndjson,
        Form.parquet: frame.write_parquet,
        Form.arrow: frame.write_ipc,
    }
    writers[form](file)
    return file.getvalue()


def _print(frame: pl.DataFrame) -> None:
    from rich.table import Table

    from marketd.cli.output import console, time_text

    names = [name for name in frame.columns if name not in ("cursor", "flags", "sequence", "received_ns")]
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name.removesuffix("_ns"), justify="left" if name.endswith("_ns") else "right", no_wrap=True)
    for row in frame.select(names).iter_rows(named=True):
        texts = (time_text(value) if name.endswith("_ns") else str(value) for name, value in row.items())
        table.add_row(*texts)
    screen = console()
    screen.width = max(screen.width, WIDTH)
    screen.print(table)

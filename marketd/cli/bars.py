"""`marketd bars`: the bars that a daemon holds, for people, for pipes, and as files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from marketd.cli.bar_files import Form, encode, form_of, records, write
from marketd.cli.common import EXIT_USAGE, AddressOption, exits, fail, resolve_address

if TYPE_CHECKING:
    from rich.table import Table

    from marketd.client import Client
    from marketd.client.bars import BarSeries
    from marketd.model import MktPair
    from marketd.rpc.messages import Order

EXAMPLE = "marketd bars btc/usdt.spot.sim --period 5m --from 2026-11-24 --to 2026-11-25T12:00 -o day.parquet"
LAST = 100  # for people who have not said how many
STATE_STYLES = {"forming": "dim", "revised": "yellow", "missing": "red"}
MISSING_TOLD_MAX = 3
TIMEOUT_S = 30.0  # a daemon that has just started may first have to catch up with its ticks


@exits()
def bars(
    fqme: Annotated[str, typer.Argument(metavar="NAME", help="dst/src.venue.backend, in any case.")],
    period: Annotated[str, typer.Option("--period", "-p", help="1s, 5m, 1h …, or 1000t and the like.")] = "1m",
    last: Annotated[
        int | None,
        typer.Option(
            "--last",
            min=1,
            max=20_000,
            help="The newest so many.",
            show_default=f"{LAST}; with --from, --to, -o or --format all",
        ),
    ] = None,
    first: Annotated[int | None, typer.Option("--first", min=1, max=20_000, help="The oldest so many.")] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="TIME", help="Bars that open then or later: a date, an ISO time, epoch s or ns."
        ),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Bars that open before. UTC where there is no zone.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="A file by its ending; - is standard output.")
    ] = None,
    form: Annotated[Form | None, typer.Option("--format", help="The format, whatever the file is called.")] = None,
    address: AddressOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON a bar.")] = False,
) -> None:
    """Print bars, the newest last, or write them into a file: csv, json, jsonl, parquet or arrow.

    `marketd bars btc/usdt.spot.sim --last 20` shows a table; `--json` prints lines for pipes; `-o btc.csv` writes a
    file, and replaces one of that name once the new one is whole. Ranges without whole bars are told on standard error.
    """
    from marketd.client import connect

    if first is not None and last is not None:
        fail("--first and --last exclude each other", EXIT_USAGE)
    if json and (output or form):
        fail("--json prints lines: a file's format is said by --format or its name", EXIT_USAGE)
    chosen = Form.jsonl if json else form or (form_of(output, "; say --format") if output else None)
    start_ns, end_ns = _time(start, "--from"), _time(end, "--to")
    if start_ns is not None and end_ns is not None and end_ns < start_ns:
        fail(f"--to {end} is before --from {start}", EXIT_USAGE)
    limit = first or last or (LAST if start is None and end is None and not (output or form) else None)
    order: Order = "newest" if first is None else "oldest"
    with connect(resolve_address(address), client="marketd bars") as md:
        series = md.series(fqme, period, start_ns, end_ns, limit=limit, order=order, timeout_s=TIMEOUT_S)
        if limit is None and series.period_ns:
            series = _with_earlier(md, series, start_ns)
        market = md.instrument(fqme).market if chosen is None else None
    tell_missing(series, order, limit)
    if market is not None:
        from marketd.cli.output import FILE_WIDTH, console

        screen = console()
        screen.width = max(screen.width, FILE_WIDTH)  # a narrow terminal wraps lines, and hides no digits
        screen.print(render(series, market))
    elif chosen is not None:
        write(encode(series, chosen), output or "-")


def _with_earlier(md: Client, newest: BarSeries, start_ns: int | None) -> BarSeries:
    """Put the bars in front that one answer has no room for. What is missing of them the first answer has said."""
    from rich.console import Console

    answers = [newest]
    with Console(stderr=True).status("reading") as status:
        while answers[-1].limited and len(answers[-1]):
            oldest_ns = int(answers[-1].rows["open_ns"][0])
            answers.append(md.series(newest.fqme, newest.period, start_ns, oldest_ns, timeout_s=TIMEOUT_S))
            status.update(f"reading, {sum(map(len, answers)):,} bars so far")
    import numpy as np  # here, since `--help` and the version shall be quick

    rows = np.concatenate([answer.rows for answer in reversed(answers)])
    return msgspec.structs.replace(newest, rows=rows, limited=False)


def _time(text: str | None, option: str) -> int | None:
    from marketd.client.times import parse_ns

    try:
        return None if text is None else parse_ns(text)
    except ValueError as error:
        fail(f"{option}: {error}", EXIT_USAGE)


def tell_missing(series: BarSeries, order: Order, limit: int | None) -> None:
    """Say on standard error what was asked for and is not there."""
    lines = list(_missing_lines(series, order))
    if len(lines) > MISSING_TOLD_MAX:
        lines[MISSING_TOLD_MAX:] = [f"{len(lines) - MISSING_TOLD_MAX} more ranges are missing"]
    if not len(series):
        lines.insert(0, f"there are no {series.period} bars of {series.fqme} in this range")
    if series.limited and limit is None:
        lines.append(f"these are the newest {len(series):,} bars, and there are more: --to gives the earlier ones")
    for line in lines:
        print(f"marketd: {line}", file=sys.stderr)


def _missing_lines(series: BarSeries, order: Order) -> Iterator[str]:
    """Describe the missing ranges, as far as they are not beyond the limit."""
    from marketd.cli.output import time_text

    cut, opens_ns = series.limited, series.rows["open_ns"]
    after_ns = int(opens_ns[0]) if cut and order == "newest" else 0
    before_ns = int(opens_ns[-1]) if cut and order == "oldest" else series.complete_until_ns
    for from_ns, to_ns in ((max(one, after_ns), min(other, before_ns)) for one, other in series.missing):
        if from_ns < to_ns:
            count = _count_text((to_ns - from_ns) // series.period_ns)
            yield f"missing {time_text(from_ns)} to {time_text(to_ns)} ({count})"


def render(series: BarSeries, market: MktPair) -> Table:
    """Draw bars for people, prices and volumes with the instrument's digits."""
    from rich.table import Table
    from rich.text import Text

    from marketd.cli.output import time_text

    until = f", complete until {time_text(series.complete_until_ns)}" if series.complete_until_ns else ""
    caption = Text(f"{series.fqme} {series.period}, {_count_text(len(series))}{until} (UTC)")
    table = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("opens", no_wrap=True)
    for heading in ("open", "high", "low", "close", "volume", "trades"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("", no_wrap=True)
    for bar in records(series):
        table.add_row(
            time_text(bar["open_ns"]),
            *(_number_text(bar[name], market.price_digits) for name in ("open", "high", "low", "close")),
            _number_text(bar["volume"], market.size_digits),
            f"{bar['trade_count']:,}",
            Text(bar["state"], style=STATE_STYLES.get(bar["state"], "")),
            "" if bar["provenance"] == "observed" else bar["provenance"],
        )
    return table


def _count_text(count: int) -> str:
    return f"{count:,} bar" if count == 1 else f"{count:,} bars"


def _number_text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"

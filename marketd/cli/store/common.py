"""What the store's commands share: where the store is, which series is meant, times, questions and progress."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marketd.cli.common import EXIT_ERROR, EXIT_USAGE, daemon_packages, fail
from marketd.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from storage.client import StorageClient
    from storage.facts import SeriesFacts
    from storage.layout import Series

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store", metavar="DIR", help="The store's folder.", show_default="store/ in this user's state folder"
    ),
]
FqmeArgument = Annotated[str, typer.Argument(metavar="NAME", help="dst/src.venue.backend, in any case.")]
PeriodOption = Annotated[str, typer.Option("--period", "-p", metavar="PERIOD", help="1s, 1m, 1d; or trade, quote.")]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="The first time: 2024-01-31T12:30, or seconds since 1970.")
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="TIME", help="The first time that is no longer meant.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


TIMES_END_NS = 9_214_646_400 * 10**9  # 2262-01-01


@contextlib.contextmanager
def opened(folder: Path | None) -> Iterator[StorageClient]:
    """Open the store; damaged files that are found are told of on standard error."""
    with daemon_packages():
        from storage.client import open_storage_client
    root = folder or default_folder()
    with open_storage_client(root, on_damage=lambda damage: print(f"marketd: {damage}", file=sys.stderr)) as store:
        yield store


def default_folder() -> Path:
    """The store of the instance that a client would look for."""
    from marketd.paths import Paths

    return Paths.for_instance(os.environ.get("MARKETD_INSTANCE") or "default").store


def series_of(fqme: str, period: str) -> Series:
    """Read a series from the command line.

    Raises:
        ConfigError: it can't be one.
    """
    with daemon_packages():
        from storage import names
        from storage.layout import Series, check_what
    try:
        return Series(str(names.parse(fqme)), check_what(period))
    except StorageError as error:
        raise ConfigError(str(error)) from None


def facts_of(store: StorageClient, series: Series) -> SeriesFacts:
    """Return a series at a glance.

    Raises:
        StorageError: there is nothing of it.
    """
    facts = store.facts(series)
    if facts is None:
        raise StorageError(f"nothing is stored of {series}; `marketd store ls` lists what is")
    return facts


def span_of(facts: SeriesFacts, start_ns: int | None, end_ns: int | None) -> tuple[int, int]:
    """Return the range that is asked for; where it has no bound, what is stored bounds it."""
    return facts.start_ns if start_ns is None else start_ns, facts.end_ns if end_ns is None else end_ns


def bars_of(fqme: str, period: str) -> Series:
    """Read a series of bars from the command line. Raises as :func:`series_of`, also if it is one of ticks."""
    series = series_of(fqme, period)
    if series.period_ns == 1:
        raise ConfigError(f"--period {period}: this is for bars, and not for ticks")
    return series


def to_ns(text: str | None, option: str) -> int | None:
    """Read a time from the command line.

    Raises:
        ConfigError: it is none.
    """
    from marketd.client.times import parse_ns

    if text is None:
        return None
    try:
        at_ns = parse_ns(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None
    if not 0 <= at_ns < TIMES_END_NS:
        raise ConfigError(f"{option}: {text} is not in the years 1970 to 2261, of which there can be rows")
    return at_ns


def time_text(at_ns: int) -> str:
    """``2024-01-31T12:30:00Z``, with as many digits of a second as it needs."""
    from datetime import UTC, datetime

    seconds, fraction_ns = divmod(at_ns, 10**9)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction_ns:09d}".rstrip("0").rstrip(".") + "Z" if fraction_ns else text + "Z"


def confirm(sentence: str, *, yes: bool) -> None:
    """Say what is about to be removed, and go on only if that is wanted."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{sentence} Nothing was done: say --yes if that is meant", EXIT_USAGE)
    print(sentence, file=sys.stderr)
    if not typer.confirm("Go on?", err=True):
        raise typer.Exit(EXIT_ERROR)


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function to call with how many rows are done; they are shown on standard error, if it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        bar = shown.add_task(what, total=total)
        yield lambda rows: shown.update(bar, completed=rows)

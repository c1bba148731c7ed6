"""`marketd` and its commands; one module each."""

from __future__ import annotations

import typer

from marketd.cli import (
    backends,
    backfill,
    bars,
    cert,
    coverage,
    demo,
    instrument,
    record,
    replay,
    run,
    search,
    status,
    testvenue,
    ticks,
    version,
    watch,
)
from marketd.cli.common import CaFileOption, TokenFileOption, show_to_daemons
from marketd.cli.store import app as store
from marketd.cli.token import app as token

app = typer.Typer(
    name="marketd",
    help="Take live market data from many venues once, keep it whole, and serve it to many programs.",
    epilog="Exit codes: 0 done, 1 error, 2 wrong usage or configuration, 3 no daemon answers, 130 ended by Ctrl-C.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # its tracebacks show local variables, which may hold secrets
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(token_file: TokenFileOption = None, ca_file: CaFileOption = None) -> None:
    """Take live market data from many venues once, keep it whole, and serve it to many programs."""
    show_to_daemons(token_file, ca_file)


for module in (
    *(run, demo, status, watch, search, instrument, bars, ticks, coverage, backfill),
    *(backends, record, replay, testvenue, cert, version),
):
    name = module.__name__.rpartition(".")[2]
    app.command(name, epilog=f"Example: `{module.EXAMPLE}`")(getattr(module, name))
app.add_typer(store.app, name="store")
app.add_typer(token.app, name="token")

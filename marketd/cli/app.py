"""`marketd` and its commands; one module each."""

from __future__ import annotations

import typer

from marketd.cli import (
    backends,
    backfill,
    bars,
    cert,
    clients,
    coverage,
    ctl,
    debug,
    demo,
    instrument,
    log_level,
    record,
    reload,
    replay,
    run,
    search,
    status,
    testvenue,
    ticks,
    version,
    watch,
    why,
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
    *(run, demo, status, why, watch, search, instrument, bars, ticks, coverage, backfill),
    *(reload, log_level, backends, record, replay, testvenue, cert, version),
):
    name = module.__name__.rpartition(".")[2]
    app.command(name.replace("_", "-"), epilog=f"Example: `{module.EXAMPLE}`")(getattr(module, name))
for group in (ctl, clients):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])
app.add_typer(store.app, name="store")
app.add_typer(debug.app, name="debug")
app.add_typer(token.app, name="token")

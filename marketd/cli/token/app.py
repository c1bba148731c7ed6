"""The token commands."""

from __future__ import annotations

import typer

from marketd.cli.token import create, ls, revoke

app = typer.Typer(
    name="token",
    help="Say who may connect to a daemon, and what each may do. The file is the daemon's own: run this as its user.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

for module in (create, ls, revoke):
    name = module.__name__.rpartition(".")[2]
    app.command(name, epilog=f"Example: `{module.EXAMPLE}`")(getattr(module, name))

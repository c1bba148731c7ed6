"""`marketd store` and its commands."""

from __future__ import annotations

import typer

from marketd.cli.store import check, delete, export, gaps, import_, ls, repair, trim

app = typer.Typer(
    help="Look after stored history: list, check, repair, trim, take in and out. No daemon is needed.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

for module in (ls, gaps, check, repair, delete, trim, export, import_):
    name = module.__name__.rpartition(".")[2]
    app.command(name.rstrip("_"), epilog=f"Example: `{module.EXAMPLE}`")(getattr(module, name))

"""`marketd log-level`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from marketd.cli.common import AddressOption, JsonOption, exits, resolve_address
from marketd.errors import ConfigError

if TYPE_CHECKING:
    from marketd.rpc.messages import LogLevel

EXAMPLE = "marketd log-level debug --actor binance"


@exits()
def log_level(
    level: Annotated[
        str | None,
        typer.Argument(metavar="[LEVEL]", help="debug, info, warning, error or critical; without it: what holds now."),
    ] = None,
    actor: Annotated[
        str | None,
        typer.Option("--actor", metavar="NAME", help="Only of this process, see `marketd status`; else of all."),
    ] = None,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Change how much a running daemon logs, at once; until its next start, or until the file says otherwise."""
    from marketd.cli.output import print_json
    from marketd.client import connect

    with connect(resolve_address(address), client="marketd log-level") as md:
        found = md.log_level(_checked(level), actor)
    if json:
        print_json(found)
    else:
        width = max(map(len, found))
        print("\n".join(f"{name:{width}}  {held}" for name, held in found.items()))


def _checked(level: str | None) -> LogLevel | None:
    from marketd.rpc.messages import LogLevel

    if level is not None and level not in get_args(LogLevel):
        raise ConfigError(f"{level!r} is no level; levels are {', '.join(get_args(LogLevel))}")
    return cast("LogLevel | None", level)

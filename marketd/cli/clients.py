"""`marketd clients` and its commands: who is connected to a daemon."""

from __future__ import annotations

from typing import Annotated

import typer

from marketd.cli.common import AddressOption, JsonOption, exits, resolve_address

app = typer.Typer(
    help="See who is connected to a daemon, and send clients away.", no_args_is_help=True, rich_markup_mode="markdown"
)


@app.command(epilog="Example: `marketd clients ls --json | jq '.[].name'`")
@exits()
def ls(address: AddressOption = None, json: JsonOption = False) -> None:
    """List the clients, this command among them."""
    from marketd.cli.output import console, print_json
    from marketd.cli.status_board import clients_table
    from marketd.client import connect

    with connect(resolve_address(address), client="marketd clients") as md:
        found = md.clients()
    if json:
        print_json(found)
    else:
        console().print(clients_table(found))


@app.command(epilog="Example: `marketd clients kick 17 --reason 'please read faster'`")
@exits()
def kick(
    client: Annotated[int, typer.Argument(metavar="ID", help="Its number, see `marketd clients ls`.")],
    reason: Annotated[str, typer.Option("--reason", help="Told to the client, and to the daemon's log.")] = "",
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Send a client away. It is told why and where it stood; it may come back, and most do by themselves."""
    from marketd.cli.output import print_json
    from marketd.client import connect

    with connect(resolve_address(address), client="marketd clients") as md:
        found = md.kick(client, reason)
    if json:
        print_json(found)
    else:
        print(f"client {found.id} ({found.name or 'without a name'}, {found.address}) was sent away")

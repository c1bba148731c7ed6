"""`marketd ctl` and its commands: the services of a daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from marketd.cli.common import EXIT_ERROR, AddressOption, JsonOption, exits, resolve_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from marketd.client.sync import Client
    from marketd.rpc.messages import ActorStatus

GOOD = ("live", "stopped")

app = typer.Typer(
    help="See a daemon's services, its feeds and the other actors that it runs; restart, stop, start and cancel them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
ServiceArgument = Annotated[
    str, typer.Argument(metavar="SERVICE", help="A name that `marketd ctl ls` shows; of a feed its own name will do.")
]


@app.command(epilog="Example: `marketd ctl ls`")
@exits()
def ls(address: AddressOption = None, json: JsonOption = False) -> None:
    """List the services, and how they stand."""
    from marketd.cli.output import console, print_json
    from marketd.cli.status_board import actors_table
    from marketd.client import connect

    with connect(resolve_address(address), client="marketd ctl") as md:
        found = md.services()
    if json:
        print_json(found)
    else:
        console().print(actors_table(found))


@app.command(epilog="Example: `marketd ctl restart binance`")
@exits()
def restart(service: ServiceArgument, address: AddressOption = None, json: JsonOption = False) -> None:
    """Replace a service's actor; a stopped one is started. Clients stay, and are told of the gap in a feed."""
    _act(lambda md: md.restart_service(service), address, json)


@app.command(epilog="Example: `marketd ctl stop binance`")
@exits()
def stop(service: ServiceArgument, address: AddressOption = None, json: JsonOption = False) -> None:
    """Stop a service, and return when its actor is gone. It stays stopped until it is started."""
    _act(lambda md: md.stop_service(service), address, json)


@app.command(epilog="Example: `marketd ctl start binance`")
@exits()
def start(service: ServiceArgument, address: AddressOption = None, json: JsonOption = False) -> None:
    """Start a service that was stopped or cancelled."""
    _act(lambda md: md.start_service(service), address, json)


@app.command(epilog="Example: `marketd ctl cancel history`")
@exits()
def cancel(service: ServiceArgument, address: AddressOption = None, json: JsonOption = False) -> None:
    """Stop a service at once: its actor is killed, and has no time to finish what it does."""
    _act(lambda md: md.cancel_service(service), address, json)


def _act(action: Callable[[Client], ActorStatus], address: str | None, json: bool) -> None:
    """Do it and say how the service stands then; exit with 1 if that is not what was wanted."""
    from marketd.cli.output import print_json
    from marketd.client import connect

    with connect(resolve_address(address), client="marketd ctl") as md:
        found = action(md)
    if json:
        print_json(found)
    else:
        print(sentence(found))
    if found.state not in GOOD:
        raise typer.Exit(EXIT_ERROR)


def sentence(service: ActorStatus) -> str:
    """``feed.sim: live, pid 4711``"""
    pid = f", pid {service.pid}" if service.pid else ""
    detail = f": {service.detail}" if service.detail else ""
    return f"{service.name}: {service.state}{pid}{detail}"

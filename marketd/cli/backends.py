"""`marketd backends`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from marketd.cli.common import EXIT_ERROR, AddressOption, JsonOption, daemon_packages, exits, resolve_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from marketd.rpc.messages import BackendInfo

EXAMPLE = "marketd backends --check"


@exits()
def backends(
    check: Annotated[
        bool,
        typer.Option("--check", help="Check this install's backends instead, without a daemon: exit 1 if one fails."),
    ] = False,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """List the backends that the daemon can run, and which feeds do; or check those of this install."""
    from marketd.cli.output import console, print_json
    from marketd.client import connect

    if check:
        report = validate_all()
        if json:
            print_json(report)
        else:
            console().print(render_check(report))
        if any(report.values()):
            raise typer.Exit(EXIT_ERROR)
        return
    with connect(resolve_address(address), client="marketd backends") as md:
        found = md.backends()
    if json:
        print_json(found)
    else:
        console().print(render(found))


def validate_all() -> dict[str, list[str]]:
    """Return every backend's problems; an empty list is a clean bill."""
    with daemon_packages():
        from backends.backend import NAMES, load
        from backends.validate import validate_backend
    return {name: validate_backend(load(name)) for name in NAMES}


def render(found: Sequence[BackendInfo]) -> Table:
    """Draw the daemon's backends for people."""
    from rich import box
    from rich.table import Table

    table = Table("backend", "feeds", "what it is", box=box.SIMPLE_HEAD, pad_edge=False)
    for info in found:
        table.add_row(info.name, ", ".join(info.feeds) or "-", info.description)
    return table


def render_check(report: Mapping[str, Sequence[str]]) -> Table:
    """Draw the report for people: every problem of every backend."""
    from rich import box
    from rich.table import Table

    table = Table("backend", "", "problems", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, problems in report.items():
        table.add_row(name, "has problems" if problems else "ok", "\n".join(problems))
    return table

"""`marketd debug`: for trouble that the other commands do not explain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from marketd.cli.common import AddressOption, JsonOption, exits, fail, resolve_address

TIMEOUT_S = 30.0

app = typer.Typer(
    help="Collect what helps to understand a daemon in trouble.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def main() -> None:
    """Collect what helps to understand a daemon in trouble."""


@app.command("dump", epilog="Example: `marketd debug dump -o trouble.tar.gz`")
@exits()
def dump(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to.", show_default="marketd-INSTANCE-TIME.tar.gz"),
    ] = None,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Write one archive: configuration, logs, status, metrics, stacks of all tasks, versions, rings, limits.

    It holds no secrets: values named like tokens, keys and passwords are taken out wherever they turn up, and only
    harmless environment variables are shown. An actor that does not answer holds nothing up: its process is looked at
    from outside, and it is named.
    """
    from marketd.cli.output import bytes_text, print_json
    from marketd.client import connect

    with connect(resolve_address(address), client="marketd debug") as md:
        found = md.debug(timeout_s=TIMEOUT_S)
    path = output or Path(found.name)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        fail(f"{path} is there already: give another -o FILE")
    except OSError as error:
        fail(f"{path} can't be written: {error.strerror}")
    with os.fdopen(descriptor, "wb") as file:
        file.write(found.archive)
    if json:
        print_json({"file": str(path), "bytes": len(found.archive), "files": found.files, "missing": found.missing})
        return
    print(f"{path}: {len(found.files)} files, {bytes_text(len(found.archive))}")
    for name, why in sorted(found.missing.items()):
        print(f"without {name}: {why}")

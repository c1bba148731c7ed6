"""`marketd search`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from marketd.cli.common import AddressOption, JsonOption, exits, resolve_address

EXAMPLE = "marketd search 'btc usdt' --limit 5"


@exits()
def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Words that must all occur in the name, or a glob.")],
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 100,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Find instruments, as the venues answer; with --json one line each."""
    from marketd.cli.output import print_json
    from marketd.client import connect

    found = 0
    with connect(resolve_address(address), client="marketd search") as md:
        hits = md.search(text, limit=limit)
        for hit in hits:
            found += 1
            if json:
                print_json(hit)
            else:
                print(f"{hit.fqme:<40} {hit.type:<10} {hit.feed}", flush=True)
    for feed in hits.failed:
        print(f"marketd: the feed {feed!r} gave no answer", file=sys.stderr)
    if not found:
        print(f"marketd: nothing is called {text!r}", file=sys.stderr)

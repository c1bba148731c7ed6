"""`marketd token ls`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from marketd.cli.common import JsonOption, exits
from marketd.cli.token.common import BaseOption, ConfigOption, InstanceOption, Place

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from marketd.security.tokens import Token

EXAMPLE = "marketd token ls"


@exits()
def ls(
    config: ConfigOption = None, instance: InstanceOption = None, base: BaseOption = None, json: JsonOption = False
) -> None:
    """List the tokens, and what each is for; with --json one line a token. None of them can be shown."""
    from marketd.cli.output import console, print_json

    found = Place(config, instance, base).read()
    if json:
        for token in found:
            print_json({**_facts(token), "created_ns": token.created_ns, "expires_ns": token.expires_ns})
    else:
        console().print(render(found, time.time_ns()))


def _facts(token: Token) -> dict[str, object]:
    return {"name": token.name, "scopes": token.scopes, "instruments": token.instruments, "quotas": _quotas(token)}


def _quotas(token: Token) -> dict[str, float]:
    import msgspec

    return {name: value for name, value in msgspec.structs.asdict(token.quotas).items() if value}


def render(found: Iterable[Token], now_ns: int) -> Table:
    """Draw them for people."""
    from rich import box
    from rich.table import Table

    from marketd.cli.store.common import time_text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("name", "scopes", "instruments", "quotas", "created", "expires"):
        table.add_column(heading, overflow="fold")
    for token in found:
        expires = time_text(token.expires_ns)[:16] if token.expires_ns else "never"
        table.add_row(
            token.name,
            " ".join(token.scopes),
            " ".join(token.instruments) or "all",
            ", ".join(f"{name} {value:g}" for name, value in _quotas(token).items()) or "none",
            time_text(token.created_ns)[:16],
            f"{expires} (expired)" if token.expired(now_ns) else expires,
        )
    return table

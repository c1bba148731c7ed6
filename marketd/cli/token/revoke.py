"""`marketd token revoke`."""

from __future__ import annotations

from typing import Annotated

import typer

from marketd.cli.common import exits, fail
from marketd.cli.token.common import BaseOption, ConfigOption, InstanceOption, Place

EXAMPLE = "marketd token revoke alice"


@exits()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `token ls` shows it.")],
    config: ConfigOption = None,
    instance: InstanceOption = None,
    base: BaseOption = None,
) -> None:
    """Make a token worthless. Who is connected with it is told why, and cut off within a second.

    When the last token is gone, nobody comes in where tokens are wanted; loopback does not open again by itself.
    """
    place = Place(config, instance, base)
    with place.changing() as found:
        kept = [token for token in found if token.name != name]
        if len(kept) == len(found):
            names = ", ".join(token.name for token in found) or "none"
            fail(f"there is no token called {name!r} in {place.tokens}; there are: {names}")
        found[:] = kept
    place.note("token.revoke", {"name": name})

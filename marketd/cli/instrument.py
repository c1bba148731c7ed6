"""`marketd instrument`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from marketd.cli.common import AddressOption, JsonOption, exits, resolve_address

if TYPE_CHECKING:
    from rich.table import Table

    from marketd.model import Asset
    from marketd.rpc.messages import InstrumentResult

EXAMPLE = "marketd instrument btc/usdt.spot.sim"


@exits()
def instrument(
    fqme: Annotated[str, typer.Argument(metavar="NAME", help="dst/src.venue.backend, in any case.")],
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Show what is known of one instrument: its assets, its ticks, the venue's own id, its data's quality."""
    from marketd.cli.output import console, print_json
    from marketd.client import connect

    with connect(resolve_address(address), client="marketd instrument") as md:
        found = md.instrument(fqme)
    if json:
        print_json(found)
    else:
        console().print(render(found))


def render(found: InstrumentResult) -> Table:
    """Draw it for people."""
    from rich.table import Table

    market = found.market
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = {
        "instrument": found.fqme,
        "type": market.type,
        "bought": _asset(market.dst),
        "paid with": _asset(market.src),
        "price tick": f"{market.price_tick:f}",
        "size tick": f"{market.size_tick:f}",
        "venue's id": market.bs_mktid,
        "expiry": market.expiry,
        "contract size": f"{market.contract_size:f}" if market.contract_size != 1 else "",
        "calendar": market.calendar,
        "feed": f"{found.feed}, row id {found.id}",
        "quality": found.quality,
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _asset(asset: Asset | str) -> str:
    return asset if isinstance(asset, str) else f"{asset.name} ({asset.type})"

"""`marketd why`: why an instrument is live, or is not, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from marketd.cli.common import AddressOption, JsonOption, exits, resolve_address

if TYPE_CHECKING:
    from rich.text import Text

    from marketd.rpc.messages import WhyResult

EXAMPLE = "marketd why btc/usdt.spot.binance"
MARKS = {"fine": ("+", "green"), "note": ("!", "yellow"), "problem": ("-", "red")}


@exits()
def why(
    fqme: Annotated[str, typer.Argument(metavar="NAME", help="dst/src.venue.backend, in any case.")],
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Say why an instrument is live, or is not, and what to do about it.

    Marks: + is as it should be, ! is worth knowing, - keeps it from being live. It ends with 0 if the instrument is
    live, and with 1 if it is not.
    """
    from marketd.cli.output import console, print_json
    from marketd.client import connect

    with connect(resolve_address(address), client="marketd why") as md:
        found = md.why(fqme)
    if json:
        print_json(found)
    else:
        console().print(render(found), soft_wrap=True)
    if not found.live:
        raise typer.Exit(1)


def render(found: WhyResult) -> Text:
    """Draw it for people."""
    from rich.text import Text

    text = Text(found.summary, style="bold")
    for reason in found.reasons:
        mark, style = MARKS[reason.level]
        sentence = reason.text[:1].upper() + reason.text[1:]
        text.append(f"\n{mark} ", style=style).append(sentence, style="not bold")
        if reason.todo:
            text.append(f"\n    {reason.todo}", style="not bold dim")
    return text

"""`marketd testvenue`: the venues' own protocols on loopback, with faults on demand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marketd.cli.common import JsonOption, daemon_packages, exits

if TYPE_CHECKING:
    from marketd.testvenue.server import Settings, VenueServer

EXAMPLE = "marketd testvenue --port 7800 --instruments 50"
READABLE_FILE = {"exists": True, "dir_okay": False, "readable": True}


@exits(interrupted=0)
def command(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Where it listens; 0 takes a free one.")] = 7800,
    instruments: Annotated[int, typer.Option("--instruments", min=3, max=20_000, help="So many at each venue.")] = 20,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.001, help="Messages a second at each venue, over all instruments evenly."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same market.")] = 1,
    history_days: Annotated[
        int, typer.Option("--history-days", min=1, max=3650, help="How far history goes back.")
    ] = 7,
    recording: Annotated[
        list[Path] | None,
        typer.Option("--recording", metavar="FILE", help="Play it (.ws, .rest); may be given again.", **READABLE_FILE),
    ] = None,
    speed: Annotated[float, typer.Option("--speed", min=0.001, help="Recorded seconds in one of ours.")] = 1.0,
    script: Annotated[
        Path | None, typer.Option("--script", metavar="FILE", help="Faults at given times (TOML).", **READABLE_FILE)
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", metavar="FILE", help="Serve over TLS with this.", **READABLE_FILE)
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its private key.", **READABLE_FILE)] = None,
    json: JsonOption = False,
) -> None:
    """Simulate Binance, Kraken and KuCoin on this machine until Ctrl-C, to test a client against them.

    Each venue speaks its own websocket and REST protocols below a path of its own. Faults are asked for over HTTP; see
    docs/testvenue.md.
    """
    with daemon_packages():
        from functools import partial

        import trio

        from marketd.testvenue.server import Settings
    settings = Settings(
        port=port,
        instruments=instruments,
        rate=rate,
        seed=seed,
        history_days=history_days,
        recordings=tuple(recording or ()),
        speed=speed,
        script=script,
        certificate=certificate,
        key=key,
    )
    trio.run(partial(_serve, settings, json=json), restrict_keyboard_interrupt_to_checkpoints=True)


testvenue = command  # by another name first, because functions called test… are taken for tests


async def _serve(settings: Settings, *, json: bool) -> None:
    import trio

    from marketd.testvenue.server import serve

    async with trio.open_nursery() as nursery:
        server: VenueServer = await nursery.start(serve, settings)
        _announce(server, json=json)


def _announce(server: VenueServer, *, json: bool) -> None:
    from marketd.cli.output import print_json
    from marketd.testvenue.server import VENUES, snippet

    if json:
        urls = {name: {"ws_url": server.ws_url(name), "rest_url": server.rest_url(name)} for name in VENUES}
        print_json({"port": server.port, "control_url": server.control_url, "venues": urls})
        return
    print(f"marketd testvenue: listening at {server.host}:{server.port}; Ctrl-C ends it\n")
    for name in VENUES:
        print(f"  {name:<16} {server.ws_url(name):<40} {server.rest_url(name)}")
    print(f"  {'control':<16} {server.control_url}/state  {server.control_url}/faults\n")
    print(f"For the configuration:\n\n{snippet(server)}", flush=True)

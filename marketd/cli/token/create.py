"""`marketd token create`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from marketd.cli.common import EXIT_USAGE, JsonOption, exits, fail
from marketd.cli.token.common import BaseOption, ConfigOption, InstanceOption, Place
from marketd.errors import ConfigError

EXAMPLE = "marketd token create alice --scope read --scope history --instruments '*.binance' --expires 90d"
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@exits()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who has it: shown in the log and in the status.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            "-s",
            metavar="SCOPE",
            help="read, history or admin (which includes them); can be repeated.",
            show_default="read",
        ),
    ] = None,
    instruments: Annotated[
        list[str] | None,
        typer.Option("--instruments", "-i", metavar="PATTERN", help="Only these, by name or glob; can be repeated."),
    ] = None,
    connections: Annotated[int, typer.Option("--connections", min=0, help="At a time; 0: any number.")] = 0,
    subscriptions: Annotated[int, typer.Option("--subscriptions", min=0, help="At a time; 0: any number.")] = 0,
    requests_per_s: Annotated[float, typer.Option("--requests-per-s", min=0, help="On average; 0: any number.")] = 0.0,
    bytes_per_day: Annotated[int, typer.Option("--bytes-per-day", min=0, help="Sent to it; 0: any number.")] = 0,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="WHEN", help="12h or 90d from now, or a time: 2027-01-31.")
    ] = None,
    config: ConfigOption = None,
    instance: InstanceOption = None,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Make a token, and print it: this once, for nothing of it but a hash is kept.

    A daemon that runs knows it within a second. With the first token, TCP and HTTP on loopback want one, too; the
    Unix socket does not, unless `security.require_token` is true.
    """
    import msgspec

    from marketd.cli.output import print_json
    from marketd.security import tokens

    place = Place(config, instance, base)
    text = tokens.new_token()
    now_ns = time.time_ns()
    quotas = tokens.Quotas(connections, subscriptions, requests_per_s, bytes_per_day)
    table = {
        "name": name,
        "sha256": tokens.hash_of(text),
        "scopes": sorted(set(scope or ["read"])),
        "instruments": sorted({pattern.strip().lower() for pattern in instruments or []}),
        "quotas": quotas,
        "created_ns": now_ns,
        "expires_ns": _time_ns(expires, now_ns),
    }
    try:
        token = msgspec.convert(table, tokens.Token)
    except msgspec.ValidationError as error:
        fail(_sentence(str(error)), EXIT_USAGE)
    with place.changing() as found:
        if any(other.name == name for other in found):
            fail(f"there is a token called {name!r}; revoke it first, or take another name", EXIT_USAGE)
        found.append(token)
    if json:
        print_json({"name": name, "token": text, "scopes": token.scopes, "instruments": token.instruments})
    else:
        print(text)
    place.note("token.create", {key: value for key, value in table.items() if key != "sha256"})


def _time_ns(text: str | None, now_ns: int) -> int:
    from marketd.cli.store.common import to_ns

    if text is None:
        return 0
    if text[:-1].isascii() and text[:-1].isdigit() and text[-1] in UNITS_S:
        at_ns = now_ns + int(text[:-1]) * UNITS_S[text[-1]] * 10**9
    else:
        at_ns = to_ns(text, "--expires") or 0
    if not now_ns < at_ns < 2**63:
        raise ConfigError(f"--expires {text}: that is not in the future, or too far in it")
    return at_ns


def _sentence(reason: str) -> str:
    """Say what is wrong in the words of the options."""
    if "$.name" in reason:
        return "NAME: 1 to 64 letters, digits, and . _ @ - are allowed, a letter or digit first"
    if "$.scopes" in reason:
        return "--scope: there are read, history and admin"
    return reason.replace("$.", "")

"""`marketd reload`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketd.cli.common import AddressOption, JsonOption, exits, resolve_address
from marketd.errors import ConfigError

if TYPE_CHECKING:
    from marketd.rpc.messages import ReloadResult

EXAMPLE = "marketd reload"


@exits()
def reload(address: AddressOption = None, json: JsonOption = False) -> None:
    """Let a running daemon read its configuration file again, as SIGHUP does; clients stay connected.

    Prints what has changed, and which keys wait for a restart of the daemon. A file with mistakes is refused as a whole
    (exit code 2), and the old configuration holds on.
    """
    from marketd.cli.output import print_json
    from marketd.client import connect
    from marketd.client.errors import RequestError

    with connect(resolve_address(address), client="marketd reload") as md:
        try:
            result = md.reload()
        except RequestError as error:
            if error.code == "invalid_config":
                raise ConfigError(error.message) from error
            raise
    print_json(result) if json else print(summary(result))


def summary(result: ReloadResult) -> str:
    """Say it in lines: what has changed, then what has not yet."""
    lines = [f"{change.key}: {change.action}" for change in result.changes]
    lines += [f"{key}: not applied, needs a restart of the daemon" for key in result.needs_restart]
    return "\n".join(lines or [f"nothing has changed in {result.file or 'the defaults'}"])

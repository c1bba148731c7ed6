"""`marketd version`."""

from __future__ import annotations

import importlib.util
import platform

from marketd.cli.common import JsonOption, exits

EXAMPLE = "marketd version --json"


@exits()
def version(json: JsonOption = False) -> None:
    """Print the version, the protocol's version, and whether this install can run a daemon."""
    from marketd import __version__
    from marketd.cli.output import print_json
    from marketd.rpc.messages import PROTOCOL_VERSION

    daemon = all(importlib.util.find_spec(package) for package in ("trio", "tractor", "structlog"))
    if json:
        print_json(
            {
                "version": __version__,
                "protocol": PROTOCOL_VERSION,
                "python": platform.python_version(),
                "daemon": daemon,
            }
        )
        return
    parts = "client and daemon" if daemon else "client only"
    print(f"marketd {__version__}, protocol {PROTOCOL_VERSION}, Python {platform.python_version()}, {parts}")

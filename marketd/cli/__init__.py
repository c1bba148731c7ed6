"""The command line. Thin on purpose: each command imports what it needs when it is called."""

from __future__ import annotations


def main() -> None:
    """Run `marketd` with the arguments of this process."""
    from marketd.cli.app import app

    app()

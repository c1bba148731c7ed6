"""Where a stream stands, as text that a program can keep: ``feed@epoch:cursor``, joined by commas."""

from __future__ import annotations

from collections.abc import Mapping

from marketd.rpc.messages import Position


def format_token(positions: Mapping[str, Position]) -> str:
    """Print positions; the inverse of :func:`parse_token`."""
    return ",".join(f"{feed}@{at.epoch}:{at.cursor}" for feed, at in sorted(positions.items()))


def parse_token(token: str) -> dict[str, Position]:
    """Read what ``stream.token`` gave.

    Raises:
        ValueError: it is no token.
    """
    positions = {}
    for part in filter(None, token.split(",")):
        feed, _, at = part.rpartition("@")
        epoch, _, cursor = at.partition(":")
        if not (feed and epoch.isdecimal() and cursor.isdecimal()):
            raise ValueError(f"{part!r} in a resume token is not like sim@123:456 (feed, epoch, cursor)")
        positions[feed] = Position(int(epoch), int(cursor))
    return positions

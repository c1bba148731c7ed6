"""Pure: what a gateway has done for its clients, those that have left included."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Counted(Protocol):
    """A client's writer."""

    rows_sent: int
    bytes_sent: int
    lost: int


class Totals(NamedTuple):
    """Counts since the gateway's start.

    ``rows_lost`` were overwritten before they could be sent, and were told as gaps.
    """

    connections: int = 0
    rows_sent: int = 0
    bytes_sent: int = 0
    rows_lost: int = 0

    def plus(self, writers: Iterable[Counted]) -> Totals:
        """Add what was written for some clients."""
        connections, rows_sent, bytes_sent, lost = self
        for writer in writers:
            connections += 1
            rows_sent += writer.rows_sent
            bytes_sent += writer.bytes_sent
            lost += writer.lost
        return Totals(connections, rows_sent, bytes_sent, lost)

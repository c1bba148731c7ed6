"""Pure: what a gateway has done for its clients, those that have left included."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from marketd.rpc.messages import Served


class Counted(Protocol):
    """A client's writer."""

    rows_sent: int
    bytes_sent: int
    lost: int


def plus(served: Served, writers: Iterable[Counted]) -> Served:
    """Add what was written for some clients."""
    connections, rows_sent, bytes_sent, lost = (
        served.connections,
        served.rows_sent,
        served.bytes_sent,
        served.rows_lost,
    )
    for writer in writers:
        connections += 1
        rows_sent += writer.rows_sent
        bytes_sent += writer.bytes_sent
        lost += writer.lost
    return Served(connections, rows_sent, bytes_sent, lost)


def add(one: Served, other: Served) -> Served:
    """Add what two gateways have done."""
    return Served(
        one.connections + other.connections,
        one.rows_sent + other.rows_sent,
        one.bytes_sent + other.bytes_sent,
        one.rows_lost + other.rows_lost,
    )

"""The client library: what remote programs import. It needs neither trio nor anything else of the daemon's.

    from marketd.client import connect

    with connect("127.0.0.1:7600") as md:
        with md.subscribe(["*/usdt.spot.binance", "*.sim"], kinds=["trade"]) as stream:
            for frame in stream:
                print(frame.fqme(frame.rows["instrument"][0]), frame.rows["price"])

:func:`connect` blocks; :func:`open_client` is its asynchronous twin, on trio or asyncio. `docs/client.md` shows more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from marketd.client.bars import BarSeries
from marketd.client.errors import (
    BarsMissing,
    CannotConnect,
    ConnectionLost,
    DeadlineExceeded,
    PackageMissing,
    ProtocolError,
    RequestError,
    TicksMissing,
)
from marketd.client.frames import Bar, Frame, Gap, IndexEvent, Level, Quote, StatusChange, Trade
from marketd.client.history import History
from marketd.client.sync import Client, Search, Stream, connect
from marketd.model import Flag, GapReason, Kind, Side
from marketd.ring.steps import BarState, IndexState
from marketd.rpc.messages import Position

if TYPE_CHECKING:
    from marketd.client.aio import AsyncClient, AsyncSearch, AsyncStream, open_client

__all__ = [
    "AsyncClient",
    "AsyncSearch",
    "AsyncStream",
    "Bar",
    "BarSeries",
    "BarState",
    "BarsMissing",
    "CannotConnect",
    "Client",
    "ConnectionLost",
    "DeadlineExceeded",
    "Flag",
    "Frame",
    "Gap",
    "GapReason",
    "History",
    "IndexEvent",
    "IndexState",
    "Kind",
    "Level",
    "PackageMissing",
    "Position",
    "ProtocolError",
    "Quote",
    "RequestError",
    "Search",
    "Side",
    "StatusChange",
    "Stream",
    "TicksMissing",
    "Trade",
    "connect",
    "open_client",
]

_ASYNCHRONOUS = frozenset({"AsyncClient", "AsyncSearch", "AsyncStream", "open_client"})


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes
    """Import the asynchronous half when it is asked for: blocking programs need not load anyio."""
    if name not in _ASYNCHRONOUS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from marketd.client import aio

    return getattr(aio, name)

"""Where a live feed touches the world: the network, a thread, and dice. Tests put fakes here."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import trio

from backends.live import ConnectPlan, LiveConfig, LiveVenue
from marketd.clock import Clock
from marketd.feed.connection import Dial, Socket
from marketd.feed.fetch import Client
from marketd.feed.websocket import open_websocket
from marketd.http import HttpClient
from marketd.model import MktPair

MESSAGE_BYTES_MAX = 4 << 20
HTTP_CONNECTIONS = 4

OpenClient = Callable[[], AbstractAsyncContextManager[Client]]
Parse = Callable[[list[bytes]], list[MktPair]]


@dataclass(frozen=True)
class Seams:
    """What a :class:`marketd.feed.venue.VenueSource` needs of it."""

    dial: Dial
    open_client: OpenClient
    parse: Callable[[Parse, list[bytes]], Awaitable[list[MktPair]]]
    rng: random.Random


def real_seams(venue: LiveVenue, config: LiveConfig, clock: Clock) -> Seams:
    """The network, and real dice."""

    def dial(plan: ConnectPlan) -> AbstractAsyncContextManager[Socket]:
        return open_websocket(
            plan.url,
            timeout_s=config.connect_timeout_s,
            message_bytes_max=MESSAGE_BYTES_MAX,
            ca_file=config.ca_file,
            headers=plan.headers,
        )

    def open_client() -> AbstractAsyncContextManager[Client]:
        return HttpClient(venue.rest_url, ca_file=config.ca_file, connections=HTTP_CONNECTIONS, clock=clock)

    return Seams(dial, open_client, _parse_in_thread, random.Random())


async def _parse_in_thread(parse: Parse, bodies: list[bytes]) -> list[MktPair]:
    # A list of 2,000 instruments takes some 50 ms, for which no row should have to wait.
    return await trio.to_thread.run_sync(parse, bodies)

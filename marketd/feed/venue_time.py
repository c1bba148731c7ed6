"""Asking a venue for its time, now and then, through the one budget and after everything else that is asked of it."""

from __future__ import annotations

import structlog
import trio

from backends.live import ServerTime
from marketd.errors import MarketdError
from marketd.feed.budget import Priority
from marketd.feed.fetch import Fetcher
from marketd.observe.venue_clock import ServerTimes

FIRST_PAUSES_S = (1.0, 5.0, 30.0)  # the first answer also opens the connection, and says little
EVERY_S = 120.0
TIMEOUT_S = 20.0

log = structlog.get_logger("marketd.feed")


async def keep_asking(server_time: ServerTime, fetcher: Fetcher, times: ServerTimes) -> None:
    """Ask, for ever. A venue that does not answer is asked again; its feed's trouble is told elsewhere."""
    asked = 0
    while True:
        await trio.sleep(FIRST_PAUSES_S[asked] if asked < len(FIRST_PAUSES_S) else EVERY_S)
        asked += 1
        try:
            answer = await fetcher.fetch_once(server_time.request, Priority.BACKFILL, timeout_s=TIMEOUT_S)
            server_ns = server_time.parse(answer.body)
        except MarketdError as error:
            log.debug("clock.not_asked", error=str(error))
        else:
            times.add(answer.sent_ns, answer.received_ns, server_ns, server_time.resolution_ns)

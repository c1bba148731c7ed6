"""The trading hours of a feed's instruments, as the kernel takes them.

Most instruments never close and cost nothing here. To know another calendar takes seconds the first time, for which a
thread waits and not the sampler.
"""

from __future__ import annotations

import numpy as np
import structlog
import trio
from numpy.typing import NDArray

from marketd import calendars
from marketd.clock import SECOND_NS
from marketd.errors import ConfigError
from marketd.model import MktPair

AROUND_NS = 400 * 86_400 * SECOND_NS  # known before and after the time of asking: bars are held for a year
RENEW_NS = 30 * 86_400 * SECOND_NS

log = structlog.get_logger("marketd.sample")


class Hours:
    """See the module.

    Attributes:
        calendars: by instrument, the number of its calendar; 0: never closed.
        spans: shape ``(n, 3)``: calendar, begin and end of each session, in order.
    """

    def __init__(self, instruments: int) -> None:
        self.calendars = np.zeros(instruments + 1, np.int64)
        self.spans: NDArray[np.int64] = np.empty((0, 3), np.int64)
        self._numbers: dict[str, int] = {calendars.ALWAYS: 0}
        self._known_until_ns = 0

    def add(self, instrument: int, market: MktPair) -> None:
        """Note an instrument's calendar. Its sessions are known after the next :meth:`learn`."""
        if market.calendar not in self._numbers:
            self._numbers[market.calendar] = len(self._numbers)
            self._known_until_ns = 0
        self.calendars[instrument] = self._numbers[market.calendar]

    def is_due(self, now_ns: int) -> bool:
        """Whether :meth:`learn` has something to do."""
        return len(self._numbers) > 1 and now_ns + RENEW_NS > self._known_until_ns

    async def learn(self, now_ns: int) -> None:
        """Ask for the sessions around now."""
        spans = []
        for name, number in self._numbers.items():
            if number:
                sessions = await trio.to_thread.run_sync(_sessions, name, now_ns - AROUND_NS, now_ns + AROUND_NS)
                spans += [(number, begin_ns, end_ns) for begin_ns, end_ns in sessions]
        self.spans = np.array(spans, np.int64).reshape(-1, 3)
        self._known_until_ns = now_ns + AROUND_NS


def _sessions(name: str, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
    try:
        return calendars.sessions(name, start_ns, end_ns)
    except ConfigError as error:
        log.warning("calendar.unknown", calendar=name, error=str(error))
        return []

"""What the service manager is told while the daemon runs: that it is ready, how it stands, that it makes progress."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from marketd.rpc.messages import StatusResult
from marketd.supervise.notify import Notifier
from marketd.supervise.progress import Look, Memory, begun, judge

LOOK_S = 1.0
LOOKS_PER_WATCHDOG = 4  # at least: one that is late must not cost the daemon its life
ROWS_EVERY_S = 5.0  # a line that changes with each row would be changed all the time

log = structlog.get_logger("marketd.supervise.announce")


class Announcer:
    """Looks at the tree once a second, or as often as the watchdog needs, and tells what it sees.

    Args:
        look: what there is to judge.
        status: what there is to count; waits for nobody.
    """

    def __init__(
        self, notifier: Notifier, look: Callable[[], Look], status: Callable[[], Awaitable[StatusResult]]
    ) -> None:
        self.ready = False
        self._notifier = notifier
        self._look = look
        self._status = status
        self._memory: Memory = {}
        self._problems: list[str] = []
        self._told = ""
        self._told_s = float("-inf")

    async def run(self) -> None:
        """Look and tell, for ever; return at once where nobody listens."""
        watchdog_s = self._notifier.watchdog_s
        every_s = min(LOOK_S, watchdog_s / LOOKS_PER_WATCHDOG) if watchdog_s else LOOK_S
        while self._notifier.wanted:
            await self.step()
            await trio.sleep(every_s)

    async def step(self) -> None:
        """Look once."""
        look = self._look()
        if not self.ready and begun(look):
            self.ready = True
            self._notifier.ready()
        if self.ready and self._notifier.watchdog_s:
            self._feed_watchdog(look)
        self._tell_status(await self._status(), look.at_s)

    def _feed_watchdog(self, look: Look) -> None:
        problems, self._memory = judge(self._memory, look)
        if not problems:
            self._notifier.watchdog()
        if problems and not self._problems:
            log.warning("watchdog.withheld", problems=problems)
        elif self._problems and not problems:
            log.info("watchdog.fed", after=self._problems)
        self._problems = problems

    def _tell_status(self, status: StatusResult, now_s: float) -> None:
        parts = ["" if self.ready else "starting", *self._problems]
        line = "; ".join([*filter(None, parts), summary(status)])
        without_rows = line.partition(" rows")[0].rpartition(", ")[0] + line.partition(" rows")[2]
        if without_rows != self._told or now_s - self._told_s >= ROWS_EVERY_S:
            self._notifier.status(line)
            self._told, self._told_s = without_rows, now_s


def summary(status: StatusResult) -> str:
    """Count what matters, in one line."""
    live = sum(feed.state in ("live", "finished") for feed in status.feeds)
    instruments = sum(feed.instruments for feed in status.feeds)
    rows = sum(sum(feed.rows_by_kind.values()) for feed in status.feeds)
    return (
        f"{live} of {len(status.feeds)} feeds live, {instruments:,} instruments, {rows:,} rows, "
        f"{len(status.clients):,} clients"
    )

"""What a process costs, and how promptly its event loop runs: the same figures for every actor and the supervisor."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import msgspec
import structlog
import trio

from marketd.observe.histogram import Histogram, HistogramReport
from marketd.trouble import Trouble, lacks_descriptors

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
FILES_EVERY = 8  # reports between two counts of open files: a gateway may have thousands
CALM_AFTER = 4  # reports with a descriptor left: where clients come and go the last one is often had for a moment

log = structlog.get_logger("marketd.observe")


class Vitals(msgspec.Struct, frozen=True):
    """Figures of one process. ``loop_lag``: how late its event loop's timers were."""

    rss_bytes: int = 0
    cpu_s: float = 0.0
    tasks: int = 0
    threads: int = 0
    fds: int = 0
    loop_lag: HistogramReport = HistogramReport()


class VitalsWatch:
    """Takes this process's figures, now and then; that takes a descriptor, so it is seen here when none is left."""

    def __init__(self) -> None:
        self._none_left = Trouble(log, "descriptors.none_left", "descriptors.left_again")
        self._calm = 0
        self._lag = Histogram()
        self._reports = 0
        self._fds = self._threads = self._rss_bytes = 0

    @property
    def trouble(self) -> str:
        """Why nothing can be opened; empty if it can."""
        return self._none_left.text

    async def sleep(self, duration_s: float) -> None:
        """Sleep, and note how late the loop was to go on."""
        due_s = trio.current_time() + duration_s
        await trio.sleep_until(due_s)
        self._lag.observe(round((trio.current_time() - due_s) * 1e9))

    def read(self) -> Vitals:
        """Take the figures."""
        try:
            self._look()
            self._calm += 1
        except OSError as error:  # then they are as they were
            if lacks_descriptors(error):
                self._calm = 0
                allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                self._none_left.begin(f"no file descriptor is left of {allowed}: {error.strerror}")
        if self._calm >= CALM_AFTER:
            self._none_left.end()
        self._reports += 1
        return Vitals(
            rss_bytes=self._rss_bytes,
            cpu_s=time.process_time(),
            tasks=trio.lowlevel.current_statistics().tasks_living,
            threads=self._threads,
            fds=self._fds,
            loop_lag=self._lag.report(),
        )

    def _look(self) -> None:
        """Take those that only files tell. Raises OSError."""
        self._rss_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
        self._threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - four times a second
        if self._reports % FILES_EVERY == 0:
            self._fds = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - but for the one it is listed through

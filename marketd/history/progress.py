"""What is left to ask of the venues, and how large the store is: looked at now and then, for operators."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from marketd.clock import SystemClock
from marketd.rpc.messages import BackfillStatus, StoreStatus

if TYPE_CHECKING:
    from marketd.history.feed import FeedHistory

BACKFILL_EVERY_S = 5.0
STORE_EVERY_S = 60.0
SERIES_IN_ONE_GO = 100  # looked at between two turns of the event loop

log = structlog.get_logger("marketd.history")


class Progress:
    """See the module. Nothing is known before it was looked at for the first time."""

    def __init__(self, feeds: Mapping[str, FeedHistory], store_path: Path) -> None:
        self.backfill: dict[str, BackfillStatus] = {}
        self.store = StoreStatus()
        self._feeds = feeds
        self._store_path = store_path

    async def keep_backfill(self) -> None:
        """Look at what is missing, again and again."""
        while True:
            for name, feed in list(self._feeds.items()):
                if feed.can_ask:
                    self.backfill[name] = await missing_of(feed)
            for name in self.backfill.keys() - self._feeds.keys():
                del self.backfill[name]
            await trio.sleep(BACKFILL_EVERY_S)

    async def keep_store(self) -> None:
        """Look at the store, again and again."""
        while True:
            try:
                self.store = await trio.to_thread.run_sync(measure, self._store_path)
            except OSError as error:
                log.warning("store.unmeasured", path=str(self._store_path), error=str(error))
            await trio.sleep(STORE_EVERY_S)


async def missing_of(feed: FeedHistory) -> BackfillStatus:
    """Add up what a feed's venue is still to be asked for."""
    lacking = bars = from_ns = 0
    for number, (instrument, kind) in enumerate(list(feed.stored)):
        if number % SERIES_IN_ONE_GO == SERIES_IN_ONE_GO - 1:
            await trio.lowlevel.checkpoint()
        period_ns = feed.live.series[kind].period_ns
        missing = feed.missing(instrument, kind)
        found = sum((end - begin) // period_ns for begin, end in missing)
        if found:
            lacking += 1
            bars += found
            from_ns = min(from_ns or missing[0][0], missing[0][0])
    return BackfillStatus(lacking, bars, from_ns)


def measure(path: Path) -> StoreStatus:
    """Count the files below a folder, their bytes, and what is free there. Blocks.

    Raises:
        OSError: the folder can't be read.
    """
    files = size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                size += (Path(folder) / name).stat().st_size
            except FileNotFoundError:  # merged or renamed meanwhile
                continue
            files += 1
    there = next(folder for folder in (path, *path.parents) if folder.exists())  # a new store has no folder yet
    return StoreStatus(files, size, shutil.disk_usage(there).free, SystemClock().now_ns())

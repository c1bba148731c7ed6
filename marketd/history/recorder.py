"""One feed's ticks on their way to the disk: tick ring -> log (storage/ticklog.py) -> parquet files.

What was read from the ring is in the log at once, so that a killed process loses nothing; it is on the disk every
``flush_s``, so that a power cut loses no more than that. Now and then a new file is begun, and the old one's rows go
to the parquet files of their instruments; only then is it removed, once it is not among the newest that are kept for
streams that resume (storage/tickreplay.py). A successor goes on in the ring where the log ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import structlog
import trio
from numpy.typing import NDArray

from marketd.clock import SECOND_NS, SteadyClock
from marketd.errors import Lapped, SegmentError, StorageError
from marketd.history.names import name_matcher
from marketd.history.ticks import from_first, gap_ranges, kept, lapped_row, tick_frame
from marketd.model import RECORDED_KINDS
from marketd.ring.doorbell import Bell
from marketd.ring.reader import RingReader
from marketd.ring.table import TableReader
from marketd.supervise.messages import FeedInfo
from marketd.trouble import Trouble
from storage.client import StorageClient
from storage.combine import OnOverlap
from storage.coverage import State
from storage.intervals import Range, subtract
from storage.layout import Series
from storage.schema import Provenance
from storage.ticklog import LogWriter, Place, dropped, log_files, read_end, read_log, set_filed

FILE_BYTES_MAX = 64 << 20  # then its rows go to parquet files
PAUSE_S = 0.02  # between two looks at the ring: a system call for many rows
RETRY_S = 5.0
ROWS_IN_ONE_GO = 1 << 16

R = TypeVar("R")


class Recorder:
    """See the module.

    Args:
        info: the feed.
        folder: of its log.
        store: where the parquet files are.
        instruments: names and globs of those that are recorded.
        flush_s: at most so much is lost by a power cut.
        file_s: so often rows go from the log to parquet files.
        kept_bytes: so much of what is in parquet files is kept in the log too, for streams that resume.

    Attributes:
        trouble: why nothing is recorded now, is not safe from a power cut, or not put into parquet files; empty if all
            is well.
    """

    def __init__(
        self,
        info: FeedInfo,
        folder: Path,
        store: StorageClient,
        instruments: Sequence[str],
        flush_s: float,
        clock: SteadyClock,
        *,
        file_s: float,
        kept_bytes: int = 0,
    ) -> None:
        """Attach to the feed's ring. Raises SegmentError."""
        self.info = info
        self.folder = folder
        self._store = store
        self._wants = {text: name_matcher(text) for text in instruments}
        self._matched: set[str] = set()
        self._flush_s = flush_s
        self._file_s = file_s
        self._kept_bytes = kept_bytes
        self._clock = clock
        self._log = structlog.get_logger("marketd.history").bind(feed=info.name)
        self._unwritten = Trouble(self._log, "ticks.not_written", "ticks.written_again")
        self._unsynced = Trouble(self._log, "ticks.not_synced", "ticks.synced_again")
        self._unfiled = Trouble(self._log, "ticks.not_filed", "ticks.filed_again")
        with contextlib.ExitStack() as stack:
            self._ring = stack.enter_context(closing(RingReader(Path(info.ring_path))))
            self._table = stack.enter_context(closing(TableReader(Path(info.table_path))))
            self._bell = Bell(Path(info.bells_path))
            stack.pop_all()
        self._names: dict[int, str] = {}  # of those that are recorded
        self._heard: dict[int, str] = {}  # of which there was something since they are followed
        self._others: list[str] = []  # not recorded
        self._others_told = 0
        self._wanted: NDArray[np.bool_] = np.array([True, False])  # the last entry stands for ids beyond
        self._seen = 0
        self._writer: LogWriter | None = None
        self._disk = trio.CapacityLimiter(1)
        self._lock = trio.Lock()

    @property
    def trouble(self) -> str:
        """See the class."""
        return self._unwritten.text or self._unsynced.text or self._unfiled.text

    def records(self, text: str) -> bool:
        """Whether the feed has instruments that one of the names and globs means."""
        return text in self._matched

    @property
    def epoch(self) -> int:
        """Of the feed's ring."""
        return self._ring.epoch

    async def run(self) -> None:
        """Record for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            nursery.start_soon(self._keep_synced)
            nursery.start_soon(self._keep_filed)

    async def finish(self) -> None:
        """Write what there is by now, and let go of everything."""
        try:
            if self._writer is not None:
                await self._take(last=True)
                await self._in_thread(self._writer.close)
        except (StorageError, SegmentError) as error:
            self._log.error("ticks.not_written", error=str(error))
        self.close()

    def close(self) -> None:
        """Let go of the segments."""
        self._ring.close()
        self._bell.close()
        self._table.close()

    # --- ring -> log ------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            try:
                if self._writer is None:
                    await self._begin()
                await self._take()
            except StorageError as error:
                self._unwritten.begin(str(error))
                await trio.sleep(RETRY_S)
                continue
            self._unwritten.end()
            await trio.sleep(PAUSE_S)
            with trio.move_on_after(self._flush_s):
                await self._ring.wait_available(self._bell)

    async def _begin(self) -> None:
        """Go on where the log ends, if that is of this epoch; else with the oldest row that the ring has."""
        end = await self._in_thread(read_end, self.folder)
        last = None if end is None else end.last
        self._heard = {}
        if end is not None and last is not None and last.epoch == self._ring.epoch:
            place = last
            self._heard = {number: end.names[number] for number in end.live}
        else:
            place = Place(self._ring.epoch, self._ring.oldest - 1, self._clock.now_ns())
        self._ring.cursor = place.cursor
        self._learn()
        self._writer = await self._open(place)

    async def _open(self, place: Place) -> LogWriter:
        others = list(self._others)
        writer = await self._in_thread(LogWriter, self.folder, place, self._heard, others)
        self._others_told = len(others)
        return writer

    async def _take(self, *, last: bool = False) -> None:
        """Bring what the ring has to the log. Raises StorageError: it is read again."""
        async with self._lock:
            while self._writer is not None and await self._take_some(self._writer, last=last):
                pass

    async def _take_some(self, writer: LogWriter, *, last: bool) -> bool:
        """Do so with as many rows as one goes; return whether there are more.

        Args:
            last: nothing will come after, so that it must be said how far this is.
        """
        at_ns = self._clock.now_ns()
        before, published = self._ring.cursor, self._ring.published
        self._learn()  # after that look at the ring: the instruments of all rows until there are in the table by now
        try:
            found = kept(self._ring.read_nowait(min(ROWS_IN_ONE_GO, published - before)), self._wanted)
        except Lapped as lapped:
            self._log.warning("ticks.lapped", lost=lapped.lost)
            found = lapped_row(writer.place.at_ns, at_ns, self._ring.cursor, lapped.lost)
        if len(found):
            self._clock.witness(int(np.median(found["event_ns"])))
        more = self._ring.cursor < self._ring.published
        if self.info.state != "live" or more:
            at_ns = writer.place.at_ns  # what is still to come until now is not in the log yet
        if not len(found) and at_ns - writer.place.at_ns < SECOND_NS and not last:
            return more
        heard = {n: self._names[n] for n in np.unique(found["instrument"]).tolist() if n and n not in self._heard}
        place = Place(self._ring.epoch, self._ring.cursor, max(at_ns, writer.place.at_ns))
        others = self._others[self._others_told :]
        try:
            await self._in_thread(writer.append, found, place, heard, others)
        except StorageError:
            self._ring.cursor = before
            raise
        self._others_told += len(others)
        self._heard |= heard
        for number in dropped(found):
            self._heard.pop(number, None)
        return more

    def _learn(self) -> None:
        """Look at the feed's new instruments."""
        count = self._table.count
        if count == self._seen:
            return
        found = {}
        for number in range(self._seen + 1, count + 1):
            name = self._table.fqme(number)
            matched = [text for text, matches in self._wants.items() if matches(name)]
            self._matched.update(matched)
            if matched:
                found[number] = name
            else:
                self._others.append(name)
        wanted = np.zeros(count + 2, np.bool_)
        wanted[: self._seen + 1] = self._wanted[: self._seen + 1]
        wanted[list(found)] = True
        self._wanted, self._seen = wanted, count
        self._names |= found

    async def _keep_synced(self) -> None:
        while True:
            await trio.sleep(self._flush_s)
            if self._writer is not None:
                try:
                    await self._in_thread(self._writer.sync)
                except StorageError as error:
                    self._unsynced.begin(str(error))
                else:
                    self._unsynced.end()

    # --- log -> parquet ---------------------------------------------------------------------------------------

    async def _keep_filed(self) -> None:
        """Put what predecessors left into parquet files, and then each file of the log that is large or old."""
        begun_s = trio.current_time()
        while True:
            try:
                if self._writer is not None:
                    if trio.current_time() - begun_s >= self._file_s or self._writer.size >= FILE_BYTES_MAX:
                        await self._rotate()
                        begun_s = trio.current_time()
                    await self.file(all_but=self._writer.path)
            except (StorageError, OSError) as error:
                self._unfiled.begin(str(error))
                await trio.sleep(RETRY_S)
                continue
            self._unfiled.end()
            await trio.sleep(1.0)

    async def _rotate(self) -> None:
        """Begin a new file. Raises StorageError."""
        async with self._lock:
            writer = self._writer
            assert writer is not None
            self._writer = await self._open(writer.place)
            await self._in_thread(writer.close)

    async def file(self, all_but: Path | None = None) -> None:
        """Put all files of the log but one into parquet files.

        Raises:
            StorageError, OSError: one can't be now; it stays, and so do those after it.
        """
        for path in await trio.to_thread.run_sync(log_files, self.folder):
            if path != all_but:
                await trio.to_thread.run_sync(partial(file_log, path, self._store, self._kept_bytes))

    async def _in_thread(self, work: Callable[..., R], *arguments: object) -> R:
        return await trio.to_thread.run_sync(partial(work, *arguments), limiter=self._disk)


def file_log(path: Path, store: StorageClient, kept_bytes: int = 0) -> None:
    """Put a file of the log into parquet files; it is one of the filed then. May be killed at any time and done again.

    Raises:
        StorageError, OSError: some of it can't be stored now; the file stays.
    """
    logged = read_log(path)
    log = structlog.get_logger("marketd.history")
    if logged.torn:
        log.info("ticks.torn", file=str(path))
    rows = logged.rows[np.argsort(logged.rows["instrument"], kind="stable")]  # together what is of one
    everyones = rows[: np.searchsorted(rows["instrument"], 1)]
    for instrument, name in logged.names.items():
        first, after = np.searchsorted(rows["instrument"], [instrument, instrument + 1])
        mine = np.concatenate([everyones, rows[first:after]])
        for kind in RECORDED_KINDS:
            _store_ticks(store, Series(name, kind), mine, logged.spans[instrument])
    if logged.damaged:  # what is behind the damage is lost, and so not known to be complete
        log.error("ticks.damaged", file=str(path), kept=f"{path.name}.damaged")
        path.rename(path.with_name(f"{path.name}.damaged"))
    else:
        set_filed(path, kept_bytes)


def _store_ticks(store: StorageClient, series: Series, rows: NDArray[np.void], spans: list[Range]) -> None:
    ticks = rows[rows["kind"] == RECORDED_KINDS[series.what]]
    spans = from_first(spans, rows)
    gaps = gap_ranges(rows, (spans[0][0], spans[-1][1]))
    with store.writer(series) as writer:
        writer.write(tick_frame(ticks, series.what), OnOverlap.KEEP, covers=subtract(spans, gaps))
        writer.mark(gaps, State.MISSING, Provenance.OBSERVED)

"""One feed's stored series: what is known of each, what is to be asked for, and what came of it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import structlog
import trio

from backends.backend import load
from marketd.clock import SECOND_NS, Clock
from marketd.errors import SegmentError, SeriesBusy, StorageError
from marketd.history import keeping
from marketd.history.frames import page_frame
from marketd.history.live import LiveBars, Told
from marketd.history.paging import needed, settle
from marketd.periods import parse_period
from marketd.supervise.messages import FeedInfo, FeedPage, FilledBars, FilledRange, PageResult, SeriesInfo
from marketd.trouble import Trouble, is_everywhere
from storage.coverage import Coverage, State, ranges
from storage.intervals import Range, intersect, normalize, subtract
from storage.layout import Series

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from backends.live import BarRow, TradeRow
    from storage.client import StorageClient

HOUR_NS = 3600 * SECOND_NS
SETTLE_NS = 5 * SECOND_NS  # so long after a bar's end the venue should have it
RECENT_NS = 600 * SECOND_NS  # of a time so short ago a venue that has nothing may yet have something
ASK_AGAIN_S = 60.0
BARS_IN_ONE_GO = 500
BUSY_S = 0.2
RETRY_S = 5.0  # after a disk that could not be written to
PAGE_TIMEOUT_S = 60.0
VERIFIED_BARS = 60
FAILED_S = (1.0, 2.0, 5.0, 15.0, 60.0)  # pauses after pages that failed in a row

R = TypeVar("R")


async def _to_nobody(_told: FilledRange) -> None:
    """Nobody wants to know."""


class Piece(NamedTuple):
    """What is asked of a venue next."""

    instrument: int
    series: SeriesInfo
    asked: Range


@dataclass
class Stored:
    """What is known of one series.

    Attributes:
        beyond: ranges that the venue can't be asked for.
        by_trades_ns: bars that end until then the venue does not have, but perhaps their trades.
        later: what the venue did not have, though it may yet; asked for again from ``later_s`` on.
        retry_s: when to ask again after a page that failed.
    """

    name: Series
    coverage: Coverage
    beyond: list[Range] = field(default_factory=list)
    by_trades_ns: int = 0
    later: list[Range] = field(default_factory=list)
    later_s: float = 0.0
    retry_s: float = 0.0


class FeedHistory:
    """See the module.

    Args:
        ask: asks the feed for a page.
        tell: lets the sampler have what has come of it.
        depth_ns: how far back the venue is asked.
        announce: lets whoever has subscribed know what came of it.

    Attributes:
        can_ask: whether there is a venue that could have anything.
        trouble: why bars can't be written now, or pages do not come; empty if all is well.
        bars, pages, pages_failed, verified, differing: counts.
    """

    def __init__(
        self,
        info: FeedInfo,
        live: LiveBars,
        store: StorageClient,
        ask: Callable[[FeedPage], Awaitable[PageResult]],
        tell: Callable[[FilledBars], Awaitable[None]],
        clock: Clock,
        depth_ns: int,
        announce: Callable[[FilledRange], Awaitable[None]] = _to_nobody,
    ) -> None:
        self.info = info
        self.can_ask = load(info.backend).open_venues is not None
        self.live = live
        self.stored: dict[tuple[int, int], Stored] = {}
        self.bars = self.pages = self.pages_failed = self.verified = self.differing = 0
        self._store = store
        self._ask = ask
        self._tell = tell
        self._announce = announce
        self._clock = clock
        self._begin_ns = clock.now_ns() - depth_ns
        self._until_ns: dict[int, int] = {}
        self._failures = 0
        self._rng = random.Random()
        self._changed = trio.Event()
        self._log = structlog.get_logger("marketd.history").bind(feed=info.name)
        self._unasked = ""
        self._unwritten = Trouble(self._log, "history.not_written", "history.written_again")
        self._unkept = Trouble(self._log, "backfill.not_written", "backfill.written_again")
        self._tried_s = -math.inf

    @property
    def trouble(self) -> str:
        """See the class."""
        return self._unwritten.text or self._unkept.text or self._unasked

    # --- what comes out live -----------------------------------------------------------------------------

    async def flush(self, *, last: bool = False) -> None:
        """Write all bars that have come out since the last call.

        What can't be is for a later call, which does nothing if it comes too soon; unless it is the ``last``.
        """
        if self._unwritten.text and trio.current_time() - self._tried_s < RETRY_S and not last:
            return
        self._tried_s = trio.current_time()
        until_ns = {kind: self.live.until_ns(kind) for kind in self.live.series}
        try:
            well = await self._admit()
            told = await self.live.take()
        except SegmentError as error:
            self._log.warning("history.unreadable", error=str(error))
            return
        for number, one in enumerate(told):
            try:
                await self._keep(one)
            except StorageError as error:
                well = False
                self._unwritten.begin(str(error))
                if is_everywhere(error):
                    for other in told[number:]:
                        self.live.put_back(other)
                    break
                self.live.put_back(one)
        if well:
            self._unwritten.end()
        self._until_ns = until_ns
        self.wake()

    async def _admit(self) -> bool:
        """Learn what is known of instruments that are new; return whether that could be read of all."""
        well = True
        for instrument in range(1, self.live.table.count + 1):
            for kind, series in self.live.series.items():
                if (instrument, kind) not in self.stored:
                    name = Series(self.live.table.fqme(instrument), series.name)
                    try:
                        coverage = await in_thread(self._store.coverage, name)
                    except StorageError as error:
                        well = False
                        self._unwritten.begin(str(error))
                        continue
                    self.stored.setdefault((instrument, kind), Stored(name, coverage))
        return well

    async def _keep(self, told: Told) -> None:
        """Write bars of one series. Raises StorageError."""
        stored = self.stored.get((told.instrument, told.series.kind))
        if stored is None:  # its name is not known yet: the table came after the bars
            self.live.put_back(told)
            return
        try:
            stored.coverage, added = await in_thread(keeping.keep_told, self._store, stored.name, told.rows)
            self.bars += added
        except SeriesBusy:
            self.live.put_back(told)

    async def tend(self, *, verify: bool) -> None:
        """Look after the files of all series, one after the other."""
        await self._admit()
        for stored in list(self.stored.values()):
            if not stored.coverage:
                continue
            try:
                stored.coverage = await in_thread(
                    partial(keeping.tend, verify=verify), self._store, stored.name, self._clock.now_ns()
                )
            except StorageError as error:  # busy, or a full disk: there is another time
                self._log.info("store.not_tended", series=str(stored.name), error=str(error))
        self.wake()

    # --- what is asked of the venue ----------------------------------------------------------------------

    def wake(self) -> None:
        """Look again whether there is anything to ask for."""
        self._changed.set()
        self._changed = trio.Event()

    async def backfill(self) -> None:
        """Ask for what is missing, the newest first, for ever."""
        while True:
            changed = self._changed
            piece = self.next_piece() if self.info.state in ("live", "down", "failing") else None
            if piece is None:
                with trio.move_on_after(SETTLE_NS / SECOND_NS):
                    await changed.wait()
                continue
            pause_s = await self._fetch(piece)
            await trio.sleep(pause_s)

    def next_piece(self) -> Piece | None:
        """Return what to ask for next; None if nothing is missing that the venue could have."""
        best: Piece | None = None
        now_s = trio.current_time()
        for (instrument, kind), stored in self.stored.items():
            if now_s < stored.retry_s:
                continue
            found = self.missing(instrument, kind)
            if now_s < stored.later_s:
                found = subtract(found, stored.later)
            if found and (best is None or found[-1][1] > best.asked[1]):
                best = Piece(instrument, self.live.series[kind], found[-1])
        return best

    def missing(self, instrument: int, kind: int) -> list[Range]:
        """Return what is to be asked for of one series, in order of time."""
        stored, period_ns = self.stored[instrument, kind], self.live.series[kind].period_ns
        until_ns = self.reached_ns(instrument, kind) // period_ns * period_ns
        return needed(stored.coverage, self._begin_ns, until_ns, period_ns, stored.beyond)

    def reached_ns(self, instrument: int, kind: int) -> int:
        """Return up to when bars are for the venue to tell; those that end later the sampler tells."""
        settled_ns = self._clock.now_ns() - SETTLE_NS
        told_ns = self._until_ns.get(kind, 0)  # 0: no bar of this kind is out, and none was written
        return min(settled_ns, told_ns) if told_ns and self.live.has_bars(kind, instrument) else settled_ns

    async def want(self, instrument: int, kind: int, start_ns: int, end_ns: int) -> list[Range]:
        """Let a range be asked for, now or after a restart; return what of it is missing.

        Raises:
            StorageError: it can't be noted down.
        """
        stored, period_ns = self.stored[instrument, kind], self.live.series[kind].period_ns
        start_ns = start_ns // period_ns * period_ns
        end_ns = min(end_ns, self.reached_ns(instrument, kind)) // period_ns * period_ns
        stored.beyond, stored.retry_s, stored.later_s = [], 0.0, 0.0
        stored.coverage = await in_thread(keeping.want, self._store, stored.name, [(start_ns, end_ns)])
        self.wake()
        return self.missing(instrument, kind)

    async def verify(self) -> None:
        """Compare one piece of what is stored, anywhere, with the venue's own bars."""
        whole = [(key, ranges(stored.coverage, State.COMPLETE)) for key, stored in self.stored.items()]
        whole = [(key, spans) for key, spans in whole if spans]
        if not whole:
            return
        (instrument, kind), spans = self._rng.choice(whole)
        stored, series = self.stored[instrument, kind], self.live.series[kind]
        begin, end = self._rng.choices(spans, [end - begin for begin, end in spans])[0]
        length = min(end - begin, VERIFIED_BARS * series.period_ns)
        start = begin + self._rng.randrange((end - begin - length) // series.period_ns + 1) * series.period_ns
        span = (start, min(start + length, self._clock.now_ns() - RECENT_NS) // series.period_ns * series.period_ns)
        if span[0] >= span[1]:
            return
        self.pages += 1
        page = await self._ask(
            FeedPage(stored.name.fqme, series.period_ns // SECOND_NS, *span, timeout_s=PAGE_TIMEOUT_S)
        )
        bars = settle(span, page.bars, series.period_ns, span[1]).bars if page.outcome == "page" else []
        if not bars:
            return
        try:
            stored.coverage, wrong = await in_thread(keeping.verify, self._store, stored.name, span, page_frame(bars))
        except StorageError as error:  # busy, or a full disk: there is another time
            self._log.info("history.not_verified", series=str(stored.name), error=str(error))
            return
        self.verified += len(bars)
        self.differing += wrong
        if wrong:
            self._log.warning("history.differs", series=str(stored.name), range_ns=span, bars=len(bars), wrong=wrong)

    async def _fetch(self, piece: Piece) -> float:
        """Ask for a page and keep what it has; return for how long to rest then."""
        stored = self.stored[piece.instrument, piece.series.kind]
        if piece.asked[1] <= stored.by_trades_ns:
            return await self._fetch_trades(stored, piece)
        request = FeedPage(
            stored.name.fqme, piece.series.period_ns // SECOND_NS, *piece.asked, timeout_s=PAGE_TIMEOUT_S
        )
        self.pages += 1
        asked_s = trio.current_time()
        page = await self._ask(request)
        answered_s = trio.current_time()
        if page.outcome in ("failed", "refused"):
            return self._note_failure(stored, page)
        self._failures, self._unasked = 0, ""
        settled_ns = self._clock.now_ns() - RECENT_NS
        bars, span = settle(piece.asked, page.bars, piece.series.period_ns, settled_ns)
        if span is None or page.outcome == "none":
            self._log.info("backfill.beyond", series=str(stored.name), range_ns=piece.asked, why=page.detail)
            stored.by_trades_ns = max(stored.by_trades_ns, piece.asked[1])
            return 0.0
        if span[1] < piece.asked[1]:
            stored.later, stored.later_s = [(span[1], piece.asked[1])], trio.current_time() + ASK_AGAIN_S
        pause_s = await self._keep_page(stored, span, bars) if span[0] < span[1] else 0.0
        if not pause_s and span[0] < span[1]:
            await self._tell_filled(piece, span, bars)
        self._log.debug(
            "backfill.page",
            series=str(stored.name),
            bars=len(bars),
            asked_ms=round((answered_s - asked_s) * 1000, 1),
            kept_ms=round((trio.current_time() - answered_s) * 1000, 1),
        )
        return pause_s

    async def _fetch_trades(self, stored: Stored, piece: Piece) -> float:
        """Ask for the newest hour's trades of a range that the venue has no bars of, and make those of them."""
        end_ns = piece.asked[1]
        span = (max(piece.asked[0], (end_ns - 1) // HOUR_NS * HOUR_NS), end_ns)
        trades: list[TradeRow] = []
        next_ns = span[0]
        while next_ns < end_ns:
            self.pages += 1
            page = await self._ask(FeedPage(stored.name.fqme, 0, next_ns, end_ns, timeout_s=PAGE_TIMEOUT_S))
            if page.outcome in ("failed", "refused"):
                return self._note_failure(stored, page)
            self._failures, self._unasked = 0, ""
            if page.outcome == "none":
                self._log.info("backfill.none", series=str(stored.name), range_ns=piece.asked, why=page.detail)
                stored.beyond = normalize([*stored.beyond, piece.asked])
                return 0.0
            trades += page.trades
            if not page.next_ns:
                break
            if page.next_ns <= next_ns:
                why = f"pages of trades do not get beyond {next_ns} ns"
                return self._note_failure(stored, PageResult("refused", detail=why))
            next_ns = page.next_ns
        bars = await in_thread(bars_of_trades, trades, piece.series, span)
        pause_s = await self._keep_page(stored, span, bars)
        if not pause_s:
            await self._tell_filled(piece, span, bars)
        return pause_s

    def _note_failure(self, stored: Stored, page: PageResult) -> float:
        """Let others go first after a page that failed; return for how long to rest."""
        self.pages_failed += 1
        self._failures += 1
        pause_s = max(page.retry_s, FAILED_S[min(self._failures, len(FAILED_S)) - 1])
        self._unasked = f"{stored.name}: {page.detail}"
        self._log.info("backfill.failed", series=str(stored.name), why=page.detail, retry_s=round(pause_s, 1))
        stored.retry_s = trio.current_time() + pause_s
        return pause_s if page.outcome == "failed" else 0.0

    async def _keep_page(self, stored: Stored, span: Range, bars: list[BarRow]) -> float:
        try:
            stored.coverage, added = await in_thread(
                keeping.keep_page, self._store, stored.name, span, page_frame(bars)
            )
        except SeriesBusy:
            return BUSY_S
        except StorageError as error:
            self._unkept.begin(str(error))
            return FAILED_S[-1]
        self._unkept.end()
        self.bars += added
        if doubted := intersect([span], ranges(stored.coverage, State.UNVERIFIED)):
            stored.beyond = normalize([*stored.beyond, *doubted])  # the venue has nothing of what is held
        return 0.0

    async def _tell_filled(self, piece: Piece, span: Range, bars: list[BarRow]) -> None:
        """Let the sampler mend those that it still holds, and clients know."""
        stored = self.stored[piece.instrument, piece.series.kind]
        await self._announce(FilledRange(self.info.name, stored.name.fqme, piece.series.name, *span, len(bars)))
        from_ns = self.live.from_ns(piece.series.kind)
        recent = [bar for bar in bars if bar[0] >= from_ns]
        for start in range(0, len(recent), BARS_IN_ONE_GO):
            told = recent[start : start + BARS_IN_ONE_GO]
            await self._tell(FilledBars(self.info.name, piece.instrument, piece.series.kind, told))


def bars_of_trades(trades: list[TradeRow], series: SeriesInfo, span: Range) -> list[BarRow]:
    """See :func:`marketd.history.from_trades.bars_of`, which takes compiled code with it that is seldom needed."""
    from marketd.history.from_trades import bars_of

    return bars_of(trades, parse_period(series.name), span)


_disk = trio.CapacityLimiter(1)  # one writer at a time: no two of this process want one series


async def in_thread(work: Callable[..., R], *arguments: object) -> R:
    """Let the disk be busy while this process goes on."""
    return await trio.to_thread.run_sync(partial(work, *arguments), limiter=_disk)

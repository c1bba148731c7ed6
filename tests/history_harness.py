"""A history manager's feed without its daemon: a venue of lists, live bars that are told by hand, a real store."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import trio
from numpy.typing import NDArray

from backends.live import BarRow
from marketd.clock import SECOND_NS
from marketd.history.feed import FeedHistory
from marketd.history.live import Told
from marketd.ring.steps import BAR, BarState
from marketd.supervise.messages import FeedInfo, FeedPage, FilledBars, PageResult, SeriesInfo
from storage.client import open_storage_client
from storage.coverage import State, ranges
from storage.layout import Series

MINUTE_NS = 60 * SECOND_NS
KIND = 16
NOW_NS = 1_700_000_040 * SECOND_NS  # a whole minute
FQME = "btc/usdt.spot.binance"
SERIES = SeriesInfo("1m", KIND, MINUTE_NS, "")


class FakeClock:
    def __init__(self) -> None:
        self.ns = NOW_NS + 30 * SECOND_NS

    def now_ns(self) -> int:
        return self.ns

    async def sleep_until(self, deadline_ns: int) -> None:
        self.ns = max(self.ns, deadline_ns)
        await trio.lowlevel.checkpoint()


class FakeLive:
    """Stands for :class:`marketd.history.live.LiveBars` with one instrument."""

    def __init__(self) -> None:
        self.series = {KIND: SERIES}
        self.table = SimpleNamespace(count=1, fqme=lambda _: FQME)
        self.until = NOW_NS
        self.begun = True
        self._told: list[Told] = []

    def from_ns(self, _kind: int) -> int:
        return (NEWEST - 1440) * MINUTE_NS

    def until_ns(self, _kind: int) -> int:
        return self.until

    def has_bars(self, _kind: int, _instrument: int) -> bool:
        return self.begun

    def tell(self, rows: NDArray[np.void]) -> None:
        self._told.append(Told(1, SERIES, rows))

    def put_back(self, told: Told) -> None:
        self._told.insert(0, told)

    async def take(self) -> list[Told]:
        told, self._told = self._told, []
        return told


class FakeVenue:
    """Answers pages as the venues' do: as much of a range as a page holds, from its end.

    Args:
        opens: the minutes of which it has bars, by their number.
        limit: rows of a page.
        mangle: what becomes of a page's rows on their way.
    """

    def __init__(
        self, opens: Sequence[int], limit: int = 10, mangle: Callable[[list[BarRow]], list[BarRow]] = lambda rows: rows
    ) -> None:
        self.opens = sorted(opens)
        self.limit = limit
        self.asked: list[tuple[int, int]] = []
        self.outcomes: list[PageResult] = []  # answered first
        self._mangle = mangle

    async def ask(self, page: FeedPage) -> PageResult:
        assert page.fqme == FQME
        assert (page.start_ns % MINUTE_NS, page.end_ns % MINUTE_NS) == (0, 0)
        assert page.start_ns < page.end_ns
        await trio.lowlevel.checkpoint()
        if self.outcomes:
            return self.outcomes.pop(0)
        self.asked.append((page.start_ns, page.end_ns))
        # Longer than a page: asked for by its end alone, so that it jumps over what there is not.
        bounded = (page.end_ns - page.start_ns) // MINUTE_NS <= self.limit
        first_ns = page.start_ns if bounded else 0
        found = [bar(open_) for open_ in self.opens if first_ns <= open_ * MINUTE_NS < page.end_ns][-self.limit :]
        if not found:
            return PageResult("empty")
        return PageResult("page", bars=self._mangle(found), rows_max=self.limit)


def bar(number: int) -> BarRow:
    """Make the venue's bar of a minute; its values say which it is."""
    price = 100.0 + number % 50
    return (number * MINUTE_NS, price, price + 1, price - 1, price + 0.5, 1.0 + number % 7, number % 9)


def told_rows(numbers: Sequence[int], state: BarState = BarState.CLOSED) -> NDArray[np.void]:
    """Make the sampler's bars of minutes, equal to the venue's."""
    rows = np.zeros(len(numbers), BAR)
    names = ("open_ns", "open", "high", "low", "close", "volume", "trade_count")
    for row, number in zip(rows, numbers, strict=True):
        for name, value in zip(names, bar(number), strict=True):
            row[name] = value
    rows["state"], rows["kind"], rows["instrument"], rows["period_ns"] = state, KIND, 1, MINUTE_NS
    rows["number"] = rows["open_ns"] // MINUTE_NS
    return rows


class Harness:
    """See the module. Minutes are told by their number before :data:`NOW_NS`: 1 is the last whole one."""

    def __init__(self, folder: Path, venue: FakeVenue, depth: int) -> None:
        self.clock = FakeClock()
        self.live = FakeLive()
        self.venue = venue
        self.depth = depth
        self.filled: list[int] = []
        info = FeedInfo("binance", "binance", "", "", "", "live")
        with open_storage_client(folder) as self.store:
            pass
        self.feed = FeedHistory(
            info,
            self.live,  # type: ignore[arg-type]
            self.store,
            venue.ask,
            self._note_filled,
            self.clock,
            depth * MINUTE_NS + 30 * SECOND_NS,
        )

    async def fill(self, pages_max: int = 1000, *, patient: bool = True, look_s: float = 0.02) -> None:
        """Flush, and ask until nothing is missing, or without patience until there is a pause."""
        await self.feed.flush()
        deadline_s = time.monotonic() + 20  # a real one: trio's clock may be one that jumps
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.feed.backfill)
            while self.feed.missing(1, KIND) if patient else self.feed.next_piece():
                assert len(self.venue.asked) <= pages_max, self.venue.asked[-5:]
                assert time.monotonic() < deadline_s, self.feed.missing(1, KIND)
                await trio.sleep(look_s)
            nursery.cancel_scope.cancel()

    async def _note_filled(self, told: FilledBars) -> None:
        self.filled += [bar[0] // MINUTE_NS for bar in told.bars]

    def rows(self) -> pl.DataFrame:
        return self.store.read(Series(FQME, "1m"))

    def numbers(self) -> list[int]:
        return (self.rows()["open_ns"] // MINUTE_NS).to_list()

    def known(self, *states: State) -> list[tuple[int, int]]:
        return [
            (start // MINUTE_NS, end // MINUTE_NS)
            for start, end in ranges(self.store.coverage(Series(FQME, "1m")), *states)
        ]


NEWEST = NOW_NS // MINUTE_NS  # the minute that is forming


def shuffled(rows: list[BarRow]) -> list[BarRow]:
    return random.Random(1).sample(rows, len(rows))

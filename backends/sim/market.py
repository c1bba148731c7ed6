"""The simulated venue's events. Each is a pure function of the configuration and of its number.

Numbers count from the venue's beginning. They come in chunks, and every chunk has the same events in another order: so
many quotes and so many trades of each instrument. That is what makes trade ids contiguous and yet known without
counting, and why any chunk can be made without those before it.

A trade happens at the bid or the ask of its instrument's last quote, which may be in the chunk before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from backends.backend import RowBlock
from backends.sim.config import SimConfig
from backends.sim.instruments import key_of, names_of, traits_of
from backends.sim.noise import Keys, heights
from backends.sim.sessions import Sessions
from marketd.clock import SECOND_NS
from marketd.model import Flag, Kind, Side
from marketd.ring import layout

CHUNK_EVENTS_MAX = 4_096  # about 2 ms to make
CHUNK_EVENTS_MIN = 64
_QUOTE_VALUES = ("v0", "v1", "v2", "v3")

Indices = npt.NDArray[np.int64]
Sizes = npt.NDArray[np.float64]


class Chunk(NamedTuple):
    """Events in order of time.

    Attributes:
        rows: shape (n,), dtype layout.ROW. ``instrument`` is an index into the names, ``received_ns`` is 0.
        last_quotes: shape (instruments,), the last quote of each instrument at the chunk's end.
    """

    rows: RowBlock
    last_quotes: RowBlock


class Market:
    """The venue. ``origin_ns`` is where its elapsed time begins; see :class:`backends.sim.sessions.Sessions`."""

    def __init__(self, config: SimConfig, origin_ns: int = 0) -> None:
        self.names = names_of(config.instruments)
        self.sessions = Sessions(config.sessions, config.session_period_s)
        self._config = config
        self._origin_elapsed_ns = self.sessions.elapsed_ns(origin_ns)
        traits = [traits_of(name) for name in self.names]
        self._prices = np.array([each.price for each in traits])
        self._price_scales = np.array([each.price_scale for each in traits])
        self._size_scales = np.array([each.size_scale for each in traits])
        self._size_steps = np.array([each.size_steps for each in traits])
        seed = np.uint64(key_of(f"seed {config.seed}"))
        self._keys: Keys = np.array([key_of(name) for name in self.names], np.uint64) ^ seed
        self._common_key: Keys = np.array([key_of("common")], np.uint64) ^ seed
        self._slots, self._trades_per_chunk = _slots(config, len(self.names))
        self._made: dict[int, Chunk] = {}

    @property
    def chunk_events(self) -> int:
        """How many events are in a chunk."""
        return len(self._slots)

    def chunk(self, number: int) -> Chunk:
        """Return a chunk. A new one is made; the neighbours of the newest one are at hand."""
        chunk = self._made.get(number)
        if chunk is None:
            before = self._made.get(number - 1)
            if before is None and number:
                before = self._make(number - 1, None)
            chunk = self._make(number, before)
            self._made = {other: kept for other, kept in self._made.items() if abs(other - number) == 1}
            self._made[number] = chunk
        return chunk

    def index_after(self, time_ns: int) -> int:
        """Return the number of the first event later than a time."""
        elapsed_ns = max(0, self.sessions.elapsed_ns(time_ns) - self._origin_elapsed_ns)
        # The events of an elapsed second are the same numbers in every second, in whatever burst they come.
        index = elapsed_ns // SECOND_NS * self._config.rate_hz
        while True:
            number, offset = divmod(index, self.chunk_events)
            times = self.chunk(number).rows["event_ns"]
            later = offset + int(np.searchsorted(times[offset:], time_ns, side="right"))
            if later < len(times):
                return number * self.chunk_events + later
            index = (number + 1) * self.chunk_events

    def quotes_before(self, index: int) -> RowBlock:
        """Return each instrument's last quote before an event, in order of the names; a copy."""
        number, offset = divmod(index, self.chunk_events)
        chunk = self.chunk(number)
        quotes = self._opening(number).copy()
        earlier = chunk.rows[:offset]
        earlier = earlier[earlier["kind"] == Kind.QUOTE]
        quotes[earlier["instrument"]] = earlier  # of several to the same place the last one stays
        return quotes

    def _opening(self, number: int) -> RowBlock:
        """Return the last quotes before a chunk; those of the very first chunk are the first in it."""
        if number:
            before = self._made.get(number - 1) or self._make(number - 1, None)
            return before.last_quotes
        rows = self.chunk(0).rows
        quotes = rows[rows["kind"] == Kind.QUOTE]
        first: RowBlock = quotes[np.unique(quotes["instrument"], return_index=True)[1]]
        return first

    def _make(self, number: int, before: Chunk | None) -> Chunk:
        """Make a chunk. Without the one before, trades ahead of their instrument's first quote take that quote."""
        random = np.random.Generator(np.random.Philox(key=np.array([self._config.seed, number], np.uint64)))
        slots = random.permutation(self._slots)
        instruments, is_trade = slots >> 1, (slots & 1).astype(bool)
        elapsed_ns = self._elapsed_ns(number, random)
        rows = np.zeros(len(slots), layout.ROW)
        rows["event_ns"] = self.sessions.times_ns(elapsed_ns + self._origin_elapsed_ns)
        rows["instrument"] = instruments
        rows["flags"] = int(Flag.LAST)
        rows["sequence"] = number * len(slots) + np.arange(len(slots))
        self._fill_quotes(rows, np.flatnonzero(~is_trade), elapsed_ns, random)
        # From here on instrument by instrument, each in order of time.
        order = np.argsort(instruments, kind="stable")
        last_quotes = self._fill_trades(rows, order, is_trade[order], number, before, random)
        return Chunk(rows, last_quotes)

    def _elapsed_ns(self, number: int, random: np.random.Generator) -> Indices:
        """Spread a chunk's events over their seconds: evenly, shaken a little, and drawn together in a burst."""
        rate_hz, bursts = self._config.rate_hz, self._config.bursts
        second, place = np.divmod(number * self.chunk_events + np.arange(self.chunk_events), rate_hz)
        phase = (place + random.random(self.chunk_events)) / rate_hz
        phase -= bursts / (2 * np.pi) * np.sin(2 * np.pi * phase)
        within = np.clip((phase * SECOND_NS).astype(np.int64), 0, SECOND_NS - 1)
        elapsed_ns: Indices = second * SECOND_NS + within
        return elapsed_ns

    def _fill_quotes(self, rows: RowBlock, at: Indices, elapsed_ns: Indices, random: np.random.Generator) -> None:
        """Write the quotes at some places: one to three ticks around the instrument's price at that time."""
        instruments, times = rows["instrument"][at], elapsed_ns[at]
        config = self._config
        common = heights(self._common_key, times) * config.correlation**0.5
        own = heights(self._keys[instruments], times) * (1 - config.correlation) ** 0.5
        prices = self._prices[instruments] * np.exp((common + own) * config.volatility)
        scale = self._price_scales[instruments]
        spread = 1 + (random.random(len(at)) ** 2 * 3).astype(np.int64)
        bid = np.maximum(1, np.rint(prices * scale - spread / 2))
        rows["kind"][at] = int(Kind.QUOTE)
        rows["v0"][at] = bid / scale
        rows["v1"][at] = self._sizes(instruments, random, 3.0)
        rows["v2"][at] = (bid + spread) / scale
        rows["v3"][at] = self._sizes(instruments, random, 3.0)

    def _fill_trades(
        self,
        rows: RowBlock,
        order: Indices,
        is_trade: npt.NDArray[np.bool_],
        number: int,
        before: Chunk | None,
        random: np.random.Generator,
    ) -> RowBlock:
        """Write the trades at their instruments' last quotes; return the last quote of each instrument.

        Args:
            order: the rows' places, instrument by instrument, each in order of time.
            is_trade: in that order.
        """
        instruments = rows["instrument"][order].astype(np.int64)
        starts = np.searchsorted(instruments, np.arange(len(self.names)))
        ends = np.append(starts[1:], len(order)) - 1
        places = np.arange(len(order))
        newest_quote = np.maximum.accumulate(np.where(is_trade, -1, places))
        last_quotes: RowBlock = rows[order[newest_quote[ends]]]
        trades = np.flatnonzero(is_trade)
        if not len(trades):
            return last_quotes
        of, quote = instruments[trades], newest_quote[trades]
        inside = quote >= starts[of]
        quotes = np.flatnonzero(~is_trade)
        first_quotes = rows[order[quotes[np.searchsorted(quotes, starts)]]]
        opening = before.last_quotes if before is not None else first_quotes
        buys = random.random(len(trades)) < 0.5
        here, there = rows[order[np.where(inside, quote, 0)]], opening[of]
        bid, ask = np.where(inside, here["v0"], there["v0"]), np.where(inside, here["v2"], there["v2"])
        counted = np.cumsum(is_trade)
        nth: Indices = counted[trades] - (counted[starts] - is_trade[starts])[of]
        at = order[trades]
        rows["kind"][at] = int(Kind.TRADE)
        rows["side"][at] = np.where(buys, int(Side.BUY), int(Side.SELL))
        rows["sequence"][at] = number * self._trades_per_chunk[of] + nth
        rows["v0"][at] = np.where(buys, ask, bid)
        rows["v1"][at] = self._sizes(of, random, 1.0)
        rows["v2"][at] = 0.0
        rows["v3"][at] = 0.0
        return last_quotes

    def _sizes(self, instruments: Indices, random: np.random.Generator, factor: float) -> Sizes:
        steps = 1 + np.floor(random.exponential(self._size_steps[instruments] * factor))
        sizes: Sizes = steps / self._size_scales[instruments]
        return sizes


def _slots(config: SimConfig, count: int) -> tuple[Indices, Indices]:
    """Lay out a chunk's events: ``2 * instrument`` for each quote, ``2 * instrument + 1`` for each trade.

    The first instruments are the busiest. Each has at least one quote, and one trade if there are trades at all.

    Returns:
        The events, and how many trades each instrument has.
    """
    target = min(max(config.rate_hz // 16, CHUNK_EVENTS_MIN, 4 * count), max(CHUNK_EVENTS_MAX, 4 * count))
    weights = (1 + np.arange(count)) ** -0.5
    weights /= weights.sum()
    quotes = np.maximum(1, np.rint(target * (1 - config.trade_share) * weights)).astype(np.int64)
    trades = np.maximum(1, np.rint(target * config.trade_share * weights)).astype(np.int64)
    if not config.trade_share:
        trades[:] = 0
    instruments = np.arange(count)
    return np.concatenate((np.repeat(2 * instruments, quotes), np.repeat(2 * instruments + 1, trades))), trades

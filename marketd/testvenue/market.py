"""The simulated market: every trade and quote is a pure function of (seed, instrument, number).

Each instrument has one trade in each slot of ``trade_interval_ns``, at a pseudo-random place inside the slot. Trade
number ``n`` (from 1) lies in slot ``n``, so numbers are contiguous in time, and the trades of any range of time can be
computed without those before it. Quotes are made alike in slots of their own. All arithmetic is in integers (ticks and
nanoseconds), so the same numbers come out on every machine.

Functions that take arrays take them in parallel: element ``i`` of one belongs to element ``i`` of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

MILLISECOND_NS = 1_000_000
PRICE_TICKS_MAX = 1 << 24  # with sizes below 2**20 ticks, sums of price times size over months stay below 2**63
SIZE_TICKS_MAX = 1 << 20

# What one hash of a number is used for.
_TRADE_TIME, _TRADE_SIDE, _TRADE_PRICE, _TRADE_SIZE = 1, 2, 3, 4
_QUOTE_TIME, _QUOTE_SPREAD, _QUOTE_SIZE = 5, 6, 7
_LEVEL_SIZE = 8
_PATH = 16  # and the following, one an octave

# The path of the price: period in milliseconds, amplitude in hundred-thousandths of the price.
_OCTAVES = ((86_400_000, 4000), (3_600_000, 800), (300_000, 200), (20_000, 40))


@dataclass(frozen=True)
class Instrument:
    """What is traded. Prices and sizes of it are counted in its ticks.

    Attributes:
        price: the middle of its path, in ticks.
        size_max: ordinary trades are of 1 to so many size ticks, one in eight is ten times as large.
    """

    base: str
    quote: str
    price_tick: Decimal
    size_tick: Decimal
    price: int
    size_max: int
    trade_interval_ns: int
    quote_interval_ns: int

    def __post_init__(self) -> None:
        if not 100 <= self.price <= PRICE_TICKS_MAX:
            raise ValueError(f"{self.symbol}: a price of {self.price} ticks is not within 100 and {PRICE_TICKS_MAX}")
        if not 1 <= self.size_max * 10 <= SIZE_TICKS_MAX:
            raise ValueError(f"{self.symbol}: size_max is {self.size_max}, ten times it is above {SIZE_TICKS_MAX}")

    @property
    def symbol(self) -> str:
        """``BTC/USDT``: no venue's own spelling."""
        return f"{self.base}/{self.quote}"


class Trade(NamedTuple):
    """One trade. ``side`` is the taker's: 1 bought, -1 sold; prices and sizes are in ticks."""

    instrument: int
    number: int
    time_ns: int
    price: int
    size: int
    side: int


class Quote(NamedTuple):
    """The best bid and ask from ``time_ns`` on, in ticks."""

    instrument: int
    number: int
    time_ns: int
    bid: int
    bid_size: int
    ask: int
    ask_size: int


class TradeBlock(NamedTuple):
    """Many trades, one array for each field of :class:`Trade`."""

    instrument: Ints
    number: Ints
    time_ns: Ints
    price: Ints
    size: Ints
    side: Ints

    def rows(self) -> list[Trade]:
        """Turn the columns into trades."""
        return list(map(Trade._make, zip(*(column.tolist() for column in self), strict=True)))


class QuoteBlock(NamedTuple):
    """Many quotes, one array for each field of :class:`Quote`."""

    instrument: Ints
    number: Ints
    time_ns: Ints
    bid: Ints
    bid_size: Ints
    ask: Ints
    ask_size: Ints

    def rows(self) -> list[Quote]:
        """Turn the columns into quotes."""
        return list(map(Quote._make, zip(*(column.tolist() for column in self), strict=True)))


class Slots:
    """The times of one kind of event: one in each slot, at a pseudo-random place in it."""

    def __init__(self, salts: Hashes, intervals_ns: Ints, origin_ns: int, purpose: int) -> None:
        self._salts = salts
        self._intervals_ns = intervals_ns
        self._origin_ns = origin_ns
        self._purpose = purpose

    def times(self, instruments: Ints, numbers: Ints) -> Ints:
        """When each event happens, in ns."""
        intervals_ns = self._intervals_ns[instruments]
        jitter = _hash(self._salts[instruments], numbers, self._purpose) % intervals_ns.astype(np.uint64)
        times: Ints = self._origin_ns + (numbers - 1) * intervals_ns + jitter.astype(np.int64)
        return times

    def numbers_before(self, instruments: Ints, times_ns: Ints | int) -> Ints:
        """How many events happen before each time: the number of the last of them, 0 for none."""
        candidates = (times_ns - self._origin_ns) // self._intervals_ns[instruments] + 1
        earlier = self.times(instruments, candidates) < times_ns
        numbers: Ints = np.maximum(candidates - 1 + earlier, 0)
        return numbers

    def between(self, instruments: Ints, start_ns: int, end_ns: int) -> tuple[Ints, Ints]:
        """The events of ``[start_ns, end_ns)``: their instruments, and their numbers in ascending order for each."""
        before = self.numbers_before(instruments, start_ns)
        counts = self.numbers_before(instruments, end_ns) - before
        ends = np.cumsum(counts)
        offsets = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)
        return np.repeat(instruments, counts), np.repeat(before, counts) + 1 + offsets


class Market:
    """Instruments and what happens to them.

    Args:
        origin_ns: when trading began: there is nothing before it.
    """

    def __init__(self, instruments: Sequence[Instrument], seed: int, origin_ns: int) -> None:
        self.instruments = tuple(instruments)
        self.origin_ns = origin_ns
        # An instrument's data depend on its name, so another one beside it changes nothing.
        self._salts = np.array([_salt(seed, instrument) for instrument in instruments], np.uint64)
        self._prices = np.array([instrument.price for instrument in instruments], np.int64)
        self._sizes_max = np.array([instrument.size_max for instrument in instruments], np.uint64)
        trade_intervals = np.array([instrument.trade_interval_ns for instrument in instruments], np.int64)
        quote_intervals = np.array([instrument.quote_interval_ns for instrument in instruments], np.int64)
        self.trade_slots = Slots(self._salts, trade_intervals, origin_ns, _TRADE_TIME)
        self.quote_slots = Slots(self._salts, quote_intervals, origin_ns, _QUOTE_TIME)

    def trades(self, instruments: Ints, numbers: Ints) -> TradeBlock:
        """Compute trades by their numbers."""
        salts = self._salts[instruments]
        times_ns = self.trade_slots.times(instruments, numbers)
        sides = (_hash(salts, numbers, _TRADE_SIDE) & 1).astype(np.int64) * 2 - 1
        distance = 1 + _hash(salts, numbers, _TRADE_PRICE) % 4
        prices = np.maximum(self._path(instruments, times_ns) + sides * distance.astype(np.int64), 1)
        size_hash = _hash(salts, numbers, _TRADE_SIZE)
        sizes = 1 + (size_hash >> 3) % self._sizes_max[instruments]
        large = np.where(size_hash & 7, 1, 10).astype(np.uint64)
        return TradeBlock(instruments, numbers, times_ns, prices, (sizes * large).astype(np.int64), sides)

    def quotes(self, instruments: Ints, numbers: Ints) -> QuoteBlock:
        """Compute quotes by their numbers."""
        salts = self._salts[instruments]
        times_ns = self.quote_slots.times(instruments, numbers)
        middle = self._path(instruments, times_ns)
        spread = _hash(salts, numbers, _QUOTE_SPREAD)
        bids = np.maximum(middle - 1 - (spread & 1).astype(np.int64), 1)
        asks = np.maximum(middle + 1 + (spread >> 1 & 1).astype(np.int64), bids + 1)
        size_hash = _hash(salts, numbers, _QUOTE_SIZE)
        sizes_max = self._sizes_max[instruments]
        bid_sizes = (1 + (size_hash & 0xFFFFFFFF) % sizes_max).astype(np.int64)
        ask_sizes = (1 + (size_hash >> 32) % sizes_max).astype(np.int64)
        return QuoteBlock(instruments, numbers, times_ns, bids, bid_sizes, asks, ask_sizes)

    def trades_between(self, instruments: Ints, start_ns: int, end_ns: int) -> TradeBlock:
        """Compute the trades of ``[start_ns, end_ns)`` in the order of time."""
        block = self.trades(*self.trade_slots.between(instruments, start_ns, end_ns))
        order = np.argsort(block.time_ns, kind="stable")
        return TradeBlock(*(column[order] for column in block))

    def quotes_between(self, instruments: Ints, start_ns: int, end_ns: int) -> QuoteBlock:
        """Compute the quotes of ``[start_ns, end_ns)`` in the order of time."""
        block = self.quotes(*self.quote_slots.between(instruments, start_ns, end_ns))
        order = np.argsort(block.time_ns, kind="stable")
        return QuoteBlock(*(column[order] for column in block))

    def trade_range(self, instrument: int, number_first: int, number_last: int) -> list[Trade]:
        """Compute one instrument's trades of these numbers, both inclusive; an empty range gives none."""
        numbers = np.arange(max(number_first, 1), number_last + 1, dtype=np.int64)
        return self.trades(np.full(len(numbers), instrument), numbers).rows()

    def trades_before(self, instrument: int, time_ns: int) -> int:
        """The number of the last trade before this time, 0 for none."""
        return int(self.trade_slots.numbers_before(np.array([instrument]), time_ns)[0])

    def quotes_before(self, instrument: int, time_ns: int) -> int:
        """The number of the last quote before this time, 0 for none."""
        return int(self.quote_slots.numbers_before(np.array([instrument]), time_ns)[0])

    def quote(self, instrument: int, number: int) -> Quote:
        """Compute one quote."""
        return self.quotes(np.array([instrument]), np.array([number])).rows()[0]

    def level_sizes(self, instrument: int, prices: Ints, number: int) -> Ints:
        """The size that rests at each price below the best, at quote ``number``; about one in 16 changes with each."""
        salts = np.full(len(prices), self._salts[instrument])
        ages = (prices + number) >> 4
        sizes = _hash(salts ^ prices.astype(np.uint64) << np.uint64(24), ages, _LEVEL_SIZE)
        result: Ints = (1 + sizes % (10 * self._sizes_max[instrument])).astype(np.int64)
        return result

    def _path(self, instruments: Ints, times_ns: Ints) -> Ints:
        """The middle price at each time: noise between fixed points in time, joined smoothly, in several octaves."""
        times_ms = times_ns // MILLISECOND_NS
        path = self._prices[instruments].copy()
        salts = self._salts[instruments]
        for octave, (period_ms, amplitude) in enumerate(_OCTAVES, _PATH):
            reach = np.maximum(self._prices[instruments] * amplitude // 100_000, 1)
            point, into = np.divmod(times_ms, period_ms)
            left = _spread(_hash(salts, point, octave), reach)
            right = _spread(_hash(salts, point + 1, octave), reach)
            part = (into << 16) // period_ms
            weight = (part * part >> 16) * ((3 << 16) - 2 * part) >> 16  # the smoothstep polynomial, in 2**-16
            path += left + ((right - left) * weight >> 16)
        return path


def _spread(hashes: Hashes, reach: Ints) -> Ints:
    spread: Ints = (hashes % (2 * reach + 1).astype(np.uint64)).astype(np.int64) - reach
    return spread


def _hash(salts: Hashes, numbers: Ints, purpose: int) -> Hashes:
    """Mix 64 bits: the output function of splitmix64, https://prng.di.unimi.it/splitmix64.c ."""
    mixed = salts + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed += np.uint64(purpose * 0xD1B54A32D192ED03 & 0xFFFFFFFFFFFFFFFF)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashes: Hashes = mixed ^ (mixed >> np.uint64(31))
    return hashes


def _salt(seed: int, instrument: Instrument) -> int:
    digest = hashlib.blake2b(f"{seed}:{instrument.symbol}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")

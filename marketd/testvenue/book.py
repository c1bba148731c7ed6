"""Order books: all levels of a side, a pure function of the quote's number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from marketd.testvenue.market import Market

Level = tuple[int, int]  # price and size, in ticks


class Book(NamedTuple):
    """The best ``depth`` levels of each side, the best first. ``number`` is that of the quote it stands at."""

    number: int
    bids: list[Level]
    asks: list[Level]


def book(market: Market, instrument: int, number: int, depth: int) -> Book:
    """Compute the book as it is after quote ``number``; its first levels are that quote."""
    quote = market.quote(instrument, number)
    steps = np.arange(1, depth, dtype=np.int64)
    bid_prices = (quote.bid - steps)[: max(quote.bid - 1, 0)]  # no price is below one tick
    ask_prices = quote.ask + steps
    return Book(
        number,
        [
            (quote.bid, quote.bid_size),
            *_levels(bid_prices.tolist(), market.level_sizes(instrument, bid_prices, number).tolist()),
        ],
        [
            (quote.ask, quote.ask_size),
            *_levels(ask_prices.tolist(), market.level_sizes(instrument, ask_prices, number).tolist()),
        ],
    )


def changes(before: Book, after: Book) -> Book:
    """What turns one book into a later one; size 0 removes a level.

    A level that merely fell out of the depth at the far end is not mentioned: venues leave it to the client.
    """
    return Book(
        after.number,
        _changes(before.bids, after.bids, after.bids[-1][0], 1 << 62),
        _changes(before.asks, after.asks, 0, after.asks[-1][0]),
    )


def _changes(before: list[Level], after: list[Level], price_min: int, price_max: int) -> list[Level]:
    old, new = dict(before), dict(after)
    changed = [(price, size) for price, size in after if old.get(price) != size]
    gone = [(price, 0) for price, _ in before if price not in new and price_min <= price <= price_max]
    return gone + changed


def _levels(prices: list[int], sizes: list[int]) -> list[Level]:
    return list(zip(prices, sizes, strict=True))

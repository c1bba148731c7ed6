"""A book as a reader of level rows keeps it, by nothing but the rule in `marketd/ring/layout.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from marketd.model import Flag, Side
from marketd.testvenue.book import book
from marketd.testvenue.market import Market

BookSides = tuple[list[tuple[float, float]], list[tuple[float, float]]]  # bids and asks, the best first


@dataclass
class RebuiltBook:
    """The levels of one instrument, size by price.

    Attributes:
        begun: whether there is a book at all, and not only parts of one.
        whole: whether the newest row was the last of its event: between two such the book is neither old nor new.
        beginnings: how often it began anew.
    """

    bids: dict[float, float] = field(default_factory=dict)
    asks: dict[float, float] = field(default_factory=dict)
    begun: bool = False
    whole: bool = True
    beginnings: int = 0

    def take(self, side: int, flags: int, price: float, size: float) -> None:
        """Take one level row."""
        if side == Side.UNKNOWN:
            self.bids, self.asks, self.begun = {}, {}, True
            self.beginnings += 1
        else:
            levels = self.bids if side == Side.BUY else self.asks
            levels[price] = size
            if not size:
                del levels[price]
        self.whole = bool(flags & Flag.LAST)

    def lose(self) -> None:
        """Take it that rows are missing: what there is means nothing any more."""
        self.bids, self.asks, self.begun = {}, {}, False

    def sides(self) -> BookSides:
        """What there is now."""
        return sorted(self.bids.items(), reverse=True), sorted(self.asks.items())


def venue_book(market: Market, instrument: int, number: int, depth: int) -> BookSides:
    """The test venue's own book after a quote."""
    levels, facts = book(market, instrument, number, depth), market.instruments[instrument]
    bids, asks = (
        [(float(price * facts.price_tick), float(size * facts.size_tick)) for price, size in side]
        for side in (levels.bids, levels.asks)
    )
    return bids, asks

"""All connections to one address of a venue: which instruments are on which of them, now and as that changes."""

from __future__ import annotations

import trio

from marketd.feed.connection import Surroundings
from marketd.feed.shard import Shard, ShardReport
from marketd.feed.shards import spread
from marketd.model import GapReason, MktPair, Quality


class Route:
    """One address.

    Attributes:
        shards: those that carry something, or are about to.
        past: counts of those that are no more.
    """

    def __init__(self, around: Surroundings, nursery: trio.Nursery) -> None:
        self.around = around
        self.shards: list[Shard] = []
        self.past = ShardReport()
        self._nursery = nursery
        self._numbers = 0
        limits = around.venue.limits
        self._capacity = max(1, limits.streams_per_connection // limits.streams_per_instrument)

    def carry(self, markets: dict[str, MktPair]) -> None:
        """Carry these instruments from now on, each on one connection."""
        shares = spread(markets, [shard.markets for shard in self.shards], self._capacity)
        while len(self.shards) < len(shares):
            self._numbers += 1
            shard = Shard(self.around, self._numbers)
            self.shards.append(shard)
            self._nursery.start_soon(shard.keep)
        for shard, names in zip(self.shards, shares, strict=True):
            share = {name: markets[name] for name in sorted(names)}
            shard.carry(share)
            if not share:
                shard.stop()
                self.past.add(shard.report)
        self.shards = [shard for shard in self.shards if shard.markets]

    def drop(self, instrument: int, *, listed: bool, now_ns: int) -> None:
        """Note that an instrument is not wanted any more; what comes until it is wanted again is missing."""
        tracks = self.around.tracks
        tracks.begin_outage(instrument, GapReason.DISCONNECT, now_ns, now_ns)
        tracks.set_quality(instrument, Quality.UNKNOWN if listed else Quality.CLOSED, now_ns)

"""Which connection carries which instrument, pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def spread(wanted: Collection[str], shards: Sequence[Collection[str]], capacity: int) -> list[set[str]]:
    """Spread instruments over connections, each on exactly one and at most ``capacity`` on each.

    What is on a connection stays there, for moving it would mean a hole or an overlap. New ones fill the first
    connections that have room; what does not fit opens new ones.

    Returns:
        One set for each of ``shards``, in order, and for each new connection after them. An empty one is to be closed.
    """
    if capacity < 1:
        raise ValueError(f"a connection carries {capacity} instruments: it must be at least one")
    wanted = set(wanted)
    placed: set[str] = set()
    result: list[set[str]] = []
    for shard in shards:
        kept = (set(shard) & wanted) - placed
        placed |= kept
        result.append(kept)
    fresh = sorted(wanted - placed, reverse=True)
    for shard_set in result:
        while fresh and 0 < len(shard_set) < capacity:
            shard_set.add(fresh.pop())
    while fresh:
        new = [fresh.pop() for _ in range(min(capacity, len(fresh)))]
        result.append(set(new))
    return result

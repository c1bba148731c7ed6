"""What is known about each instrument's data, told to readers when it changes. Pure but for the sink."""

from __future__ import annotations

import numpy as np

from backends.backend import RowBlock, Sink
from marketd.model import Flag, Kind, Quality
from marketd.ring import layout

_BEST_FIRST = (Quality.OK, Quality.UNKNOWN, Quality.RESYNCING, Quality.STALE, Quality.GAP, Quality.CLOSED)


class Qualities:
    """The qualities of one feed's instruments. Where data comes over several routes, the worst of them counts.

    Args:
        routes: how many there are.
    """

    def __init__(self, sink: Sink, routes: int = 1) -> None:
        self._sink = sink
        self._routes = routes
        self._by_instrument: dict[int, list[Quality]] = {}

    def set(self, instrument: int, quality: Quality, now_ns: int, route: int = 0) -> None:
        """Change an instrument's quality on one route, and tell readers, unless nothing was known before."""
        known = self._by_instrument.setdefault(instrument, [Quality.UNKNOWN] * self._routes)
        before = _worst(known)
        known[route] = quality
        after = _worst(known)
        if after is before:
            return
        self._sink.quality(instrument, after)
        if before is not Quality.UNKNOWN:
            self._sink.append_block(status_row(instrument, after, now_ns))


def _worst(qualities: list[Quality]) -> Quality:
    return max(qualities, key=_BEST_FIRST.index)


def status_row(instrument: int, quality: Quality, now_ns: int) -> RowBlock:
    """Make the row that tells readers of an instrument's quality."""
    row = np.zeros(1, layout.ROW)
    row["event_ns"] = row["received_ns"] = now_ns
    row["instrument"], row["kind"], row["flags"] = instrument, Kind.STATUS, Flag.LAST
    row.view(layout.STATUS)["code"] = quality
    return row

"""A Kraken order book as a client keeps it, with the published checksum. Shared by tests of the test venue."""

from __future__ import annotations

import zlib
from typing import Any


class KrakenBook:
    """Takes the messages of one `book` channel; ``decimals`` are those of prices and sizes."""

    def __init__(self, depth: int, decimals: tuple[int, int]) -> None:
        self._depth = depth
        self._decimals = decimals
        self._sides: dict[str, dict[str, str]] = {"bids": {}, "asks": {}}

    def apply(self, data: dict[str, Any]) -> bool:
        """Take one message's data over; whether its checksum is right."""
        for side, best_first in (("bids", -1), ("asks", 1)):
            levels = self._sides[side]
            for level in data[side]:
                levels[f"{level['price']:.{self._decimals[0]}f}"] = f"{level['qty']:.{self._decimals[1]}f}"
            kept = sorted((p for p, size in levels.items() if float(size)), key=lambda p, s=best_first: s * float(p))
            self._sides[side] = {price: levels[price] for price in kept[: self._depth]}
        digits = "".join(
            part.replace(".", "").lstrip("0")
            for side in ("asks", "bids")
            for level in list(self._sides[side].items())[:10]
            for part in level
        )
        return bool(data["checksum"] == zlib.crc32(digits.encode()))

"""One instrument's order book, kept as Kraken wants it and checked with each message. Pure.

https://docs.kraken.com/exchange/guides/websockets/book-checksum-v2 (before: …/api/docs/guides/spot-ws-book-v2):

- A message is taken as a whole: each level replaces the one at its price, and a quantity of 0 removes it. "It is
  possible to have multiple updates to the same price level in a single update message", to be taken in their order.
- "After each update, truncate your book to the subscribed depth — you will not receive `qty: 0` for levels that fall
  out of scope." Our readers need not know that: these levels become rows of their own, with size 0.
- The checksum is the CRC32 of the ten best asks, then the ten best bids, the best first: the digits of price and
  quantity as they were sent, without the point and without leading zeros.

Kraken numbers no book messages, so the checksum is all that tells of a lost or changed one. A book that is crossed goes
through if its checksum is right: then it is the venue's own, and to ask for it again would bring the same.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from marketd.clock import SECOND_NS
from marketd.model import GapReason

# The smallest that Kraken offers, and all that the checksum covers: what is deeper could be wrong unnoticed.
DEPTH = 10
# A book is told as a whole so often, instead of its changes: whoever begins to read later, or has lost rows, waits no
# longer than that and the next change. It is some 20 rows, of an instrument that has hundreds of changes meanwhile.
WHOLE_EVERY_NS = 10 * SECOND_NS

_CHECKED = 10

Level = tuple[float, float, bytes]  # price, size, the digits of both


class Change(NamedTuple):
    """What one message says of one book."""

    snapshot: bool
    bids: list[Level]
    asks: list[Level]
    checksum: int
    event_ns: int
    received_ns: int


class Told(NamedTuple):
    """What readers are to be told; good until the book takes its next message.

    ``whole``: all levels, the best first, in place of what was told before; else those that have changed.
    """

    whole: bool
    bids: list[Level]
    asks: list[Level]


class Book:
    """A book, from its subscription on.

    Attributes:
        last_ns: event time of the newest message that fitted; 0 before there was one.
    """

    __slots__ = ("_asks", "_bids", "_depth", "_due", "_kept", "_whole_ns", "last_ns")

    def __init__(self) -> None:
        self._bids, self._asks = _Side(-1), _Side(1)
        self._depth = DEPTH
        self._due = False  # its subscription is acked, so a snapshot comes first
        self._kept = False
        self._whole_ns = 0
        self.last_ns = 0

    def expect(self, depth: int) -> None:
        """Note that its subscription was acked: the next message is a snapshot."""
        self._depth = depth
        self._due = True

    def take(self, change: Change) -> Told | GapReason | None:
        """Take the next message.

        Returns:
            What to tell readers; or why the book is wrong from here on (SEQUENCE: its snapshot did not come), said
            once; or None while there is no book: updates of an earlier subscription are still on their way, say.
        """
        if change.snapshot:
            self._bids, self._asks = _Side(-1), _Side(1)
            self._kept = True
        elif not self._kept:
            missed, self._due = self._due, False
            return GapReason.SEQUENCE if missed else None
        gone_bids = self._bids.take(change.bids, self._depth)
        gone_asks = self._asks.take(change.asks, self._depth)
        self._due = False
        if zlib.crc32(self._bids.text(), zlib.crc32(self._asks.text())) != change.checksum:
            self._kept = False
            return GapReason.CHECKSUM
        self.last_ns = change.event_ns
        # A clock that was set back must not put this off.
        if change.snapshot or not 0 <= change.received_ns - self._whole_ns < WHOLE_EVERY_NS:
            self._whole_ns = change.received_ns
            return Told(True, self._bids.levels, self._asks.levels)
        return Told(False, change.bids + gone_bids, change.asks + gone_asks)


class _Side:
    """The levels of one side, the best first; ``sign`` is -1 for bids, whose best is the highest."""

    __slots__ = ("_keys", "_sign", "_text", "levels")

    def __init__(self, sign: int) -> None:
        self.levels: list[Level] = []
        self._keys: list[float] = []
        self._sign = sign
        self._text: bytes | None = b""

    def take(self, changed: Iterable[Level], depth: int) -> list[Level]:
        """Put levels in their places; return those that fell out at the far end, as removals."""
        keys, levels = self._keys, self.levels
        for level in changed:
            key = self._sign * level[0]
            at = bisect_left(keys, key)
            known = at < len(keys) and keys[at] == key
            if not level[1]:
                if known:
                    del keys[at], levels[at]
            elif known:
                levels[at] = level
            else:
                keys.insert(at, key)
                levels.insert(at, level)
            self._text = None
        if len(keys) <= depth:
            return []
        gone = [(price, 0.0, digits) for price, _, digits in levels[depth:]]
        del keys[depth:], levels[depth:]
        return gone

    def text(self) -> bytes:
        """Its part of what the checksum is made of."""
        if self._text is None:
            self._text = b"".join([digits for _, _, digits in self.levels[:_CHECKED]])
        return self._text

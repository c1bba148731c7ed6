"""The bytes of a tick ring.

    segment   = header (4096 bytes), slot * rows          rows is a power of two
    header    = magic "MKTDRING", u32 version, u32 row bytes, u64 dtype hash, u64 rows, u64 epoch, i64 created ns   @0
                u64 published    the newest cursor that readers may read                                          @128
                u64 reserved     the newest cursor whose slot the writer may be changing                          @192
                u64 writer pid, i64 writer heartbeat ns                                                           @256
    slot      = one row of 72 bytes, little endian, at header + (cursor mod rows) * 72
    row       = u64 cursor, i64 event_ns, i64 received_ns, i64 sequence,
                u32 instrument, u8 kind, i8 side, u16 flags, value * 4
    value     = trade, level: f64 price, f64 size, -, -      quote: f64 bid, f64 bid_size, f64 ask, f64 ask_size
                gap: i64 from_ns, i64 to_ns, i64 reason, i64 lost       status: i64 code, -, -, -

Cursors count from 1 without holes within an epoch. Instrument 0 in a gap or status row means all of the feed.

A level row says the size at a price of one side of the instrument's book, buy being the bids; size 0 removes the
level. A book begins with a row of side unknown, price 0 and size 0: forget all levels. It has the flag SNAPSHOT, and so
have the rows after it, one for each level there is; the last of them has LAST, which in an empty book is the first row
itself. Each later change is one row or more without SNAPSHOT, again with LAST on the last. Until it has seen a
beginning a reader has no book; one comes at least with the first change after ten seconds. A gap row ends no book: the
levels after it fit, or a beginning is in front of them. Rows that the reader itself has lost do end it.

Why a reader can trust a copy (one writer, many readers, no locks)
------------------------------------------------------------------
The writer (1) stores ``reserved``, at least as large as any cursor it is about to write, (2) fences, (3) stores rows,
each with its cursor, (4) fences, (5) stores ``published``. A reader (a) loads ``published``, (b) fences, (c) copies
rows up to it, (d) fences, (e) loads ``reserved``. A slot that the writer touched during the copy is being rewritten
for a cursor c' <= reserved, and held the cursor c' - rows; so every copied cursor greater than ``reserved - rows`` was
whole while it was copied, and any other counts as lapped. The cursor in each copied row is compared as well: a second
witness that does not depend on the header.

The argument needs: if (c) saw any byte of (3), then (e) sees (1). On x86-64 stores become visible in program order and
loads are done in program order (Intel SDM vol. 3A, 9.2.2), and CPython stores an aligned u64 through a memoryview in
one move, so it holds without any fence, but for the string and non-temporal moves that a large copy may be made of. On
arm64 neither order is given. :func:`marketd.ring.fence.fence` is a full barrier on both. Both are also what the
doorbell needs: its "store, then load" is the one order that x86-64 does not keep.

It does not need: any order among the bytes of a row, nor whole words in (c). That is why the cursor need not be the
last thing written in a slot (it would cost another 40 ns a row), and why a stamp alone, without ``reserved``, would
not do: a slot whose old stamp still stands may already hold new values.

``reserved`` runs ahead by up to 1024 rows (a quarter of the ring if that is less), so that it is stored once in so many
rows; those slots count as lapped although most still hold their old rows. A writer that dies leaves it where it was;
its successor goes on at ``published + 1`` and never lowers it, so what the dead one scribbled stays unreadable.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

MAGIC = b"MKTDRING"
VERSION = 1
HEADER_BYTES = 4096
HEADER = struct.Struct("<8sIIQQQq")
PUBLISHED_OFFSET = 128
RESERVED_OFFSET = 192
WRITER_OFFSET = 256

# What a source hands to the ring; the writer puts the cursor in front.
# (event_ns, received_ns, sequence, instrument, kind, side, flags, value, value, value, value)
Row = tuple[int, int, int, int, int, int, int, float, float, float, float]

PACK = struct.Struct("<QqqqIBbH4d")
PACK_INTEGERS = struct.Struct("<QqqqIBbH4q")  # gap and status rows
ROW_BYTES = PACK.size

_COMMON = {
    "cursor": ("<u8", 0),
    "event_ns": ("<i8", 8),
    "received_ns": ("<i8", 16),
    "sequence": ("<i8", 24),
    "instrument": ("<u4", 32),
    "kind": ("u1", 36),
    "side": ("i1", 37),
    "flags": ("<u2", 38),
}


def row_dtype(common: Mapping[str, tuple[str, int]], row_bytes: int, values: Mapping[str, str]) -> np.dtype[np.void]:
    """Return the dtype of rows that have ``common``, name to code and offset, in 40 bytes, and then ``values``."""
    fields = {**common, **{name: (code, 40 + 8 * n) for n, (name, code) in enumerate(values.items())}}
    return np.dtype(
        {
            "names": list(fields),
            "formats": [code for code, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": row_bytes,
        }
    )


def _dtype(**values: str) -> np.dtype[np.void]:
    return row_dtype(_COMMON, ROW_BYTES, values)


ROW = _dtype(v0="<f8", v1="<f8", v2="<f8", v3="<f8")
TRADE = _dtype(price="<f8", size="<f8")
QUOTE = _dtype(bid="<f8", bid_size="<f8", ask="<f8", ask_size="<f8")
LEVEL = _dtype(price="<f8", size="<f8")
GAP = _dtype(from_ns="<i8", to_ns="<i8", reason="<i8", lost="<i8")
STATUS = _dtype(code="<i8")

BY_KIND: dict[int, np.dtype[np.void]] = {1: TRADE, 2: QUOTE, 3: LEVEL, 4: GAP, 5: STATUS}
KIND_NAMES: dict[int, str] = {1: "trade", 2: "quote", 3: "level", 4: "gap", 5: "status"}
TOLD_ALWAYS = (4, 5)  # kinds that everybody is told of, whatever is asked for
KINDS_BY_NAME: dict[str, int] = {name: kind for kind, name in KIND_NAMES.items()}


class RowLayout(NamedTuple):
    """What the rows of one sort of ring are.

    Attributes:
        magic: what such a ring's segment begins with.
        row: the fields that all rows have.
        by_kind: those of each kind, in words that the hash is made of.
    """

    magic: bytes
    row: np.dtype[np.void]
    by_kind: Mapping[int, np.dtype[np.void]]

    @property
    def row_bytes(self) -> int:
        """The size of a row, a multiple of 8."""
        return self.row.itemsize

    def offset(self, field: str) -> int:
        """Where a field lies in a row, in bytes."""
        fields = self.row.fields
        assert fields is not None
        return int(fields[field][1])

    def ring_bytes(self, rows: int) -> int:
        """The size of the segment of a ring of so many rows."""
        return HEADER_BYTES + rows * self.row_bytes

    def hash(self) -> int:
        """A number that differs whenever the meaning of a row's bytes does."""
        text = repr([(kind, dtype.fields and sorted(dtype.fields.items())) for kind, dtype in self.by_kind.items()])
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


TICKS = RowLayout(MAGIC, ROW, BY_KIND)


def dtype_hash() -> int:
    """The hash of a tick ring's rows."""
    return TICKS.hash()

"""The fixed part of a ring's header: written once by who creates the ring, checked by everybody who attaches."""

from __future__ import annotations

import mmap
import time
from pathlib import Path
from typing import NamedTuple

from marketd.errors import SegmentError
from marketd.ring import layout


class Header(NamedTuple):
    """What a ring is, for as long as it exists."""

    rows: int
    epoch: int
    created_ns: int


def write(memory: mmap.mmap, of: layout.RowLayout, rows: int, epoch: int) -> None:
    """Fill in the header of a new ring."""
    layout.HEADER.pack_into(memory, 0, of.magic, layout.VERSION, of.row_bytes, of.hash(), rows, epoch, time.time_ns())


def read(memory: mmap.mmap, of: layout.RowLayout, path: Path) -> Header:
    """Return the header after making sure that this code and the ring mean the same bytes.

    Raises:
        SegmentError: they don't; the text says what differs.
    """
    magic, version, row_bytes, dtype_hash, rows, epoch, created_ns = layout.HEADER.unpack_from(memory)
    expected = [
        ("magic", magic, of.magic),
        ("layout version", version, layout.VERSION),
        ("row bytes", row_bytes, of.row_bytes),
        ("dtype hash", f"{dtype_hash:#x}", f"{of.hash():#x}"),
        ("segment bytes", len(memory), layout.HEADER_BYTES + rows * of.row_bytes),
    ]
    differences = [f"{name} {found!r} instead of {wanted!r}" for name, found, wanted in expected if found != wanted]
    if differences:
        raise SegmentError(f"segment {path} is not a ring of this version: {', '.join(differences)}")
    return Header(rows, epoch, created_ns)

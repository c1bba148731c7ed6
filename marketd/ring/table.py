"""A feed's instrument table: numbers for instruments, their metadata and their quality.

    segment = header (4096 bytes), slot * slots          slot of instrument id i (from 1) at header + (i - 1) * 1024
    header  = magic "MKTDTABL", u32 version, u32 slot bytes, u64 slots   @0
              u64 count        instruments in the table                  @128
              u64 generation   goes up when anything but quality changed @192
              u64 writer pid                                             @256
    slot    = u64 version, u8 quality, 7 bytes, area, area
    area    = u16 bytes, MktPair as MessagePack          504 bytes

Ids are given once and never taken back. A slot's version says which area is good: ``version mod 2``. The writer fills
the other area, fences, and stores the next version; so a reader that finds the same version before and after its copy
copied something whole, and a writer that dies half-way leaves no trace. A quality is one byte and needs none of this.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from marketd.errors import SegmentError
from marketd.model import MktPair, Quality
from marketd.ring import layout, segment
from marketd.ring.fence import fence

MAGIC = b"MKTDTABL"
VERSION = 1
SLOT_BYTES = 1024
MARKET_BYTES_MAX = 502

_HEADER = struct.Struct("<8sIIQ")
_COUNT = layout.PUBLISHED_OFFSET // 8
_GENERATION = layout.RESERVED_OFFSET // 8
_LENGTH = struct.Struct("<H")
_AREA_OFFSET = 16
_AREA_BYTES = 504
_QUALITY_OFFSET = 8
# A reader finds a slot changed under its copy only if the writer updates that one instrument twice meanwhile.
_ATTEMPTS_MAX = 1000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MktPair).decode


def table_bytes(instruments_max: int) -> int:
    """Return how large a table is."""
    return layout.HEADER_BYTES + instruments_max * SLOT_BYTES


def create_table(path: Path, instruments_max: int) -> None:
    """Make an empty table.

    Raises:
        SegmentError: see :func:`marketd.ring.segment.create`.
    """
    segment.create(path, table_bytes(instruments_max))
    with segment.attach(path, writable=True) as memory:
        _HEADER.pack_into(memory, 0, MAGIC, VERSION, SLOT_BYTES, instruments_max)


class _Table:
    """What both sides know about the bytes."""

    def __init__(self, memory: mmap.mmap, path: Path) -> None:
        self._memory = memory
        self._path = path
        magic, version, slot_bytes, self._slots = _HEADER.unpack_from(memory)
        size_bytes = layout.HEADER_BYTES + self._slots * SLOT_BYTES
        found = (magic, version, slot_bytes, len(memory))
        expected = (MAGIC, VERSION, SLOT_BYTES, size_bytes)
        if found != expected:
            memory.close()
            raise SegmentError(f"segment {path} is not an instrument table of this version: {found}, not {expected}")
        self._words = memoryview(memory).cast("Q")

    @property
    def count(self) -> int:
        """How many instruments there are; their ids are 1 to this."""
        count: int = self._words[_COUNT]
        return count

    @property
    def generation(self) -> int:
        """A number that goes up whenever anything but a quality changed."""
        generation: int = self._words[_GENERATION]
        return generation

    def qualities(self) -> NDArray[np.uint8]:
        """Copy what the feed knows about each instrument's data, shape ``(count,)``, numbers of :class:`Quality`."""
        start = layout.HEADER_BYTES + _QUALITY_OFFSET
        return np.frombuffer(self._memory, np.uint8, offset=start)[: self.count * SLOT_BYTES : SLOT_BYTES].copy()

    def quality(self, instrument: int) -> Quality:
        """Return what the feed knows about this instrument's data right now."""
        return Quality(self._memory[self._slot(instrument) + _QUALITY_OFFSET])

    def entry(self, instrument: int) -> MktPair:
        """Return an instrument's metadata.

        Raises:
            LookupError: the table has no such id.
            SegmentError: the slot holds nothing that can be read: a broken invariant of ours.
        """
        return self._read(instrument)[1]

    def close(self) -> None:
        """Let go of the segment. Closing twice is fine."""
        self._words.release()
        self._memory.close()

    def _slot(self, instrument: int) -> int:
        if not 1 <= instrument <= self.count:
            raise LookupError(f"instrument {instrument} is not in the table {self._path}, which has {self.count}")
        return layout.HEADER_BYTES + (instrument - 1) * SLOT_BYTES

    def _read(self, instrument: int) -> tuple[int, MktPair]:
        """Return a slot's version and what it held at that version."""
        slot = self._slot(instrument)
        for _ in range(_ATTEMPTS_MAX):
            version: int = self._words[slot // 8]
            fence()
            area = slot + _AREA_OFFSET + (version & 1) * _AREA_BYTES
            copied = self._memory[area : area + _AREA_BYTES]
            fence()
            if self._words[slot // 8] == version:
                (length,) = _LENGTH.unpack_from(copied)
                return version, self._decode(instrument, copied[_LENGTH.size : _LENGTH.size + length])
        raise SegmentError(f"instrument {instrument} in the table {self._path} never stands still")

    def _decode(self, instrument: int, payload: bytes) -> MktPair:
        try:
            return _decode(payload)
        except msgspec.MsgspecError as error:
            raise SegmentError(f"instrument {instrument} in the table {self._path} is damaged: {error}") from error


class TableWriter(_Table):
    """The one writer of a table. It knows what its predecessors put there."""

    def __init__(self, path: Path) -> None:
        """Attach to a table.

        Raises:
            SegmentError: it is missing, of another layout, or has a living writer.
        """
        super().__init__(segment.attach_writer(path), path)
        try:
            self._markets = [self.entry(instrument) for instrument in range(1, self.count + 1)]
        except BaseException:
            self.close()
            raise
        self._ids = {market.fqme: instrument for instrument, market in enumerate(self._markets, 1)}

    def add(self, market: MktPair) -> int:
        """Return the instrument's id, a new one if its FQME is new; update what is known about it if that changed.

        Raises:
            SegmentError: the table is full, or the instrument's metadata is too long for a slot.
        """
        instrument = self._ids.get(market.fqme)
        if instrument is None:
            return self._add_new(market)
        if self._markets[instrument - 1] != market:
            self._store(instrument, market)
            self._markets[instrument - 1] = market
            self._words[_GENERATION] += 1
        return instrument

    def set_quality(self, instrument: int, quality: Quality) -> None:
        """Say what the feed knows about an instrument's data, or with 0 about that of all it has now."""
        if instrument:
            self._memory[self._slot(instrument) + _QUALITY_OFFSET] = quality
            return
        start = layout.HEADER_BYTES + _QUALITY_OFFSET
        np.frombuffer(self._memory, np.uint8, offset=start)[: self.count * SLOT_BYTES : SLOT_BYTES] = quality

    def _add_new(self, market: MktPair) -> int:
        instrument = self.count + 1
        if instrument > self._slots:
            raise SegmentError(
                f"the instrument table is full: {market.fqme} would be number {instrument}, "
                f"and ring.instruments is {self._slots}"
            )
        self._store(instrument, market)
        fence()
        self._words[_COUNT] = instrument
        fence()
        self._words[_GENERATION] += 1
        self._markets.append(market)
        self._ids[market.fqme] = instrument
        return instrument

    def _store(self, instrument: int, market: MktPair) -> None:
        payload = _encode(market)
        if len(payload) > MARKET_BYTES_MAX:
            raise SegmentError(
                f"{market.fqme} takes {len(payload)} bytes in the instrument table, "
                f"more than the {MARKET_BYTES_MAX} of a slot"
            )
        slot = layout.HEADER_BYTES + (instrument - 1) * SLOT_BYTES
        version = self._words[slot // 8] + 1
        area = slot + _AREA_OFFSET + (version & 1) * _AREA_BYTES
        fence()
        _LENGTH.pack_into(self._memory, area, len(payload))
        self._memory[area + _LENGTH.size : area + _LENGTH.size + len(payload)] = payload
        fence()
        self._words[slot // 8] = version
        fence()


class TableReader(_Table):
    """A reader of a table, in any process. It decodes each version of each instrument once."""

    def __init__(self, path: Path) -> None:
        """Attach to a table.

        Raises:
            SegmentError: it is missing or of another layout.
        """
        super().__init__(segment.attach(path, writable=False), path)
        self._generation_seen = 0
        self._versions: list[int] = []
        self._markets: list[MktPair] = []
        self._fqmes: list[str] = []

    def entry(self, instrument: int) -> MktPair:
        """See :meth:`_Table.entry`."""
        self._refresh()
        self._slot(instrument)
        return self._markets[instrument - 1]

    def fqme(self, instrument: int) -> str:
        """Return an instrument's name, which never changes.

        Raises:
            LookupError: the table has no such id.
        """
        if not 1 <= instrument <= len(self._fqmes):
            self._refresh()
            self._slot(instrument)
        return self._fqmes[instrument - 1]

    def markets(self) -> list[MktPair]:
        """Return all instruments; the one at index ``i`` has the id ``i + 1``."""
        self._refresh()
        return self._markets.copy()

    def _refresh(self) -> None:
        # Loaded before the slots are: a change while they are read shows at the next call.
        generation = self.generation
        if generation == self._generation_seen:
            return
        fence()
        count = self.count
        first_word = layout.HEADER_BYTES // 8
        versions = self._words[first_word : first_word + count * SLOT_BYTES // 8 : SLOT_BYTES // 8].tolist()
        for instrument in [i for i, version in enumerate(versions, 1) if version != self._version_seen(i)]:
            self._take(instrument)
        self._generation_seen = generation

    def _version_seen(self, instrument: int) -> int:
        return self._versions[instrument - 1] if instrument <= len(self._versions) else 0

    def _take(self, instrument: int) -> None:
        version, market = self._read(instrument)
        if instrument > len(self._markets):
            self._versions.append(version)
            self._markets.append(market)
            self._fqmes.append(market.fqme)
        else:
            self._versions[instrument - 1] = version
            self._markets[instrument - 1] = market

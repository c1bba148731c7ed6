"""The port of saved answers: a file with trades as a venue's REST gave them, to be played like a recording.

    file = body { white space body }                gzip when the name ends in .gz
    body = one JSON value, as the venue sent it     several pages of one past, in any order

A venue that can read its own declares :class:`SavedTrades`, which is pure. Finding the venue of a file and playing the
trades is the replay's (`backends/replay/saved.py`).
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, cast

import msgspec

from backends.live import TradeRow
from backends.recording import open_file
from marketd.errors import RecordingError, WireError
from marketd.model import MktPair

BYTES_MAX = 256 << 20  # of a file, unpacked: some three million trades
_RECORDING_SUFFIXES = (".ws", ".ws.gz")
_SUFFIXES = (".json", ".json.gz")
_GZIP_MAGIC = b"\x1f\x8b"
_BLANKS = re.compile(r"[ \t\r\n]*")


class SavedSeries(NamedTuple):
    """All trades of one instrument in a file, in the file's order. One that can't be used is there as its JSON text.

    There are none at all, or one at least can be used.
    """

    market: MktPair
    trades: list[TradeRow | bytes]


@dataclass(frozen=True)
class SavedTrades:
    """How to read one venue's REST answers with trades. Their ids go up by one.

    Attributes:
        description: what these answers are, for people: a request and the shape of its answer, in one line.
        recognise: says whether a body is an answer of this venue's REST, be it with trades, with something else or
            with an error.
        read: takes all bodies of a file, and a mapping of REST addresses to recorded bodies that were found beside it;
            gives one series for each instrument. Raises ``WireError`` when they are no trades, or of an instrument
            that nobody can tell.
    """

    description: str
    recognise: Callable[[bytes], bool]
    read: Callable[[Sequence[bytes], Mapping[str, bytes]], list[SavedSeries]]


def is_saved(path: Path) -> bool:
    """Whether a file is meant to be saved answers: by its name, or for want of a telling one by how it begins.

    Raises:
        RecordingError: it can't be read.
    """
    if path.name.endswith((*_SUFFIXES, *_RECORDING_SUFFIXES)):
        return path.name.endswith(_SUFFIXES)
    return _read(path, 64).lstrip()[:1] in (b"{", b"[")


def read_bodies(path: Path) -> list[bytes]:
    """Read a file of saved answers.

    Raises:
        RecordingError: it can't be read, is too large, or is no JSON; the text names the file, and the place.
    """
    text = _read(path, BYTES_MAX + 1)
    if len(text) > BYTES_MAX:
        raise RecordingError(f"{path} is larger than {BYTES_MAX >> 20} MiB: saved trades are read as a whole")
    if text.startswith(_GZIP_MAGIC):
        raise RecordingError(f"{path} is gzip: its name must end in .gz")
    try:
        return split_bodies(text)
    except WireError as error:
        raise RecordingError(f"{path} is no whole JSON, as saved trades must be: {error}") from error


def split_bodies(text: bytes) -> list[bytes]:
    """Part JSON values that follow each other with nothing but white space between them.

    Raises:
        WireError: there is none, or one of them is no JSON or is cut.
    """
    try:
        return [bytes(msgspec.json.decode(text, type=msgspec.Raw))]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return _split_slowly(text)


def price_tick(prices: Iterable[float]) -> Decimal:
    """Infer the smallest step of some prices from their digits: the trailing zeros of "105433.60000" mean nothing.

    A float's shortest text has the digits of the text that it was read from, up to 15 of them.
    """
    digits = 0
    for price in set(prices):
        exponent = Decimal(str(price)).normalize().as_tuple().exponent
        digits = max(digits, -cast(int, exponent))
    return Decimal(1).scaleb(-digits)


def _split_slowly(text: bytes) -> list[bytes]:
    decoder = json.JSONDecoder()
    bodies = []
    try:
        whole = text.decode("utf-8-sig")
        begin = _skip_blanks(whole, 0)
        while begin < len(whole):
            _, end = decoder.raw_decode(whole, begin)
            bodies.append(whole[begin:end].encode())
            begin = _skip_blanks(whole, end)
    except (ValueError, RecursionError) as error:  # of which JSONDecodeError and UnicodeDecodeError are
        raise WireError(str(error)) from error
    if not bodies:
        raise WireError("it is empty")
    return bodies


def _skip_blanks(text: str, begin: int) -> int:
    match = _BLANKS.match(text, begin)
    assert match is not None
    return match.end()


def _read(path: Path, size: int) -> bytes:
    try:
        with open_file(path) as file:
            return file.read(size)
    except EOFError as error:
        raise RecordingError(f"{path} is cut: its gzip stream has no end") from error
    except (OSError, zlib.error) as error:
        raise RecordingError(f"{path}: {error}") from error

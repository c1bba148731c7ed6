"""Recordings: the raw text traffic of one venue connection, or of several one after the other, in one file.

    recording = { line "\\n" }                       gzip when the name ends in .gz
    line      = URL " <-> " TIME                    a connection was opened; always the first line
              | URL " <- " TIME ": " MESSAGE        what we sent to it
              | TIME ": " MESSAGE                   what it sent to us
              |                                     empty lines mean nothing
    TIME      = seconds since 1970-01-01 UTC, with or without a fraction; nanoseconds are kept
    companion = { URL " -> " TIME ": " BODY "\\n" }  answers to REST requests of the same minutes, in *.rest;
                                                  lines that begin otherwise are notes

The companions of `binance-futures.ws` are `binance-futures.*.rest`, then `binance.*.rest`: the name up to a hyphen.
`binance-futures.json`, saved trades (`saved.py`), has the same ones.
A recorder can be killed while it writes. The last line of a file may therefore be cut; it is left out and counted.
"""

from __future__ import annotations

import glob
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import msgspec

from marketd.clock import SECOND_NS
from marketd.errors import RecordingError

OPENED = "opened"
SENT = "sent"
RECEIVED = "received"


class Entry(NamedTuple):
    """One line of a recording. ``what`` is OPENED (the payload is the address then), SENT or RECEIVED."""

    what: str
    time_ns: int
    payload: bytes


class RecordingReader:
    """Reads a recording from its beginning, each time it is iterated over.

    Attributes:
        url: the address of the first connection.
        begin_ns: when that was opened.
        truncated: how many cut last lines the newest iteration has left out, 0 or 1.

    Raises:
        RecordingError: the file can't be read, or a line is none of a recording; the text names file and line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.truncated = 0
        first = next(iter(self), None)
        if first is None:
            raise RecordingError(f"{path} is empty: the first line of a recording is 'URL <-> TIME'")
        self.url = first.payload.decode(errors="replace")
        self.begin_ns = first.time_ns
        self.truncated = 0

    def __iter__(self) -> Iterator[Entry]:
        """Yield the lines in the file's order; the first is an OPENED one.

        Raises:
            RecordingError: see the class.
        """
        self.truncated = 0
        seen = False
        for number, line in self._lines():
            whole = line.endswith(b"\n")
            text = line.rstrip(b"\r\n")
            if not text:
                continue
            try:
                entry = parse_line(text)
                if not seen and entry.what != OPENED:
                    raise ValueError("the first line of a recording is 'URL <-> TIME'")  # noqa: TRY301
            except ValueError as error:
                if seen and not whole:
                    self.truncated = 1
                    return
                raise RecordingError(f"{self._path}:{number}: {error}") from None
            if not whole and entry.what == RECEIVED and not _is_json(entry.payload):
                self.truncated = 1
                return
            seen = True
            yield entry

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with open_file(self._path) as file:
                yield from enumerate(file, 1)
        except EOFError:  # a cut gzip file: what was whole has been yielded
            self.truncated = 1
        except (OSError, zlib.error) as error:
            raise RecordingError(f"{self._path}: {error}") from error


def parse_line(line: bytes) -> Entry:
    """Take one line, without its end, apart.

    Raises:
        ValueError: it is no line of a recording.
    """
    head, colon, payload = line.partition(b": ")
    if colon and head[:1].isdigit():
        return Entry(RECEIVED, parse_time(head), payload)
    url, arrow, rest = line.partition(b" <-> ")
    if arrow and b" " not in url:
        return Entry(OPENED, parse_time(rest), url)
    url, arrow, rest = line.partition(b" <- ")
    time, colon, payload = rest.partition(b": ")
    if arrow and colon and b" " not in url:
        return Entry(SENT, parse_time(time), payload)
    if head.endswith(b":") and head[:1].isdigit():  # an empty message whose trailing blank an editor took away
        return Entry(RECEIVED, parse_time(head[:-1]), b"")
    raise ValueError(f"neither 'TIME: MESSAGE' nor 'URL <- TIME: MESSAGE' nor 'URL <-> TIME': {line[:60]!r}")


def parse_time(text: bytes) -> int:
    """Turn decimal seconds into nanoseconds, exactly: a float could only hold microseconds.

    Raises:
        ValueError: it is no such number. Digits beyond the ninth after the point are cut off.
    """
    seconds, _, fraction = text.partition(b".")
    if not seconds.isdigit() or not (fraction.isdigit() or not fraction) or len(seconds) > 10:
        raise ValueError(f"{text[:40]!r} is no time in seconds since 1970")
    return int(seconds) * SECOND_NS + int(fraction[:9].ljust(9, b"0"))


def print_time(time_ns: int) -> bytes:
    """Print nanoseconds as :func:`parse_time` reads them."""
    return b"%d.%09d" % divmod(time_ns, SECOND_NS)


def read_companions(path: Path) -> dict[str, bytes]:
    """Find the REST answers that were recorded beside a recording: address to body, the newest of each.

    Raises:
        RecordingError: a companion can't be read; the text names file and line.
    """
    metadata: dict[str, bytes] = {}
    for companion in companion_paths(path):
        metadata |= {url: body for url, body in read_rest(companion).items() if url not in metadata}
    return metadata


def companion_paths(path: Path) -> list[Path]:
    """List the companions that exist, those with the most of the recording's name first."""
    stem = path.name.removesuffix(".gz").removesuffix(".ws").removesuffix(".json")
    parts = stem.split("-")
    prefixes = ["-".join(parts[:count]) for count in range(len(parts), 0, -1)]
    found: list[Path] = []
    for prefix in prefixes:
        names = sorted(path.parent.glob(f"{glob.escape(prefix)}.*.rest"))
        found += [name for name in names if name not in found]
    return found


def read_rest(path: Path) -> dict[str, bytes]:
    """Read one companion: address to body, the newest of each.

    Raises:
        RecordingError: a line is no ``URL -> TIME: BODY``.
    """
    bodies: dict[str, bytes] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RecordingError(f"{path}: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.startswith(b"http"):
            continue
        url, arrow, rest = line.partition(b" -> ")
        _, colon, body = rest.partition(b": ")
        if not arrow or not colon or b" " in url:
            raise RecordingError(f"{path}:{number}: it is no 'URL -> TIME: BODY': {line[:60]!r}")
        bodies[url.decode(errors="replace")] = body
    return bodies


class RecordingWriter:
    """Writes a new recording. A message's line breaks become blanks: in JSON they can only stand between tokens.

    Attributes:
        messages: how many received messages it has been given.

    Raises:
        FileExistsError: there is a file of this name; nothing is overwritten.
    """

    def __init__(self, path: Path, url: str, begin_ns: int) -> None:
        self.messages = 0
        self._file = _create(path)
        self._file.write(b"%s <-> %s\n" % (url.encode(), print_time(begin_ns)))

    def received(self, payload: bytes, received_ns: int) -> None:
        """Add what the venue sent."""
        self._file.write(b"%s: %s\n" % (print_time(received_ns), _one_line(payload)))
        self.messages += 1

    def sent(self, url: str, payload: bytes, sent_ns: int) -> None:
        """Add what we sent to the venue."""
        self._file.write(b"%s <- %s: %s\n" % (url.encode(), print_time(sent_ns), _one_line(payload)))

    def close(self) -> None:
        """Write all of it out. May be called again."""
        self._file.close()


def _one_line(payload: bytes) -> bytes:
    return payload.replace(b"\r", b" ").replace(b"\n", b" ") if b"\n" in payload or b"\r" in payload else payload


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading; it is unpacked when its name ends in .gz."""
    return cast(BinaryIO, gzip.open(path, "rb")) if path.name.endswith(".gz") else path.open("rb")


def _create(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "xb")) if path.name.endswith(".gz") else path.open("xb")


def _is_json(payload: bytes) -> bool:
    try:
        msgspec.json.decode(payload)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return False
    return True

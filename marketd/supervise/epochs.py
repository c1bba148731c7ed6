"""How the epochs of a feed's ring have ended: what a stream that comes from before can be told to have missed.

    file = line *        one for each feed, appended to when a daemon stops in order
    line = JSON {"epoch": …, "cursor": …, "ended_ns": …}

Of an epoch that has no line nobody knows how many rows it had: its daemon was killed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import msgspec
import structlog

from marketd.clock import SystemClock
from marketd.errors import SegmentError
from marketd.paths import Paths
from marketd.ring.reader import RingReader

LINES_MAX = 256

log = structlog.get_logger("marketd.supervise")


class End(msgspec.Struct, frozen=True):
    """The last cursor of an epoch."""

    epoch: int
    cursor: int
    ended_ns: int


def note_ends(paths: Paths, feeds: Iterable[str]) -> None:
    """Write down where the rings of these feeds end: nobody writes to them any more, and they are about to go.

    Where that can't be written, on a full disk or without descriptors, say, the end is one that nobody knows.
    """
    now_ns = SystemClock().now_ns()
    for feed in feeds:
        try:
            with closing(RingReader(paths.segment(feed, "ring"))) as ring:
                end = End(ring.epoch, ring.published, now_ns)
            _append(paths.epochs(feed), end)
        except (OSError, SegmentError) as error:
            log.warning("epoch.end_unwritten", feed=feed, error=str(error))


def _append(path: Path, end: End) -> None:
    lines = _lines(path)[1 - LINES_MAX :]
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    whole = path.with_suffix(".new")
    whole.write_bytes(b"\n".join([*lines, msgspec.json.encode(end), b""]))
    whole.replace(path)


def read_ends(path: Path) -> dict[int, int]:
    """Return the last cursors of a feed's epochs, as far as they are known."""
    ends = (msgspec.json.decode(line, type=End) for line in _lines(path))
    return {end.epoch: end.cursor for end in ends}


def _lines(path: Path) -> list[bytes]:
    try:
        return [line for line in path.read_bytes().splitlines() if line]
    except FileNotFoundError:
        return []

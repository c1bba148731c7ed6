"""Whether a file is another than it was."""

from __future__ import annotations

from pathlib import Path

Stamp = tuple[int, ...]

ABSENT: Stamp = ()
UNREAD: Stamp = (-1,)  # that no file has: it is to be looked at again


def stamp_of(path: Path) -> Stamp:
    """Return what differs once a file was replaced or written to, or has other rights; empty if there is none."""
    try:
        found = path.stat()
    except OSError:
        return ABSENT
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

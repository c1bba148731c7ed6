"""The supervisor's share of shared memory: it alone makes and unlinks segments.

Starting is recovering: whatever a daemon of this instance left behind when it was killed is swept away before the new
segments are made. The instance lock makes sure that nobody is using it any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from marketd.config import Config
from marketd.errors import InstanceRunningError
from marketd.paths import Paths
from marketd.ring import doorbell, segment, table, writer


@contextlib.contextmanager
def instance_lock(paths: Paths, instance: str) -> Iterator[None]:
    """Hold the instance's name while the daemon runs. The kernel lets go of it, however the process ends.

    Raises:
        InstanceRunningError: another daemon holds it; the text says which process and what to do.
    """
    paths.lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise InstanceRunningError(
                f"a daemon of the instance {instance!r} is running already (process {holder}): "
                f"stop it, or give this one another name with --instance"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_segments(config: Config, paths: Paths) -> Iterator[None]:
    """Make every feed's ring, instrument table and doorbells, and unlink them all at the end.

    Raises:
        SegmentError: there is no room, with what is needed and where.
    """
    sweep(paths)
    try:
        for feed in config.feeds:
            writer.create_ring(paths.segment(feed, "ring"), config.ring.rows)
            table.create_table(paths.segment(feed, "table"), config.ring.instruments)
            doorbell.create_bells(paths.segment(feed, "bells"))
        yield
    finally:
        sweep(paths)


def sweep(paths: Paths) -> list[Path]:
    """Unlink all that carries this instance's name, readers' doorbell pipes included; return what it was."""
    found = paths.segments()
    for path in found:
        segment.unlink(path)
    return found

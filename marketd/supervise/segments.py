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

from marketd.clock import SECOND_NS
from marketd.config import Bars, Config
from marketd.errors import InstanceRunningError, SegmentError
from marketd.paths import Paths
from marketd.periods import parse_activity, parse_period
from marketd.ring import bars, doorbell, layout, segment, table, writer
from marketd.ring.steps import BAR_KIND_FIRST, STEPS
from marketd.supervise.messages import SeriesInfo

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
OTHER_ROWS = 4096
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


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
    """Make every feed's ring, instrument table, bars and doorbells, and unlink them all at the end.

    Raises:
        SegmentError: there is no room, with what is needed and where.
    """
    sweep(paths)
    try:
        for feed in config.feeds:
            make_segments(config, paths, feed)
        yield
    finally:
        sweep(paths)


def make_segments(config: Config, paths: Paths, feed: str) -> None:
    """Make one feed's segments.

    Raises:
        SegmentError: there is no room, with what is needed and what there is; some of them may be there.
    """
    needed_bytes, free_bytes = size_bytes(config, feed, paths), segment.free_bytes(paths.shm)
    if needed_bytes > free_bytes:  # to try would take from others, for a moment, what is left
        text = f"feed {feed} needs {needed_bytes:,} bytes in {paths.shm}, and {free_bytes:,} are free"
        raise SegmentError(f"{text}: ring.rows and ring.instruments say how much it is")
    writer.create_ring(paths.segment(feed, "ring"), config.ring.rows)
    table.create_table(paths.segment(feed, "table"), config.ring.instruments)
    doorbell.create_bells(paths.segment(feed, "bells"))
    series = series_of(config.bars, feed, paths)
    for one in series:
        bars.create_bars(
            Path(one.path),
            rows=rows_held(config.bars, one),
            instruments=config.ring.instruments,
            period_ns=one.period_ns,
        )
    if series:
        writer.create_ring(paths.segment(feed, "steps"), config.bars.step_rows, STEPS)
        doorbell.create_bells(paths.segment(feed, "steps-bells"))


def size_bytes(config: Config, feed: str, paths: Paths) -> int:
    """Say how much memory a feed's segments take to begin with."""
    series = series_of(config.bars, feed, paths)
    sizes = [
        layout.TICKS.ring_bytes(config.ring.rows),
        table.table_bytes(config.ring.instruments),
        layout.HEADER_BYTES,  # the doorbells'
        *[layout.HEADER_BYTES for _ in series],
    ]
    if series:
        sizes += [STEPS.ring_bytes(config.bars.step_rows), layout.HEADER_BYTES]
    return sum(-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes)


def series_of(config: Bars, feed: str, paths: Paths) -> list[SeriesInfo]:
    """List the bars that are made of a feed: those of time, the shortest period first, then the others."""
    periods = sorted((parse_period(text) for text in config.periods), key=lambda period: period.size)
    names = dict.fromkeys(name for names in config.activity.values() for name in names)
    return [
        SeriesInfo(
            name=period.name,
            kind=BAR_KIND_FIRST + number,
            period_ns=period.period_ns,
            path=str(paths.segment(feed, f"bars-{period.name}")),
        )
        for number, period in enumerate([*periods, *map(parse_activity, names)])
    ]


def rows_held(config: Bars, series: SeriesInfo) -> int:
    """Say how many bars of each instrument are held: an hour of 1 s, a week of 1 min, a month of 1 h, a year of 1 d."""
    given = config.rows.get(series.name)
    if given is not None:
        return given
    if not series.period_ns:
        return OTHER_ROWS
    period_s = series.period_ns // SECOND_NS
    if period_s < MINUTE_S:
        return max(960, HOUR_S // period_s)
    if period_s < HOUR_S:
        return max(672, 7 * DAY_S // period_s)
    return max(366, 30 * DAY_S // period_s)


def sweep(paths: Paths, feed: str | None = None) -> list[Path]:
    """Unlink all that carries this instance's name, or one feed's, doorbell pipes included; return what it was.

    Whoever has a segment mapped keeps it; nobody new can find it.
    """
    found = paths.segments() if feed is None else paths.segments_of(feed)
    for path in found:
        segment.unlink(path)
    return found

"""What is done to a stored series when bars come out and when a venue's page comes. Blocks: called in threads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from marketd.history.frames import differing, inside, is_whole, ranges_of, told_frame
from marketd.model import Flag
from marketd.ring.steps import BarState
from storage.bounds import exactly
from storage.client import StorageClient
from storage.combine import OnOverlap
from storage.coverage import Coverage, State, missing, ranges
from storage.intervals import Range, intersect, subtract
from storage.layout import Series
from storage.schema import Provenance


def keep_told(store: StorageClient, series: Series, rows: NDArray[np.void]) -> tuple[Coverage, int]:
    """Store bars that the sampler has told; return what is known of the series then, and how many are new.

    A bar that is not known whole is not stored; its time is missing, unless the venue has told it already.

    Args:
        rows: dtype ``steps.BAR``, in order of time, each bar once, all of them out.

    Raises:
        SeriesBusy, StorageError: nothing has changed.
    """
    rows = rows[rows["flags"] & Flag.BACKFILLED == 0]  # what the sampler has from us is stored already
    whole = is_whole(rows)
    with store.writer(series) as writer:
        written = writer.write(
            told_frame(rows[whole]), OnOverlap.REPLACE, covers=ranges_of(rows["open_ns"][whole], series.period_ns)
        )
        broken = ranges_of(rows["open_ns"][rows["state"] == BarState.MISSING], series.period_ns)
        lost = subtract(broken, _told_by_others(writer.coverage))
        for span in intersect(lost, ranges(writer.coverage, State.COMPLETE, State.UNVERIFIED)):
            writer.trim(span)
        if lost:
            writer.mark(lost, State.MISSING, Provenance.OBSERVED)
        return writer.coverage, written.added + written.replaced


def keep_page(store: StorageClient, series: Series, answered: Range, bars: pl.DataFrame) -> tuple[Coverage, int]:
    """Store what a venue has of a range; return what is known of the series then, and how many bars are new.

    What has come out live in the meantime stays, and so do rows of which nobody said that they are all: with the
    venue's others they are. Without any bar the range is known to be empty.

    Raises:
        SeriesBusy, StorageError: nothing has changed.
    """
    with store.writer(series) as writer:
        still = missing(writer.coverage, *answered)
        doubted = intersect([answered], ranges(writer.coverage, State.UNVERIFIED))
        if bars.is_empty():
            writer.mark(still, State.EMPTY, Provenance.BACKFILLED)
            return writer.coverage, 0
        rows = inside(bars, still)
        written = writer.write(rows, OnOverlap.REPLACE, covers=still, provenance=Provenance.BACKFILLED)
        rows = inside(bars, doubted)
        verified = writer.write(rows, OnOverlap.KEEP, covers=doubted, provenance=Provenance.BACKFILLED)
        return writer.coverage, written.added + written.replaced + verified.added


def verify(store: StorageClient, series: Series, span: Range, told: pl.DataFrame) -> tuple[Coverage, int]:
    """Compare stored bars of a range with their venue's; store the venue's where they differ, and say how many did.

    Raises:
        SeriesBusy, StorageError: nothing has changed.
    """
    with store.writer(series) as writer:
        wrong = differing(store.read(series, *map(exactly, span)), inside(told, [span]))
        if len(wrong):
            writer.write(wrong, OnOverlap.REPLACE, covers=[], provenance=Provenance.BACKFILLED)
        return writer.coverage, len(wrong)


def want(store: StorageClient, series: Series, asked: Sequence[Range]) -> Coverage:
    """Mark what nobody has looked at yet as missing, so that it is asked for, now or after a restart.

    Raises:
        SeriesBusy, StorageError: nothing has changed.
    """
    with store.writer(series) as writer:
        unknown = [span for start_ns, end_ns in asked for span in missing(writer.coverage, start_ns, end_ns)]
        writer.mark(unknown, State.MISSING, Provenance.OBSERVED)
        return writer.coverage


def tend(store: StorageClient, series: Series, now_ns: int, *, verify: bool) -> Coverage:
    """Put small files of times that are over together, and, to ``verify``, read every file to its end.

    What is damaged goes to quarantine, and its time is missing from then on. Raises as :func:`want`.
    """
    with store.writer(series) as writer:
        if verify:
            writer.verify()
        writer.merge(now_ns)
        return writer.coverage


def _told_by_others(coverage: Coverage) -> list[Range]:
    """Return what is held of a venue or a file: what the sampler has missed of it does not matter."""
    return ranges(
        tuple(span for span in coverage if span.provenance in (Provenance.BACKFILLED, Provenance.IMPORTED)),
        State.COMPLETE,
    )

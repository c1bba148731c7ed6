"""Pure: the reports of several lives of one feed as one."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from marketd.observe.histogram import merged
from marketd.rpc.messages import VenueStatus
from marketd.supervise.messages import FeedReport


def sum_reports(reports: list[FeedReport]) -> FeedReport:
    """Add the counts of several lives of one feed; what is no count is the newest."""
    newest = reports[-1] if reports else FeedReport("starting", 0, {}, {}, 0, 0, 0)
    rows = add_counts(report.rows_by_kind for report in reports)
    return msgspec.structs.replace(
        newest,
        rows_by_kind=rows,
        messages=add_counts(report.messages for report in reports),
        gaps=rows.get("gap", 0),
        last_event_ns=max((report.last_event_ns for report in reports), default=0),
        last_received_ns=max((report.last_received_ns for report in reports), default=0),
        gaps_by_reason=add_counts(report.gaps_by_reason for report in reports),
        venue=_sum_venues([report.venue for report in reports if report.venue is not None]),
        event_lag=merged(report.event_lag for report in reports),
        publish_lag=merged(report.publish_lag for report in reports),
    )


def add_counts(several: Iterable[dict[str, int]]) -> dict[str, int]:
    """Add counts up, name by name."""
    totals: dict[str, int] = {}
    for counts in several:
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
    return totals


def _sum_venues(venues: list[VenueStatus]) -> VenueStatus | None:
    if not venues:
        return None
    return msgspec.structs.replace(
        venues[-1],
        connects=sum(venue.connects for venue in venues),
        losses=sum(venue.losses for venue in venues),
        handovers=sum(venue.handovers for venue in venues),
        duplicates=sum(venue.duplicates for venue in venues),
        rests=add_counts(venue.rests for venue in venues),
    )

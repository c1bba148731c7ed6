"""Pages of the past, as the history manager asks a live feed for them: whatever goes wrong is an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.live import NoData, Page, Period
from marketd.errors import WireError
from marketd.feed.budget import Priority
from marketd.supervise.messages import FeedPage, PageResult

if TYPE_CHECKING:
    from marketd.feed.venue import VenueSource


async def fetch_page(venue: VenueSource, request: FeedPage) -> PageResult:
    """Ask for a page, within the venue's budget and behind everything else that needs it."""
    from marketd.feed.fetch import FetchFailed

    period: Period = request.period_s or "trades"
    try:
        rows_max = venue.page_rows_max(period)
    except LookupError as error:
        return PageResult("none", detail=str(error))
    try:
        page = await venue.page(
            request.fqme,
            period,
            request.start_ns,
            request.end_ns,
            priority=Priority.BACKFILL,
            timeout_s=request.timeout_s,
        )
    except NoData as error:
        return PageResult("empty", detail=str(error))
    except (LookupError, WireError) as error:
        return PageResult("refused", detail=str(error))
    except FetchFailed as error:
        return PageResult("failed", detail=str(error), retry_s=error.retry_s)
    if isinstance(page, Page):
        return PageResult("page", bars=page.rows, rows_max=rows_max)
    return PageResult("page", trades=page.rows, next_ns=page.next_ns or 0, rows_max=rows_max)

"""What is asked of a venue next, and what its answer says of the range that was asked for. Pure.

Pages are asked for newest first. Paging moves by what came back and never by what was asked: what a page does not reach
is asked for again, until the venue says that there is nothing. A venue that holds less than it says, or leaves a page
out, costs a request more and no bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from backends.live import BarRow
from storage.coverage import Coverage, State, missing, ranges
from storage.intervals import Range, intersect, normalize, shrink, subtract


class Answered(NamedTuple):
    """What a page says of the range that was asked for.

    Attributes:
        bars: those in the range, in order of time, each once.
        span: the part of the range that has no others; None where the page did not reach it at all. It may be empty.
    """

    bars: list[BarRow]
    span: Range | None


def needed(coverage: Coverage, begin_ns: int, until_ns: int, period_ns: int, beyond: Sequence[Range]) -> list[Range]:
    """Return what is to be asked for, in whole bars, in order of time.

    Whatever is marked as missing is wanted, however old it is, and so is that of which rows are held and nobody says
    that they are all; what was never looked at is from ``begin_ns`` on.

    Args:
        until_ns: bars that end later are not for the venue to tell, but for the sampler.
        beyond: what the venue can't be asked for.
    """
    marked = min((span.start_ns for span in coverage), default=begin_ns)
    found = missing(coverage, begin_ns, until_ns)
    if marked < begin_ns:
        old = missing(coverage, marked, begin_ns)
        said = [(span.start_ns, span.end_ns) for span in coverage]
        found += subtract(old, subtract(old, said))
    found += intersect([(min(marked, begin_ns), until_ns)], ranges(coverage, State.UNVERIFIED))
    return shrink(subtract(normalize(found), beyond), period_ns)


def settle(asked: Range, bars: Sequence[BarRow], period_ns: int, settled_ns: int) -> Answered:
    """Read a page of a range; one without bars says that there is nothing.

    R51, R52, R69: bars are placed by their own times; what is outside or comes twice is left out. R54: a page that was
    asked for by its end may jump over what the venue has no bars for, and begin before the range.

    Args:
        settled_ns: what the venue does not have of later times it may have yet.
    """
    start_ns, end_ns = asked
    by_time = {bar[0]: bar for bar in bars if start_ns <= bar[0] < end_ns}
    found = [by_time[open_ns] for open_ns in sorted(by_time)]
    reaches = not bars or any(bar[0] < start_ns for bar in bars)
    if not found and not reaches:
        return Answered([], None)
    begin_ns = start_ns if reaches else found[0][0]
    last_ns = found[-1][0] + period_ns if found else begin_ns
    return Answered(found, (begin_ns, max(last_ns, min(end_ns, settled_ns // period_ns * period_ns))))

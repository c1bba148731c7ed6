"""What is known of each time of a series: that it is complete, empty, missing, or not verified. Pure.

A coverage is a tuple of spans in order that do not overlap. A time that no span covers was never looked at: it is as
missing as one that is marked so. Marking a range replaces what was said of it before; neighbours that say the same are
joined, so a coverage is as long as there are changes in it, however often it was marked.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from storage.intervals import Range, normalize, subtract
from storage.schema import Provenance


class State(enum.IntEnum):
    """What is known of a range.

    Complete: all that there was is held; a bar that is not there had no trade. Empty: who ought to know was asked and
    has nothing. Missing: something is known to be not there. Unverified: rows are held, and nobody says that they are
    all.
    """

    COMPLETE = 1
    EMPTY = 2
    MISSING = 3
    UNVERIFIED = 4


class Span(NamedTuple):
    """One range ``[start_ns, end_ns)``, what is known of it, and from where."""

    start_ns: int
    end_ns: int
    state: State
    provenance: Provenance


Coverage = tuple[Span, ...]


def mark(coverage: Coverage, where: Iterable[Range], state: State, provenance: Provenance) -> Coverage:
    """Say something of some ranges, in place of what was said of them. An empty range says nothing."""
    said = normalize(where)
    by_mark = _by_mark(forget(coverage, said))
    by_mark[state, provenance] = [*by_mark.get((state, provenance), ()), *said]
    return _spans(by_mark)


def forget(coverage: Coverage, where: Iterable[Range]) -> Coverage:
    """Take back whatever was said of some ranges."""
    gone = normalize(where)
    return _spans({what: subtract(held, gone) for what, held in _by_mark(coverage).items()})


def within(coverage: Coverage, start_ns: int, end_ns: int) -> Coverage:
    """Cut a coverage to a range."""
    cut = (span._replace(start_ns=max(span.start_ns, start_ns), end_ns=min(span.end_ns, end_ns)) for span in coverage)
    return tuple(span for span in cut if span.start_ns < span.end_ns)


def ranges(coverage: Coverage, *states: State) -> list[Range]:
    """Return what is in one of the states."""
    return normalize((span.start_ns, span.end_ns) for span in coverage if span.state in states)


def missing(coverage: Coverage, start_ns: int, end_ns: int) -> list[Range]:
    """Return what of ``[start_ns, end_ns)`` is marked as missing, or was never looked at."""
    known = ranges(coverage, State.COMPLETE, State.EMPTY, State.UNVERIFIED)
    return subtract([(start_ns, end_ns)], known)


def _by_mark(coverage: Coverage) -> dict[tuple[State, Provenance], list[Range]]:
    by_mark: dict[tuple[State, Provenance], list[Range]] = {}
    for span in coverage:
        by_mark.setdefault((span.state, span.provenance), []).append((span.start_ns, span.end_ns))
    return by_mark


def _spans(by_mark: Mapping[tuple[State, Provenance], Iterable[Range]]) -> Coverage:
    spans = (Span(*span, *what) for what, held in by_mark.items() for span in normalize(held))
    return tuple(sorted(spans))

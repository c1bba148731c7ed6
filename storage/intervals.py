"""Arithmetic of half-open ranges ``[start, end)`` of integers. Pure.

A list of ranges that these functions return is *normal*: in order, without empty ranges, and no two touch or overlap.
Arguments need not be.
"""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]


def normalize(ranges: Iterable[Range]) -> list[Range]:
    """Sort ranges, drop the empty ones, and join what touches or overlaps."""
    joined: list[Range] = []
    for start, end in sorted(span for span in ranges if span[0] < span[1]):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def subtract(ranges: Iterable[Range], holes: Iterable[Range]) -> list[Range]:
    """Return what of ``ranges`` no hole covers."""
    left: list[Range] = []
    cuts = normalize(holes)
    at = 0
    for start, end in normalize(ranges):
        while at < len(cuts) and cuts[at][1] <= start:
            at += 1
        begin, cut = start, at  # the last hole here may reach into the next range
        while cut < len(cuts) and cuts[cut][0] < end:
            left.append((begin, cuts[cut][0]))
            begin = cuts[cut][1]
            cut += 1
        left.append((begin, end))
    return normalize(left)


def intersect(ranges: Iterable[Range], others: Iterable[Range]) -> list[Range]:
    """Return what both cover."""
    some, more = normalize(ranges), normalize(others)
    both: list[Range] = []
    i = j = 0
    while i < len(some) and j < len(more):
        start, end = max(some[i][0], more[j][0]), min(some[i][1], more[j][1])
        if start < end:
            both.append((start, end))
        if some[i][1] < more[j][1]:
            i += 1
        else:
            j += 1
    return normalize(both)


def shrink(ranges: Iterable[Range], step: int) -> list[Range]:
    """Return the whole steps in each range: what is left when its ends move inward to multiples of ``step``."""
    return normalize((-(-start // step) * step, end // step * step) for start, end in normalize(ranges))

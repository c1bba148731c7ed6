"""Qualities of instruments whose data comes over more than one route."""

from __future__ import annotations

from marketd.feed.qualities import Qualities
from marketd.model import Kind, Quality
from tests.fake_venue import BASE_NS, market
from tests.fakes import ListSink


def test_worst_route_counts():
    """An instrument whose trades are missing is not ok because its quotes come."""
    sink = ListSink()
    sink.instrument(market("A"))
    qualities = Qualities(sink, routes=2)
    for quality, route in (
        (Quality.OK, 0),
        (Quality.OK, 1),
        (Quality.GAP, 0),
        (Quality.OK, 1),
        (Quality.STALE, 1),
        (Quality.OK, 0),
        (Quality.OK, 1),
    ):
        qualities.set(1, quality, BASE_NS, route)
    assert [quality for _, quality in sink.qualities] == [Quality.OK, Quality.GAP, Quality.STALE, Quality.OK]


def test_readers_are_told_of_changes_and_not_of_the_beginning():
    """The first data says by itself that there is data."""
    sink = ListSink()
    qualities = Qualities(sink)
    for quality in (Quality.OK, Quality.OK, Quality.STALE, Quality.STALE, Quality.OK):
        qualities.set(1, quality, BASE_NS)
    assert [Quality(int(row[7])) for row in sink.of_kind(Kind.STATUS)] == [Quality.STALE, Quality.OK]

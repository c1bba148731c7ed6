"""The gap row of a message that can't be used: where it begins."""

from __future__ import annotations

from dataclasses import dataclass

from backends.malformed import Heard
from marketd.clock import SECOND_NS
from marketd.feed.continuity import APART_NS, whole_until_ns
from marketd.model import GapReason
from tests.fake_venue import BASE_NS
from tests.fakes import ListSink


@dataclass
class Newest:
    """A :class:`backends.malformed.Newest`."""

    trade_ns: int = 0
    quote_ns: int = 0


def at(seconds: float) -> int:
    return BASE_NS + round(seconds * SECOND_NS)


def heard(*instruments: Newest) -> tuple[Heard, ListSink]:
    """Make a connection that has brought these."""
    sink = ListSink()
    return Heard(sink, {str(number): instrument for number, instrument in enumerate(instruments)}), sink


def test_connection_is_whole_until_the_kind_that_spoke_longer_ago():
    assert whole_until_ns(at(10), at(10.3)) == at(10)
    assert whole_until_ns(at(10), 0) == at(10)
    assert whole_until_ns(0, at(10.3)) == at(10.3)
    assert whole_until_ns(0, 0) == 0


def test_kind_that_has_nothing_to_say_does_not_count():
    assert whole_until_ns(at(10), at(600)) == at(600) - APART_NS


def test_gap_begins_with_the_instruments_newest_row_of_what_it_may_have_held():
    connection, sink = heard(Newest(trade_ns=at(4)), Newest(trade_ns=at(30)))
    connection.gap(at(31), 1, trade_ns=at(4))
    assert [(gap[3], *gap[7:10]) for gap in sink.gaps] == [(1, at(4), at(31), GapReason.MALFORMED)]


def test_gap_of_nobody_knows_which_instrument_begins_with_the_connections_newest_rows():
    connection, sink = heard(Newest(at(4), at(30.5)), Newest(trade_ns=at(30)))
    connection.begin(at(1))
    connection.gap(at(31))
    assert [(gap[3], *gap[7:10]) for gap in sink.gaps] == [(0, at(30), at(31), GapReason.MALFORMED)]


def test_instrument_without_rows_yet_is_as_whole_as_its_connection():
    connection, sink = heard(Newest(), Newest(trade_ns=at(30)))
    connection.gap(at(31), 1)
    assert [(gap[3], *gap[7:9]) for gap in sink.gaps] == [(1, at(30), at(31))]


def test_before_any_row_the_gap_begins_with_the_connections_first_message():
    connection, sink = heard(Newest())
    connection.gap(at(1))  # it is the first
    connection.begin(at(2))
    connection.gap(at(3))
    assert [gap[7:9] for gap in sink.gaps] == [(at(1), at(1)), (at(1), at(3))]


def test_gap_never_ends_before_it_begins():
    connection, sink = heard(Newest(trade_ns=at(70)))
    connection.gap(at(10))  # the venue's clock is ahead
    assert [gap[7:9] for gap in sink.gaps] == [(at(10), at(10))]

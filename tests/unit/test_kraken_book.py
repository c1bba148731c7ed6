"""Kraken's books: their rows, their checksums, and what follows from a wrong one."""

from __future__ import annotations

import json
import zlib
from decimal import Decimal

import pytest

from backends.kraken.book import DEPTH, WHOLE_EVERY_NS
from backends.live import Resync, Subscribed
from marketd.model import Flag, GapReason, Kind, Side
from tests.rebuilt_book import RebuiltBook
from tests.unit.test_kraken_connection import ETH, XBT, acked, connected
from tests.unit.test_kraken_protocol import RECEIVED_NS, T_NS, ack, at, encode, feed, flat, opened, said, trade

LAST, SNAPSHOT = Flag.LAST, Flag.SNAPSHOT

# The example of https://docs.kraken.com/api/docs/guides/spot-ws-book-v2 .
DOCUMENTED = b"""{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/USD",
 "bids":[{"price":45283.5,"qty":0.10000000},{"price":45283.4,"qty":1.54582015},{"price":45282.1,"qty":0.10000000},
         {"price":45281.0,"qty":0.10000000},{"price":45280.3,"qty":1.54592586},{"price":45279.0,"qty":0.07990000},
         {"price":45277.6,"qty":0.03310103},{"price":45277.5,"qty":0.30000000},{"price":45277.3,"qty":1.54602737},
         {"price":45276.6,"qty":0.15445238}],
 "asks":[{"price":45285.2,"qty":0.00100000},{"price":45286.4,"qty":1.54571953},{"price":45286.6,"qty":1.54571109},
         {"price":45289.6,"qty":1.54560911},{"price":45290.2,"qty":0.15890660},{"price":45291.8,"qty":1.54553491},
         {"price":45294.7,"qty":0.04454749},{"price":45296.1,"qty":0.35380000},{"price":45297.5,"qty":0.09945542},
         {"price":45299.5,"qty":0.18772827}],
 "checksum":3310070434}]}"""

BIDS = [("100.1", "1.50"), ("100.0", "2.00"), ("99.9", "0.05")]
ASKS = [("100.2", "0.10"), ("100.3", "7.00")]


def checksum(bids, asks):
    """Compute it as the document says, of the texts of the best levels."""
    levels = [*sorted(asks, key=price_of)[:10], *sorted(bids, key=price_of, reverse=True)[:10]]
    return zlib.crc32("".join(text.replace(".", "").lstrip("0") for level in levels for text in level).encode())


def price_of(level):
    return Decimal(level[0])


def book(bids, asks, *, after=None, kind="update", symbol="BTC/USD", ms=0, **changes):
    """Say levels; the checksum is that of the book ``after`` them, of these levels alone without it."""
    sides = [
        ",".join(f'{{"price":{price},"qty":{size}}}' for price, size in side) for side in (bids, asks)
    ]  # by hand: zeros at the end matter
    fields = {"timestamp": at(ms)} | changes
    if "checksum" not in changes:
        fields["checksum"] = checksum(*(after or (bids, asks)))
    rest = json.dumps(fields)[1:-1]
    return (
        f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"{symbol}","bids":[{sides[0]}],"asks":[{sides[1]}],{rest}}}]}}'
    ).encode()


def snapshot(bids=BIDS, asks=ASKS, **changes):
    return book(bids, asks, kind="snapshot", **changes)


def levels(sink):
    """Sides, flags, prices and sizes of the level rows."""
    return [(Side(row[5]), Flag(row[6]), row[7], row[8]) for row in sink.of_kind(Kind.LEVEL)]


def rebuilt(sink, instrument=1):
    reader = RebuiltBook()
    for row in sink.of_kind(Kind.LEVEL):
        if row[3] == instrument:
            reader.take(row[5], row[6], row[7], row[8])
    return reader


def live(*markets, kinds=("trade", "quote", "book")):
    """Open a connection all of whose requests were answered."""
    connection, sink, sent = connected(*markets, kinds=kinds)
    acked(connection, sent)
    connection.events()
    return connection, sink


# --- rows ---------------------------------------------------------------------------------------------------


def test_snapshot_begins_with_a_row_of_no_side_and_ends_with_the_last_flag():
    protocol, sink = opened()
    feed(protocol, snapshot(ms=3))
    assert levels(sink) == [
        (Side.UNKNOWN, SNAPSHOT, 0.0, 0.0),
        (Side.BUY, SNAPSHOT, 100.1, 1.5),
        (Side.BUY, SNAPSHOT, 100.0, 2.0),
        (Side.BUY, SNAPSHOT, 99.9, 0.05),
        (Side.SELL, SNAPSHOT, 100.2, 0.1),
        (Side.SELL, SNAPSHOT | LAST, 100.3, 7.0),
    ]
    assert {row[:5] for row in sink.rows} == {(T_NS + 3_000_000, RECEIVED_NS, 0, 1, Kind.LEVEL)}
    assert flat(protocol) == {"used.book": 1}


def test_update_is_a_row_for_each_level_in_its_order_the_last_of_them_flagged():
    protocol, sink = opened()
    feed(protocol, snapshot())
    before = len(sink.rows)
    after = ([("100.1", "1.25"), *BIDS[2:]], [("100.2", "0.10"), ("100.25", "3"), ("100.3", "7.00")])
    feed(protocol, book([("100.0", "0"), ("100.1", "1.25")], [("100.25", "3")], after=after, ms=5))
    assert levels(sink)[before:] == [
        (Side.BUY, Flag(0), 100.0, 0.0),
        (Side.BUY, Flag(0), 100.1, 1.25),
        (Side.SELL, LAST, 100.25, 3.0),
    ]
    assert rebuilt(sink).sides() == ([(100.1, 1.25), (99.9, 0.05)], [(100.2, 0.1), (100.25, 3.0), (100.3, 7.0)])


@pytest.mark.parametrize(("bids", "asks"), [([], ASKS), (BIDS, []), ([], [])])
def test_empty_sides_and_empty_books_are_books(bids, asks):
    protocol, sink = opened()
    feed(protocol, snapshot(), snapshot(bids, asks))
    reader = rebuilt(sink)
    assert (len(reader.bids), len(reader.asks)) == (len(bids), len(asks))
    assert reader.begun
    assert reader.whole
    assert reader.beginnings == 2


def test_one_price_may_change_more_than_once_in_a_message():
    protocol, sink = opened()
    feed(
        protocol,
        snapshot(),
        book([("100.1", "0"), ("100.1", "9.00")], [], after=([("100.1", "9.00"), *BIDS[1:]], ASKS)),
    )
    assert rebuilt(sink).sides()[0][0] == (100.1, 9.0)


def test_levels_that_fall_out_of_the_depth_are_removed_by_rows():
    """Kraken does not say so; who reads rows need not know how deep the book is."""
    protocol, sink = opened()
    full = [(f"{100 - number}.0", "1.0") for number in range(DEPTH)]
    feed(protocol, snapshot(full, ASKS), book([("100.1", "2.0")], [], after=([("100.1", "2.0"), *full[:-1]], ASKS)))
    assert levels(sink)[-2:] == [(Side.BUY, Flag(0), 100.1, 2.0), (Side.BUY, LAST, 91.0, 0.0)]
    assert len(rebuilt(sink).bids) == DEPTH
    # What comes back into the depth is told by the venue.
    feed(protocol, book([("100.1", "0.0"), ("91.0", "1.0")], [], after=(full, ASKS)))
    assert rebuilt(sink).sides()[0] == [(float(price), 1.0) for price, _ in full]
    assert sink.gaps == []


def test_recorded_book_is_as_deep_as_its_ack_says():
    protocol, sink = opened()
    result = {"channel": "book", "depth": 25, "snapshot": True, "symbol": "BTC/USD"}
    deep = [(f"{100 - number}.0", "1.0") for number in range(25)]
    feed(protocol, encode(ack("book", "BTC/USD", result=result)), snapshot(deep, ASKS))
    feed(protocol, book([("100.5", "2.0")], [], after=([("100.5", "2.0"), *deep], ASKS)))
    assert len(rebuilt(sink).bids) == 25
    assert levels(sink)[-1] == (Side.BUY, LAST, 76.0, 0.0)


def test_whole_book_is_told_again_now_and_then():
    """Who begins to read later, or was lapped, has a book soon."""
    protocol, sink = opened()
    protocol.receive(snapshot(), RECEIVED_NS)
    bids = [("100.1", "1.25"), *BIDS[1:]]
    protocol.receive(book(bids[:1], [], after=(bids, ASKS)), RECEIVED_NS + WHOLE_EVERY_NS - 1)
    assert levels(sink)[-1] == (Side.BUY, LAST, 100.1, 1.25)
    before = len(sink.rows)
    bids = [("100.1", "1.00"), *BIDS[1:]]
    protocol.receive(book(bids[:1], [], after=(bids, ASKS)), RECEIVED_NS + WHOLE_EVERY_NS)
    assert levels(sink)[before:] == [
        (Side.UNKNOWN, SNAPSHOT, 0.0, 0.0),
        *((Side.BUY, SNAPSHOT, float(price), float(size)) for price, size in bids),
        (Side.SELL, SNAPSHOT, 100.2, 0.1),
        (Side.SELL, SNAPSHOT | LAST, 100.3, 7.0),
    ]
    protocol.receive(book([("100.1", "1.50")], [], after=(BIDS, ASKS)), RECEIVED_NS + WHOLE_EVERY_NS + 1)
    assert levels(sink)[-1] == (Side.BUY, LAST, 100.1, 1.5)


def test_clock_that_was_set_back_does_not_put_the_whole_book_off():
    protocol, sink = opened()
    protocol.receive(snapshot(), RECEIVED_NS)
    protocol.receive(book([], [], after=(BIDS, ASKS)), RECEIVED_NS - 10 * WHOLE_EVERY_NS)
    assert rebuilt(sink).beginnings == 2


def test_snapshot_without_a_time_has_our_own():
    protocol, sink = opened()
    feed(protocol, DOCUMENTED)
    assert {row[0] for row in sink.rows} == {RECEIVED_NS}


def test_crossed_book_is_the_venues_own_if_its_checksum_is_right():
    """To ask for it again would bring the same."""
    protocol, sink = opened()
    feed(protocol, snapshot(), book([("100.4", "1.00")], [], after=([("100.4", "1.00"), *BIDS], ASKS)))
    bids, asks = rebuilt(sink).sides()
    assert bids[0][0] > asks[0][0]
    assert sink.gaps == []


def test_update_that_changes_nothing_is_no_row():
    protocol, sink = opened()
    feed(protocol, snapshot(), book([], [], after=(BIDS, ASKS)))
    assert len(sink.rows) == 6
    assert flat(protocol) == {"used.book": 1, "unused.empty": 1}


# --- the checksum -------------------------------------------------------------------------------------------


def test_documented_checksum_is_right():
    protocol, sink = opened()
    feed(protocol, DOCUMENTED)
    assert (len(levels(sink)), sink.gaps) == (21, [])


@pytest.mark.parametrize(
    ("right", "wrong"),
    [(b"45283.5", b"45283.6"), (b"0.10000000", b"0.10000001"), (b"0.10000000", b"0.1000000"), (b"45281.0", b"45281")],
)
def test_each_digit_of_the_documented_book_counts(right, wrong):
    protocol, sink = opened()
    feed(protocol, DOCUMENTED.replace(right, wrong, 1))
    assert [row[9] for row in sink.gaps] == [GapReason.CHECKSUM]
    assert sink.data == []


def test_small_prices_lose_all_their_leading_zeros():
    protocol, sink = opened()
    feed(protocol, snapshot([("0.00000102", "0.00000500")], [], checksum=zlib.crc32(b"102500")))
    assert levels(sink)[1:] == [(Side.BUY, SNAPSHOT | LAST, 0.00000102, 0.000005)]


def test_only_ten_levels_of_each_side_are_in_the_checksum():
    protocol, sink = opened()
    result = {"channel": "book", "depth": 25, "snapshot": True, "symbol": "BTC/USD"}
    deep = [(f"{100 - number}.0", "1.0") for number in range(12)]
    text = "".join(price.replace(".", "") + "10" for price, _ in deep[:10])
    feed(
        protocol, encode(ack("book", "BTC/USD", result=result)), snapshot(deep, [], checksum=zlib.crc32(text.encode()))
    )
    assert len(levels(sink)) == 13


# --- a recorded book that is wrong --------------------------------------------------------------------------


def test_wrong_checksum_in_a_recording_is_a_gap_until_the_next_snapshot():
    protocol, sink = opened()
    wrong = book([("100.1", "9.00")], [], after=(BIDS, ASKS), ms=5)
    feed(protocol, snapshot(ms=1), wrong, book([("100.1", "1.50")], [], after=(BIDS, ASKS), ms=6))
    assert [row[3:4] + row[7:] for row in sink.gaps] == [(1, T_NS + 1_000_000, RECEIVED_NS, GapReason.CHECKSUM, -1)]
    assert len(levels(sink)) == 6
    assert flat(protocol) == {"used.book": 1, "bad": 1, "unused.before_snapshot": 1}
    assert protocol.counts.bad_examples == [wrong]
    feed(protocol, snapshot(ms=7), book([], [("100.2", "0.20")], after=(BIDS, [("100.2", "0.20"), ASKS[1]])))
    assert rebuilt(sink).sides()[1][0] == (100.2, 0.2)
    assert len(sink.gaps) == 1


def test_recording_that_begins_within_a_book_waits_for_a_snapshot():
    protocol, sink = opened()
    feed(protocol, book(BIDS, ASKS), book(BIDS, ASKS))
    assert flat(protocol) == {"unused.before_snapshot": 2}
    assert sink.rows == []


@pytest.mark.parametrize(
    "message",
    [
        *(
            snapshot([(price, "1")], [], checksum=1)
            for price in ("0", "0.0", "-1", "1e3", "1E-8", '"1.5"', "null", "9" * 400, "[]")
        ),
        *(
            snapshot([("1", size)], [], checksum=1)
            for size in ("-1", "-0.0", "1e3", '"1.5"', "null", "true", "9" * 400, "{}")
        ),
        *(snapshot(checksum=value) for value in (None, "x", 1.5, [])),
        *(snapshot(timestamp=value) for value in ("soon", "2008-01-01T00:00:00.000000Z", 5)),
        snapshot([("1", "1")] * 1001, []),
        snapshot()[:-9],
        said("book", {"symbol": "BTC/USD", "bids": [], "asks": []}),
        said("book", {"symbol": "BTC/USD", "bids": [{"price": 1}], "asks": [], "checksum": 1}),
        said("book", {"symbol": "BTC/USD", "bids": {}, "asks": [], "checksum": 1}),
    ],
)
def test_impossible_values_are_bad_and_leave_a_gap_of_their_instrument(message):
    protocol, sink = opened()
    feed(protocol, encode(ack("book", "BTC/USD")), message)
    assert protocol.counts.bad == 1
    assert sink.data == []
    assert [(gap[3], gap[9]) for gap in sink.gaps] == [(1, GapReason.MALFORMED)]


# --- a live book that is wrong ------------------------------------------------------------------------------


def test_books_are_asked_for_with_the_depth_that_the_checksum_covers():
    _, _, sent = connected(XBT, kinds=["book"])
    assert [request["params"] for request in sent] == [
        {"channel": "book", "depth": 10, "snapshot": True, "symbol": ["BTC/USD"]}
    ]


def test_wrong_checksum_asks_for_that_instrument_again_and_stops_its_rows():
    connection, sink = live(XBT, ETH)
    feed(connection, snapshot(), snapshot(symbol="ETH/BTC"), book(BIDS[:1], [], checksum=7))
    assert connection.events() == [Resync(XBT.fqme, GapReason.CHECKSUM)]
    before = len(sink.rows)
    feed(connection, snapshot(), said("trade", trade(1)), book(BIDS[:1], [], checksum=7))
    assert len(sink.rows) == before
    assert connection.events() == []
    feed(connection, book(BIDS[:1], [], after=(BIDS, ASKS), symbol="ETH/BTC"))
    assert [row[3] for row in sink.rows[before:]] == [2]
    assert sink.gaps == [], "the shell writes it"


def test_book_that_was_asked_for_again_begins_with_its_snapshot():
    connection, sink = live(XBT)
    feed(connection, snapshot(), book(BIDS[:1], [], checksum=7))
    connection.unsubscribe([XBT])
    connection.subscribe([XBT])
    before = len(sink.rows)
    # What the venue sent before it had heard of it.
    feed(connection, book(BIDS[:1], [], after=(BIDS, ASKS)))
    assert (len(sink.rows), connection.counts.unused) == (before, {"ack": 3, "before_snapshot": 1})
    acked(connection, [json.loads(payload) for payload in connection.data_to_send()])
    feed(connection, snapshot())
    assert rebuilt(sink).beginnings == 2
    assert connection.events() == [Resync(XBT.fqme, GapReason.CHECKSUM), Subscribed((XBT.fqme,))]


def test_snapshot_that_does_not_come_after_the_ack_is_asked_for_again_once():
    """It was malformed, or lost."""
    connection, sink = live(XBT)
    feed(connection, snapshot()[:-9], book(BIDS, ASKS), book(BIDS, ASKS))
    assert connection.events() == [Resync(XBT.fqme, GapReason.SEQUENCE)]
    assert sink.data == []


def test_malformed_update_is_found_out_by_the_next_checksum():
    connection, sink = live(XBT)
    changed = ([("100.1", "9.00"), *BIDS[1:]], ASKS)
    feed(connection, snapshot(), book([("100.1", "9.00")], [], after=changed)[:-5])
    assert [(row[3], row[9]) for row in sink.gaps] == [(1, GapReason.MALFORMED)]
    assert connection.events() == []
    changed = (changed[0], [("100.2", "5.00"), ASKS[1]])
    feed(connection, book([], [("100.2", "5.00")], after=changed))
    assert connection.events() == [Resync(XBT.fqme, GapReason.CHECKSUM)]


@pytest.mark.parametrize("lost", ["dropped", "swapped"])
def test_lost_and_reordered_updates_are_found_out(lost):
    connection, _ = live(XBT)
    one = ([("100.1", "9.00"), *BIDS[1:]], ASKS)
    two = ([("100.1", "8.00"), *BIDS[1:]], [("100.2", "5.00"), ASKS[1]])
    first = book([("100.1", "9.00")], [], after=one)
    second = book([("100.1", "8.00")], [("100.2", "5.00")], after=two)
    third = book([("100.0", "0.0")], [], after=([two[0][0], two[0][2]], two[1]))
    feed(connection, snapshot(), *([second, first] if lost == "swapped" else [first, third]))
    assert connection.events() == [Resync(XBT.fqme, GapReason.CHECKSUM)]


def test_repeated_update_changes_nothing():
    connection, sink = live(XBT)
    after = ([("100.1", "9.00"), *BIDS[1:]], ASKS)
    update = book([("100.1", "9.00")], [], after=after)
    feed(connection, snapshot(), update, update)
    assert connection.events() == []
    assert rebuilt(sink).sides()[0][0] == (100.1, 9.0)


def test_ack_that_says_it_was_there_already_is_followed_by_no_snapshot_so_the_book_is_asked_for_again():
    """An ack and its snapshot were lost; the next update finds it out."""
    connection, _, sent = connected(XBT, kinds=["book"])
    error = {"error": "Already subscribed", "method": "subscribe", "success": False, "symbol": "BTC/USD"}
    feed(connection, encode(error | {"req_id": sent[0]["req_id"]}), book(BIDS, ASKS))
    assert connection.events()[0] == Resync(XBT.fqme, GapReason.SEQUENCE)

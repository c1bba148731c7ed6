"""Ring rows to messages, once for everybody."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from marketd.errors import Lapped
from marketd.gateway.encode import encode_tail
from marketd.gateway.fanout import CACHE_BYTES_MAX, CACHE_ENTRIES_MAX, Cache, Fanout
from marketd.gateway.selection import Choice, Selection
from marketd.model import Kind
from marketd.ring import layout
from marketd.ring.reader import RingReader
from marketd.rpc import messages
from marketd.rpc.framing import Deframer
from tests.gateway_harness import FakeFeed

BOTH = frozenset({Kind.TRADE, Kind.QUOTE})


def make_choice(*globs: str, instruments: int = 4, kinds: frozenset[int] = BOTH) -> Choice:
    choice = Choice(Selection(frozenset(), frozenset(globs), kinds))
    choice.extend([f"i{number}/usd.sim" for number in range(1, instruments + 1)])
    return choice


class CountingRing:
    """A ring that counts the copies made of it."""

    def __init__(self, feed: FakeFeed) -> None:
        self._reader = RingReader(Path(feed.info.ring_path))
        self.rows = self._reader.rows
        self.epoch = self._reader.epoch
        self.reads = 0

    def read_range(self, cursor_first: int, cursor_last: int) -> np.ndarray:
        self.reads += 1
        return self._reader.read_range(cursor_first, cursor_last)

    def read_few(self, cursor_first: int, cursor_last: int) -> bytes | None:
        return self._reader.read_few(cursor_first, cursor_last)


@pytest.fixture
def feed(tmp_path: Path) -> FakeFeed:
    return FakeFeed(tmp_path, "sim", rows=1024, instruments=4)


def decode(frames: tuple[tuple[int, bytes | bytearray], ...], kind: type) -> list:
    """Complete the frames for subscription 1 and read them."""
    data = b"".join(bytes(frame) + encode_tail(1, first) for first, frame in frames)
    payloads = Deframer(1 << 24).receive_data(data)
    answers = [msgspec.msgpack.decode(payload, type=messages.Answer) for payload in payloads]
    return [msgspec.msgpack.decode(answer.params, type=kind) for answer in answers]


def test_ten_clients_cost_one_copy_and_one_encoding(feed: FakeFeed) -> None:
    ring = CountingRing(feed)
    fanout = Fanout("sim", ring)
    feed.trades(100, 4)
    # Clients that ask in different words for the same: all of the feed.
    choices = [make_choice("*"), make_choice("*.sim"), make_choice("i*.sim", "*")]
    chunks = [fanout.chunk(choices[i % 3], "rows", 1, 100) for i in range(10)]
    assert all(chunk is chunks[0] for chunk in chunks)
    assert ring.reads == 1
    assert fanout.encoded == 1


def test_different_selections_share_the_copy(feed: FakeFeed) -> None:
    ring = CountingRing(feed)
    fanout = Fanout("sim", ring)
    feed.trades(100, 4)
    for number in range(1, 5):
        (message,) = decode(fanout.chunk(make_choice(f"i{number}/*"), "rows", 1, 100).frames, messages.Rows)
        rows = np.frombuffer(message.data, layout.ROW)
        assert set(rows["instrument"].tolist()) == {number}
        assert (message.cursor_first, message.cursor_last) == (1, 100)
    assert ring.reads == 1
    assert fanout.encoded == 4


def test_rows_are_the_rings_own_bytes(feed: FakeFeed) -> None:
    feed.trade(1)
    feed.quote(2)
    feed.gap()
    chunk = Fanout("sim", CountingRing(feed)).chunk(make_choice("*"), "rows", 1, 3)
    (message,) = decode(chunk.frames, messages.Rows)
    assert message.data == RingReader(Path(feed.info.ring_path)).read_range(1, 3).tobytes()
    assert (message.feed, message.epoch, message.merged) == ("sim", feed.epoch, None)


def test_range_without_a_wanted_row_gives_no_message(feed: FakeFeed) -> None:
    feed.trades(10, 2)
    chunk = Fanout("sim", CountingRing(feed)).chunk(make_choice("i4/*"), "rows", 1, 10)
    assert chunk.rows == 0
    assert chunk.frames == ()


def test_columns_come_by_runs_of_a_kind_whose_ranges_partition_the_message(feed: FakeFeed) -> None:
    feed.trade(4, 9.0)  # not wanted: belongs to the first range all the same
    feed.trade(1, 1.5)
    feed.trade(2, 2.5)
    feed.trade(4, 9.0)
    feed.quote(1, 3.5)
    feed.gap()
    feed.trade(4, 9.0)
    chunk = Fanout("sim", CountingRing(feed)).chunk(make_choice("i[123]/*"), "columns", 1, 7)
    found = decode(chunk.frames, messages.Columns)
    assert [(m.kind, m.cursor_first, m.cursor_last) for m in found] == [("trade", 1, 4), ("quote", 5, 5), ("gap", 6, 7)]
    assert found[0].columns["price"] == [1.5, 2.5]
    assert found[0].columns["cursor"] == [2, 3]
    assert set(found[0].columns) == set(layout.TRADE.names or ())
    assert found[1].columns["ask"] == [4.5]
    assert found[2].columns["lost"] == [-1]
    assert isinstance(found[2].columns["lost"][0], int)
    assert isinstance(found[1].columns["bid"][0], float)


def test_ranges_end_at_the_head_or_at_fixed_cursors_so_that_laggards_fall_into_step(feed: FakeFeed) -> None:
    fanout = Fanout("sim", CountingRing(feed))  # of 1,024 rows: 256 in one message
    assert fanout.range_last(1, 10) == 10
    assert fanout.range_last(1, 10_000) == 255
    assert fanout.range_last(37, 10_000) == 255
    assert fanout.range_last(256, 10_000) == 511


def test_overwritten_rows_are_reported_unless_somebody_has_asked_for_them_before(feed: FakeFeed) -> None:
    fanout = Fanout("sim", CountingRing(feed))
    choice = make_choice("*")
    feed.trades(100)
    known = fanout.chunk(choice, "rows", 1, 100)
    feed.trades(5000)
    assert fanout.chunk(choice, "rows", 1, 100) is known
    with pytest.raises(Lapped):
        fanout.chunk(choice, "rows", 101, 200)


def test_news_is_the_message_of_the_range_for_all_and_for_some(feed: FakeFeed) -> None:
    fanout = Fanout("sim", CountingRing(feed))
    every, usual, some, none = make_choice("*"), make_choice("*", kinds=BOTH), make_choice("i2/*"), make_choice("i9/*")
    everything = make_choice("*", kinds=BOTH | {Kind.LEVEL})
    feed.trades(20, 4)
    for first, head in ((1, 20), (5, 5), (19, 20)):
        for choice in (every, usual, everything, some):
            for form, kind in (("rows", messages.Rows), ("columns", messages.Columns)):
                news = fanout.news((choice, form, 7), first, head)
                chunk = fanout.chunk(choice, form, first, head)
                if not chunk.rows:
                    assert news is None
                    continue
                assert news is not None
                rows, data = news
                (payload,) = Deframer(1 << 24).receive_data(data)
                told = msgspec.msgpack.decode(payload, type=messages.Answer)
                (wanted,) = decode(chunk.frames, kind)
                assert rows == chunk.rows
                assert msgspec.msgpack.decode(told.params, type=kind) == msgspec.structs.replace(wanted, subscription=7)
        assert fanout.news((none, "rows", 7), first, head) is None


def test_news_is_made_once_for_all_whose_subscription_has_the_same_number(feed: FakeFeed) -> None:
    fanout = Fanout("sim", CountingRing(feed))
    choice = make_choice("*")
    feed.trades(5)
    first = fanout.news((choice, "rows", 1), 1, 5)
    assert first is not None
    assert fanout.news((choice, "rows", 1), 1, 5) is first
    assert fanout.news((choice, "rows", 2), 1, 5) != first
    feed.trades(5)
    later = fanout.news((choice, "rows", 1), 6, 10)
    assert later is not None
    assert later != first


def test_what_is_not_wanted_by_its_kind_is_not_in_the_news(feed: FakeFeed) -> None:
    fanout = Fanout("sim", CountingRing(feed))
    feed.trade(1)
    feed.quote(2)
    trades = make_choice("*", kinds=frozenset({Kind.TRADE}))
    news = fanout.news((trades, "rows", 1), 1, 2)
    assert news is not None
    assert news[0] == 1


def test_large_or_overwritten_ranges_are_no_news(feed: FakeFeed) -> None:
    fanout = Fanout("sim", CountingRing(feed))
    choice = make_choice("*")
    feed.trades(1000)
    assert fanout.news((choice, "rows", 1), 1, 1000) is None
    assert fanout.news((choice, "rows", 1), 500, 1000) is None
    feed.trades(1000)
    assert fanout.news((choice, "rows", 1), 1, 10) is None


def test_cache_lets_the_oldest_go_by_number_and_by_size() -> None:
    cache: Cache[int, str] = Cache(bytes_max=100, entries_max=3)
    for number in range(5):
        cache.put(number, str(number), 10)
    assert [cache.get(number) for number in range(5)] == [None, None, "2", "3", "4"]
    cache.put(5, "big", 85)
    assert [cache.get(number) for number in (3, 4, 5)] == [None, "4", "big"]
    cache.put(6, "too big", 101)
    assert len(cache) == 0
    assert cache.size_bytes == 0


def test_caches_stay_bounded_however_many_selections_there_are(tmp_path: Path) -> None:
    feed = FakeFeed(tmp_path, "big", rows=1 << 15)
    fanout = Fanout("big", CountingRing(feed))
    feed.trades(1 << 14, 100)
    for number in range(100):
        choice = make_choice(f"i{number}[!x]*", "i1*", instruments=100)
        for first in range(1, 16_000, 4096):
            fanout.chunk(choice, "rows", first, fanout.range_last(first, 16_000))
    assert fanout._chunks.size_bytes <= CACHE_BYTES_MAX
    assert fanout._blocks.size_bytes <= CACHE_BYTES_MAX
    assert len(fanout._chunks) <= CACHE_ENTRIES_MAX

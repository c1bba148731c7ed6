from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trio

from backends.backend import Backend, MessageCounts
from marketd.clock import SteadyClock
from marketd.errors import ConfigError, RequestRefused
from marketd.feed.actor import Feed, refuse_invalid
from marketd.feed.search import search
from marketd.feed.sink import FeedSink
from marketd.logs import configure
from marketd.model import GapReason, Kind, MktPair, Quality
from marketd.ring import layout
from marketd.ring.doorbell import create_bells
from marketd.ring.reader import RingReader
from marketd.ring.table import TableReader, create_table
from marketd.ring.writer import create_ring
from marketd.supervise.messages import FeedRecord, FeedSpec

NOW_NS = 1_700_000_000_000_000_000
BTC = MktPair(dst="btc", src="usdt", venue="spot", backend="sim", type="spot")
ETH = MktPair(dst="eth", src="usdt", venue="spot", backend="sim", type="spot")


class FixedSource:
    """A source without rows of its own."""

    url = "sim://fixed"

    def now_ns(self) -> int:
        return NOW_NS

    def search_space(self) -> list[MktPair]:
        return [BTC, ETH]

    async def run(self, sink: object) -> None:
        await trio.lowlevel.checkpoint()

    def begin(self) -> None:
        pass

    def outage(self, duration_s: float) -> None:
        raise NotImplementedError

    def counts(self) -> MessageCounts:
        return MessageCounts()

    def quiet(self) -> bool:
        return True


@pytest.fixture
def spec(tmp_path: Path) -> FeedSpec:
    create_ring(tmp_path / "ring", 64)
    create_table(tmp_path / "table", 8)
    create_bells(tmp_path / "bells")
    return FeedSpec(
        name="sim",
        backend="sim",
        settings={},
        ring_path=str(tmp_path / "ring"),
        table_path=str(tmp_path / "table"),
        bells_path=str(tmp_path / "bells"),
        recordings_path=str(tmp_path / "recordings"),
    )


@pytest.fixture
def feed(spec: FeedSpec) -> Iterator[Feed]:
    feed = Feed(spec, FixedSource(), SteadyClock())
    with feed.sink:
        yield feed


def trade(received_ns: int, instrument: int = 1) -> layout.Row:
    return (received_ns - 5, received_ns, 1, instrument, Kind.TRADE, 1, 1, 100.0, 2.0, 0.0, 0.0)


def test_first_life_writes_no_gap(feed: Feed, spec: FeedSpec) -> None:
    feed.note_predecessor()
    assert RingReader(Path(spec.ring_path), cursor=0).published == 0


def test_successor_continues_the_cursor_after_a_gap_row_from_the_last_tick_to_now(spec: FeedSpec) -> None:
    with FeedSink(spec) as predecessor:
        assert predecessor.instrument(BTC) == 1
        for n in range(3):
            predecessor.append(trade(NOW_NS - 1000 + n))
    successor = Feed(spec, FixedSource(), SteadyClock())
    with successor.sink:
        successor.note_predecessor()
        assert successor.sink.instrument(ETH) == 2
        assert successor.sink.instrument(BTC) == 1
    rows = RingReader(Path(spec.ring_path), cursor=0).read_nowait()
    assert rows["cursor"].tolist() == [1, 2, 3, 4]
    gap = rows[3:].view(layout.GAP)[0]
    assert (gap["kind"], gap["instrument"], gap["reason"]) == (Kind.GAP, 0, GapReason.RESTART)
    assert (gap["from_ns"], gap["to_ns"]) == (NOW_NS - 998, NOW_NS)


def test_predecessors_last_tick_is_found_behind_a_ring_full_of_gaps(spec: FeedSpec) -> None:
    with FeedSink(spec) as predecessor:
        predecessor.append(trade(NOW_NS - 7))
        for _ in range(20):
            predecessor.gap(0, GapReason.STALE, NOW_NS, NOW_NS)
    with FeedSink(spec) as successor:
        assert successor.last_received_ns == NOW_NS - 7


def test_every_row_is_counted_once_by_kind_even_when_the_ring_goes_round(feed: Feed) -> None:
    for n in range(500):
        feed.sink.append(trade(NOW_NS + n))
        if n % 10 == 0:
            feed.sink.gap(1, GapReason.SEQUENCE, NOW_NS, NOW_NS + n, lost=1)
        feed.sink.publish()
    report = feed.report()
    assert report.rows_by_kind == {"trade": 500, "gap": 50}
    assert report.gaps == 50
    assert report.last_received_ns == NOW_NS + 499
    assert report.last_event_ns == NOW_NS + 494


def test_rows_of_a_batch_that_is_larger_than_the_ring_are_still_counted(feed: Feed) -> None:
    block = np.zeros(1000, layout.ROW)
    block["kind"] = Kind.QUOTE
    feed.sink.append_block(block)
    feed.sink.publish()
    assert sum(feed.report().rows_by_kind.values()) == 1000


def test_quality_is_kept_in_the_table(feed: Feed, spec: FeedSpec) -> None:
    first, second = feed.sink.instrument(BTC), feed.sink.instrument(ETH)
    feed.sink.quality(0, Quality.OK)
    feed.sink.quality(second, Quality.STALE)
    table = TableReader(Path(spec.table_path))
    assert table.quality(first) == Quality.OK
    assert table.quality(second) == Quality.STALE


def test_backend_with_a_bad_declaration_is_refused_with_every_problem_named(capsys: pytest.CaptureFixture[str]) -> None:
    """R41: from the one validation function, all at once."""
    backend = Backend(name="Bad Name", description="", config=FeedSpec)
    configure("info", "json", "test")
    with pytest.raises(ConfigError, match=r"has \d+ problems"):
        refuse_invalid(backend)
    said = capsys.readouterr().err
    assert said.count("backend.invalid") >= 4
    assert "NAMES" in said
    assert "description" in said


async def test_recording_holds_what_came_while_it_ran_and_nothing_is_overwritten(feed: Feed) -> None:
    async with trio.open_nursery() as nursery:
        results = []

        async def record() -> None:
            results.append(await feed.record(FeedRecord("one", 0.05)))

        nursery.start_soon(record)
        while not feed.sink.recording:
            await trio.lowlevel.checkpoint()
        with pytest.raises(RequestRefused, match="being recorded already"):
            await feed.record(FeedRecord("two", 1.0))
        feed.sink.message(b'{"a":1}', NOW_NS)
        feed.sink.message(b'{"a":2}', NOW_NS + 1)
    feed.sink.message(b'{"a":3}', NOW_NS + 2)
    assert results[0].messages == 2
    lines = Path(results[0].path).read_text().splitlines()
    assert lines[0].startswith("sim://fixed <-> ")
    assert [line.split(": ", 1)[1] for line in lines[1:]] == ['{"a":1}', '{"a":2}']
    with pytest.raises(RequestRefused, match="already"):
        await feed.record(FeedRecord("one", 0.01))


async def test_feed_without_messages_has_nothing_to_record(feed: Feed, spec: FeedSpec) -> None:
    feed.source.url = ""  # type: ignore[misc]
    with pytest.raises(RequestRefused, match="plays saved trades: it has no traffic"):
        await feed.record(FeedRecord("one", 1.0))
    assert not Path(spec.recordings_path).exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("btc", ["btc/usdt.spot.sim"]),
        ("USDT spot", ["btc/usdt.spot.sim", "eth/usdt.spot.sim"]),
        ("eth/*", ["eth/usdt.spot.sim"]),
        ("btc/usdt.spot.sim", ["btc/usdt.spot.sim"]),
        ("doge", []),
        ("", ["btc/usdt.spot.sim", "eth/usdt.spot.sim"]),
    ],
)
def test_search_finds_by_words_and_globs(text: str, found: list[str]) -> None:
    hits = search([ETH, BTC], text, 10, "sim")
    assert [hit.fqme for hit in hits] == found
    assert all(0 < hit.score <= 1 for hit in hits)


def test_search_finds_an_asset_under_its_other_name_too() -> None:
    kraken = MktPair(dst="xbt", src="usd", venue="spot", backend="kraken")
    found = search([kraken, BTC], "btc", 10, "any")
    assert [hit.fqme for hit in found] == ["btc/usdt.spot.sim", "xbt/usd.spot.kraken"]
    assert search([kraken], "btc usd kraken", 10, "any")[0].score > 0.5


def test_exact_name_scores_highest() -> None:
    other = MktPair(dst="wbtc", src="usdt", venue="spot", backend="sim")
    assert [hit.fqme for hit in search([other, BTC], "btc", 10, "sim")] == ["btc/usdt.spot.sim", "wbtc/usdt.spot.sim"]
    assert search([BTC], "btc/usdt.spot.sim", 1, "sim")[0].score == 1.0

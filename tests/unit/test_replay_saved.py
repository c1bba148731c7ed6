"""Saved trades through the replay source."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from backends.replay.source import ReplayConfig, ReplaySource
from marketd.errors import RecordingError
from marketd.model import Flag, GapReason, Kind, Quality
from tests.contract.check_backend import check_rows
from tests.fakes import ListSink

KRAKEN = Path(__file__).resolve().parent.parent / "data" / "kraken"
FIXTURE = KRAKEN / "spot-trades.json"
BEGIN_NS = 1_767_225_600_000_000_000
SECOND_NS = 10**9


def saved(path, *trades, pair="XBTUSDT"):
    """Write trades, each an id and the seconds after the beginning, or the JSON text of one that can't be used."""
    texts = [
        trade
        if isinstance(trade, str)
        else f'["88000.1","0.5",{Decimal(BEGIN_NS) / SECOND_NS + Decimal(str(trade[1]))},"b","m","",{trade[0]}]'
        for trade in trades
    ]
    path.write_text(f'{{"error":[],"result":{{"{pair}":[{",".join(texts)}],"last":"0"}}}}')
    return str(path)


async def replay(*files, sink=None, speed="max"):
    source = ReplaySource(ReplayConfig([str(file) for file in files], speed=speed))
    sink = sink or ListSink()
    with trio.fail_after(20):
        await source.run(sink)
    return source, sink


def gap(row):
    return (row[3], row[7] - BEGIN_NS, row[8] - BEGIN_NS, row[9], row[10])


async def test_each_trade_is_a_row_with_the_venues_own_time():
    source, sink = await replay(FIXTURE)
    check_rows(sink)
    names = [market.fqme.removesuffix(".spot.kraken") for market in sink.markets]
    assert [(names[row[3] - 1], row[0] - BEGIN_NS, row[2], row[5], *row[7:9]) for row in sink.data] == [
        ("eth/xbt", 500_000_000, 4000, 1, 0.03332, 1.0),
        ("xbt/usd", 971_744_500, 901, 1, 88000.2, 0.00027625),
        ("xbt/usd", 1_123_456_789, 902, -1, 88000.1, 0.5),
        ("xbt/usd", 1_123_456_789, 903, -1, 88000.1, 1e-8),
        ("sol/usd", 1_500_000_000, 71, 1, 125.35, 3.1),
        ("eth/xbt", 2_000_100_000, 4001, -1, 0.03331, 2.0),
        ("xbt/usd", 3_000_000_000, 904, 1, 88001.0, 1.25),
    ]
    assert all(row[0] == row[1] and (row[4], row[6]) == (Kind.TRADE, Flag.LAST) for row in sink.data)
    assert sink.gaps == []
    assert source.counts().flat() == {"used.trade": 7, "unused.duplicate": 2, "bad": 0, "unknown": 0}
    assert sink.published == len(sink.rows)


async def test_instruments_have_their_steps_and_can_be_searched():
    source, sink = await replay(FIXTURE)
    assert source.search_space() == sink.markets
    ticks = {market.bs_mktid: (market.price_tick, market.resolved) for market in sink.markets}
    assert ticks == {
        "XBT/USD": (Decimal("0.1"), True),
        "SOL/USD": (Decimal("0.01"), False),
        "ETH/XBT": (Decimal("0.00001"), True),
    }


async def test_clock_of_the_feed_is_the_trades(tmp_path):
    source, _ = await replay(FIXTURE)
    assert source.now_ns() == BEGIN_NS + 3 * SECOND_NS
    began_s = trio.current_time()
    await replay(saved(tmp_path / "a.json", (1, 1), (2, 2), (3, 4)), speed=20)
    assert trio.current_time() - began_s >= 3 / 20 * 0.9


async def test_saved_trades_and_recordings_are_merged_by_time(tmp_path):
    source, sink = await replay(saved(tmp_path / "a.json", (1, 0.00001), (2, 3600)), KRAKEN / "spot-v2.ws")
    assert [row[1] for row in sink.data] == sorted(row[1] for row in sink.data)
    assert len([row for row in sink.data if row[4] != Kind.LEVEL]) == 9 + 2
    assert source.url == "wss://ws.kraken.com/v2"
    assert source.counts().used["trade"] > 2


async def test_a_hole_in_the_ids_of_a_pair_is_a_gap_row_before_the_trade_after_it(tmp_path):
    _, sink = await replay(saved(tmp_path / "a.json", (1, 1), (2, 2), (7, 3), (8, 4)))
    assert [row[2] for row in sink.rows] == [1, 2, 0, 7, 8]
    assert [gap(row) for row in sink.gaps] == [(1, 2 * SECOND_NS, 3 * SECOND_NS, GapReason.SEQUENCE, 4)]


async def test_a_trade_in_the_wrong_place_of_the_file_is_neither_a_hole_nor_lost(tmp_path):
    source, sink = await replay(saved(tmp_path / "a.json", (4, 4), (1, 1), (3, 3), (2, 2), (3, 3)))
    assert [row[2] for row in sink.rows] == [1, 2, 3, 4]
    assert source.counts().flat() == {"used.trade": 4, "unused.duplicate": 1, "bad": 0, "unknown": 0}


async def test_ids_and_times_that_disagree_are_played_by_time_and_are_no_holes(tmp_path):
    _, sink = await replay(saved(tmp_path / "a.json", (1, 1), (2, 2.5), (3, 2.4), (4, 3)))
    assert [row[2] for row in sink.rows] == [1, 3, 2, 4]


async def test_a_trade_that_can_not_be_used_is_counted_and_is_a_gap_row_at_its_place(tmp_path):
    source, sink = await replay(saved(tmp_path / "a.json", (1, 1), '["0"]', (3, 3), '["nothing"]'))
    assert [gap(row) for row in sink.gaps] == [
        (1, 1 * SECOND_NS, 3 * SECOND_NS, GapReason.MALFORMED, -1),
        (1, 3 * SECOND_NS, 3 * SECOND_NS, GapReason.MALFORMED, -1),
        (1, 1 * SECOND_NS, 3 * SECOND_NS, GapReason.SEQUENCE, 1),
    ]
    assert [row[2] for row in sink.data] == [1, 3]
    assert source.counts().flat() == {"used.trade": 2, "bad": 2, "unknown": 0}
    assert source.counts().bad_examples == [b'["0"]', b'["nothing"]']


@pytest.mark.parametrize("written", range(8))
async def test_successor_goes_on_where_the_ring_ends(written, tmp_path):
    files = [saved(tmp_path / "a.json", (1, 1), (2, 2), (3, 3), (4, 4)), saved(tmp_path / "b.json", *[
        (n, n + 0.5) for n in range(10, 13)], pair="SOLUSD")]  # fmt: skip
    _, whole = await replay(*files)
    predecessor = whole.data[:written]
    sink = ListSink(last_received_ns=predecessor[-1][1] if predecessor else 0)
    source, _ = await replay(*files, sink=sink)
    assert predecessor + sink.data == whole.data
    assert source.counts().used == {"trade": 7}, "the summary is of the whole file"


async def test_nothing_is_shown_to_who_records_the_feed():
    source, sink = await replay(FIXTURE, sink=ListSink(recording=True))
    assert (source.url, sink.messages) == ("", [])
    assert len(sink.data) == 7


async def test_qualities_follow_the_file():
    _, sink = await replay(FIXTURE)
    assert sink.qualities == [(0, Quality.OK), (0, Quality.STALE)]


async def test_a_packed_file_plays_the_same(tmp_path):
    packed = tmp_path / "spot-trades.json.gz"
    packed.write_bytes(gzip.compress(FIXTURE.read_bytes()))
    (tmp_path / "spot.AssetPairs.rest").write_bytes((KRAKEN / "spot.AssetPairs.rest").read_bytes())
    (_, plain), (_, sink) = await replay(FIXTURE), await replay(packed)
    assert (sink.rows, sink.markets) == (plain.rows, plain.markets)


async def test_rows_equal_an_independent_reading_of_recorded_hours(shared_data):
    path = shared_data / "truth" / "kraken-trades-first-part.json"
    [(pair, trades)] = [
        item for item in json.loads(path.read_bytes(), parse_float=Decimal)["result"].items() if item[0] != "last"
    ]
    source, sink = await replay(path)
    assert [market.fqme for market in sink.markets] == ["xbt/usdt.spot.kraken"]
    assert (pair, sink.markets[0].price_tick, sink.markets[0].size_tick) == ("XBTUSDT", Decimal("0.1"), Decimal("1E-8"))
    assert sink.rows == [
        (int(time * 10**9), int(time * 10**9), number, 1, Kind.TRADE, {"b": 1, "s": -1}[side], Flag.LAST,
         float(price), float(size), 0.0, 0.0)
        for price, size, time, side, _, _, number in trades
    ]  # fmt: skip
    assert sink.rows[0][0] == 1_762_795_433_971_744_500
    assert source.counts().flat() == {"used.trade": len(trades), "bad": 0, "unknown": 0}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no whole JSON, as saved trades must be: it is empty"),
        (b"<html>502</html>", "is no whole JSON"),
        (FIXTURE.read_bytes()[:-9], "is no whole JSON"),
        (gzip.compress(b"{}", mtime=0), r"is gzip: its name must end in \.gz"),
        (b'{"error":["EGeneral:Invalid arguments"]}', r"Kraken says EGeneral:Invalid arguments; expected is .*Trades"),
        (b'{"error":[],"result":{}}', r"has no trades; expected is Kraken's /0/public/Trades"),
        (b'{"error":[],"result":{"XXBTZUSD":[],"last":"1"}}', r"has no trades; expected is Kraken's /0/public/Trades"),
        (b'{"error":[],"result":{"NOPE":[],"last":"1"}}', "nobody can tell which pair 'NOPE' is"),
        (b'{"code":"200000","data":[]}', r"no backend reads this file as saved trades; known are Kraken's /0/public"),
        (b'[{"a":26129,"p":"0.01","q":"4.7","T":1498793709153,"m":true}]', "no backend reads this file"),
    ],
)
def test_a_file_that_can_not_be_played_is_refused_with_what_is_expected(content, words, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=rf"a\.json:? {words}"):
        ReplaySource(ReplayConfig([str(path)]))

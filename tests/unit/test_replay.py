from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from backends.recording import RECEIVED, RecordingReader, RecordingWriter
from backends.replay.source import ReplayConfig, ReplaySource
from marketd.clock import SECOND_NS
from marketd.errors import RecordingError
from marketd.model import GapReason, Quality
from tests.fakes import ListSink

DATA = Path(__file__).resolve().parent.parent / "data" / "binance"
FUTURES, SPOT = str(DATA / "futures.ws"), str(DATA / "spot.ws")
URL = "wss://fstream.binance.com/stream?streams=btcusdt@aggTrade"
BEGIN_NS = 1_767_225_600 * SECOND_NS


def trade_line(trade_id, at_ns):
    trade = {"e": "aggTrade", "a": trade_id, "s": "BTCUSDT", "p": "1", "q": "1", "T": BEGIN_NS // 10**6, "m": True}
    return json.dumps({"stream": "btcusdt@aggTrade", "data": trade}, separators=(",", ":")).encode(), at_ns


def recording(path, lines, url=URL):
    writer = RecordingWriter(path, url, BEGIN_NS)
    for payload, time_ns in lines:
        writer.received(payload, time_ns)
    writer.close()
    return str(path)


async def replay(*files, sink=None, speed="max"):
    source = ReplaySource(ReplayConfig(list(files), speed=speed))
    sink = sink or ListSink()
    with trio.fail_after(20):
        await source.run(sink)
    return source, sink


async def test_replay_gives_every_message_to_the_venues_protocol_and_ends():
    source, sink = await replay(FUTURES)
    assert source.counts().used == {"aggTrade": 13, "bookTicker": 13}
    assert len(sink.data) == sink.published == 26
    assert {market.fqme for market in source.search_space()} == {market.fqme for market in sink.markets}
    assert sink.markets[0].resolved, "the exchangeInfo beside the recording was used"


async def test_rows_have_the_recorded_receive_times():
    _, sink = await replay(FUTURES)
    times = [entry.time_ns for entry in RecordingReader(Path(FUTURES)) if entry.what == RECEIVED]
    assert [row[1] for row in sink.data] == [time_ns for time_ns in times if time_ns in {row[1] for row in sink.data}]


async def test_several_files_are_merged_by_time():
    source, sink = await replay(SPOT, FUTURES)
    times = [row[1] for row in sink.data]
    assert times == sorted(times)
    assert len(times) == 26 + 23
    assert {market.venue for market in sink.markets} == {"spot", "perp", "future"}
    assert source.counts().unused["ack"] == 2


async def test_clock_of_the_feed_is_the_recordings():
    source, _ = await replay(FUTURES)
    last_ns = max(entry.time_ns for entry in RecordingReader(Path(FUTURES)))
    assert source.now_ns() == last_ns


async def test_speed_divides_the_recorded_time(tmp_path):
    path = recording(tmp_path / "a.ws", [trade_line(n, BEGIN_NS + n * SECOND_NS) for n in range(1, 4)])
    began_s = trio.current_time()
    await replay(path, speed=20)
    assert trio.current_time() - began_s >= 3 / 20 * 0.9


async def test_rows_are_published_before_the_source_waits(tmp_path):
    path = recording(tmp_path / "a.ws", [trade_line(1, BEGIN_NS), trade_line(2, BEGIN_NS + 3600 * SECOND_NS)])
    sink = ListSink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ReplaySource(ReplayConfig([path])).run, sink)
        with trio.fail_after(10):
            while sink.published < 1:
                await trio.sleep(0.001)
        assert [row[2] for row in sink.data] == [1]
        nursery.cancel_scope.cancel()


async def test_replay_that_waits_for_a_client_knows_its_instruments_and_begins_when_told():
    source = ReplaySource(ReplayConfig([FUTURES], speed="max", wait_client=True))
    sink = ListSink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, sink)
        await trio.testing.wait_all_tasks_blocked()
        assert len(sink.markets) == 4
        assert sink.rows == []
        assert source.quiet(), "nothing is expected of it yet"
        source.begin()
    assert len(sink.data) == 26
    assert not source.quiet()


@pytest.mark.parametrize("written", range(27))
async def test_successor_goes_on_where_the_ring_ends(written):
    _, whole = await replay(FUTURES)
    predecessor = whole.data[:written]
    sink = ListSink(last_received_ns=predecessor[-1][1] if predecessor else 0)
    source, _ = await replay(FUTURES, sink=sink)
    assert predecessor + sink.data == whole.data
    assert sink.gaps == []
    assert source.counts().used == {"aggTrade": 13, "bookTicker": 13}, "the summary is of the whole recording"


async def test_successor_keeps_the_state_of_what_it_skips(tmp_path):
    lines = [trade_line(number, BEGIN_NS + at) for at, number in enumerate((1, 2, 2, 5), 1)]
    path = recording(tmp_path / "a.ws", lines)
    _, sink = await replay(path, sink=ListSink(last_received_ns=BEGIN_NS + 2))
    assert [row[2] for row in sink.data] == [5]
    assert [gap[9:] for gap in sink.gaps] == [(GapReason.SEQUENCE, 2)]


async def test_rows_of_one_recorded_moment_are_never_published_in_part(tmp_path):
    lines = [trade_line(number, BEGIN_NS + number // 300) for number in range(1, 900)]
    path = recording(tmp_path / "a.ws", lines)

    class Watching(ListSink):
        def publish(self):
            super().publish()
            seen.append(self.rows[-1][1] if self.rows else 0)

    seen, sink = [], Watching()
    await replay(path, sink=sink)
    assert len(sink.data) == 899
    assert len(seen) == len(set(seen)), "no moment was published twice"


async def test_new_connection_in_the_recording_is_a_gap_and_a_fresh_protocol(tmp_path):
    path = Path(recording(tmp_path / "a.ws", [trade_line(1, BEGIN_NS + 10)]))
    again = Path(recording(tmp_path / "b.ws", [trade_line(900, BEGIN_NS + 30)]))
    later = again.read_bytes().replace(b"<-> 1767225600.000000000", b"<-> 1767225600.000000020")
    path.write_bytes(path.read_bytes() + later)
    source, sink = await replay(str(path))
    assert [row[2] for row in sink.data] == [1, 900]
    assert [gap[7:] for gap in sink.gaps] == [(BEGIN_NS + 10, BEGIN_NS + 20, GapReason.DISCONNECT, -1)]
    assert source.counts().used == {"aggTrade": 2}


async def test_cut_last_line_is_in_the_summary(tmp_path):
    path = Path(recording(tmp_path / "a.ws", [trade_line(1, BEGIN_NS)]))
    path.write_bytes(path.read_bytes() + b'1767225700: {"stream":"btcusdt@agg')
    source, sink = await replay(str(path))
    assert source.counts().flat() == {"used.aggTrade": 1, "unused.truncated": 1, "bad": 0, "unknown": 0}
    assert sink.gaps == []


async def test_qualities_follow_the_recording():
    _, sink = await replay(FUTURES)
    assert sink.qualities == [(0, Quality.OK), (0, Quality.STALE)]


async def test_replay_can_be_recorded_again(tmp_path):
    source, sink = await replay(FUTURES, sink=ListSink(recording=True))
    copy = recording(tmp_path / "futures.ws", sink.messages, source.url)
    (tmp_path / "futures.exchangeInfo.rest").write_bytes((DATA / "futures.exchangeInfo.rest").read_bytes())
    _, again = await replay(copy)
    assert again.data == sink.data
    assert again.markets == sink.markets


def test_unknown_venue_is_refused_with_the_known_ones(tmp_path):
    path = recording(tmp_path / "a.ws", [], "wss://ws.example.org/v9")
    with pytest.raises(RecordingError, match=r"a\.ws:1: .*wss://ws\.example\.org.*wss://stream\.binance\.com"):
        ReplaySource(ReplayConfig([path]))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"files": []},
        {"files": ["/no/such/file.ws"]},
        {"files": [FUTURES], "speed": 0},
        {"files": [FUTURES], "speed": -1},
        {"files": [FUTURES], "speed": math.inf},
        {"files": [FUTURES], "speed": "fast"},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, ReplayConfig)


def test_speed_may_be_a_whole_number():
    assert msgspec.convert({"files": [FUTURES], "speed": 4}, ReplayConfig).speed == 4.0


def test_replay_has_no_outages_on_request():
    with pytest.raises(NotImplementedError):
        ReplaySource(ReplayConfig([FUTURES])).outage(1.0)

from __future__ import annotations

import json
from pathlib import Path

import pytest
import wsproto
from wsproto import events

from marketd.errors import ConfigError, RecordingError
from marketd.testvenue import frames, recording, script
from marketd.testvenue.faults import KINDS, SPOILERS, Board, Fault, check, spoil, spoil_checksum
from marketd.testvenue.limits import SECOND_NS, Bans, Bucket, Window
from marketd.testvenue.venue import Channel

VENUES = ("binance", "kraken")
BTC = Channel("btcusdt@trade", "trade", 0, "BTCUSDT")
ETH = Channel("ethusdt@bookTicker", "quote", 1, "ETHUSDT")


def client() -> wsproto.Connection:
    return wsproto.Connection(wsproto.ConnectionType.CLIENT)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
def test_frames_are_what_a_client_reads(size: int):
    connection = client()
    payload = b"x" * size
    connection.receive_data(frames.text(payload) + frames.frame(frames.PING, b"p") + frames.close(1001, "so long"))
    message, ping, close = connection.events()
    assert isinstance(message, events.TextMessage)
    assert message.data.encode() == payload
    assert isinstance(ping, events.Ping)
    assert isinstance(close, events.CloseConnection)
    assert (close.code, close.reason) == (1001, "so long")


@pytest.mark.parametrize("variant", frames.BROKEN)
def test_broken_frames_are_refused_by_a_client(variant: str):
    connection = client()
    connection.receive_data(frames.broken(b'{"a":"abc"}', variant))
    [end] = connection.events()
    assert isinstance(end, events.CloseConnection)
    assert end.code in (1002, 1007)


@pytest.mark.parametrize("variant", SPOILERS)
def test_spoiled_messages_differ_and_are_json_where_that_is_meant(variant: str):
    payload = b'{"e":"trade","t":12,"p":"1.50","q":"2","T":1700000000000}'
    spoiled = spoil(payload, variant)
    assert spoiled != payload
    if variant in ("truncated", "not_json", "empty"):
        with pytest.raises(json.JSONDecodeError):
            json.loads(spoiled)
    else:
        json.loads(spoiled)


def test_a_spoiled_checksum_is_wrong_and_nothing_else_is():
    payload = b'{"data":[{"checksum":4294967295,"a":1}]}'
    assert spoil_checksum(payload) == b'{"data":[{"checksum":0,"a":1}]}'
    assert spoil_checksum(b"{}") == b"{}"


def test_a_fault_for_one_instrument_strikes_no_other():
    board = Board()
    board.begin(Fault(fault="drop", instrument="btc/usdt", count=2), 0)
    assert board.take("drop", "binance", 1, ETH) is None
    assert board.take("drop", "binance", 1, None) is None
    assert board.take("drop", "binance", 1, BTC) is not None
    assert board.busy
    assert board.take("drop", "binance", 1, BTC) is not None
    assert board.take("drop", "binance", 1, BTC) is None
    assert not board.busy


@pytest.mark.parametrize(
    ("narrowed", "hits"),
    [
        ({}, True),
        ({"venue": "binance"}, True),
        ({"venue": "kraken"}, False),
        ({"connection": 1}, True),
        ({"connection": 2}, False),
        ({"stream": "trade"}, True),
        ({"stream": "btcusdt@trade"}, True),
        ({"stream": "quote"}, False),
    ],
)
def test_a_fault_strikes_what_it_is_narrowed_to(narrowed: dict, hits: bool):
    board = Board()
    board.begin(Fault(fault="duplicate", **narrowed), 0)
    assert (board.take("duplicate", "binance", 1, BTC) is not None) == hits


def test_counts_default_to_one_message_and_to_any_number_in_a_time():
    assert Fault(fault="drop").left() == 1
    assert Fault(fault="drop", for_s=5).left() == -1
    assert Fault(fault="cut").left() == -1
    assert Fault(fault="stall", for_s=5).left() == -1
    assert Fault(fault="rate_limit", count=3).left() == 3
    assert Fault(fault="drop", count=0).left() == -1


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"fault": "explode"}, "allowed are cut"),
        ({"fault": "cut", "venue": "mtgox"}, "allowed are \\*, binance"),
        ({"fault": "cut", "after_s": -1}, "negative"),
        ({"fault": "malformed_frame", "variant": "odd"}, "rsv"),
        ({"fault": "cut", "variant": "rsv"}, "none"),
        ({"fault": "reorder", "depth": 1}, "at least"),
        ({"fault": "cut", "wherefore": 1}, "unknown field"),
        ({"venue": "binance"}, "missing required field"),
        ([], "object"),
    ],
)
def test_a_fault_that_cannot_be_meant_is_refused(table: object, words: str):
    with pytest.raises(ConfigError, match=words):
        script.parse("fault", table, VENUES)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_can_be_asked_for(kind: str):
    check(Fault(fault=kind, venue="binance"), VENUES)


def test_scripts_are_read_as_toml_and_as_lines_of_json(tmp_path: Path):
    toml, lines = tmp_path / "a.toml", tmp_path / "a.jsonl"
    toml.write_text('[[fault]]\nat_s = 2\nfault = "cut"\nvenue = "kraken"\n[[fault]]\nat_s = 3.5\nfault = "stall"\n')
    lines.write_text('{"at_s":2,"fault":"cut","venue":"kraken"}\n\n{"after_s":3.5,"fault":"stall"}\n')
    assert script.read(toml, VENUES) == script.read(lines, VENUES)
    assert [fault.after_s for fault in script.read(toml, VENUES)] == [2, 3.5]
    toml.write_text('[[fault]]\nfault = "nope"\n')
    with pytest.raises(ConfigError, match=r"a\.toml: fault 1: fault is 'nope'"):
        script.read(toml, VENUES)
    with pytest.raises(ConfigError, match="No such file"):
        script.read(tmp_path / "missing.toml", VENUES)


def test_aligned_windows_end_on_their_grid_and_others_count_from_the_first_use():
    minute = Window(10, 60 * SECOND_NS, aligned=True)
    assert minute.take(10, 30 * SECOND_NS)
    assert not minute.take(1, 59 * SECOND_NS)
    assert minute.resets_in_ns(59 * SECOND_NS) == SECOND_NS
    assert minute.take(1, 60 * SECOND_NS)
    pool = Window(10, 30 * SECOND_NS, aligned=False)
    assert pool.take(10, 7 * SECOND_NS)
    assert pool.remaining(36 * SECOND_NS) == 0
    assert pool.remaining(37 * SECOND_NS) == 10


def test_a_bucket_refills_by_one_each_interval():
    bucket = Bucket(2, SECOND_NS)
    now_ns = 100 * SECOND_NS
    assert [bucket.take(now_ns) for _ in range(3)] == [True, True, False]
    assert not bucket.take(now_ns + SECOND_NS - 1)
    assert bucket.take(now_ns + SECOND_NS)
    assert not bucket.take(now_ns + SECOND_NS)


def test_bans_grow_and_are_forgiven():
    bans = Bans(patience=1, first_s=2)
    for expected_s in (2, 4):
        bans.refused(0)
        assert bans.banned_ns(0) == 0 or expected_s == 4
        bans.refused(0)
        assert bans.banned_ns(0) == expected_s * SECOND_NS
    assert bans.banned_ns(5 * SECOND_NS) == 0
    bans.reset()
    assert bans.banned_ns(0) == 0


def test_recordings_are_sorted_by_venue(tmp_path: Path):
    websocket, rest = tmp_path / "a.ws", tmp_path / "a.rest"
    websocket.write_bytes(
        b"wss://ws.kraken.com <-> 1618678132.36\n"
        b'wss://ws.kraken.com <- 1618678132.8: {"event":"subscribe"}\n'
        b'1618678132.9: {"event":"systemStatus"}\n'
        b"1618678133.4: [1]\n"
    )
    rest.write_bytes(b'https://api.binance.com/api/v3/depth?symbol=X -> 1.5: {"a":1}\n# a note\n')
    played = recording.read([websocket, rest])
    assert played["kraken"].messages == [
        (0.0, b'{"event":"systemStatus"}'),
        (pytest.approx(0.5), b"[1]"),
    ]
    assert played["binance"].bodies == {"/api/v3/depth?symbol=X": b'{"a":1}'}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"1.0: {}\n", "first line"),
        (b"", "first line"),
        (b"wss://example.com <-> 1\n", "no venue"),
        (b"wss://ws.kraken.com <-> 1\n1x: {}\n", ":2:"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, text: bytes, words: str):
    (tmp_path / "a.ws").write_bytes(text)
    with pytest.raises(RecordingError, match=words):
        recording.read([tmp_path / "a.ws"])


def test_all_recorded_files_can_be_played(shared_data: Path):
    files = sorted((shared_data / "recordings").iterdir())
    played = recording.read([path for path in files if path.suffix in (".ws", ".rest")])
    assert set(played) == {"binance", "binance-futures", "kraken", "kucoin"}
    assert all(one.messages and one.bodies for one in played.values())

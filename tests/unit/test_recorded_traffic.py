"""The recordings of real traffic, through the real protocol, against a reading of their own with the json module."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from decimal import Decimal

import pytest
import trio

from backends.backend import load
from backends.recording import read_companions
from backends.replay.source import ReplayConfig, ReplaySource
from marketd.model import Kind
from marketd.ring import layout
from tests.fakes import ListSink

BINANCE = ["binance-futures", "binance-spot", "binance-us-spot"]
with_recording = pytest.mark.parametrize("name", BINANCE)


@pytest.fixture
def recording(shared_data, name):
    return shared_data / "recordings" / f"{name}.ws"


def play(path):
    source, sink = ReplaySource(ReplayConfig([str(path)], speed="max")), ListSink()
    trio.run(source.run, sink)
    return source, sink


def read_plainly(path):
    """Yield (receive time as text, stream, data) of each message."""
    for line in path.read_text().splitlines()[1:]:
        if line:
            time, _, text = line.partition(": ")
            message = json.loads(text)
            yield time, message["stream"], message["data"]


def nanoseconds(text):
    return int(Decimal(text) * 10**9)


@with_recording
def test_every_message_is_understood(recording):
    source, _ = play(recording)
    plainly = Counter(stream.partition("@")[2].partition("@")[0] for _, stream, _ in read_plainly(recording))
    counts = source.counts()
    assert counts.used == {"aggTrade": plainly["aggTrade"], "bookTicker": plainly["bookTicker"]}
    assert counts.unused == {"depthUpdate": plainly["depth"], "kline": plainly["kline_1m"]}
    assert (counts.bad, counts.unknown) == (0, 0)


@with_recording
def test_rows_equal_the_messages(recording):
    """Issue, "It is done when" 2: numbers, values and venue times."""
    _, sink = play(recording)
    expected = []
    for received, stream, data in read_plainly(recording):
        kind = stream.partition("@")[2]
        received_ns = nanoseconds(received)
        if kind == "aggTrade":
            values = (float(data["p"]), float(data["q"]), 0.0, 0.0)
            side = -1 if data["m"] else 1
            expected.append((data["s"], data["T"] * 10**6, received_ns, data["a"], Kind.TRADE, side, *values))
        elif kind == "bookTicker":
            values = tuple(float(data[key]) for key in "bBaA")
            event_ns = data["T"] * 10**6 if "T" in data else received_ns
            expected.append((data["s"], event_ns, received_ns, data["u"], Kind.QUOTE, 0, *values))
    symbols = [market.bs_mktid for market in sink.markets]
    actual = [(symbols[row[3] - 1], *row[:3], *row[4:6], *row[7:]) for row in sink.rows]
    assert actual == expected


@with_recording
def test_venues_own_numbers_have_no_holes(recording):
    """What the continuity checks take for granted, shown by the recordings."""
    source, sink = play(recording)
    assert sink.gaps == []
    assert not {"duplicate", "stale"} & set(source.counts().unused)
    ids = defaultdict(list)
    for _, stream, data in read_plainly(recording):
        if stream.endswith("@aggTrade"):
            ids[stream].append(data["a"])
    assert all(numbers == list(range(numbers[0], numbers[0] + len(numbers))) for numbers in ids.values())


@with_recording
def test_instruments_are_resolved_from_the_list_beside_the_recording(recording):
    _, sink = play(recording)
    backend = "binanceus" if "us-spot" in recording.name else "binance"
    venue = "perp" if "futures" in recording.name else "spot"
    assert {(market.backend, market.venue, market.resolved) for market in sink.markets} == {(backend, venue, True)}
    digits = {market.bs_mktid: market.price_digits for market in sink.markets}
    for _, stream, data in read_plainly(recording):
        if stream.endswith("@aggTrade"):
            assert -Decimal(data["p"]).normalize().as_tuple().exponent <= digits[data["s"]]


def test_thousands_of_listed_symbols_have_names_of_their_own(shared_data):
    for name in BINANCE:
        protocol = load("binance").open_protocol
        metadata = read_companions(shared_data / "recordings" / f"{name}.ws")
        host = {"binance-futures": "fstream.binance.com", "binance-us-spot": "stream.binance.us"}
        url = f"wss://{host.get(name, 'stream.binance.com')}/ws"
        markets = protocol(url, metadata, ListSink())._directory.markets
        names = [market.fqme for market in markets.values()]
        assert len(names) == len(set(names)) > 100
        assert all(market.price_tick > 0 < market.size_tick for market in markets.values())


def test_example_messages_of_the_current_protocol_are_understood(shared_data):
    """The venue's 2025/26 messages have more fields than the recordings of 2021."""
    folder = shared_data / "messages" / "binance"
    used, unused = Counter(), Counter()
    for path in sorted(folder.glob("*.json")):
        if "_json" in path.name and ("stream" in path.name):
            sink = ListSink()
            protocol = load("binance").open_protocol("wss://fstream.binance.com/ws", {}, sink)
            # The examples have times of 1970, which we refuse.
            payload = path.read_bytes().replace(b"123456785", b"1723456785000").replace(b'"T": 123456788', b'"T": 1')
            protocol.receive(payload, 1_767_225_600_000_000_000)
            assert (protocol.counts.bad, protocol.counts.unknown) == (0, 0), path.name
            used.update(protocol.counts.used)
            unused.update(protocol.counts.unused)
            for row in sink.rows:
                layout.PACK.pack(1, *row)
    assert used == {"aggTrade": 1, "bookTicker": 1, "trade": 1}
    assert unused == {"depthUpdate": 1, "kline": 2, "forceOrder": 1, "markPriceUpdate": 1, "24hrTicker": 1}

"""Kraken's recorded traffic, through the real protocol, against a reading of its own with the json module."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from backends.backend import load
from backends.kraken.history import KrakenHistory
from backends.kraken.instruments import guess, read_directory, v2_symbol, wsname_of
from backends.recording import read_companions
from backends.replay.source import ReplayConfig, ReplaySource
from marketd.fqme import parse
from marketd.model import GapReason, Kind
from tests.fakes import ListSink

RECORDINGS = ["kraken-v1-a", "kraken-v1-b", "kraken-v1-book"]
with_recording = pytest.mark.parametrize("name", RECORDINGS)


@pytest.fixture
def recording(shared_data, name):
    return shared_data / "recordings" / f"{name}.ws"


@pytest.fixture(scope="session")
def markets(shared_data):
    return read_directory(read_companions(shared_data / "recordings" / "kraken-v1-a.ws")).markets


def play(path):
    source, sink = ReplaySource(ReplayConfig([str(path)], speed="max")), ListSink()
    trio.run(source.run, sink)
    return source, sink


def read_plainly(path):
    """Yield receive time in nanoseconds and decoded message of each line that the venue sent."""
    for line in path.read_text().splitlines():
        if line and not line.startswith("wss://"):
            time, _, text = line.partition(": ")
            yield nanoseconds(time), json.loads(text)


def nanoseconds(text):
    return int(Decimal(text) * 10**9)


def kind_of(message):
    return message["event"] if isinstance(message, dict) else message[-2].partition("-")[0]


@with_recording
def test_every_message_is_understood(recording):
    """Issue, "It is done when" 2: used, or counted by type as deliberately unused; none unknown."""
    source, sink = play(recording)
    plainly = Counter(kind_of(message) for _, message in read_plainly(recording))
    counts = source.counts()
    assert counts.used == {kind: plainly[kind] for kind in ("trade", "ticker") if plainly[kind]}
    assert counts.unused == {kind: count for kind, count in plainly.items() if kind not in ("trade", "ticker")}
    assert (counts.bad, counts.unknown, sink.gaps) == (0, 0, [])


@with_recording
def test_rows_equal_the_messages(recording):
    """Issue, "It is done when" 2: numbers, values and venue times."""
    _, sink = play(recording)
    expected = []
    for received_ns, message in read_plainly(recording):
        if isinstance(message, dict) or kind_of(message) == "book":
            continue
        _, data, channel, pair = message
        if channel == "trade":
            for price, size, time, side, *_ in data:
                values = (float(price), float(size), 0.0, 0.0)
                taker = {"b": 1, "s": -1}[side]
                expected.append((pair, nanoseconds(time), received_ns, 0, Kind.TRADE, taker, *values))
        else:
            values = (float(data["b"][0]), float(data["b"][2]), float(data["a"][0]), float(data["a"][2]))
            expected.append((pair, received_ns, received_ns, 0, Kind.QUOTE, 0, *values))
    pairs = [market.bs_mktid for market in sink.markets]
    assert [(pairs[row[3] - 1], *row[:3], *row[4:6], *row[7:]) for row in sink.rows] == expected
    assert bool(expected) == ("book" not in recording.name)


@with_recording
def test_instruments_are_resolved_from_the_list_beside_the_recording(recording):
    _, sink = play(recording)
    assert {(market.backend, market.venue, market.resolved) for market in sink.markets} <= {("kraken", "spot", True)}
    digits = {market.bs_mktid: market.price_digits for market in sink.markets}
    for _, message in read_plainly(recording):
        if kind_of(message) == "trade":
            assert all(-Decimal(trade[0]).normalize().as_tuple().exponent <= digits[message[3]] for trade in message[1])


def test_asked_for_instruments_are_there_before_their_first_trade(shared_data):
    """R30: seven of the ten did not trade in these seconds."""
    _, sink = play(shared_data / "recordings" / "kraken-v1-a.ws")
    assert len(sink.markets) == 10
    assert len({row[3] for row in sink.rows}) < 4


@given(data=st.data())
def test_every_recorded_instruments_name_is_read_as_it_is_printed(markets, data):
    """Issue, symbology: parsing and printing are inverse for every instrument of the recorded metadata."""
    market = data.draw(st.sampled_from(list(markets.values())))
    name = parse(data.draw(st.sampled_from([market.fqme, market.fqme.upper(), market.fqme.title()])))
    assert str(name) == market.fqme
    assert (name.venue, name.suffix, name.backend) == ("spot", "", "kraken")
    assert f"{name.dst}/{name.src}".replace("-", ".") == market.bs_mktid.lower()


def test_recorded_instruments_have_names_of_their_own_and_steps(markets):
    assert len(markets) == len({market.fqme for market in markets.values()}) == 293
    assert all(market.resolved and market.price_tick > 0 < market.size_tick for market in markets.values())
    assert all(wsname_of(v2_symbol(wsname)) == wsname for wsname in markets)
    assert markets["XBT/USD"].src.type == "fiat"


def test_example_messages_of_the_current_protocol_are_understood(shared_data):
    sink = ListSink()
    protocol = load("kraken").open_protocol("wss://ws.kraken.com/v2", {}, sink)
    for path in sorted((shared_data / "messages" / "kraken").glob("ws_*.json")):
        protocol.receive(path.read_bytes(), 1_767_225_600_000_000_000)
    assert protocol.counts.flat() == {
        "used.ticker": 1,
        "used.trade": 1,
        "unused.ack": 1,
        "unused.before_snapshot": 1,
        "unused.ohlc": 1,
        "unused.pong": 1,
        "bad": 1,
        "unknown": 0,
    }
    assert [row[2] for row in sink.data] == [0, 10218208, 10218209]
    # The example of a book has fewer levels than the one that its checksum is of, and is found out.
    assert b'"checksum": 2439117997' in protocol.counts.bad_examples[0]
    assert [(row[3], row[9]) for row in sink.gaps] == [(1, GapReason.CHECKSUM)]


def test_current_list_of_pairs_is_understood(shared_data):
    body = (shared_data / "messages" / "kraken" / "http_asset_pairs.json").read_bytes()
    found = read_directory({"https://api.kraken.com/0/public/AssetPairs": body}).markets
    assert found["XBT/USDT"].fqme == "xbt/usdt.spot.kraken"
    assert {pair["wsname"] for pair in json.loads(body)["result"].values()} == set(found)


def test_pages_of_the_same_hours_are_read_whole(shared_data):
    market, history = guess("XBT/USDT"), KrakenHistory()
    candles = (shared_data / "truth" / "kraken-ohlc-1m-first-part.json").read_bytes()
    plainly = json.loads(candles)["result"]["XBTUSDT"]
    assert history.parse_page(candles, market, 60).rows == [
        (time * 10**9, float(open_), float(high), float(low), float(close), float(volume), count)
        for time, open_, high, low, close, _, volume, count in plainly
    ]
    trades = (shared_data / "truth" / "kraken-trades-first-part.json").read_bytes()
    plainly = json.loads(trades, parse_float=Decimal)["result"]["XBTUSDT"]
    page = history.parse_page(trades, market, "trades")
    assert page.next_ns is None
    assert page.rows == [
        (int(time * 10**9), number, float(price), float(size), {"b": 1, "s": -1}[side])
        for price, size, time, side, _, _, number in plainly
    ]


def test_trade_ids_of_a_pair_have_no_holes(shared_data):
    """What the continuity check takes for granted, shown by hours of trades."""
    trades = json.loads((shared_data / "truth" / "kraken-trades-first-part.json").read_bytes())["result"]["XBTUSDT"]
    ids = [trade[6] for trade in trades]
    assert ids == list(range(ids[0], ids[0] + 488))

"""KuCoin's recorded traffic, through the real protocol, against a reading of its own with the json module."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from decimal import Decimal

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from backends.kucoin.instruments import read_directory
from backends.recording import read_companions
from backends.replay.source import ReplayConfig, ReplaySource
from marketd.fqme import parse
from marketd.model import Kind
from tests.fakes import ListSink


@pytest.fixture(scope="session")
def recording(shared_data):
    return shared_data / "recordings" / "kucoin-spot.ws"


@pytest.fixture(scope="session")
def played(recording):
    source, sink = ReplaySource(ReplayConfig([str(recording)], speed="max")), ListSink()
    trio.run(source.run, sink)
    return source, sink


@pytest.fixture(scope="session")
def plainly(recording):
    """Receive time in nanoseconds and decoded message of each line that the venue sent."""
    lines = [line for line in recording.read_text().splitlines() if line and not line.startswith("wss://")]
    return [(int(Decimal(time) * 10**9), json.loads(text)) for time, _, text in (x.partition(": ") for x in lines)]


@pytest.fixture(scope="session")
def markets(recording):
    return read_directory(read_companions(recording)).markets


def kind_of(message):
    topic = message.get("topic")
    return topic.partition(":")[0].rpartition("/")[2] if topic else message["type"]


def test_every_message_is_understood(played, plainly):
    """Issue, "It is done when" 2: used, or counted by type as deliberately unused; none unknown."""
    source, sink = played
    kinds = Counter(kind_of(message) for _, message in plainly)
    counts = source.counts()
    assert counts.used == {kind: kinds.pop(kind) for kind in ("match", "ticker")} == {"match": 14, "ticker": 509}
    assert counts.unused == kinds
    assert (counts.bad, counts.unknown, sink.gaps) == (0, 0, [])


def test_rows_equal_the_messages(played, plainly):
    """Issue, "It is done when" 2: numbers, values and venue times."""
    _, sink = played
    expected = []
    for received_ns, message in plainly:
        if kind_of(message) == "match":
            data = message["data"]
            values = (float(data["price"]), float(data["size"]), 0.0, 0.0)
            taker = {"buy": 1, "sell": -1}[data["side"]]
            number = int(data["sequence"])
            expected.append((data["symbol"], int(data["time"]), received_ns, number, Kind.TRADE, taker, *values))
        elif kind_of(message) == "ticker":
            data = message["data"]
            values = tuple(float(data[key]) for key in ("bestBid", "bestBidSize", "bestAsk", "bestAskSize"))
            symbol = message["topic"].partition(":")[2]
            expected.append((symbol, received_ns, received_ns, int(data["sequence"]), Kind.QUOTE, 0, *values))
    symbols = [market.bs_mktid for market in sink.markets]
    assert [(symbols[row[3] - 1], *row[:3], *row[4:6], *row[7:]) for row in sink.rows] == expected


def test_sequences_of_trades_go_up_and_have_holes(plainly):
    """Why KuCoin's trades are checked for going up only: neither of their numbers is contiguous."""
    sequences, ids = defaultdict(list), defaultdict(list)
    for _, message in plainly:
        if kind_of(message) == "match":
            sequences[message["topic"]].append(int(message["data"]["sequence"]))
            ids[message["topic"]].append(int(message["data"]["tradeId"][-6:], 16))
    busiest = max(sequences, key=lambda topic: len(sequences[topic]))
    assert len(sequences[busiest]) == 12
    for numbers in (sequences[busiest], ids[busiest]):
        steps = {later - earlier for earlier, later in itertools.pairwise(numbers)}
        assert min(steps) > 0
        assert max(steps) > 1


def test_instruments_are_resolved_from_the_list_beside_the_recording(played, plainly):
    """A symbol keeps its name when its currency is renamed, and the instrument's name is the currency's."""
    _, sink = played
    assert {(market.backend, market.venue, market.resolved) for market in sink.markets} == {("kucoin", "spot", True)}
    assert {market.bs_mktid: market.fqme for market in sink.markets}["BCHSV-USDT"] == "bsv/usdt.spot.kucoin"
    digits = {market.bs_mktid: market.price_digits for market in sink.markets}
    for _, message in plainly:
        if kind_of(message) == "match":
            price = Decimal(message["data"]["price"]).normalize()
            assert -price.as_tuple().exponent <= digits[message["data"]["symbol"]]


@given(data=st.data())
def test_every_recorded_instruments_name_is_read_as_it_is_printed(markets, data):
    """Issue, symbology: parsing and printing are inverse for every instrument of the recorded metadata."""
    market = data.draw(st.sampled_from(list(markets.values())))
    name = parse(data.draw(st.sampled_from([market.fqme, market.fqme.upper(), market.fqme.title()])))
    assert str(name) == market.fqme
    assert (name.dst, name.src) == (market.dst.name, market.src.name)
    assert (name.venue, name.suffix, name.backend) == ("spot", "", "kucoin")


def test_recorded_instruments_have_names_of_their_own_and_steps(markets):
    assert len(markets) == len({market.fqme for market in markets.values()}) == 634
    assert all(market.resolved and market.price_tick > 0 < market.size_tick for market in markets.values())

"""Recorded messages, changed at random: no venue's protocol ever raises, and what becomes a row is a good row.

100,000 changed messages for each venue with ``-m soak``, fewer of them by default.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import msgspec
import pytest

from backends.backend import load
from backends.kraken import instruments as kraken
from backends.kucoin import instruments as kucoin
from backends.live import ConnectPlan, LiveConfig
from backends.recording import RECEIVED, RecordingReader, read_companions
from tests.contract.check_backend import WRONG, check_rows, counted
from tests.fakes import ListSink

DATA = Path(__file__).resolve().parent.parent / "data"
FIXTURES = {
    "binance-spot": ("binance", "spot.ws"),
    "binance-futures": ("binance", "futures.ws"),
    "kraken-v2": ("kraken", "spot-v2.ws"),
    "kraken-v1": ("kraken", "spot-v1.ws"),
    "kucoin": ("kucoin", "spot.ws"),
}
MARKETS = {
    "kraken-v2": [kraken.guess("XBT/USD"), kraken.guess("ETH/XBT"), kraken.guess("NO/SUCH")],
    "kucoin": [kucoin.guess("BTC-USDT"), kucoin.guess("ETH-BTC"), kucoin.guess("NO-SUCH")],
}
SPLICES = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"0",
    b"-",
    b"1e999",
    b"null",
    b"\xff",
    b"\x00",
    b"\\u0000",
    b"NaN",
]


def change(payload, others, rng):
    """Do one or more things to a message that a broken venue, proxy or program may do."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        payload = rng.choice((flip, cut, splice, double, join, wrong_value))(payload, others, rng)
    return payload


def flip(payload, others, rng):
    if not payload:
        return payload
    place = rng.randrange(len(payload))
    return payload[:place] + bytes([rng.randrange(256)]) + payload[place + 1 :]


def cut(payload, others, rng):
    begin, end = sorted((rng.randint(0, len(payload)), rng.randint(0, len(payload))))
    return rng.choice((payload[:begin], payload[begin:], payload[:begin] + payload[end:]))


def splice(payload, others, rng):
    place = rng.randint(0, len(payload))
    return payload[:place] + rng.choice(SPLICES) + payload[place:]


def double(payload, others, rng):
    return payload + payload


def join(payload, others, rng):
    other = rng.choice(others)
    return payload[: rng.randint(0, len(payload))] + other[rng.randint(0, len(other)) :]


def wrong_value(payload, others, rng):
    """Put a wrong value somewhere into the JSON, or take something out of it."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return payload
    holders = [found for found in walk(value) if found]
    if not holders:
        return payload
    holder = rng.choice(holders)
    key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(WRONG)
    return json.dumps(value, separators=(",", ":")).encode()


def walk(value):
    """Yield every object and list in a JSON value."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from walk(inner)


def fuzz(backend, path, count, seed):
    """Play a recording in rounds, most of its messages changed."""
    reader = RecordingReader(path)
    messages = [(entry.payload, entry.time_ns) for entry in reader if entry.what == RECEIVED]
    payloads = [payload for payload, _ in messages]
    rng = random.Random(seed)
    sink = ListSink()
    protocol = load(backend).open_protocol(reader.url, read_companions(path), sink)
    for number in range(count):
        payload, received_ns = messages[number % len(messages)]
        protocol.receive(change(payload, payloads, rng), received_ns)
        if number % 1000 == 999:
            check_rows(sink)
            sink.rows.clear()
    check_rows(sink)
    assert counted(protocol.counts) == count
    assert protocol.counts.bad > count // 10, "it was no test"
    assert len(protocol.counts.bad_examples) <= 8
    before = (protocol.counts.bad, protocol.counts.unknown)
    for payload, received_ns in messages:
        protocol.receive(payload, received_ns)
    assert (protocol.counts.bad, protocol.counts.unknown) == before, "good messages are understood as they were"
    assert counted(protocol.counts) == count + len(messages)


def fuzz_connection(venue, path, markets, count, seed):
    """Let a live connection hear changed messages while the shell goes about its calls."""
    messages = [(entry.payload, entry.time_ns) for entry in RecordingReader(path) if entry.what == RECEIVED]
    payloads = [payload for payload, _ in messages]
    rng = random.Random(seed)
    sink = ListSink()
    backend = load(venue)
    [opened] = backend.open_venues(LiveConfig(kinds=backend.kinds))
    connection = opened.open_protocol(sink, markets, ConnectPlan("wss://x"))
    now_ns = messages[0][1]
    for number in range(count):
        if number % 50 == 0:
            rng.choice((connection.subscribe, connection.unsubscribe))(
                rng.sample(markets, rng.randint(1, len(markets)))
            )
        payload, received_ns = rng.choice(messages)
        connection.receive(change(payload, payloads, rng) if rng.random() < 0.8 else payload, received_ns)
        now_ns += rng.randrange(10**9)
        connection.timer(now_ns)
        assert all(isinstance(event, msgspec.Struct) for event in connection.events())
        assert all(json.loads(request) for request in connection.data_to_send())
        assert not connection.pending & connection.live
    assert counted(connection.counts) == count
    check_rows(sink)


@pytest.mark.parametrize("name", FIXTURES)
def test_changed_messages_never_raise_and_make_only_good_rows(name):
    backend, file = FIXTURES[name]
    fuzz(backend, DATA / backend / file, 3_000, seed=1)


@pytest.mark.parametrize("name", MARKETS)
def test_changed_messages_never_raise_on_a_live_connection(name):
    backend, file = FIXTURES[name]
    fuzz_connection(backend, DATA / backend / file, MARKETS[name], 3_000, seed=3)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FIXTURES)
def test_a_hundred_thousand_changed_messages_never_raise(name):
    """Issue, "It is done when" 2."""
    backend, file = FIXTURES[name]
    fuzz(backend, DATA / backend / file, 100_000, seed=2)
    if name in MARKETS:
        fuzz_connection(backend, DATA / backend / file, MARKETS[name], 100_000, seed=4)

"""What every backend must do. `test_backends.py` applies it; a new venue is one more case there.

Each check takes a case and fails with an assertion that says what is wrong.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from unittest import mock

import msgspec
import pytest
import trio

from backends.backend import EVENT_NS_BEGIN, EVENT_NS_END, Backend, MessageCounts, Source, VenueProtocol
from backends.validate import validate_backend
from marketd import fqme
from marketd.clock import Clock
from marketd.model import Flag, Kind, Side
from marketd.ring.layout import Row
from tests.fakes import ListSink

GARBAGE = [
    b"",
    b"\x00",
    b"\x00" * 1000,
    b"\xff\xfe\xfd",
    b"null",
    b"true",
    b"0",
    b"1e999",
    b'""',
    b"[]",
    b"{}",
    b"[[]]",
    b"{",
    b'{"',
    b"ping",
    b"<html><body>502 Bad Gateway</body></html>",
    b'{"e":null}',
    b'{"e":7,"s":[],"data":{},"stream":{}}',
    b'{"stream":"","data":null}',
    b'{"stream":"\xed\xa0\x80","data":1}',
    b'{"e":"\\ud800","s":"\\ud800"}',
    b'{"no":"such","message":1}',
    b'{"e":"noSuchEvent","s":"BTCUSDT"}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"a":' + b"9" * 100_000 + b"}",
    b'"' + b"x" * 1_000_000 + b'"',
]
WRONG = [
    *(None, True, False, 0, -1, 1, 1 << 62, 1 << 63, 1 << 64, -(1 << 63) - 1, 10**30, 0.5, -0.0, 1e308, -1e308, 1e-320),
    *("", "0", "-1", "nan", "NaN", "inf", "-Infinity", "1e400", "abc", "0.0", "\x00", "é" * 50, "9" * 400),
    *([], [[]], {}, {"a": 1}, [1, 2, 3]),
]


@dataclass
class ProtocolCase:
    """Good messages of one connection.

    Attributes:
        rows: how many rows they make.
    """

    name: str
    backend: Backend
    url: str
    metadata: Mapping[str, bytes]
    messages: list[tuple[bytes, int]]
    rows: int

    def open(self) -> tuple[VenueProtocol, ListSink]:
        """Make a fresh protocol and its sink."""
        assert self.backend.open_protocol is not None
        sink = ListSink()
        return self.backend.open_protocol(self.url, self.metadata, sink), sink

    def play(self) -> tuple[VenueProtocol, ListSink]:
        """Give a fresh protocol all messages."""
        protocol, sink = self.open()
        for payload, received_ns in self.messages:
            protocol.receive(payload, received_ns)
        return protocol, sink


@dataclass
class SourceCase:
    """A source that needs no network, and the clock it lives by.

    Attributes:
        ends: whether it ends by itself.
        runs_until_ns: how far the clock goes.
    """

    name: str
    backend: Backend
    settings: dict[str, object]
    clock: Callable[[], Clock]
    runs_until_ns: int = 0
    ends: bool = False
    sink: Callable[[], ListSink] = field(default=ListSink)

    def open(self) -> tuple[Source, Clock]:
        """Make a fresh source from the settings, as a feed does."""
        assert self.backend.open_source is not None
        clock = self.clock()
        return self.backend.open_source(msgspec.convert(self.settings, self.backend.config), clock), clock

    async def run(self) -> tuple[Source, ListSink]:
        """Run a fresh source to its end, or until its clock is there."""
        source, clock = self.open()
        sink = self.sink()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    await source.run(sink)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(run)
                while self.ends or clock.now_ns() < self.runs_until_ns:
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
        return source, sink


# --- declaration ----------------------------------------------------------------------------------------


def check_declaration(backend: Backend) -> None:
    """R41: the one validation function finds nothing to complain of."""
    assert validate_backend(backend) == []


def check_config_refuses_unknown_keys(backend: Backend) -> None:
    """A misspelt key is an error."""
    with pytest.raises(msgspec.ValidationError, match="no_such_key"):
        msgspec.convert({"no_such_key": 1}, backend.config)


# --- protocol -------------------------------------------------------------------------------------------


def check_good_messages(case: ProtocolCase) -> None:
    """Good messages make their rows: well-formed, in order, none bad, none unknown, no gap."""
    protocol, sink = case.play()
    assert len(sink.data) == case.rows
    assert sink.gaps == []
    assert (protocol.counts.bad, protocol.counts.unknown) == (0, 0)
    assert counted(protocol.counts) == len(case.messages)
    check_rows(sink)
    receive_times = [received_ns for _, received_ns in case.messages]
    assert {row[1] for row in sink.data} <= set(receive_times), "received_ns is the time that receive() was given"
    assert all(isinstance(reply, bytes) for reply in protocol.data_to_send())


def check_deterministic(case: ProtocolCase) -> None:
    """The same bytes make the same rows."""
    (first, first_sink), (second, second_sink) = case.play(), case.play()
    assert first_sink.rows == second_sink.rows
    assert first_sink.markets == second_sink.markets
    assert first.counts.flat() == second.counts.flat()


def check_never_asks_the_time(case: ProtocolCase) -> None:
    """A protocol lives by the times it is given."""
    refuse = mock.Mock(side_effect=AssertionError("a protocol asked the time"))
    names = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")
    with mock.patch.multiple(time, **dict.fromkeys(names, refuse)):
        case.play()


def check_garbage(case: ProtocolCase) -> None:
    """Garbage never raises, is bad or unknown, makes no data rows, and leaves the good messages as they were."""
    protocol, sink = case.open()
    random_bytes = random.Random(1)
    garbage = GARBAGE + [random_bytes.randbytes(size) for size in range(1, 200, 7)]
    for payload in garbage:
        protocol.receive(payload, case.messages[0][1])
    assert protocol.counts.bad + protocol.counts.unknown == counted(protocol.counts) == len(garbage)
    assert sink.data == []
    assert len(protocol.counts.bad_examples) <= 8, "examples are kept in bounds"
    assert all(len(example) <= 512 for example in protocol.counts.bad_examples)
    for payload, received_ns in case.messages:
        protocol.receive(payload, received_ns)
    assert len(sink.data) == case.rows


def check_cut_messages(case: ProtocolCase) -> None:
    """A message that is cut anywhere never raises, never makes a row, and is counted once."""
    for payload, received_ns in first_of_each_length(case.messages):
        protocol, sink = case.open()
        for size in range(len(payload)):
            protocol.receive(payload[:size], received_ns)
        assert sink.data == [], payload
        assert counted(protocol.counts) == len(payload)
        assert protocol.counts.bad + protocol.counts.unknown == len(payload)


def check_wrong_types(case: ProtocolCase) -> None:
    """Any value in any field never raises; what becomes a row all the same is a good row."""
    for payload, received_ns in first_of_each_length(case.messages):
        for changed in with_wrong_values(json.loads(payload)):
            protocol, sink = case.open()
            protocol.receive(json.dumps(changed, separators=(",", ":")).encode(), received_ns)
            assert counted(protocol.counts) == 1, changed
            check_rows(sink)


# --- source ---------------------------------------------------------------------------------------------


async def check_source(case: SourceCase) -> None:
    """A source registers its instruments, publishes well-formed rows, and accounts for its messages."""
    source, sink = await case.run()
    check_rows(sink)
    assert sink.data, "it produced nothing"
    assert sink.published >= len(sink.rows) - 1 or not case.ends
    assert {market.fqme for market in sink.markets} <= {market.fqme for market in source.search_space()}
    used = source.counts().used
    assert sum(used.values()) >= len(sink.data)
    assert source.url
    assert " " not in source.url
    assert source.now_ns() >= max(row[1] for row in sink.data)


async def check_source_is_deterministic(case: SourceCase) -> None:
    """The same settings on the same clock give the same rows."""
    (_, first), (_, second) = await case.run(), await case.run()
    shorter = min(len(first.rows), len(second.rows))
    assert shorter
    assert first.rows[:shorter] == second.rows[:shorter]
    assert first.markets == second.markets


async def check_recording_changes_nothing(case: SourceCase) -> None:
    """Rows are the same whether somebody records the feed or not."""
    _, plain = await case.run()
    recorded = SourceCase(**(vars(case) | {"sink": lambda: ListSink(recording=True)}))
    _, sink = await recorded.run()
    shorter = min(len(plain.rows), len(sink.rows))
    assert plain.rows[:shorter] == sink.rows[:shorter]
    assert sink.messages


# --- rows -----------------------------------------------------------------------------------------------


def check_rows(sink: ListSink) -> None:
    """Every row is one that a ring takes and a reader can trust."""
    for market in sink.markets:
        assert str(fqme.parse(market.fqme)) == market.fqme
        assert isinstance(market.bs_mktid, str)
    for row in sink.rows:
        event_ns, received_ns, sequence, instrument, kind, side, flags = row[:7]
        assert 0 <= instrument <= len(sink.markets)
        assert kind in set(Kind)
        assert side in set(Side)
        assert 0 <= flags <= int(sum(Flag))
        assert all(type(value) is int for value in (event_ns, received_ns, sequence)), "R28: times are integers"
        assert EVENT_NS_BEGIN <= event_ns < EVENT_NS_END
        assert EVENT_NS_BEGIN <= received_ns < EVENT_NS_END
        if kind in (Kind.TRADE, Kind.QUOTE, Kind.LEVEL):
            check_values(row)
            assert instrument > 0
            assert sequence >= 0


def check_values(row: Row) -> None:
    """Prices and sizes are finite and possible; the empty side of a quote is 0 and 0, and so is a book's first row."""
    assert all(isinstance(value, float) and math.isfinite(value) for value in row[7:])
    if row[4] == Kind.TRADE:
        price, size, *rest = row[7:]
        assert price > 0
        assert size > 0
        assert rest == [0.0, 0.0]
    elif row[4] == Kind.LEVEL:
        price, size, *rest = row[7:]
        first = row[5] == Side.UNKNOWN
        assert price == size == 0 if first else price > 0 <= size
        assert row[6] & Flag.SNAPSHOT or not first
        assert size > 0 or first or not row[6] & Flag.SNAPSHOT, "no level that is not there in a book's beginning"
        assert rest == [0.0, 0.0]
    else:
        bid, bid_size, ask, ask_size = row[7:]
        assert bid > 0 or (bid == bid_size == 0)
        assert ask > 0 or (ask == ask_size == 0)
        assert bid_size >= 0
        assert ask_size >= 0


def counted(counts: MessageCounts) -> int:
    """How many messages the counts stand for."""
    return sum(counts.used.values()) + sum(counts.unused.values()) + counts.bad + counts.unknown


def first_of_each_length(messages: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    """Choose messages that differ, so that a long recording does not take long."""
    return list({len(payload) // 8: (payload, received_ns) for payload, received_ns in reversed(messages)}.values())


def with_wrong_values(value: object) -> Iterator[object]:
    """Yield copies of a JSON value, each with one value inside it replaced, or one field gone."""
    yield from WRONG
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {name: other for name, other in value.items() if name != key}
            yield from ({**value, key: changed} for changed in with_wrong_values(inner))
    elif isinstance(value, list) and value:
        yield from ([changed, *value[1:]] for changed in with_wrong_values(value[0]))

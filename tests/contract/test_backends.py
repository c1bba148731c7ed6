"""The contract suite, applied to every backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.backend import NAMES, load
from backends.recording import RECEIVED, RecordingReader, read_companions
from marketd.clock import SECOND_NS
from tests.contract import check_backend as contract
from tests.contract.check_backend import ProtocolCase, SourceCase
from tests.fakes import FakeClock

DATA = Path(__file__).resolve().parent.parent / "data"
NOW_NS = 1_767_225_600 * SECOND_NS + 300_000_000
RUN_S = 3


def recorded_case(name: str, path: Path, rows: int) -> ProtocolCase:
    """Make a case of a recording's messages."""
    reader = RecordingReader(path)
    messages = [(entry.payload, entry.time_ns) for entry in reader if entry.what == RECEIVED]
    return ProtocolCase(name, load(name), reader.url, read_companions(path), messages, rows)


def sim_case() -> ProtocolCase:
    """Make a case of what a sim feed says, its sessions and snapshots included."""
    payloads = [
        b'{"e":"session","T":1767225600000000000,"open":true}',
        b'{"e":"quote","s":"btc/usdt","T":1767225600100000000,"u":7,"b":64000.1,"B":0.5,"a":64000.3,"A":2,"x":true}',
        b'{"e":"quote","s":"eth/usdt","T":1767225600150000000,"u":8,"b":3200.25,"B":1.5,"a":3200.5,"A":3,"x":false}',
        b'{"e":"trade","s":"btc/usdt","T":1767225600200000000,"i":41,"p":64000.3,"q":0.25,"m":"buy"}',
        b'{"e":"trade","s":"btc/usdt","T":1767225600200000000,"i":42,"p":64000.1,"q":1e-05,"m":"sell"}',
        b'{"e":"session","T":1767225600250000000,"open":false}',
    ]
    messages = [(payload, NOW_NS) for payload in payloads]
    return ProtocolCase("sim", load("sim"), "sim://?instruments=btc/usdt,eth/usdt", {}, messages, rows=4)


PROTOCOLS = {
    "binance-spot": recorded_case("binance", DATA / "binance" / "spot.ws", rows=23),
    "binance-futures": recorded_case("binance", DATA / "binance" / "futures.ws", rows=26),
    "kraken-v2": recorded_case("kraken", DATA / "kraken" / "spot-v2.ws", rows=18),
    "kraken-v1": recorded_case("kraken", DATA / "kraken" / "spot-v1.ws", rows=5),
    "kucoin-spot": recorded_case("kucoin", DATA / "kucoin" / "spot.ws", rows=9),
    "sim": sim_case(),
}


def jumping_clock() -> FakeClock:
    return FakeClock(NOW_NS, jumps=True, until_ns=NOW_NS + RUN_S * SECOND_NS)


def sim_source(name: str, **settings: object) -> SourceCase:
    return SourceCase(name, load("sim"), settings, jumping_clock, NOW_NS + (RUN_S - 1) * SECOND_NS)


SOURCES = {
    "sim": sim_source("sim"),
    "sim-fast": sim_source("sim-fast", rate_hz=20_000, instruments=300),
    "sim-slow": sim_source("sim-slow", rate_hz=2, instruments=["abc/xyz"], timeline="zero"),
    "replay": SourceCase(
        "replay",
        load("replay"),
        {"files": [str(DATA / "binance" / "futures.ws")], "speed": "max"},
        FakeClock,
        ends=True,
    ),
}

with_protocol = pytest.mark.parametrize("case", list(PROTOCOLS.values()), ids=list(PROTOCOLS))
with_source = pytest.mark.parametrize("case", list(SOURCES.values()), ids=list(SOURCES))
with_backend = pytest.mark.parametrize("backend", [load(name) for name in NAMES], ids=NAMES)


@with_backend
def test_declaration_is_whole(backend):
    """R41: one validation function names every problem of a backend; ours have none."""
    contract.check_declaration(backend)


@with_backend
def test_misspelt_settings_are_refused(backend):
    contract.check_config_refuses_unknown_keys(backend)


def test_every_backend_that_can_do_something_has_a_case():
    cases = [*PROTOCOLS.values(), *SOURCES.values()]
    assert {case.backend.name for case in cases} == set(NAMES)


@with_protocol
def test_good_messages_make_good_rows(case):
    """R28, R82: times are int64 nanoseconds; public data needs no credentials."""
    contract.check_good_messages(case)


@with_protocol
def test_the_same_bytes_make_the_same_rows(case):
    contract.check_deterministic(case)


@with_protocol
def test_protocol_never_asks_the_time(case):
    contract.check_never_asks_the_time(case)


@with_protocol
def test_garbage_is_counted_and_harmless(case):
    contract.check_garbage(case)


@with_protocol
def test_cut_messages_make_no_rows(case):
    contract.check_cut_messages(case)


@with_protocol
def test_wrong_types_never_raise(case):
    contract.check_wrong_types(case)


@with_source
async def test_source_produces_good_rows(case):
    await contract.check_source(case)


@with_source
async def test_source_is_deterministic(case):
    await contract.check_source_is_deterministic(case)


@with_source
async def test_recording_a_feed_does_not_change_it(case):
    await contract.check_recording_changes_nothing(case)

"""Whatever bytes come, a protocol never raises, counts each message once, and writes only good rows."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backends.recording import RECEIVED, RecordingReader, RecordingWriter, parse_line, parse_time, print_time
from backends.sim.sessions import Session, Sessions
from marketd.feed.continuity import DUPLICATE, RENUMBERED, Contiguous
from tests.contract.check_backend import check_rows, counted
from tests.contract.test_backends import PROTOCOLS

CASES = list(PROTOCOLS.values())
MESSAGES = [(case, payload, received_ns) for case in CASES for payload, received_ns in case.messages]


@st.composite
def mutated(draw):
    """A good message with some of its bytes changed, left out, doubled, or taken from another."""
    case, payload, received_ns = draw(st.sampled_from(MESSAGES))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(payload)))
        end = draw(st.integers(at, min(len(payload), at + 30)))
        other = draw(st.sampled_from(MESSAGES))[1]
        put = draw(
            st.one_of(st.binary(max_size=8), st.just(other[at:end]), st.sampled_from([b"", b'"', b"-", b"9" * 30]))
        )
        payload = payload[:at] + put + payload[end:]
    return case, payload, received_ns


@settings(max_examples=1500)
@given(mutated())
def test_no_mutation_of_a_message_raises(sample):
    case, payload, received_ns = sample
    protocol, sink = case.open()
    protocol.receive(payload, received_ns)
    assert counted(protocol.counts) == 1
    check_rows(sink)


@given(st.sampled_from(CASES), st.lists(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode))))
def test_no_bytes_raise(case, payloads):
    protocol, sink = case.open()
    for payload in payloads:
        protocol.receive(payload, case.messages[0][1])
    assert counted(protocol.counts) == len(payloads)
    assert sink.data == []


KEYS = st.sampled_from("esupqTmbBaAkiEX") | st.text(max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


@given(st.sampled_from(CASES), JSON, st.sampled_from(["btcusdt@aggTrade", "btcusdt@bookTicker", "!bookTicker", ""]))
def test_no_json_raises(case, value, stream):
    protocol, sink = case.open()
    payload = json.dumps({"stream": stream, "data": value} if stream else value, separators=(",", ":")).encode()
    protocol.receive(payload, case.messages[0][1])
    assert counted(protocol.counts) == 1
    check_rows(sink)


@given(st.integers(0, 9_999_999_999 * 10**9))
def test_printed_times_are_read_back_exactly(time_ns):
    assert parse_time(print_time(time_ns)) == time_ns


@given(st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 2**62))))
def test_recordings_keep_all_messages_but_their_line_breaks(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("recording") / "a.ws"
    writer = RecordingWriter(path, "wss://host", 0)
    for payload, time_ns in lines:
        writer.received(payload, time_ns)
    writer.close()
    entries = [entry for entry in RecordingReader(path) if entry.what == RECEIVED]
    flat = [payload.replace(b"\r", b" ").replace(b"\n", b" ") for payload, _ in lines]
    assert [(entry.payload, entry.time_ns) for entry in entries] == [
        (payload, time_ns) for payload, (_, time_ns) in zip(flat, lines, strict=True)
    ]


@given(st.binary(max_size=80))
@example(b"1: ")
@example(b" <-> ")
def test_any_line_is_an_entry_or_a_value_error(line):
    try:
        entry = parse_line(line)
    except ValueError:
        return
    assert entry.time_ns >= 0


@given(st.lists(st.integers(0, 60), max_size=60))
def test_what_continuity_accepts_and_what_it_reports_missing_are_all_numbers_once(numbers):
    """Numbers in order of time, some missing: accepted and missing together are the whole range."""
    ids, accepted, missing = Contiguous(), [], 0
    for at_ns, number in enumerate(sorted(numbers)):
        answer = ids.accept(number, at_ns // 2)
        assert answer != RENUMBERED or number == accepted[-1]
        if answer in (DUPLICATE, RENUMBERED):
            continue
        accepted.append(number)
        missing += answer
    assert len(accepted) == len(set(accepted))
    if accepted:
        assert len(accepted) + missing == accepted[-1] - accepted[0] + 1


@st.composite
def sessions(draw):
    period_s = draw(st.integers(4, 90_000))
    edges = sorted(draw(st.sets(st.integers(0, period_s), min_size=2, max_size=6)))
    spans = list(zip(edges[::2], edges[1::2], strict=False))

    def text(second):
        return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"

    return Sessions([Session(text(left), text(right)) for left, right in spans], period_s)


@given(sessions(), st.lists(st.integers(0, 10**6 * 10**9), min_size=1, max_size=20))
def test_elapsed_time_and_time_are_inverse_while_open(venue, elapsed):
    elapsed_ns = np.array(elapsed, np.int64)
    times_ns = venue.times_ns(elapsed_ns)
    assert all(venue.is_open(time_ns) for time_ns in times_ns.tolist())
    assert [venue.elapsed_ns(time_ns) for time_ns in times_ns.tolist()] == elapsed

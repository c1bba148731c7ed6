from __future__ import annotations

import gzip

import pytest

from backends.recording import (
    OPENED,
    RECEIVED,
    SENT,
    Entry,
    RecordingReader,
    RecordingWriter,
    parse_line,
    parse_time,
    print_time,
    read_companions,
    read_rest,
)
from marketd.errors import RecordingError

SECOND_NS = 10**9
HEAD = b"wss://host/stream <-> 1700000000.5\n"


def write(path, text):
    path.write_bytes(text)
    return path


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        (b"1626992741.06217", 1_626_992_741_062_170_000),
        (b"1633998512.0633569", 1_633_998_512_063_356_900),
        (b"1626992742", 1_626_992_742_000_000_000),
        (b"1626992742.", 1_626_992_742_000_000_000),
        (b"1767225600.123456789", 1_767_225_600_123_456_789),
        (b"1767225600.1234567899", 1_767_225_600_123_456_789),
        (b"0.000000001", 1),
    ],
)
def test_times_are_exact_nanoseconds(text, time_ns):
    assert parse_time(text) == time_ns


@pytest.mark.parametrize("text", [b"", b".5", b"-1", b"1e9", b"nan", b"1.2.3", b"1.x", b" 1", b"99999999999"])
def test_other_texts_are_no_times(text):
    with pytest.raises(ValueError, match="no time"):
        parse_time(text)


def test_printed_times_keep_leading_zeros_of_the_fraction():
    assert print_time(1_700_000_000_000_000_042) == b"1700000000.000000042"


def test_each_kind_of_line_is_told_apart():
    assert parse_line(b"wss://h/x?a=b <-> 5.5") == Entry(OPENED, 5_500_000_000, b"wss://h/x?a=b")
    assert parse_line(b'wss://h <- 6: {"a": 1}') == Entry(SENT, 6 * SECOND_NS, b'{"a": 1}')
    assert parse_line(b'7: {"a":"<- 6: <-> "}') == Entry(RECEIVED, 7 * SECOND_NS, b'{"a":"<- 6: <-> "}')
    assert parse_line(b"7: ") == parse_line(b"7:") == Entry(RECEIVED, 7 * SECOND_NS, b"")


def test_reader_gives_all_lines_in_order_and_again(tmp_path):
    path = write(tmp_path / "a.ws", HEAD + b"1700000001: {}\n\r\nwss://host <- 1700000002: {}\n\n1700000001.5: [1]\r\n")
    reader = RecordingReader(path)
    assert reader.url == "wss://host/stream"
    assert reader.begin_ns == 1_700_000_000_500_000_000
    expected = [(OPENED, b"wss://host/stream"), (RECEIVED, b"{}"), (SENT, b"{}"), (RECEIVED, b"[1]")]
    assert [(entry.what, entry.payload) for entry in reader] == expected
    assert [(entry.what, entry.payload) for entry in reader] == expected
    assert reader.truncated == 0


@pytest.mark.parametrize(
    "tail", [b"1700000001", b"17000000", b'1700000001: {"a":', b"wss://host <- 17", b"1700000001: nul"]
)
def test_a_cut_last_line_is_left_out_and_counted(tmp_path, tail):
    reader = RecordingReader(write(tmp_path / "a.ws", HEAD + b"1700000001: {}\n" + tail))
    assert [entry.payload for entry in reader if entry.what == RECEIVED] == [b"{}"]
    assert reader.truncated == 1


def test_a_whole_last_line_needs_no_line_break(tmp_path):
    reader = RecordingReader(write(tmp_path / "a.ws", HEAD + b'1700000001: {"a":1}'))
    assert [entry.payload for entry in reader][1:] == [b'{"a":1}']
    assert reader.truncated == 0


def test_a_bad_line_is_named_by_file_and_number(tmp_path):
    path = write(tmp_path / "bad.ws", HEAD + b"1700000001: {}\nwhat is this\n1700000002: {}\n")
    with pytest.raises(RecordingError, match=r"bad\.ws:3: .*what is this"):
        list(RecordingReader(path))


@pytest.mark.parametrize("text", [b"", b"\n\n", b"1700000001: {}\n", b"\x00\x01\x02\n", b"wss://h <-> soon\n"])
def test_a_file_that_does_not_begin_with_an_address_is_no_recording(tmp_path, text):
    with pytest.raises(RecordingError, match=r"a\.ws"):
        RecordingReader(write(tmp_path / "a.ws", text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecordingError, match=r"gone\.ws"):
        RecordingReader(tmp_path / "gone.ws")


def test_gzip_is_read_by_the_name(tmp_path):
    path = tmp_path / "a.ws.gz"
    path.write_bytes(gzip.compress(HEAD + b"1700000001: {}\n"))
    assert len(list(RecordingReader(path))) == 2


def test_a_cut_gzip_file_gives_what_is_whole(tmp_path):
    path = tmp_path / "a.ws.gz"
    whole = gzip.compress(HEAD + b"".join(b'1700000001.%03d: {"n":%d}\n' % (n, n) for n in range(500)))
    path.write_bytes(whole[: len(whole) // 2])
    reader = RecordingReader(path)
    assert 1 < len(list(reader)) < 501
    assert reader.truncated == 1


def test_what_is_no_gzip_is_refused(tmp_path):
    with pytest.raises(RecordingError, match=r"a\.ws\.gz"):
        RecordingReader(write(tmp_path / "a.ws.gz", HEAD))


@pytest.mark.parametrize("name", ["a.ws", "a.ws.gz"])
def test_what_is_written_is_read_back(tmp_path, name):
    writer = RecordingWriter(tmp_path / name, "sim://x?instruments=8", 1_700_000_000_000_000_001)
    writer.received(b'{"a":1}', 1_700_000_000_000_000_002)
    writer.sent("sim://x", b"{}", 1_700_000_000_000_000_003)
    writer.received(b'{\r\n "b":2\n}', 1_700_000_000_000_000_004)
    assert writer.messages == 2
    writer.close()
    writer.close()
    entries = list(RecordingReader(tmp_path / name))
    assert [entry.time_ns - 1_700_000_000_000_000_000 for entry in entries] == [1, 2, 3, 4]
    assert [entry.payload for entry in entries[1:]] == [b'{"a":1}', b"{}", b'{   "b":2 }']


def test_nothing_is_overwritten(tmp_path):
    write(tmp_path / "a.ws", HEAD)
    with pytest.raises(FileExistsError):
        RecordingWriter(tmp_path / "a.ws", "wss://h", 0)


def test_companions_are_found_by_the_longest_part_of_the_name(tmp_path):
    write(tmp_path / "kraken.Pairs.rest", b'https://k/Pairs -> 1.5: {"short": 1}\nconfiguration: {}\n\n')
    write(tmp_path / "kraken-v1-a.Pairs.rest", b'https://k/Pairs -> 1.5: {"long": 1}\n')
    write(tmp_path / "kraken-v1.Time.rest", b"https://k/Time -> 1.5: old\nhttps://k/Time -> 1.6: new\n")
    write(tmp_path / "krakenx.Other.rest", b"https://k/Other -> 1.5: {}\n")
    assert read_companions(tmp_path / "kraken-v1-a.ws.gz") == {
        "https://k/Pairs": b'{"long": 1}',
        "https://k/Time": b"new",
    }


def test_a_bad_companion_is_named_by_file_and_line(tmp_path):
    path = write(tmp_path / "a.x.rest", b"https://k/Pairs -> 1.5: {}\nhttps://k/Pairs 1.5 {}\n")
    with pytest.raises(RecordingError, match=r"a\.x\.rest:2"):
        read_rest(path)

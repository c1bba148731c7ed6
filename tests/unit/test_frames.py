from __future__ import annotations

import pytest

from marketd.feed.frames import Ending, FrameParser
from tests.loopback import frame

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def parser(message_bytes_max: int = 1 << 20) -> FrameParser:
    return FrameParser(message_bytes_max)


def violation_of(data: bytes, message_bytes_max: int = 1 << 20) -> Ending:
    """What a parser says of bytes that are wrong, at once: before the payload is there."""
    frames = parser(message_bytes_max)
    assert frames.receive_data(data) == []
    assert frames.ending is not None
    assert frames.ending.violation
    return frames.ending


# The examples of RFC 6455, 5.7, as far as a server may send them.


def test_single_frame_text_of_the_rfc() -> None:
    assert parser().receive_data(bytes.fromhex("81 05 48 65 6c 6c 6f")) == [b"Hello"]


def test_fragmented_text_of_the_rfc() -> None:
    frames = parser()
    assert frames.receive_data(bytes.fromhex("01 03 48 65 6c")) == []
    assert frames.receive_data(bytes.fromhex("80 02 6c 6f")) == [b"Hello"]


def test_ping_and_pong_of_the_rfc() -> None:
    frames = parser()
    assert frames.receive_data(bytes.fromhex("89 05 48 65 6c 6c 6f")) == []
    assert frames.ping == b"Hello"
    assert frames.receive_data(bytes.fromhex("8a 05 48 65 6c 6c 6f")) == []
    assert frames.pongs == 1


def test_256_bytes_of_binary_of_the_rfc() -> None:
    assert parser().receive_data(bytes.fromhex("82 7e 01 00") + bytes(256)) == [bytes(256)]


def test_64_kib_of_binary_of_the_rfc() -> None:
    data = bytes.fromhex("82 7f 00 00 00 00 00 01 00 00") + bytes(65536)
    assert parser().receive_data(data) == [bytes(65536)]


def test_masked_text_of_the_rfc_is_refused_from_a_server() -> None:
    assert violation_of(bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58")).code == 1002


# What comes in one read.


def test_all_messages_of_one_read_come_at_once_and_in_order() -> None:
    data = b"".join(frame(TEXT, b"%d" % number) for number in range(1000))
    assert parser().receive_data(data) == [b"%d" % number for number in range(1000)]


def test_messages_before_a_violation_are_returned() -> None:
    frames = parser()
    assert frames.receive_data(frame(TEXT, b"one") + frame(TEXT, b"two") + frame(3)) == [b"one", b"two"]
    assert frames.ending is not None
    assert frames.ending.code == 1002


def test_messages_before_a_close_frame_are_returned_and_what_follows_it_is_ignored() -> None:
    frames = parser()
    data = frame(TEXT, b"one") + frame(CLOSE, (1001).to_bytes(2, "big") + b"bye") + frame(TEXT, b"two")
    assert frames.receive_data(data) == [b"one"]
    assert frames.ending == Ending(1001, "bye")
    assert frames.receive_data(frame(TEXT, b"three")) == []
    assert frames.receive_data(frame(3)) == []
    assert frames.ending == Ending(1001, "bye")


def test_control_frames_may_come_between_fragments() -> None:
    frames = parser()
    data = frame(TEXT, b"a", fin=False) + frame(PING, b"!") + frame(CONTINUATION, b"b", fin=False) + frame(PONG)
    assert frames.receive_data(data) == []
    assert (frames.ping, frames.pongs) == (b"!", 1)
    assert frames.receive_data(frame(CONTINUATION, b"c")) == [b"abc"]


def test_newest_of_several_pings_is_the_one_to_answer() -> None:
    frames = parser()
    frames.receive_data(b"".join(frame(PING, b"%d" % number) for number in range(10_000)))
    assert frames.ping == b"9999"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
def test_payload_of_any_size_is_whole(size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert parser().receive_data(frame(BINARY, payload) * 2) == [payload, payload]


def test_empty_fragments_make_an_empty_message() -> None:
    assert parser().receive_data(frame(TEXT, fin=False) + frame(CONTINUATION)) == [b""]


def test_text_that_is_no_utf8_is_left_to_the_decoder_behind() -> None:
    assert parser().receive_data(frame(TEXT, b"\xff")) == [b"\xff"]


# What a server must not do.


@pytest.mark.parametrize("reserved", [1, 2, 4, 7])
def test_reserved_bit_is_refused(reserved: int) -> None:
    assert "reserved" in violation_of(frame(TEXT, reserved=reserved, size=5)).reason
    assert "reserved" in violation_of(frame(PING, reserved=reserved, size=5)).reason


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_opcode_without_a_meaning_is_refused(opcode: int) -> None:
    assert f"opcode {opcode}" in violation_of(frame(opcode, size=5)).reason


@pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE])
def test_masked_frame_is_refused(opcode: int) -> None:
    assert "mask" in violation_of(frame(opcode, mask=b"1234", size=5)).reason


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_control_frame_longer_than_125_bytes_is_refused(opcode: int) -> None:
    assert "126 bytes" in violation_of(frame(opcode, size=126)).reason


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_fragmented_control_frame_is_refused(opcode: int) -> None:
    assert "fragmented" in violation_of(frame(opcode, fin=False, size=5)).reason


def test_continuation_of_nothing_is_refused() -> None:
    assert "continuation" in violation_of(frame(CONTINUATION, size=5)).reason


@pytest.mark.parametrize("fin", [True, False])
def test_message_within_a_fragmented_message_is_refused(fin: bool) -> None:
    data = frame(TEXT, b"a", fin=False) + frame(TEXT, fin=fin, size=5)
    assert "begins before" in violation_of(data).reason


def test_length_in_more_bytes_than_needed_is_refused() -> None:
    assert "more bytes" in violation_of(bytes([0x81, 126, 0, 125])).reason
    assert "more bytes" in violation_of(bytes([0x81, 127]) + (65535).to_bytes(8, "big")).reason


def test_length_with_its_highest_bit_set_is_refused() -> None:
    assert violation_of(bytes([0x81, 127]) + (1 << 63).to_bytes(8, "big")).code == 1002


@pytest.mark.parametrize("size", [1001, 65535, 65536, 1 << 62])
def test_message_above_the_limit_is_refused_by_its_header(size: int) -> None:
    assert violation_of(frame(TEXT, size=size), message_bytes_max=1000).code == 1009


def test_message_of_exactly_the_limit_is_taken() -> None:
    assert parser(1000).receive_data(frame(TEXT, bytes(1000))) == [bytes(1000)]
    assert parser(1000).receive_data(frame(TEXT, bytes(999), fin=False) + frame(CONTINUATION, b"x"))


def test_fragments_above_the_limit_are_refused_by_the_header_that_exceeds_it() -> None:
    data = frame(TEXT, bytes(999), fin=False) + frame(CONTINUATION, fin=False, size=2)
    assert violation_of(data, message_bytes_max=1000).code == 1009


def test_limit_below_a_control_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="message_bytes_max"):
        FrameParser(124)


# Close frames.


def test_close_frame_without_a_code_is_1005() -> None:
    frames = parser()
    frames.receive_data(frame(CLOSE))
    assert frames.ending == Ending(1005, "")


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1012, 1013, 1014, 3000, 3999, 4000, 4999])
def test_close_code_is_passed_on(code: int) -> None:
    frames = parser()
    frames.receive_data(frame(CLOSE, code.to_bytes(2, "big")))
    assert frames.ending == Ending(code, "")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_close_code_that_must_not_be_sent_is_refused(code: int) -> None:
    assert violation_of(frame(CLOSE, code.to_bytes(2, "big"))).code == 1002


def test_close_frame_of_one_byte_is_refused() -> None:
    assert violation_of(frame(CLOSE, b"\x03")).code == 1002


def test_close_reason_that_is_no_utf8_is_refused_with_1007() -> None:
    assert violation_of(frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff")).code == 1007

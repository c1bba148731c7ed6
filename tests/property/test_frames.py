from __future__ import annotations

import itertools

import hypothesis.strategies as st
from hypothesis import given
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection

from marketd.feed.frames import FrameParser
from tests.loopback import frame

LIMIT = 1 << 17
payloads = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([125, 126, 127, 65535, 65536, 65537]).map(lambda size: bytes(size)),
)


@st.composite
def sent(draw: st.DrawFn) -> tuple[list[bytes], bytes, int]:
    """Messages, their frames with pings and pongs in between, and how many pongs."""
    messages = draw(st.lists(payloads, max_size=6))
    data = b""
    pongs = 0
    for message in messages:
        cuts = draw(st.lists(st.integers(0, len(message)), max_size=4).map(sorted))
        parts = [message[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(message)], strict=True)]
        for number, part in enumerate(parts):
            opcode = draw(st.sampled_from([1, 2])) if number == 0 else 0
            data += frame(opcode, part, fin=number == len(parts) - 1)
            controls = draw(st.lists(st.sampled_from([9, 10]), max_size=2))
            pongs += controls.count(10)
            data += b"".join(frame(control, draw(st.binary(max_size=125))) for control in controls)
    return messages, data, pongs


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


@given(sent(), st.lists(st.integers(0, 1 << 20), max_size=20))
def test_messages_are_the_same_however_they_were_fragmented_and_split(
    sent: tuple[list[bytes], bytes, int], cuts: list[int]
) -> None:
    messages, data, pongs = sent
    parser = FrameParser(LIMIT)
    received = [message for piece in split(data, cuts) for message in parser.receive_data(piece)]
    assert received == messages
    assert parser.pongs == pongs
    assert parser.ending is None


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_messages_are_the_same_byte_by_byte(messages: list[bytes]) -> None:
    parser = FrameParser(LIMIT)
    data = b"".join(frame(2, message) for message in messages)
    received = [message for byte in data for message in parser.receive_data(bytes([byte]))]
    assert received == messages


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_no_bytes_whatever_raise_and_none_but_a_violation_or_a_close_frame_ends(pieces: list[bytes]) -> None:
    parser = FrameParser(LIMIT)
    for piece in pieces:
        parser.receive_data(piece)
    if parser.ending is not None:
        assert parser.ending.violation or 1000 <= parser.ending.code < 5000
        assert parser.receive_data(frame(1, b"more")) == []


CLOSES = [
    b"",
    b"\x03",
    *(
        code.to_bytes(2, "big") + reason
        for code in (999, 1000, 1004, 1005, 1013, 2999, 3000, 4999)
        for reason in (b"", b"bye")
    ),
    (1000).to_bytes(2, "big") + b"\xff",
]


@st.composite
def nearly_frames(draw: st.DrawFn) -> bytes:
    """Frames some of which break a rule or two. No text: wsproto checks that it is UTF-8, we don't."""
    data = b""
    for _ in range(draw(st.integers(1, 6))):
        opcode = draw(st.sampled_from([0, 2, 2, 2, 3, 8, 9, 10, 11]))
        payload = draw(st.sampled_from(CLOSES) if opcode == 8 else st.binary(max_size=130))
        fin = draw(st.sampled_from([True, True, True, False]))
        data += frame(opcode, payload, fin=fin, reserved=draw(st.sampled_from([0] * 9 + [1])))
    return data


@given(nearly_frames())
def test_wsproto_finds_the_same_messages_and_objects_to_the_same_frames(data: bytes) -> None:
    parser = FrameParser(LIMIT)
    assert (parser.receive_data(data), parser.ending and parser.ending.code) == by_wsproto(data)


def by_wsproto(data: bytes) -> tuple[list[bytes], int | None]:
    connection = Connection(ConnectionType.CLIENT)
    connection.receive_data(data)
    messages: list[bytes] = []
    parts = b""
    for event in connection.events():
        if isinstance(event, CloseConnection):
            return messages, event.code
        if isinstance(event, BytesMessage):
            parts += event.data
            if event.message_finished:
                messages.append(parts)
                parts = b""
    assert connection.state is ConnectionState.OPEN
    return messages, None

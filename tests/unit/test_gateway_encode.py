"""What goes out on a socket is what `messages.py` says, shared or not."""

from __future__ import annotations

import msgspec
import pytest

from marketd.gateway.encode import (
    NewsFrame,
    encode_answer,
    encode_notification,
    encode_refusal,
    encode_shared,
    encode_tail,
)
from marketd.rpc import messages
from marketd.rpc.framing import Deframer


def decode(data: bytes | bytearray) -> messages.Answer:
    """Read the one frame in this data."""
    (payload,) = Deframer(1 << 24).receive_data(bytes(data))
    return msgspec.msgpack.decode(payload, type=messages.Answer)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 300_000])
@pytest.mark.parametrize("cursor", [1, 127, 128, 1 << 32, (1 << 52) - 1])
def test_shared_frame_with_a_tail_is_the_message_of_that_client(size: int, cursor: int) -> None:
    expected = messages.Rows(7, "sim", (1 << 52) - 1, cursor, cursor + 5, b"x" * size)
    fields = {"feed": "sim", "epoch": expected.epoch, "cursor_last": expected.cursor_last, "data": expected.data}
    shared = encode_shared("rows", fields)
    news = NewsFrame("rows", "sim", expected.epoch).encode(expected.data, cursor, expected.cursor_last, 7)
    for frame in (shared + encode_tail(7, cursor), news):
        answer = decode(frame)
        assert answer.method == "rows"
        assert msgspec.msgpack.decode(answer.params, type=messages.Rows) == expected


def test_same_shared_bytes_serve_any_subscription() -> None:
    fields = {
        "feed": "f",
        "epoch": 1,
        "cursor_last": 9,
        "kind": "trade",
        "columns": {"cursor": [8, 9], "price": [1.5, 2]},
    }
    shared = bytes(encode_shared("columns", fields))
    for subscription in (1, 2, 1 << 20):
        message = msgspec.msgpack.decode(decode(shared + encode_tail(subscription, 3)).params, type=messages.Columns)
        assert (message.subscription, message.cursor_first, message.cursor_last) == (subscription, 3, 9)
        assert message.columns == {"cursor": [8, 9], "price": [1.5, 2]}


def test_answers_refusals_and_notifications_decode_as_what_they_are() -> None:
    answer = decode(encode_answer("a", messages.PingResult("x", 1)))
    assert (answer.id, answer.error, answer.method) == ("a", None, "")
    assert msgspec.msgpack.decode(answer.result, type=messages.PingResult) == messages.PingResult("x", 1)

    refusal = decode(encode_refusal(None, messages.ErrorCode.PARSE_ERROR, "why", key="k"))
    assert refusal.id is None
    assert refusal.error == messages.ErrorBody(-32700, "why", {"code": "parse_error", "key": "k"})

    notice = decode(encode_notification("heartbeat", messages.Heartbeat()))
    assert (notice.method, bytes(notice.params)) == ("heartbeat", b"\x80")

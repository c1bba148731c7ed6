"""Length-prefixed frames."""

from __future__ import annotations

import pytest

from marketd.rpc.framing import Deframer, FrameTooLarge, frame


def test_frame_is_a_big_endian_length_and_the_payload() -> None:
    assert frame(b"abc") == b"\0\0\0\3abc"
    assert frame(b"") == b"\0\0\0\0"


def test_several_frames_in_one_read_come_in_order_and_the_rest_is_kept() -> None:
    deframer = Deframer(100)
    assert deframer.receive_data(frame(b"one") + frame(b"") + frame(b"three")[:6]) == [b"one", b""]
    assert deframer.pending == 6
    assert deframer.receive_data(frame(b"three")[6:]) == [b"three"]
    assert deframer.pending == 0


@pytest.mark.parametrize("read", [1, 3, 4, 5, 1000])
def test_too_long_a_frame_is_refused_before_any_of_it_is_kept(read: int) -> None:
    deframer = Deframer(100)
    data = frame(b"fine") + (1 << 31).to_bytes(4, "big") + b"x" * 10_000
    received = []

    def receive_all() -> None:
        for start in range(0, len(data), read):
            received.extend(deframer.receive_data(data[start : start + read]))

    with pytest.raises(FrameTooLarge) as caught:
        receive_all()
    assert (caught.value.size, caught.value.limit) == (1 << 31, 100)
    assert received + caught.value.frames == [b"fine"]
    assert deframer.pending <= 4


def test_frame_of_exactly_the_largest_size_is_fine() -> None:
    assert Deframer(100).receive_data(frame(b"x" * 100)) == [b"x" * 100]
    with pytest.raises(FrameTooLarge):
        Deframer(99).receive_data(frame(b"x" * 100))

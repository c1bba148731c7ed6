"""However a stream is cut into reads, the same payloads come out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from marketd.rpc.framing import Deframer, frame

PAYLOADS = st.lists(st.binary(max_size=300), max_size=12)


@given(payloads=PAYLOADS, sizes=st.lists(st.integers(1, 400), min_size=1, max_size=50))
def test_payloads_survive_any_split(payloads: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(map(frame, payloads))
    deframer = Deframer(300)
    received: list[bytes] = []
    turn = 0
    while stream:
        size = sizes[turn % len(sizes)]
        received += deframer.receive_data(stream[:size])
        stream, turn = stream[size:], turn + 1
    assert received == payloads
    assert deframer.pending == 0


@given(payload=st.binary(min_size=0, max_size=50), held=st.integers(0, 53))
def test_no_more_is_kept_than_was_received_of_the_last_frame(payload: bytes, held: int) -> None:
    deframer = Deframer(50)
    part = frame(payload)[:held]
    assert deframer.receive_data(part) == ([payload] if held >= len(payload) + 4 else [])
    assert deframer.pending in (0, len(part))

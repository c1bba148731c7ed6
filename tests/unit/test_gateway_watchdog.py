"""When a client has been waited for long enough."""

from __future__ import annotations

import pytest

from marketd.gateway.watchdog import Times, judge
from marketd.supervise.messages import LimitsSpec

LIMITS = LimitsSpec(hello_timeout_s=5, frame_timeout_s=3, stall_timeout_s=7)


def reason(now_s: float, **times: object) -> str:
    verdict = judge(Times(connected_s=0.0, **{"greeted": True, "reading_s": 0.0} | times), LIMITS, now_s)
    return "" if verdict is None else verdict.reason


def test_silent_client_that_promised_nothing_may_stay_for_ever() -> None:
    assert reason(1e9) == ""


@pytest.mark.parametrize(("now_s", "expected"), [(4.9, ""), (5.1, "no hello")])
def test_client_must_say_hello_in_time(now_s: float, expected: str) -> None:
    assert reason(now_s, greeted=False) == expected


@pytest.mark.parametrize(("now_s", "expected"), [(12.9, ""), (13.1, "half a frame")])
def test_frame_must_be_completed_in_time(now_s: float, expected: str) -> None:
    assert reason(now_s, frame_s=10.0, reading_s=12.8) == expected


def test_frame_is_not_waited_for_while_we_do_not_read() -> None:
    assert reason(100, frame_s=10.0, reading_s=None) == ""


@pytest.mark.parametrize(("now_s", "expected"), [(5.9, ""), (6.1, "silent")])
def test_promised_heartbeats_may_fail_three_times(now_s: float, expected: str) -> None:
    assert reason(now_s, promised_s=2.0) == expected


def test_client_is_not_silent_while_we_do_not_listen() -> None:
    assert reason(100, promised_s=2.0, reading_s=None) == ""


@pytest.mark.parametrize(("now_s", "expected"), [(8.9, ""), (9.1, "stalled")])
def test_client_that_takes_nothing_is_told_where_it_can_go_on(now_s: float, expected: str) -> None:
    assert reason(now_s, blocked_s=2.0, reading_s=None) == expected
    verdict = judge(Times(0.0, blocked_s=2.0), LIMITS, 9.1)
    assert verdict is not None
    assert verdict.sentence == "nothing was taken for 7 s; go on from these positions"

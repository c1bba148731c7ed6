from __future__ import annotations

import math
import time

import pytest
import trio
import trio.testing

from marketd.clock import SECOND_NS, PunctualClock, RecordingClock, SystemClock

ORIGIN_NS = 1_626_992_740_179_554_000


async def test_recording_at_full_speed_jumps_to_what_is_waited_for() -> None:
    clock = RecordingClock(math.inf)
    clock.begin(ORIGIN_NS)
    await clock.sleep_until(ORIGIN_NS + 3600 * SECOND_NS)
    assert clock.now_ns() == ORIGIN_NS + 3600 * SECOND_NS
    await clock.sleep_until(ORIGIN_NS)
    assert clock.now_ns() == ORIGIN_NS + 3600 * SECOND_NS


async def test_recording_at_a_speed_takes_that_much_less_time() -> None:
    clock = RecordingClock(1000.0)
    clock.begin(ORIGIN_NS)
    began_s = time.monotonic()
    await clock.sleep_until(ORIGIN_NS + 100 * SECOND_NS)
    assert clock.now_ns() >= ORIGIN_NS + 100 * SECOND_NS
    assert 0.1 <= time.monotonic() - began_s < 5


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan])
def test_impossible_speed_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        RecordingClock(speed)


@pytest.mark.parametrize("clock", [SystemClock(), PunctualClock()])
async def test_machines_clocks_never_wake_early_and_return_at_once_for_what_is_past(clock: SystemClock) -> None:
    with trio.fail_after(5):
        await clock.sleep_until(0)
        for ahead_ns in (SECOND_NS // 20, SECOND_NS // 1000):
            deadline_ns = time.time_ns() + ahead_ns
            await clock.sleep_until(deadline_ns)
            assert time.time_ns() >= deadline_ns

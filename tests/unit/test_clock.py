from __future__ import annotations

import math
import time

import numpy as np
import pytest
import trio
import trio.testing

from marketd import clock as seam
from marketd.clock import JUMP_NS, MILLISECOND_NS, SECOND_NS, PunctualClock, RecordingClock, SteadyClock, SystemClock

ORIGIN_NS = 1_626_992_740_179_554_000
HOUR_NS = 3600 * SECOND_NS


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


class Hands:
    """A machine's two clocks, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ns, self.running_ns = ORIGIN_NS, 7 * SECOND_NS
        self.stolen_ns: list[int] = []  # by other processes, before the wall clock is read
        monkeypatch.setattr(seam, "wall_ns", self._wall_ns)
        monkeypatch.setattr(seam, "_running_ns", lambda: self.running_ns)

    def go_on(self, by_ns: int = SECOND_NS) -> None:
        """Let time pass."""
        self.wall_ns += by_ns
        self.running_ns += by_ns

    def _wall_ns(self) -> int:
        if self.stolen_ns:
            self.go_on(self.stolen_ns.pop(0))
        return self.wall_ns


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    return Hands(monkeypatch)


@pytest.mark.parametrize("step_ns", [HOUR_NS, -HOUR_NS, JUMP_NS + 1])
def test_steady_clock_goes_on_when_the_machines_is_set_and_says_by_how_much(hands: Hands, step_ns: int) -> None:
    steady = SteadyClock()
    hands.wall_ns += step_ns
    hands.go_on()
    assert steady.now_ns() == ORIGIN_NS + SECOND_NS
    assert (steady.jumps, steady.ahead_ns) == (1, step_ns)
    hands.wall_ns -= step_ns
    hands.go_on()
    assert steady.now_ns() == ORIGIN_NS + 2 * SECOND_NS
    assert (steady.jumps, steady.ahead_ns) == (2, 0)


@pytest.mark.parametrize("stolen_ms", [[771], [3000, 20], [50] * 7])
def test_processor_that_is_taken_away_between_two_clocks_is_no_step(hands: Hands, stolen_ms: list[int]) -> None:
    steady = SteadyClock()
    hands.stolen_ns = [ms * MILLISECOND_NS for ms in stolen_ms]
    assert steady.now_ns() == hands.wall_ns
    assert (steady.jumps, steady.ahead_ns) == (0, 0)


def test_processor_that_is_taken_away_all_the_time_costs_the_least_that_was_taken(hands: Hands) -> None:
    steady = SteadyClock()
    hands.stolen_ns = [ms * MILLISECOND_NS for ms in (40, 30, 20, 5, 20, 30, 40, 50, 60)]
    begun_ns = hands.wall_ns
    assert steady.now_ns() - begun_ns == 95 * MILLISECOND_NS
    assert len(hands.stolen_ns) == 1


@pytest.mark.parametrize("step_ns", [SECOND_NS, -SECOND_NS])
def test_steady_clock_follows_small_corrections(hands: Hands, step_ns: int) -> None:
    steady = SteadyClock()
    for _ in range(10):
        hands.wall_ns += step_ns
        hands.go_on()
        assert steady.now_ns() == hands.wall_ns
    assert steady.jumps == 0


def test_steady_clock_believes_a_clock_that_was_set_ahead_when_a_venue_says_the_same(hands: Hands) -> None:
    steady = SteadyClock()
    assert not steady.witness(ORIGIN_NS + HOUR_NS)  # nobody has set it
    hands.wall_ns += HOUR_NS
    assert not steady.witness(ORIGIN_NS)
    assert not steady.witness(ORIGIN_NS + HOUR_NS // 2)
    assert steady.now_ns() == ORIGIN_NS
    assert steady.witness(ORIGIN_NS + HOUR_NS)
    assert steady.now_ns() == ORIGIN_NS + HOUR_NS
    assert (steady.jumps, steady.ahead_ns) == (1, 0)


def test_steady_clock_never_goes_back_for_a_witness(hands: Hands) -> None:
    steady = SteadyClock()
    hands.wall_ns -= HOUR_NS
    assert not steady.witness(ORIGIN_NS - HOUR_NS)
    assert steady.now_ns() == ORIGIN_NS


@pytest.mark.parametrize("step_ns", [HOUR_NS, -HOUR_NS])
def test_times_that_others_took_of_a_set_clock_are_put_right_and_older_ones_left(hands: Hands, step_ns: int) -> None:
    steady = SteadyClock()
    before = np.array([ORIGIN_NS - SECOND_NS, ORIGIN_NS])
    assert (steady.steadied(before) == before).all()
    hands.wall_ns += step_ns
    hands.go_on()
    taken = np.array([ORIGIN_NS - SECOND_NS, ORIGIN_NS + step_ns + SECOND_NS // 2, ORIGIN_NS + SECOND_NS // 2])
    right = [ORIGIN_NS - SECOND_NS, ORIGIN_NS + SECOND_NS // 2, ORIGIN_NS + SECOND_NS // 2]
    assert steady.steadied(taken).tolist() == right

"""Whatever happens to feeds, gateway, connection and reader, in any order: each stream tells what its contract says."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import trio.testing
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from marketd.rpc import messages
from tests.stream_world import FOR_EVER_S, RING_ROWS, Listener, Run, Wish, World

LISTENERS_MAX = 4
IDLE_S = 0.001  # of real time, after which the clock jumps: what is sent within one process is there at once
PATIENCE_S = st.sampled_from([FOR_EVER_S, FOR_EVER_S, 0.01])  # of who waits for the answer to a change
FEEDS = st.sampled_from(sorted(RING_ROWS))
ROWS = st.builds(
    Run, st.integers(1, 4), st.sampled_from(["trade", "quote", "quote", "level"]), st.sampled_from([1, 1, 2, 5, 12])
)
EVENTS = st.builds(Run, st.integers(0, 3), st.sampled_from(["gap", "status"]), st.just(1))
RUNS = st.lists(st.one_of(ROWS, ROWS, EVENTS), min_size=1, max_size=4)
NAMES = st.sampled_from(["*", "*.one", "*.two", "a*", "b*.two", "*3/*", "a1/usd.one", "b2/usd.two"])
KINDS: dict[messages.Contract, list[messages.KindName]] = {
    "lossless": ["trade", "quote", "level"],
    "frames": ["trade", "quote"],
    "trade_safe": ["trade", "quote"],
    "latest": ["trade", "quote"],
}


@st.composite
def wishes(draw: st.DrawFn) -> Wish:
    contract: messages.Contract = draw(st.sampled_from(sorted(KINDS)))
    return Wish(
        tuple(draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))),
        tuple(draw(st.lists(st.sampled_from(KINDS[contract]), min_size=1, unique=True))),
        contract,
        draw(st.sampled_from(["rows", "columns"])),
        draw(st.sampled_from([2.0, 10.0, 1000.0])),
    )


class StreamMachine(RuleBasedStateMachine):
    """A rule is one thing that happens. Between two of them everything goes on, in a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name))
        clock = trio.testing.MockClock(autojump_threshold=IDLE_S)
        self.portal_scope = start_blocking_portal("trio", {"clock": clock})
        self.portal = self.portal_scope.__enter__()
        self.life: Future[Any]
        self.life, _ = self.portal.start_task(self.world.run)

    def call(self, step: Callable[..., Any], *args: object) -> Any:
        """Let something happen in the world, if it is still there."""
        if self.life.done():
            self.life.result()
        return self.portal.call(step, *args)

    def teardown(self) -> None:
        try:
            self.call(self.world.settle)
            self.call(self.world.end)
            self.life.result(60)
        finally:
            self.portal.call(self.world.end)
            self.portal_scope.__exit__(None, None, None)
            self.folder.cleanup()
        self.world.check()

    @property
    def open(self) -> list[Listener]:
        """Streams that were not closed."""
        return [listener for listener in self.world.listeners if not listener.closed]

    def with_listener(self, number: int, step: Callable[[Listener], Any]) -> None:
        """Let something happen to a stream, if there is one that is open."""
        if there := [listener for listener in self.open if listener.alive]:
            self.call(step, there[number % len(there)])

    # --- streams ---

    @initialize(wishes=st.lists(wishes(), min_size=1, max_size=3), runs=RUNS, reads=st.booleans())
    def begin(self, wishes: list[Wish], runs: list[Run], reads: bool) -> None:
        for wish in wishes:
            self.call(self.world.listen, wish)
        for name in sorted(RING_ROWS):
            self.write(name, runs)
        self.call(trio.sleep, 0.2)
        for listener in self.open[: 0 if reads else 1]:
            self.call(listener.stop_reading)

    @rule(wish=wishes())
    def subscribe(self, wish: Wish) -> None:
        if len(self.open) < LISTENERS_MAX:
            self.call(self.world.listen, wish)

    @rule(number=st.integers(0, 3), again=st.sampled_from([True, True, False]))
    def close(self, number: int, again: bool) -> None:
        async def close(listener: Listener) -> None:
            await self.world.close(listener, again=again)

        self.with_listener(number, close)

    @rule(number=st.integers(0, 3), reads=st.booleans())
    def read_or_not(self, number: int, reads: bool) -> None:
        self.with_listener(number, Listener.read_on if reads else Listener.stop_reading)

    @rule(
        number=st.integers(0, 3),
        add=st.lists(NAMES, max_size=2),
        remove=st.sets(st.integers(0, 3), max_size=3),
        name=FEEDS,
        runs=st.lists(ROWS, max_size=2),
        patience_s=PATIENCE_S,
    )
    def change_instruments(
        self, number: int, add: list[str], remove: set[int], name: str, runs: list[Run], patience_s: float
    ) -> None:
        """Right after rows that the stream may have been about to pass over."""

        def change(listener: Listener) -> None:
            gone = [instrument for place, instrument in enumerate(listener.instruments) if place in remove]
            self._write(name, runs)
            self.world.change(listener, add=add, remove=gone, patience_s=patience_s)

        self.with_listener(number, change)

    @rule(number=st.integers(0, 3), rate_hz=st.sampled_from([1.0, 20.0, 1000.0]))
    def change_rate(self, number: int, rate_hz: float) -> None:
        self.with_listener(number, lambda listener: self.world.change(listener, rate_hz=rate_hz))

    @rule(number=st.integers(0, 3), paused=st.booleans(), patience_s=PATIENCE_S)
    def pause(self, number: int, paused: bool, patience_s: float) -> None:
        self.with_listener(number, lambda listener: self.world.change(listener, paused=paused, patience_s=patience_s))

    # --- the way between ---

    @rule(held=st.booleans())
    def hold(self, held: bool) -> None:
        self.call(self.world.hold if held else self.world.wire.free)

    @rule()
    def cut(self) -> None:
        self.call(self.world.wire.cut)

    @rule(seconds=st.sampled_from([0.0, 0.02, 0.2, 1.5]))
    def let_time_pass(self, seconds: float) -> None:
        self.call(trio.sleep, seconds)

    # --- feeds ---

    @rule(name=FEEDS, runs=RUNS)
    def write(self, name: str, runs: list[Run]) -> None:
        self.call(self._write, name, runs)

    @rule(name=FEEDS, instrument=st.integers(1, 4), over=st.integers(-20, 60))
    def lap(self, name: str, instrument: int, over: int) -> None:
        count = (RING_ROWS[name] + over) // 2
        self.call(self._write, name, [Run(instrument, "trade", count), Run(1 + instrument % 4, "quote", count)])

    def _write(self, name: str, runs: list[Run]) -> None:
        source = self.world.sources[name]
        if source.fake is not None:
            source.write(runs)

    @rule(name=FEEDS)
    def kill_feed(self, name: str) -> None:
        self.call(self.world.kill_feed, name)

    @rule(name=FEEDS, instruments=st.integers(0, 3), runs=st.lists(ROWS, max_size=3))
    def replace_feed(self, name: str, instruments: int, runs: list[Run]) -> None:
        self.call(self.world.replace_feed, name, instruments, runs)

    @rule(name=FEEDS, instruments=st.integers(0, 3))
    def remove_feed_or_bring_it_back(self, name: str, instruments: int) -> None:
        if self.world.sources[name].fake is not None:
            self.call(self.world.remove_feed, name)
        else:
            self.call(self.world.replace_feed, name, instruments, [])

    # --- the gateway ---

    @rule(back=st.sampled_from([True, True, False]))
    def kill_gateway_or_start_it(self, back: bool) -> None:
        if self.world.gateway is None:
            self.call(self.world.start_gateway)
            return
        self.call(self.world.kill_gateway)
        if back:
            self.call(self.world.start_gateway)


def run(examples: int, steps: int, *, drawn_anew: bool) -> None:
    """Live so many lives of so many steps each: the same in every run, or others each time.

    A failure is told as it was found: real sockets seldom give the same one twice, so that to look for a shorter one
    takes minutes and finds another one, if any.
    """
    run_state_machine_as_test(
        StreamMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            report_multiple_bugs=False,
            derandomize=not drawn_anew,
        ),
    )


def test_each_stream_tells_what_its_contract_says_whatever_happens() -> None:
    run(examples=45, steps=40, drawn_anew=False)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_each_stream_tells_what_its_contract_says_in_thousands_of_lives() -> None:
    run(examples=3000, steps=60, drawn_anew=True)

"""A clock that is set an hour ahead and back, and an hour back and ahead, while a whole daemon runs.

The daemon's processes see a clock that the test sets (`OFFSET_FILE`, see marketd/clock.py); the venue's is right.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from marketd.client import Client, Stream, connect
from marketd.clock import OFFSET_FILE, SECOND_NS
from tests.scenario.daemon import Daemon, running, wait_for
from tests.scenario.venue import venue_running

HOUR_S = 3600
CONFIG = """
[bars]
periods = ["1s", "1m"]
[history]
periods = ["1m"]
flush_s = 0.5
record_ticks = ["*"]
[feeds.sim]
backend = "sim"
instruments = 2
rate_hz = 200
"""
START_S = 90.0  # on a busy machine
SEEN_S = 4.0  # of streaming after each change
SLACK_NS = 15 * SECOND_NS  # of a busy machine


class FakedClock:
    """The clock of the processes that have :attr:`environment`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.environment = {OFFSET_FILE: str(path)}
        self.set(0)

    def set(self, ahead_s: int) -> None:
        """Let it be ahead by so much; at once, as a half written file is no time."""
        new = self._path.with_suffix(".new")
        new.write_text(str(ahead_s * SECOND_NS))
        new.replace(self._path)


@pytest.fixture(scope="module")
def jumped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Client, list[str], tuple[int, int]]]:
    """A daemon whose clock was set four times, with what its lossless stream has complained of meanwhile."""
    folder = tmp_path_factory.mktemp("jumps")
    clock = FakedClock(folder / "clock")
    with venue_running(instruments=3, rate=100.0) as venue:
        config = CONFIG + venue.feed("binance", instruments=["*"], msg_recv_timeout_s=2.0)
        with contextlib.ExitStack() as stack:
            daemon = stack.enter_context(running(folder, config, environment=clock.environment, wait=False))
            daemon.wait_ready(START_S)
            md = stack.enter_context(connect(daemon.address))
            wait_for(lambda: min(feed.cursor for feed in md.status().feeds) > 0, 30, "ticks of both feeds")
            complaints: list[str] = []
            begun_ns = time.time_ns()
            with md.subscribe(["*"]) as stream:
                watch(stream, complaints, "before")
                for ahead_s in (HOUR_S, 0, -HOUR_S, 0):
                    clock.set(ahead_s)
                    seen_s = (md_now_ns(daemon) - time.time_ns()) / SECOND_NS
                    assert abs(seen_s - ahead_s) < 5, "the daemon does not see the clock that it should"
                    watch(stream, complaints, f"at {ahead_s:+} s")
                    told = md.status().clock
                    if told.skewed != bool(ahead_s) or abs((told.offset_ms or 0) / 1000 - ahead_s) > 5:
                        complaints.append(f"at {ahead_s:+} s the status says {told}")
            yield daemon, md, complaints, (begun_ns, time.time_ns())


def md_now_ns(daemon: Daemon) -> int:
    """Return what time the daemon thinks it is."""
    with connect(daemon.address) as md:
        return md.status().now_ns


def watch(stream: Stream, complaints: list[str], when: str) -> None:
    """Read for a while: of each feed there must be ticks, and no gap."""
    ticks, until_s = dict.fromkeys(("sim", "binance"), 0), time.monotonic() + SEEN_S
    deadline_s = until_s + 15
    while time.monotonic() < until_s or (not all(ticks.values()) and time.monotonic() < deadline_s):
        frame = stream.wait_next(0.2)
        if frame is None:
            continue
        if frame.kind in ("trade", "quote"):
            ticks[frame.feed] += len(frame)
        elif frame.kind == "gap":
            complaints.append(f"{when}: {frame.feed} has a gap: {frame.rows}")
        elif frame.state:
            complaints.append(f"{when}: {frame.feed} {frame.state} {frame.detail}")
    complaints += [f"{when}: no ticks of {feed}" for feed, count in ticks.items() if not count]


def test_streams_go_on_without_a_gap_or_a_new_connection(
    jumped: tuple[Daemon, Client, list[str], tuple[int, int]],
) -> None:
    daemon, md, complaints, _ = jumped
    assert complaints == []
    status = md.status()
    assert status.ready
    assert not any(actor.restarts for actor in status.actors)
    assert daemon.log.count('"feed.connected"') <= 2  # binance has its data at two addresses


def test_each_jump_is_said(jumped: tuple[Daemon, Client, list[str], tuple[int, int]]) -> None:
    daemon, md = jumped[:2]
    assert md.status().clock.jumps == 4
    for actor in ("sampler", "history", "feed.sim", "feed.binance"):
        said = [line for line in daemon.log.splitlines() if '"clock.jumped"' in line and f'"{actor}"' in line]
        assert len(said) == 4, (actor, said)


def test_bars_are_on_their_grid_and_none_is_invented_or_lost(
    jumped: tuple[Daemon, Client, list[str], tuple[int, int]],
) -> None:
    _, md, _, (begun_ns, ended_ns) = jumped
    for name in (hit.fqme for hit in md.search("*")):
        bars = md.history(name, "1s", start=begun_ns - HOUR_S * SECOND_NS, end=ended_ns + 2 * HOUR_S * SECOND_NS)
        open_ns = bars.to_polars()["open_ns"].to_numpy()
        assert len(open_ns), name
        assert set(np.diff(open_ns)) == {SECOND_NS}, name
        assert open_ns[-1] <= time.time_ns(), name
        assert open_ns[0] <= begun_ns, name
        assert open_ns[-1] > ended_ns - SLACK_NS, name


def test_nothing_is_stored_as_complete_that_is_not(jumped: tuple[Daemon, Client, list[str], tuple[int, int]]) -> None:
    _, md, _, (begun_ns, _) = jumped
    day_ns = 86_400 * SECOND_NS
    for name in (hit.fqme for hit in md.search("*")):
        for span in md.coverage(name, "1m", begun_ns - day_ns, begun_ns + day_ns).spans:
            assert span.state != "complete" or span.to_ns <= time.time_ns(), (name, span)


def test_every_trade_of_the_time_is_recorded_once(jumped: tuple[Daemon, Client, list[str], tuple[int, int]]) -> None:
    _, md, _, (begun_ns, ended_ns) = jumped
    for name in (hit.fqme for hit in md.search("*")):
        trades = md.tick_history(name, "trade", start=begun_ns, end=ended_ns).to_polars()
        assert len(trades) > 4 * SEEN_S, name
        assert set(np.diff(trades["sequence"].to_numpy())) == {1}, name


def test_stream_that_begins_before_the_jumps_replays_every_trade(
    jumped: tuple[Daemon, Client, list[str], tuple[int, int]],
) -> None:
    _, md, _, (begun_ns, _) = jumped
    numbers: dict[str, list[int]] = {}
    replayed: set[str] = set()
    with md.subscribe(["*"], kinds=["trade"], start=begun_ns) as stream:
        deadline_s = time.monotonic() + 30
        while len(replayed) < 2:
            assert time.monotonic() < deadline_s, replayed
            frame = stream.wait_next(0.5)
            if frame is None:
                continue
            assert frame.kind != "gap", frame.rows
            if frame.kind == "trade":
                for number, instrument in zip(frame.rows["sequence"], frame.rows["instrument"], strict=True):
                    numbers.setdefault(frame.fqme(instrument), []).append(int(number))
            elif frame.state == "replay_completed":
                replayed.add(frame.feed)
    for name, found in numbers.items():
        assert len(found) > 4 * SEEN_S, name
        assert set(np.diff(found)) == {1}, name


def test_store_is_sound_afterwards(jumped: tuple[Daemon, Client, list[str], tuple[int, int]]) -> None:
    daemon = jumped[0]
    command = [sys.executable, "-m", "marketd", "store", "check", "--store", str(daemon.paths.store)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr

"""Stories of the whole: a real daemon, killed, stopped and run beside another."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from marketd.client import connect
from marketd.model import GapReason
from tests.conftest import PROJECT
from tests.scenario.daemon import Daemon, running, wait_for
from tests.scenario.disk import small_disk

TWO_FEEDS = """
[ring]
rows = 65536
[feeds.alpha]
backend = "sim"
instruments = 3
rate_hz = 500
seed = 1
[feeds.beta]
backend = "sim"
instruments = 2
rate_hz = 500
seed = 2
"""
ONE_FEED = """
[ring]
rows = 65536
[feeds.sim]
backend = "sim"
instruments = 5
rate_hz = 200
"""


def test_client_sees_the_whole_tree_and_live_ticks(tmp_path: Path) -> None:
    """R05, R10: a process outside of the tree, given an address only, finds all services; every address answers."""
    with running(tmp_path, ONE_FEED) as daemon:
        for address in daemon.addresses:
            with connect(address) as md:
                status = md.status()
                assert status.ready
                assert {actor.name for actor in status.actors} == {"supervisor", "feed.sim", "gateway"}
                assert status.instance == daemon.instance
        with connect(daemon.address) as md:
            names = [hit.fqme for hit in md.search("*.sim")]
            assert len(names) == 5
            market = md.instrument(names[0].upper())
            assert market.fqme == names[0]
            with md.subscribe(["*.sim"], kinds=["trade", "quote"]) as stream:
                seen: set[str] = set()
                for frame in stream:
                    assert frame.fqme(frame.rows["instrument"][0]) in names
                    seen.add(frame.kind)
                    if seen >= {"trade", "quote"}:
                        break


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_tree_within_three_seconds_leaving_nothing(tmp_path: Path, number: int) -> None:
    """R01, R09: no process, no segment, no socket is left, with a client still connected."""
    with running(tmp_path, TWO_FEEDS) as daemon:
        processes = daemon.processes()
        assert len(processes) == 4
        assert daemon.paths.segments()
        with connect(daemon.address, reconnect=False) as md, md.subscribe(["*.sim"]) as stream:
            next(iter(stream))
            took_s = daemon.stop(number)
        assert daemon.process.returncode == 0
        assert took_s < 3.0
        assert not any(process.is_running() for process in processes)
        assert daemon.paths.segments() == []
        assert not daemon.paths.socket.exists()
        assert not daemon.paths.addresses.exists()


def test_interrupt_from_the_keyboard_reaches_every_process_and_ends_the_tree_cleanly(tmp_path: Path) -> None:
    with running(tmp_path, ONE_FEED) as daemon:
        processes = daemon.processes()
        os.killpg(daemon.process.pid, signal.SIGINT)
        assert daemon.process.wait(5) == 0
        assert not any(process.is_running() for process in processes)
        assert "Traceback" not in daemon.log


def test_killed_feed_costs_a_gap_of_that_feed_only_and_ticks_again_within_two_seconds(tmp_path: Path) -> None:
    with running(tmp_path, TWO_FEEDS) as daemon, connect(daemon.address) as md:
        killed = daemon.pids()["feed.alpha"]
        with md.subscribe(["*.sim"], contract="lossless") as stream:
            frames = iter(stream)
            cursors = {"alpha": 0, "beta": 0}
            gaps: list[tuple[str, int]] = []
            killed_s = ticked_s = 0.0
            epochs: dict[str, set[int]] = {"alpha": set(), "beta": set()}
            deadline_s = time.monotonic() + 20
            while not (ticked_s and time.monotonic() > ticked_s + 0.5):
                assert time.monotonic() < deadline_s, daemon.log
                frame = next(frames)
                if frame.kind == "status":
                    continue
                # Nothing is missed: the ranges of each feed follow each other without a hole.
                assert cursors[frame.feed] in (0, frame.cursor_first - 1)
                cursors[frame.feed] = frame.cursor_last
                epochs[frame.feed].add(frame.epoch)
                if frame.kind == "gap":
                    gaps += [(frame.feed, int(reason)) for reason in frame.rows["reason"]]
                elif gaps and frame.feed == "alpha" and not ticked_s:
                    ticked_s = time.monotonic()
                if not killed_s and all(cursors.values()):
                    os.kill(killed, signal.SIGKILL)
                    killed_s = time.monotonic()
        assert gaps == [("alpha", GapReason.RESTART)]
        assert ticked_s - killed_s < 2.0
        assert {name: len(found) for name, found in epochs.items()} == {"alpha": 1, "beta": 1}
        assert daemon.pids()["feed.alpha"] != killed
        with connect(daemon.address) as again:
            restarts = {actor.name: actor.restarts for actor in again.status().actors}
        assert restarts["feed.alpha"] == 1
        assert restarts["feed.beta"] == 0


def test_stopped_feed_process_is_found_mute_and_replaced(tmp_path: Path) -> None:
    with running(tmp_path, TWO_FEEDS) as daemon:
        mute = daemon.pids()["feed.beta"]
        os.kill(mute, signal.SIGSTOP)

        def replaced() -> bool:
            pid = daemon.pids().get("feed.beta")
            return pid is not None and pid != mute

        wait_for(replaced, 15, "a successor of the stopped process")
        assert not psutil.pid_exists(mute)


def test_gateway_killed_comes_back_at_the_same_address_and_the_client_misses_nothing(tmp_path: Path) -> None:
    with running(tmp_path, ONE_FEED) as daemon, connect(daemon.address) as md:
        killed = daemon.pids()["gateway"]
        with md.subscribe(["*.sim"]) as stream:
            last = 0
            seen_states: list[str] = []
            rows_after = 0
            for frame in stream:
                if frame.kind == "status":
                    seen_states.append(frame.state)
                    continue
                assert frame.kind != "gap"
                assert last in (0, frame.cursor_first - 1)
                last = frame.cursor_last
                if killed:
                    os.kill(killed, signal.SIGKILL)
                    killed = 0
                elif "reconnected" in seen_states:
                    rows_after += len(frame.rows)
                if rows_after > 20:
                    break
        assert seen_states.index("disconnected") < seen_states.index("reconnected")


def test_killed_root_takes_every_actor_with_it_and_the_next_start_recovers(tmp_path: Path) -> None:
    with running(tmp_path, TWO_FEEDS) as daemon:
        processes = daemon.processes()
        daemon.process.kill()
        daemon.process.wait()
        wait_for(lambda: not any(process.is_running() for process in processes), 2.0, "the orphans to leave")
        assert daemon.paths.segments(), "a killed root can't clean up; if it could, this test would prove nothing"
        with running(tmp_path, TWO_FEEDS, instance=daemon.instance) as successor, connect(successor.address) as md:
            assert md.status().ready
        assert daemon.paths.segments() == []


def test_many_first_clients_at_once_start_nothing_twice(tmp_path: Path) -> None:
    """R04: whoever comes first, and however many do, there is one actor of each kind and one stream of rows."""
    config = f"""
[ring]
rows = 65536
[feeds.played]
backend = "replay"
files = ["{PROJECT / "tests" / "data" / "binance" / "futures.ws"}"]
speed = "max"
wait_client = true
"""

    def use(address: str) -> list[int]:
        cursors: list[int] = []
        with connect(address, reconnect=False) as md, md.subscribe(["*"]) as stream:
            for frame in stream:
                if frame.kind in ("trade", "quote"):
                    cursors += frame.rows["cursor"].tolist()
                elif frame.kind == "status" and frame.state == "finished":
                    return cursors
        return cursors

    with running(tmp_path, config) as daemon:
        before = len(daemon.processes())
        with ThreadPoolExecutor(16) as pool:
            seen = list(pool.map(use, [daemon.address] * 16))
        assert len(daemon.processes()) == before == 3
        with connect(daemon.address) as md:
            cursor = md.status().feeds[0].cursor
        assert cursor > 0
        assert max(len(cursors) for cursors in seen) == cursor, "the first to subscribe gets every row, once"
        assert all(cursors == sorted(set(cursors)) for cursors in seen)


def test_two_instances_run_side_by_side_and_one_stops_alone(tmp_path: Path) -> None:
    """R06: disjoint shared memory; stopping one leaves the other's intact."""
    with running(tmp_path, ONE_FEED) as one, running(tmp_path, ONE_FEED) as two:
        assert set(one.paths.segments()).isdisjoint(two.paths.segments())
        assert one.stop() < 3.0
        assert one.paths.segments() == []
        with connect(two.address) as md, md.subscribe(["*.sim"]) as stream:
            frames = iter(stream)
            assert len(next(frames).rows)
            assert len(next(frames).rows)


def test_second_daemon_of_the_same_instance_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """R05: what is there already is not taken over silently."""
    with running(tmp_path, ONE_FEED) as daemon:
        with running(tmp_path, ONE_FEED, instance=daemon.instance, wait=False) as second:
            assert second.process.wait(20) not in (0, None)
            assert "is running already" in second.log
            assert "--instance" in second.log
            assert "Traceback" not in second.log
        with connect(daemon.address) as md:
            assert md.status().ready


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("info", False)])
def test_log_level_reaches_every_actor(tmp_path: Path, level: str, shown: bool) -> None:
    """R07: a debug line of a feed actor shows at debug and not at info, under its own sub-package's name."""
    config = f'[log]\nlevel = "{level}"\nformat = "json"\n{ONE_FEED}'
    with running(tmp_path, config) as daemon:
        daemon.stop()
        import json

        lines = [json.loads(line) for line in daemon.log.splitlines() if line.startswith("{")]
        debug = {line["logger"] for line in lines if line["level"] == "debug"}
        assert any(name.startswith("marketd.feed") for name in debug) is shown
        assert any(name.startswith("marketd.gateway") for name in debug) is shown
        assert any(line["logger"].startswith("marketd.supervise") and line["level"] == "info" for line in lines)


@pytest.mark.parametrize("segment", ["ring", "table", "bells"])
def test_segments_and_socket_are_the_users_own(tmp_path: Path, segment: str) -> None:
    with running(tmp_path, ONE_FEED) as daemon:
        assert daemon.paths.segment("sim", segment).stat().st_mode & 0o777 == 0o600
        assert daemon.paths.socket.stat().st_mode & 0o777 == 0o600
        assert daemon.paths.runtime.stat().st_mode & 0o777 == 0o700


def test_process_that_reads_a_ring_and_exits_unlinks_nothing_and_prints_nothing(tmp_path: Path) -> None:
    """R27: no resource tracker, no warning at exit."""
    with running(tmp_path, ONE_FEED) as daemon:
        ring = daemon.paths.segment("sim", "ring")
        code = (
            "import sys; from pathlib import Path; from marketd.ring.reader import RingReader;"
            "r = RingReader(Path(sys.argv[1]), cursor=0); print(r.epoch > 0)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(ring)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "True"
        assert done.stderr == ""
        assert ring.exists()
        with connect(daemon.address) as md:
            assert md.status().ready


def test_daemon_without_any_feed_starts_and_serves(tmp_path: Path) -> None:
    """R11: neither a store nor real-time quotes are needed to start and answer."""
    with running(tmp_path, "feeds = {}\n") as daemon, connect(daemon.address) as md:
        assert md.status().feeds == []
        assert list(md.search("btc")) == []


def test_idle_actors_import_only_what_they_use(tmp_path: Path) -> None:
    """Heavy libraries cost memory in every process that imports them."""
    with running(tmp_path, ONE_FEED) as daemon:
        for name, pid in daemon.pids().items():
            mapped = Path(f"/proc/{pid}/maps").read_text()
            for library in ("llvmlite", "polars", "pyarrow"):
                assert library not in mapped, f"{name} has {library} in memory"


def test_full_shared_memory_is_said_before_anything_starts(tmp_path: Path) -> None:
    config = '[feeds.sim]\nbackend = "sim"\n'
    with small_disk(tmp_path / "shm", 4) as disk, running(tmp_path, config, wait=False, shm=disk.folder) as daemon:
        assert daemon.process.wait(20) not in (0, None)
        assert "feed sim needs 92,286,976 bytes in /dev/shm, and 4,194,304 are free" in daemon.log
        assert "Traceback" not in daemon.log
        assert list(disk.folder.iterdir()) == []


def _sum_rows(daemon: Daemon) -> int:
    with contextlib.closing(connect(daemon.address)) as md:
        return sum(feed.cursor for feed in md.status().feeds)


def test_status_counts_every_row_of_the_ring(tmp_path: Path) -> None:
    config = ONE_FEED.replace("rate_hz = 200", "rate_hz = 200\noutages = [{ after_s = 1.0, for_s = 300.0 }]")
    with running(tmp_path, config) as daemon:
        with connect(daemon.address) as md:
            # In the outage the numbers stand still, so that the report of the last pulse can be compared exactly.
            before = wait_for(lambda: _stands_still(daemon), 15, "the outage")
            feed = md.status().feeds[0]
        assert before
        assert sum(feed.rows_by_kind.values()) == feed.cursor > 100
        assert np.isclose(feed.last_received_ns, feed.last_event_ns, atol=5e9, rtol=0)


def _stands_still(daemon: Daemon) -> int:
    first = _sum_rows(daemon)
    time.sleep(0.6)  # two pulses: this is the interval to be observed, not a wait for something
    return first if first == _sum_rows(daemon) else 0

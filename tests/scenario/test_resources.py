"""What runs out on a real machine: disk, shared memory, descriptors. Data goes on, it is said, and it passes.

The faults are real: small file systems that are full or read-only, limits of running processes.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Collection
from pathlib import Path

import numpy as np
import polars as pl
import psutil

from marketd.client import Client, ConnectionLost, connect
from storage.client import open_storage_client
from storage.coverage import State
from tests.scenario.daemon import Daemon, running, wait_for
from tests.scenario.disk import small_disk

CONFIG = """
[gateway]
listen = ["127.0.0.1:0"]
http = ["127.0.0.1:0"]
[bars]
periods = ["1s"]
[history]
store = "{store}"
periods = ["1s"]
flush_s = 0.3
verify_every_s = 0
record_ticks = ["*"]
[feeds.sim]
backend = "sim"
instruments = ["btc/usdt", "eth/usdt"]
"""
NAMES = ("btc/usdt.spot.sim", "eth/usdt.spot.sim")
BTC = NAMES[0]
KINDS = ("trade", "quote")
IN_TIME_S = 30.0


class Witness:
    """A lossless client that keeps the cursors of what it gets, on a thread of its own.

    Attributes:
        cursors: by name and kind.
        gaps: how many gap rows came.
        over: why its stream ended.
    """

    def __init__(self, address: str) -> None:
        self.cursors: dict[tuple[str, str], list[np.ndarray]] = {}
        self.rows = self.gaps = 0
        self.over = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address,), daemon=True)

    def _run(self, address: str) -> None:
        with connect(address, reconnect=False) as md, md.subscribe(["*"], kinds=list(KINDS)) as stream:
            try:
                for frame in stream:
                    if frame.kind in KINDS:
                        for number in np.unique(frame.rows["instrument"]).tolist():
                            mine = frame.rows[frame.rows["instrument"] == number]
                            self.cursors.setdefault((frame.fqme(number), frame.kind), []).append(mine["cursor"])
                        self.rows += len(frame.rows)
                    elif frame.kind == "gap":
                        self.gaps += len(frame.rows)
                    if self._stop.is_set():
                        return
            except ConnectionLost as error:
                self.over = str(error)

    def __enter__(self) -> Witness:
        self._thread.start()
        self.wait_for_more(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def wait_for_more(self, rows: int = 50) -> None:
        """Wait for so many rows: the stream goes on."""
        until = self.rows + rows
        wait_for(lambda: self.rows >= until, IN_TIME_S, f"rows after these {self.rows}: {self.over}")

    def seen(self, name: str, kind: str) -> np.ndarray:
        """All cursors of an instrument's rows of a kind."""
        return np.concatenate(self.cursors[name, kind])


def troubles(md: Client) -> dict[str, str]:
    history = md.status().history
    return {} if history is None else history.trouble


def metric(daemon: Daemon, line: str) -> bool:
    """Whether the metrics have this line."""
    address = next(address for address in daemon.addresses if address.startswith("http://"))
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
        return line in answer.read().decode().splitlines()


def check_ticks(md: Client, witness: Witness) -> None:
    """Hold all ticks that are held against what a lossless client got, and what is said of them."""
    for name, kind in witness.cursors:
        seen = witness.seen(name, kind)
        assert (np.diff(seen) > 0).all()

        def held(name: str = name, kind: str = kind) -> pl.DataFrame:
            return md.tick_history(name, kind).to_polars()  # type: ignore[arg-type]

        wait_for(lambda held=held, last=int(seen[-1]): held()["cursor"].max() >= last, IN_TIME_S, "all ticks")
        found = held().filter(pl.col("cursor").is_between(int(seen[0]), int(seen[-1])))
        np.testing.assert_array_equal(np.sort(found["cursor"].to_numpy()), seen, err_msg=f"{name} {kind}")
        assert md.tick_history(name, kind).missing == {}  # type: ignore[arg-type]
    assert witness.gaps == 0


def check_bars(store: Path, since_ns: int) -> None:
    """Hold what is said of the stored bars against the bars, from a time on."""
    with open_storage_client(store) as opened:
        for series in opened.series():
            if series.what != "1s":
                continue
            [*others, span] = [s for s in opened.coverage(series) if s.end_ns > since_ns]
            assert not others, f"not whole: {others}"
            assert span.state is State.COMPLETE, span


def check_store(store: Path, names: Collection[str] = NAMES) -> None:
    """Nothing that is stored is damaged."""
    assert not (store / "quarantine").exists()
    with open_storage_client(store) as opened:
        found = opened.series()
        assert {series.fqme for series in found} == set(names)
        for series in found:
            assert opened.check(series) == []


def test_a_full_disk_stops_no_stream_and_costs_no_row(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16) as disk:
        store = disk.folder / "store"
        with running(tmp_path, CONFIG.format(store=store)) as daemon, connect(daemon.address) as md:
            with Witness(daemon.address) as witness:
                wait_for(lambda: list(store.rglob("1s/*.parquet")), IN_TIME_S, "bars on the disk")
                began_ns = time.time_ns()
                disk.fill()
                wait_for(lambda: "log of ticks" in troubles(md).get("sim", ""), IN_TIME_S, "word of it")
                assert "No space left on device" in troubles(md)["sim"]
                assert metric(daemon, 'marketd_history_trouble{feed="sim"} 1.0')
                assert "ticks.not_written" in daemon.log
                wait_for(lambda: "history.not_written" in daemon.log, IN_TIME_S, "word of the bars")
                witness.wait_for_more()
                pids = daemon.pids()
                disk.free()
                wait_for(lambda: not troubles(md), IN_TIME_S, "an end of it")
                assert not metric(daemon, 'marketd_history_trouble{feed="sim"} 1.0')
                for event in ("ticks.written_again", "history.written_again"):
                    wait_for(lambda event=event: event in daemon.log, IN_TIME_S, event)
                witness.wait_for_more()
                assert daemon.pids() == pids, "an actor was replaced"
            check_ticks(md, witness)
            daemon.stop()
            check_bars(store, began_ns)
            check_store(store)
            assert daemon.log.count("not_written") == 2, "told again and again"


def kill_history(daemon: Daemon) -> None:
    process = psutil.Process(daemon.pids()["history"])
    process.kill()
    psutil.wait_procs([process], 10)


def test_a_store_that_is_read_only_stops_no_stream_and_is_written_to_as_soon_as_it_can_be(tmp_path: Path) -> None:
    """At the start; and again later, for which the log's writer has to go: a file that is open keeps a disk open."""
    with small_disk(tmp_path / "disk", 16) as disk:
        disk.set_read_only(True)
        store = disk.folder / "store"
        with running(tmp_path, CONFIG.format(store=store)) as daemon, connect(daemon.address) as md:
            with Witness(daemon.address) as witness:
                for times in (1, 2):
                    wait_for(lambda: "log of ticks" in troubles(md).get("sim", ""), IN_TIME_S, "word of it")
                    wait_for(lambda: "Read-only file system" in troubles(md)["sim"], IN_TIME_S, "the reason")
                    wait_for(lambda n=times: daemon.log.count("history.not_written") == n, IN_TIME_S, "of the bars")
                    assert metric(daemon, 'marketd_history_trouble{feed="sim"} 1.0')
                    witness.wait_for_more()
                    pids = daemon.pids()
                    disk.set_read_only(False)
                    wait_for(lambda: not troubles(md), IN_TIME_S, "an end of it")
                    assert daemon.pids() == pids, "an actor was replaced"
                    witness.wait_for_more()
                    if times == 1:
                        wait_for(lambda: list(store.rglob("1s/*.parquet")), IN_TIME_S, "bars on the disk")
                        kill_history(daemon)
                        disk.set_read_only(True)
            check_ticks(md, witness)
            daemon.stop()
            assert daemon.log.count("ticks.written_again") == 2
            check_store(store)

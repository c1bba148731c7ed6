"""Ticks that are stored, by the whole daemon: nothing between ring, log and parquet is lost or doubled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from marketd.client import Client, TicksMissing, connect
from marketd.client.errors import RequestError
from tests.scenario.daemon import Daemon, running, wait_for

CONFIG = """
[history]
periods = []
flush_s = 0.3
record_ticks = ["btc/*", "eth/usdt.spot.sim"]
[feeds.sim]
backend = "sim"
instruments = ["btc/usdt", "eth/usdt", "sol/usdt"]
"""
BTC, SOL = "btc/usdt.spot.sim", "sol/usdt.spot.sim"


class Witness:
    """A lossless client that keeps what it gets, on a thread of its own."""

    def __init__(self, address: str) -> None:
        self.frames: list[tuple[str, np.ndarray]] = []
        self._stop = threading.Event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address,))

    def _run(self, address: str) -> None:
        with connect(address) as md, md.subscribe([BTC], kinds=["trade", "quote"]) as stream:
            self._begun.set()
            for frame in stream:
                if self._stop.is_set():
                    return
                if frame.kind in ("trade", "quote"):
                    self.frames.append((frame.kind, frame.rows))

    def __enter__(self) -> Witness:
        self._thread.start()
        assert self._begun.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def rows(self, kind: str) -> np.ndarray:
        return np.concatenate([rows for each, rows in self.frames if each == kind])


def ticks(md: Client, kind: str = "trade", **more: object) -> pl.DataFrame:
    return md.tick_history(BTC, kind, **more).to_polars()  # type: ignore[arg-type]


def kill_history(daemon: Daemon) -> None:
    pid = daemon.pids()["history"]
    os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        with contextlib.suppress(KeyError):
            return daemon.pids()["history"] != pid
        return False

    wait_for(replaced, 20, "another history manager")


def test_stored_ticks_are_what_a_lossless_client_gets_whatever_is_killed(tmp_path: Path) -> None:
    """C2, C3: the history manager is killed twice; its successors go on in the ring, and put the log into parquet."""
    with running(tmp_path, CONFIG) as daemon:
        with Witness(daemon.address) as witness, connect(daemon.address) as md:
            for _ in range(2):
                wait_for(lambda: len(witness.frames) > 20, 20, "ticks")
                time.sleep(0.5)  # some of them on their way to the log
                kill_history(daemon)
                witness_had = len(witness.frames)
                wait_for(lambda had=witness_had: len(witness.frames) > had + 20, 20, "more ticks")
            parquet = daemon.paths.store / "sim"
            wait_for(lambda: list(parquet.rglob("trade/*.parquet")), 20, "the log to be put into parquet files")
        with connect(daemon.address) as md:
            for kind in ("trade", "quote"):
                seen = witness.rows(kind)
                wait_for(
                    lambda kind=kind, seen=seen: ticks(md, kind)["cursor"].max() >= int(seen["cursor"].max()), 10, "all"
                )
                found = ticks(md, kind)
                assert found["cursor"].is_unique().all()
                assert found["event_ns"].is_sorted()
                mine = found.filter(pl.col("cursor").is_between(int(seen["cursor"].min()), int(seen["cursor"].max())))
                mine = mine.sort("cursor")
                values = ("price", "size", "side") if kind == "trade" else ("bid", "bid_size", "ask", "ask_size")
                for name in ("cursor", "event_ns", "received_ns", "sequence", "flags", *values):
                    np.testing.assert_array_equal(mine[name].to_numpy(), seen[name], err_msg=f"{kind} {name}")
            history = md.tick_history(BTC)
            assert history.missing == {}, "somebody says that there may be more"
            recorded_until = history.series[0].complete_until_ns
        # A day's last words: what is read after a whole stop and start, and what is known to be missing between them.
        before = found.height
        daemon.stop()
    with running(tmp_path, CONFIG, instance=daemon.instance) as again, connect(again.address) as md:
        wait_for(lambda: ticks(md, "quote").height > before + 5, 20, "the old ticks and new ones")
        wait_for(lambda: not list((again.paths.store / "log").rglob("00000001.ticks")), 20, "the old log to be filed")
        [gap] = md.tick_history(BTC, "quote").missing[BTC]
        assert gap[0] >= recorded_until - 10**9
        assert gap[0] < gap[1] <= time.time_ns()
        with pytest.warns(TicksMissing, match=f"{BTC} quote: some may be missing from "):
            assert md.ticks([BTC], "quote", limit=3).height == 3


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("ticks"), CONFIG) as daemon:
        yield daemon


def test_ticks_that_are_not_stored_come_from_the_ring(daemon: Daemon) -> None:
    with connect(daemon.address) as md:
        wait_for(lambda: md.tick_history(SOL, "quote").series[0].rows > 20, 20, "ticks")
        newest = md.tick_history(SOL, "quote", limit=5)
        oldest = md.tick_history(SOL, "quote", limit=5, order="oldest")
        assert (newest.series[0].rows, newest.series[0].limited) == (5, True)
        assert oldest.to_polars()["event_ns"].max() < newest.to_polars()["event_ns"].min()
        part = md.tick_history(SOL, "quote", start=int(newest.to_polars()["event_ns"][0]), columns=["bid", "ask"])
        assert part.to_polars().columns == ["bid", "ask"]
        with pytest.raises(RequestError, match="nothing is held of nope/usd"):
            md.tick_history("nope/usd.spot.sim")
        with pytest.raises(RequestError, match="there is no column 'vwap'"):
            md.tick_history(SOL, columns=["vwap"])
    assert not (daemon.paths.store / "sim" / "sol%2Fusdt.spot.sim").exists()


def marketd(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "marketd", *arguments], capture_output=True, text=True)


def test_command_prints_and_writes_ticks(daemon: Daemon, tmp_path: Path) -> None:
    with connect(daemon.address) as md:
        wait_for(lambda: md.tick_history(BTC).series[0].rows > 5, 20, "trades")
    at = ("--address", daemon.address)
    shown = marketd("ticks", BTC, "--last", "3", *at)
    assert shown.stdout.splitlines()[0].split() == ["event", "side", "price", "size"]
    assert len(shown.stdout.splitlines()) == 4
    assert len(marketd("ticks", BTC, "--first", "2", "--json", *at).stdout.splitlines()) == 2
    path = tmp_path / "quotes.parquet"
    assert marketd("ticks", "*.sim", "--kind", "quote", "-o", str(path), *at).returncode == 0
    assert set(pl.read_parquet(path)["instrument"].cast(pl.String)) == {BTC, "eth/usdt.spot.sim", SOL}
    for arguments, said in (
        (("--kind", "level"), "--kind level: it is trade or quote"),
        (("-o", "x.xls"), "-o x.xls: its name ends in none of .csv"),
        (("--first", "1", "--last", "1"), "--first and --last exclude each other"),
        (("-o", "/nowhere/x.csv"), "can't write /nowhere/x.csv"),
    ):
        done = marketd("ticks", BTC, *arguments, *at)
        assert done.returncode in (1, 2)
        assert said in done.stderr

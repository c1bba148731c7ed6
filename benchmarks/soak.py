"""An accelerated soak: a day's traffic in minutes, through the whole daemon, and whether anything grew or was lost.

    python -m benchmarks.soak [--json] [--minutes 29] [--rate-hz 10000] [--keep FOLDER]

24 hours of an ordinary day (200 ticks a second) are 17.3 million ticks: 29 minutes at 10,000 a second. Everything is
real and a process of its own: `marketd run` on the simulated venue, with bars, history and recorded ticks; and clients:
one of each contract, one that is too slow, one that comes back by its token again and again, one of bars.

Every two seconds it looks at each process: its private memory (RSS less what is shared, as a ring is), descriptors,
threads. Then the venue goes away, all clients come to the ring's end, and the counters must add up:

    received = published = read by the sampler; and for every client: rows + rows told as lost = the cursors' range

Ends with status 1 and a sentence for each counter that does not, and for each process that has grown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from marketd.client import Client, Frame, Stream, connect
from marketd.model import GapReason
from marketd.rpc.messages import Position, StatusResult
from tests.scenario.daemon import Daemon, running, wait_for

FEED = "sim"
RECORDED = "btc/usdt.spot.sim"
NORMAL_HZ = 200  # of an ordinary day
FILE_TICKS_S = 600.0  # of an ordinary day
CONFIG = """
[ring]
rows = 1048576
[bars]
periods = ["1s", "1m"]
[history]
periods = ["1m"]
flush_s = 1.0
file_ticks_s = {file_ticks_s}
replay_mib = 64
record_ticks = ["{recorded}"]
[feeds.{feed}]
backend = "sim"
instruments = 8
rate_hz = {rate_hz}
outages = [{{after_s = {after_s}, for_s = 3600}}]
"""
SAMPLE_S = 2.0
WARM_UP_PART = 0.3  # of the time: caches, pools and the first files of the log
START_S = 40.0  # for the clients to begin; the traffic goes on all the while
DRAIN_S = 120.0
GROWTH_BYTES_MAX = 8 << 20  # after the warm-up; less can't be told from an allocator's mood
DESCRIPTORS_MAX = 4  # more than before: some are open for a moment
MIB = 1 << 20
HOUR_S = 3600.0

context = multiprocessing.get_context("spawn")


class Plan(NamedTuple):
    """A client: what it asks for, and how it behaves."""

    name: str
    contract: str = "lossless"
    kinds: tuple[str, ...] = ("trade", "quote")
    read_s: float = 0.0  # so long it reads at a time; 0: always
    away_s: float = 0.0  # so long it does nothing then
    hangs_up: bool = False  # meanwhile it is not connected


PLANS = (
    Plan("lossless"),
    Plan("frames", "frames"),
    Plan("trade_safe", "trade_safe"),
    Plan("latest", "latest"),
    Plan("slow", read_s=0.2, away_s=60.0),
    Plan("resuming", read_s=1.5, away_s=0.2, hangs_up=True),
    Plan("bars", kinds=("bar.1s", "bar.1m", "index.1s", "index.1m")),
)


def main() -> None:
    """Run, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a process and a client")
    parser.add_argument("--minutes", type=float, default=29.0, help="of traffic (default: %(default)s)")
    parser.add_argument("--rate-hz", type=int, default=10_000, help="ticks a second (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="keep the daemon's folder here, with its log")
    options = parser.parse_args()
    if options.minutes < 0.5:
        parser.error("--minutes is at least 0.5: there would be nothing to see")
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        soak = run(folder, options.minutes * 60, options.rate_hz)
    print(soak.as_json() if options.json else soak.as_text())
    if complaints := soak.complaints():
        sys.exit("\n".join(complaints))


# --- what was measured --------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """One look at a process."""

    at_s: float
    pid: int
    private_bytes: int
    rss_bytes: int
    descriptors: int
    threads: int


class Trend(NamedTuple):
    """What a process's samples come to, once it was warm. ``error``: of the slope, if residuals were independent."""

    name: str
    begin_mib: float
    end_mib: float
    rss_mib: float
    slope_mib_h: float
    error_mib_h: float
    growth_mib: float  # along the line
    descriptors: tuple[int, int]
    threads: tuple[int, int]


def trend_of(name: str, samples: list[Sample]) -> Trend:
    """Fit a line; first and last are medians of a tenth, as a single look may hit a descriptor of a moment."""
    at_s = np.array([sample.at_s for sample in samples])
    private = np.array([sample.private_bytes for sample in samples]) / MIB
    (slope, _), covariance = np.polyfit(at_s, private, 1, cov="unscaled")
    residual = private - np.polyval(np.polyfit(at_s, private, 1), at_s)
    error = float(np.sqrt(covariance[0, 0] * np.sum(residual**2) / max(1, len(at_s) - 2)))
    edge = max(1, len(samples) // 10)

    def ends(values: list[float]) -> tuple[float, float]:
        return float(np.median(values[:edge])), float(np.median(values[-edge:]))

    begin_mib, end_mib = ends(list(private))
    descriptors = ends([sample.descriptors for sample in samples])
    threads = ends([sample.threads for sample in samples])
    return Trend(
        name,
        begin_mib,
        end_mib,
        samples[-1].rss_bytes / MIB,
        float(slope) * HOUR_S,
        error * HOUR_S,
        float(slope) * float(at_s[-1] - at_s[0]),
        (round(descriptors[0]), round(descriptors[1])),
        (round(threads[0]), round(threads[1])),
    )


@dataclass
class ClientReport:
    """What a client has had. ``first`` and ``last``: the cursors it was told of, rows or lost; by all but ``latest``
    each once.
    """

    name: str = ""
    rows: int = 0
    trades: int = 0
    lost: int = 0
    first: int = 0
    last: int = 0
    astray: int = 0  # cursors told twice or not at all
    connections: int = 0
    recorded_trades: int = 0
    newest: dict[int, int] = field(default_factory=dict)  # cursor of each instrument's newest quote

    def take(self, frame: Frame, *, merged: bool) -> None:
        """Count a frame."""
        if not frame.epoch:
            return  # news of the connection
        self.first = self.first or frame.cursor_first
        if frame.kind == "gap":
            told = frame.rows["reason"] == GapReason.LAPPED
            self.lost += int(frame.rows["lost"][told].sum())
            self.rows += int(np.count_nonzero(~told))  # a row of the venue's
        else:
            self.rows += len(frame)
        if frame.kind == "trade":
            self.trades += len(frame)
            self.recorded_trades += int(np.count_nonzero(frame.rows["instrument"] == 1))
        if frame.kind == "quote":
            self.newest |= dict(zip(frame.rows["instrument"].tolist(), frame.rows["cursor"].tolist(), strict=True))
        if not merged:
            self.astray += abs(frame.cursor_first - self.last - 1) if self.last else 0
        self.last = max(self.last, frame.cursor_last)


@dataclass
class Soak:
    """All of a run."""

    seconds: float
    load: float
    trends: list[Trend]
    clients: dict[str, ClientReport]
    status: StatusResult
    recorded: int
    recorded_lapped: bool

    def complaints(self) -> list[str]:
        """What should not be, in sentences."""
        return [*self._grown(), *self._miscounted(), *self._mistold()]

    def _grown(self) -> Iterator[str]:
        for trend in self.trends:
            if trend.growth_mib > GROWTH_BYTES_MAX / MIB and trend.slope_mib_h > 3 * trend.error_mib_h:
                yield f"{trend.name} has grown by {trend.growth_mib:.1f} MiB: {trend.slope_mib_h:.1f} MiB/h"
            before, after = trend.descriptors
            if after > before + DESCRIPTORS_MAX:
                yield f"{trend.name} had {before} descriptors and has {after}"

    def _miscounted(self) -> Iterator[str]:
        (feed,) = self.status.feeds
        ticks = feed.rows_by_kind["trade"] + feed.rows_by_kind["quote"]
        if sum(feed.messages.values()) != ticks:
            yield f"{sum(feed.messages.values()):,} messages were received and {ticks:,} ticks published"
        if sum(feed.rows_by_kind.values()) != feed.cursor:
            yield f"{sum(feed.rows_by_kind.values()):,} rows were published and the ring's cursor is {feed.cursor:,}"
        if feed.bars["rows"] + feed.bars["lapped"] != feed.cursor:
            yield f"the sampler has had {feed.bars['rows']:,} rows and lost {feed.bars['lapped']:,} of {feed.cursor:,}"
        restarted = [actor.name for actor in self.status.actors if actor.restarts]
        if restarted:
            yield f"restarted: {', '.join(restarted)}"
        lossless = self.clients["lossless"]
        if not lossless.lost and not self.recorded_lapped and self.recorded != lossless.recorded_trades:
            yield f"{lossless.recorded_trades:,} trades of {RECORDED} came and {self.recorded:,} were recorded"

    def _mistold(self) -> Iterator[str]:
        (feed,) = self.status.feeds
        for name, client in self.clients.items():
            if name in ("lossless", "frames", "slow", "resuming", "bars"):
                told = client.rows + client.lost
                if client.astray or told != client.last - client.first + 1:
                    yield (
                        f"{name} has had {client.rows:,} rows and was told of {client.lost:,} lost in "
                        f"{client.first:,} to {client.last:,}; {client.astray:,} cursors came twice or never"
                    )
            if name != "bars" and client.last != feed.cursor:
                yield f"{name} was told of cursors up to {client.last:,} of {feed.cursor:,}"
        safe, trades = self.clients["trade_safe"], feed.rows_by_kind["trade"]
        if not trades - safe.lost <= safe.trades <= trades:
            yield f"trade_safe has had {safe.trades:,} trades of {trades:,}, with {safe.lost:,} rows lost"
        if self.clients["latest"].newest != self.clients["lossless"].newest:
            yield "the last quotes of latest are not those of lossless"
        sent = {client.name: client for client in self.status.clients}
        for name in ("lossless", "bars"):
            if name in sent and sent[name].connected_s > self.seconds - START_S:  # and was never made again
                had = (self.clients[name].rows, self.clients[name].lost)
                if had != (sent[name].rows_sent, sent[name].lost):
                    yield f"{name} has had {had[0]:,} rows and lost {had[1]:,}; the status says {sent[name]}"
        told_lost = sum(client.lost for client in self.clients.values())
        if self.status.served.rows_lost < told_lost:
            yield f"clients were told of {told_lost:,} lost rows; the status says {self.status.served.rows_lost:,}"

    def as_json(self) -> str:
        """One object a line."""
        lines = [trend._asdict() for trend in self.trends]
        lines += [{key: value for key, value in vars(c).items() if key != "newest"} for c in self.clients.values()]
        return "\n".join(json.dumps(line) for line in lines)

    def as_text(self) -> str:
        """Two tables and a sentence."""
        (feed,) = self.status.feeds
        ticks = feed.rows_by_kind["trade"] + feed.rows_by_kind["quote"]
        lines = [
            (
                f"{ticks:,} ticks in {self.seconds / 60:.1f} minutes: {ticks / NORMAL_HZ / HOUR_S:.1f} hours of "
                f"{NORMAL_HZ} a second. Load of the machine at the end: {self.load:.1f}"
            ),
            "",
            (
                f"{'process':22}{'MiB, warm':>11}{'at the end':>12}{'RSS':>8}{'MiB/h':>9}{'+-':>7}"
                f"{'descriptors':>14}{'threads':>10}"
            ),
        ]
        lines += [
            f"{t.name:22}{t.begin_mib:11.1f}{t.end_mib:12.1f}{t.rss_mib:8.1f}{t.slope_mib_h:9.2f}{t.error_mib_h:7.2f}"
            f"{t.descriptors[0]:8} {t.descriptors[1]:5}{t.threads[0]:6} {t.threads[1]:3}"
            for t in self.trends
        ]
        lines += ["", f"{'client':22}{'rows':>14}{'trades':>12}{'told as lost':>14}{'cursors':>14}{'connections':>13}"]
        lines += [
            f"{c.name:22}{c.rows:14,}{c.trades:12,}{c.lost:14,}{c.last - c.first + 1:14,}{c.connections:13,}"
            for c in self.clients.values()
        ]
        messages = sum(feed.messages.values())
        counts = (
            f"received {messages:,} = ticks published {ticks:,}; ring's cursor {feed.cursor:,}; the sampler has read "
            f"{feed.bars['rows']:,} and lost {feed.bars['lapped']:,}; recorded {self.recorded:,} trades of {RECORDED}"
        )
        lines += ["", counts]
        return "\n".join(lines)


# --- the run ------------------------------------------------------------------------------------------------------


def run(folder: Path, seconds: float, rate_hz: int) -> Soak:
    """Let it soak."""
    config = CONFIG.format(
        feed=FEED,
        recorded=RECORDED,
        rate_hz=rate_hz,
        after_s=START_S + seconds,
        file_ticks_s=max(1.0, FILE_TICKS_S * NORMAL_HZ / rate_hz),  # as often in the day as on an ordinary one
    )
    with running(folder, config) as daemon, contextlib.ExitStack() as stack:
        began_s = time.monotonic()
        pipes, pids = {}, daemon.pids()
        for plan in PLANS:
            pids[f"client {plan.name}"], pipes[plan.name] = stack.enter_context(client_process(daemon.address, plan))
        for plan in PLANS:
            assert pipes[plan.name].poll(START_S), f"client {plan.name} does not begin"
            pipes[plan.name].recv()
        samples: dict[str, list[Sample]] = {name: [] for name in pids}
        while (at_s := time.monotonic() - began_s) < START_S + seconds - SAMPLE_S:
            for name, pid in pids.items():
                if (sample := look(at_s, pid)) is not None:
                    samples[name].append(sample)
            time.sleep(SAMPLE_S)
        warm_s = START_S + WARM_UP_PART * seconds
        trends = [trend_of(name, [one for one in those if one.at_s >= warm_s]) for name, those in samples.items()]
        load = os.getloadavg()[0]
        cursor = wait_silent(daemon)
        for pipe in pipes.values():
            pipe.send(cursor)
        clients = {}
        with connect(daemon.address) as md:
            for name, pipe in pipes.items():
                assert pipe.poll(DRAIN_S), f"client {name} does not come to the end of the ring:\n{daemon.log[-4000:]}"
                clients[name] = pipe.recv()
            wait_for(lambda: sampled(md) == cursor, DRAIN_S, "the sampler to have read everything")
            status = md.status()
        recorded = count_recorded(daemon, clients["lossless"].recorded_trades)
        for pipe in pipes.values():
            pipe.send("end")
        return Soak(START_S + seconds, load, trends, clients, status, recorded, "ticks.lapped" in daemon.log)


def look(at_s: float, pid: int) -> Sample | None:
    """Look at a process; None: it was replaced meanwhile, which is another complaint."""
    try:
        process = psutil.Process(pid)
        memory = process.memory_info()
        return Sample(
            at_s, pid, memory.rss - memory.shared, memory.rss, process.num_fds(), process.num_threads()
        )  # fmt: skip
    except psutil.NoSuchProcess:
        return None


def wait_silent(daemon: Daemon) -> int:
    """Wait until the venue is away, and return the ring's last cursor."""
    with connect(daemon.address) as md:
        cursors = [-1]

        def steady() -> bool:
            cursors.append(md.status().feeds[0].cursor)
            return cursors[-1] == cursors[-2]

        wait_for(steady, DRAIN_S, "the last row", every_s=2.0)
        return cursors[-1]


def sampled(md: Client) -> int:
    """Return how far the sampler is."""
    bars = md.status().feeds[0].bars
    return bars["rows"] + bars["lapped"]


def count_recorded(daemon: Daemon, expected: int) -> int:
    """Count the trades that are stored, when they are as many as came or in the end."""
    with connect(daemon.address) as md:

        def count() -> int:
            answer = md.tick_history(RECORDED, "trade", start=0, columns=["cursor"], timeout_s=DRAIN_S)
            return len(answer.to_polars()["cursor"].unique())

        with contextlib.suppress(AssertionError):
            wait_for(lambda: count() == expected, 15, "the recorded ticks", every_s=2.0)
        return count()


# --- a client -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def client_process(address: str, plan: Plan) -> Iterator[tuple[int, Pipe]]:
    """Run a client; give its process and the pipe to it."""
    here, there = context.Pipe()
    process = context.Process(target=run_client, args=(address, plan, there), daemon=True)
    process.start()
    try:
        assert process.pid is not None
        yield process.pid, here
    finally:
        process.kill()
        process.join()


def run_client(address: str, plan: Plan, pipe: Pipe) -> None:
    """Count a stream from the ring's first row on, until told where it ends."""
    report, resume = ClientReport(plan.name), None
    until = 0
    while True:
        with connect(address, client=plan.name, buffer_bytes=MIB) as md:
            report.connections += 1
            if resume is None:
                resume = {FEED: Position(md.status().feeds[0].epoch, 0)} if plan.name != "bars" else {}
                pipe.send("begun")
            with md.subscribe(["*.sim"], kinds=plan.kinds, contract=plan.contract, resume=resume) as stream:  # type: ignore[arg-type]
                until = read(stream, plan, pipe, report, until)
                resume = stream.positions
            if until and (report.last >= until or plan.name == "bars"):
                pipe.send(report)
                pipe.recv()  # connected, so that the status has its counts too
                return
        time.sleep(plan.away_s)


def read(stream: Stream, plan: Plan, pipe: Pipe, report: ClientReport, until: int) -> int:
    """Read until the end, or until it is time to hang up; return the end, if it is known."""
    merged = plan.contract in ("trade_safe", "latest", "frames")
    pause_s = time.monotonic() + plan.read_s
    while True:
        frame: Any = stream.wait_next(0.2)
        if frame is not None:
            report.take(frame, merged=merged)
        if not until and pipe.poll():
            until = pipe.recv()
        if until and (report.last >= until or plan.name == "bars") and frame is None:
            return until
        if plan.read_s and not until and time.monotonic() > pause_s:
            if plan.hangs_up:
                return until
            time.sleep(plan.away_s)
            pause_s = time.monotonic() + plan.read_s


if __name__ == "__main__":
    main()

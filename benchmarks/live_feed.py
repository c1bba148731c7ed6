"""One live feed for a minute: 1,000 instruments, 20,000 messages a second, from the venue's socket to a client.

    python -m benchmarks.live_feed [--json] [--seconds 60] [--instruments 1000] [--rate 20000]

Everything real, each a process of its own: `marketd testvenue` with Binance's futures, `marketd run` with one feed on
both of their addresses, a client with a lossless stream from the ring's first row on. After the last second the venue
falls silent, and its own counts, the ring's rows and the client's rows must be the same number. Lag is from the venue's
event time, which is in whole milliseconds and sent in steps of ten, to our receive time (`feed`) and to the client's
hands (`client`); and between these two (`inside`), which is all ours.

The baseline, a quarter as long on the same venue before the daemon starts: trio-websocket and msgspec, each message
decoded and packed into a ring, and nothing else.
Ends with status 1 and a sentence when a message was lost, or when the lag has grown.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import trio

from benchmarks.report import Figure, report
from marketd.client import connect
from marketd.rpc.messages import FeedStatus, Position
from tests.scenario.daemon import Daemon, running, wait_for

VENUE = "binance-futures"
FEED = "binance"
CONFIG = """
[feeds.{feed}]
backend = "binance"
market = "usdm"
instruments = ["*.binance"]
ws_url = "{ws_url}"
rest_url = "{rest_url}"
"""
SETTLE_S = 2.0  # after the subscriptions, before the first figure
EDGE_S_MAX = 10.0  # of the first and the last window of lags
DRAIN_S = 15.0
START_S = 60.0
LAG_GROWTH_MS_MAX = 50.0  # of the median; more than a busy machine makes in a minute
RING_ROWS = 1 << 16
SUBSCRIBE_CHUNK = 200
SUBSCRIBE_EVERY_S = 0.15  # the venue allows ten messages a second
MIB = 1 << 20
MILLISECOND_NS = 10**6
NS = 10**9

PLACES = ("feed", "client", "inside")

context = multiprocessing.get_context("spawn")


def main() -> None:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--instruments", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=20_000.0, help="messages a second over all instruments")
    options = parser.parse_args()
    with venue_process(options.instruments, options.rate) as venue:
        bare = measure_bare(venue, options.seconds / 4)
        venue.post("reset")
        live = measure_live(venue, options.instruments, options.seconds)
    report(figures_of(live, bare, options.rate), json=options.json)
    complaints = live.complaints()
    if complaints:
        sys.exit("\n".join(complaints))


# --- what was measured --------------------------------------------------------------------------------------------


@dataclass
class Lags:
    """Milliseconds, one for each row; see the module for what is between what."""

    feed: list[np.ndarray] = field(default_factory=list)
    client: list[np.ndarray] = field(default_factory=list)
    inside: list[np.ndarray] = field(default_factory=list)

    def add(self, rows: np.ndarray, now_ns: int) -> None:
        """Note rows that the client has now."""
        event_ns, received_ns = rows["event_ns"], rows["received_ns"]
        self.feed.append(((received_ns - event_ns) / MILLISECOND_NS).astype(np.float32))
        self.client.append(((now_ns - event_ns) / MILLISECOND_NS).astype(np.float32))
        self.inside.append(((now_ns - received_ns) / MILLISECOND_NS).astype(np.float32))

    def percentiles(self) -> dict[str, tuple[float, float]]:
        """Return p50 and p99 by place."""
        return {place: _p50_p99(np.concatenate(getattr(self, place))) for place in PLACES}


def _p50_p99(values: np.ndarray) -> tuple[float, float]:
    p50, p99 = np.percentile(values, (50, 99))
    return float(p50), float(p99)


@dataclass(frozen=True)
class Usage:
    """What a process had used at some moment: processor seconds and bytes; ``own`` leaves out shared memory."""

    cpu_s: float
    rss_bytes: int
    own_bytes: int


@dataclass(frozen=True)
class ClientReport:
    """What the client had: data rows, rows that tell of gaps, and cursors of which it was told nothing or twice."""

    rows: int
    gap_rows: int
    cursors_astray: int
    start: dict[str, tuple[float, float]]
    end: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class BareReport:
    """What the bare reader had."""

    rate_hz: float
    cpu_share: float
    rss_bytes: int
    lag_ms: tuple[float, float]


@dataclass(frozen=True)
class LiveReport:
    """A run of the daemon."""

    sent: int
    feed: FeedStatus
    client: ClientReport
    seconds: float
    messages: int  # in these seconds
    before: dict[str, Usage]
    after: dict[str, Usage]
    load: float

    @property
    def ring_rows(self) -> int:
        """Trades and quotes in the ring."""
        return rows_of(self.feed)

    @property
    def lost(self) -> int:
        """Messages of the venue that no row at the client stands for."""
        return self.sent - self.client.rows

    def complaints(self) -> list[str]:
        """Say what is not as it must be."""
        said = []
        if self.lost or self.client.gap_rows or self.client.cursors_astray or self.feed.gaps:
            said.append(
                f"lost: the venue sent {self.sent} messages, the ring has {self.ring_rows} rows of them and the client "
                f"{self.client.rows}, with {self.client.gap_rows} gap rows and {self.client.cursors_astray} cursors "
                f"astray; the feed counted {self.feed.messages}"
            )
        growth_ms = self.client.end["client"][0] - self.client.start["client"][0]
        if growth_ms > LAG_GROWTH_MS_MAX:
            said.append(f"the median lag at the client has grown by {growth_ms:.0f} ms in {self.seconds:.0f} s")
        return said


def figures_of(live: LiveReport, bare: BareReport, rate_hz: float) -> list[Figure]:
    """Put it in order."""
    name = "trio-websocket + msgspec + ring"
    figures = [
        Figure("live.machine_load", live.load, "processes"),
        Figure("live.messages_sent", live.sent, "msg"),
        Figure("live.ring_rows", live.ring_rows, "rows", live.sent, "sent by the venue"),
        Figure("live.client_rows", live.client.rows, "rows", live.sent, "sent by the venue"),
        Figure("live.lost", live.lost, "msg"),
        Figure("live.rate", live.messages / live.seconds, "msg/s", rate_hz, "asked of the venue"),
        Figure("live.bare_reader.rate", bare.rate_hz, "msg/s", rate_hz, "asked of the venue"),
    ]
    for place, when in itertools.product(PLACES, ("start", "end")):
        for share, value, bare_ms in zip(("p50", "p99"), getattr(live.client, when)[place], bare.lag_ms, strict=True):
            compared = (bare_ms, name) if place != "inside" else ()
            figures.append(Figure(f"live.lag.{place}.{when}.{share}", value, "ms", *compared))
    for process, after in live.after.items():
        before = live.before[process]
        cpu = (after.cpu_s - before.cpu_s) / live.seconds * 100
        figures += [
            Figure(f"live.{process}.cpu", cpu, "% of a core", bare.cpu_share * 100, name),
            Figure(f"live.{process}.rss", after.rss_bytes / MIB, "MiB", bare.rss_bytes / MIB, name),
            Figure(f"live.{process}.own", after.own_bytes / MIB, "MiB", before.own_bytes / MIB, "at the start"),
        ]
    return figures


# --- the venue ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VenueProcess:
    """A running test venue."""

    pid: int
    ws_url: str
    rest_url: str
    control_url: str

    def post(self, what: str, body: dict[str, Any] | None = None) -> None:
        """Ask for something at the control endpoint."""
        request = urllib.request.Request(f"{self.control_url}/{what}", json.dumps(body or {}).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10):
            pass

    def sent(self) -> int:
        """Return how many market messages the venue has sent."""
        with urllib.request.urlopen(f"{self.control_url}/state", timeout=10) as answer:
            streams = json.load(answer)["venues"][VENUE]["streams"]
        return sum(stream["sent"] for stream in streams.values())

    def symbols(self) -> list[str]:
        """Return its instruments, in its own spelling."""
        with urllib.request.urlopen(f"{self.rest_url}/fapi/v1/exchangeInfo", timeout=10) as answer:
            return [market["symbol"].lower() for market in json.load(answer)["symbols"]]


@contextlib.contextmanager
def venue_process(instruments: int, rate_hz: float) -> Iterator[VenueProcess]:
    """Run `marketd testvenue`."""
    command = [sys.executable, "-m", "marketd", "testvenue", "--port", "0", "--json"]
    command += ["--instruments", str(instruments), "--rate", str(rate_hz)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            yield VenueProcess(process.pid, **said["venues"][VENUE], control_url=said["control_url"])
        finally:
            process.terminate()


# --- the daemon ---------------------------------------------------------------------------------------------------


def measure_live(venue: VenueProcess, instruments: int, seconds: float) -> LiveReport:
    """Run the daemon and a client against the venue."""
    config = CONFIG.format(feed=FEED, ws_url=venue.ws_url, rest_url=venue.rest_url)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), config) as daemon:
        wait_for(lambda: feed_status(daemon).instruments == instruments, START_S, "the instruments")
        with client_process(daemon.address) as (pid, pipe):
            names = daemon.pids()
            pids = {"feed": names[f"feed.{FEED}"], "gateway": names["gateway"], "client": pid, "venue": venue.pid}
            time.sleep(SETTLE_S)
            begin_ns = time.time_ns()
            pipe.send(("window", begin_ns, begin_ns + round(seconds * NS)))
            sent_before, before = venue.sent(), usage(pids)
            time.sleep(seconds)
            sent_after, after, elapsed_s = venue.sent(), usage(pids), (time.time_ns() - begin_ns) / NS
            load = os.getloadavg()[0]
            feed, sent = drain(daemon, venue)
            pipe.send(("until", feed.cursor, 0))
            assert pipe.poll(DRAIN_S + 10), "the client does not answer"
            client = pipe.recv()
    return LiveReport(sent, feed, client, elapsed_s, sent_after - sent_before, before, after, load)


def feed_status(daemon: Daemon) -> FeedStatus:
    """Ask the daemon for its one feed."""
    with connect(daemon.address) as md:
        return md.status().feeds[0]


def usage(pids: dict[str, int]) -> dict[str, Usage]:
    """Look at processes."""
    found = {}
    for name, pid in pids.items():
        process = psutil.Process(pid)
        times, memory = process.cpu_times(), process.memory_full_info()
        found[name] = Usage(times.user + times.system, memory.rss, memory.rss - memory.shared)
    return found


def drain(daemon: Daemon, venue: VenueProcess) -> tuple[FeedStatus, int]:
    """Silence the venue, and wait until the feed has had everything; return its last state, and what was sent."""
    venue.post("faults", {"venue": VENUE, "fault": "stall", "for_s": 60})
    sent = venue.sent()
    with contextlib.suppress(AssertionError):  # what is missing then is lost, and counted as that
        wait_for(lambda: rows_of(feed_status(daemon)) >= sent, DRAIN_S, "the last rows")
    return feed_status(daemon), sent


def rows_of(feed: FeedStatus) -> int:
    """Return the feed's data rows."""
    return sum(feed.rows_by_kind.get(kind, 0) for kind in ("trade", "quote"))


# --- the client ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def client_process(address: str) -> Iterator[tuple[int, Pipe]]:
    """Run a client; give its process and the pipe to it."""
    here, there = context.Pipe()
    process = context.Process(target=run_client, args=(address, there), daemon=True)
    process.start()
    try:
        assert here.poll(START_S), "the client does not begin"
        yield here.recv(), here
    finally:
        process.kill()
        process.join()


def run_client(address: str, pipe: Pipe) -> None:
    """Count a lossless stream from the ring's first row on, until told where it ends."""
    data_rows = gap_rows = astray = cursor = 0
    windows: list[tuple[int, int, Lags]] = []
    until, deadline_s = None, 0.0
    with connect(address) as md:
        start = {FEED: Position(md.status().feeds[0].epoch, 0)}
        with md.subscribe([f"*.{FEED}"], resume=start) as stream:
            pipe.send(os.getpid())
            while until is None or (cursor < until and time.monotonic() < deadline_s):
                frame = stream.wait_next(0.1)
                now_ns = time.time_ns()
                if frame is not None and frame.cursor_last:
                    astray += abs(frame.cursor_first - cursor - 1)
                    cursor = frame.cursor_last
                    gap_rows += len(frame) if frame.kind == "gap" else 0
                    if frame.kind in ("trade", "quote"):
                        data_rows += len(frame)
                        for begin_ns, end_ns, lags in windows:
                            if begin_ns <= now_ns < end_ns:
                                lags.add(frame.rows, now_ns)
                while pipe.poll():
                    what, first, second = pipe.recv()
                    if what == "window":
                        edge_ns = min(round(EDGE_S_MAX * NS), (second - first) // 2)
                        windows = [(first, first + edge_ns, Lags()), (second - edge_ns, second, Lags())]
                    else:
                        until, deadline_s = first, time.monotonic() + DRAIN_S
    start_lags, end_lags = (lags.percentiles() for _, _, lags in windows)
    pipe.send(ClientReport(data_rows, gap_rows, astray, start_lags, end_lags))


# --- the bare reader ----------------------------------------------------------------------------------------------


def measure_bare(venue: VenueProcess, seconds: float) -> BareReport:
    """Run the bare reader against the venue."""
    here, there = context.Pipe()
    process = context.Process(target=run_bare, args=(venue.ws_url, venue.symbols(), seconds, there), daemon=True)
    process.start()
    try:
        assert here.poll(START_S + seconds), "the bare reader does not answer"
        return here.recv()
    finally:
        process.kill()
        process.join()


def run_bare(ws_url: str, symbols: list[str], seconds: float, pipe: Pipe) -> None:
    """Read both addresses for a while."""
    from marketd.ring.writer import RingWriter, create_ring

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        create_ring(Path(folder) / "ring", RING_ROWS)
        pipe.send(trio.run(BareReader(RingWriter(Path(folder) / "ring")).run, ws_url, symbols, seconds))


class BareReader:
    """The least that has to be done with a message: receive, decode, pack."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._lags_ns: list[int] = []

    async def run(self, ws_url: str, symbols: list[str], seconds: float) -> BareReport:
        """Read for so long, once everything is subscribed to."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._read, f"{ws_url}/market/stream", [f"{symbol}@aggTrade" for symbol in symbols])
            await nursery.start(self._read, f"{ws_url}/public/stream", [f"{symbol}@bookTicker" for symbol in symbols])
            await trio.sleep(SETTLE_S)
            self._lags_ns.clear()
            began_s, began_cpu_s = time.monotonic(), time.process_time()
            await trio.sleep(seconds)
            elapsed_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
            lags_ms = np.array(self._lags_ns) / MILLISECOND_NS
            nursery.cancel_scope.cancel()
        rss_bytes = psutil.Process().memory_info().rss
        return BareReport(len(lags_ms) / elapsed_s, cpu_s / elapsed_s, rss_bytes, _p50_p99(lags_ms))

    async def _read(self, url: str, streams: list[str], task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        import trio_websocket

        async with trio_websocket.open_websocket_url(url) as websocket, trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, websocket, "bookTicker" in streams[0])
            for number, start in enumerate(range(0, len(streams), SUBSCRIBE_CHUNK)):
                request = {"method": "SUBSCRIBE", "params": streams[start : start + SUBSCRIBE_CHUNK], "id": number}
                await websocket.send_message(json.dumps(request))
                await trio.sleep(SUBSCRIBE_EVERY_S)
            task_status.started()

    async def _receive(self, websocket: Any, quotes: bool) -> None:
        from backends.binance import wire

        decode = wire.decode_combined_book_ticker if quotes else wire.decode_combined_agg_trade
        writer, instruments = self._writer, {}
        while True:
            payload = await websocket.get_message()
            received_ns = time.time_ns()
            if not payload.startswith('{"stream"'):  # an ack
                continue
            data = decode(payload).data
            instrument = instruments.setdefault(data.symbol, len(instruments) + 1)
            if quotes:
                event_ns = data.transaction_time * MILLISECOND_NS
                values = (data.update_id, instrument, 2, 0, 1, data.bid, data.bid_quantity, data.ask, data.ask_quantity)
            else:
                event_ns = data.trade_time * MILLISECOND_NS
                side = -1 if data.buyer_is_maker else 1
                values = (data.trade_id, instrument, 1, side, 1, data.price, data.quantity, 0.0, 0.0)
            writer.append((event_ns, received_ns, *values))
            writer.publish()
            self._lags_ns.append(received_ns - event_ns)


if __name__ == "__main__":
    main()

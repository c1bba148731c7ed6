"""One gateway process, rings on one side and clients on the other: rows a second, and the time from ring to client.

    python -m benchmarks.fanout [--json] [--seconds 3]

Everything is a process of its own: the writer, the gateway, each client. For throughput the writer is as fast as it can
be without lapping the slowest client; for latency it is paced to 20,000 rows/s, in ticks of half a millisecond, and
each row is stamped when it is written. A client reads its socket, and counts rows by the lengths of the messages, or
looks at every row's stamp. The baseline does the same work without a protocol, a ring and an event loop: a process
that sends ready-made bytes to blocking sockets, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.report import Figure, report
from marketd.model import Kind, MktPair
from marketd.ring import layout
from marketd.ring.doorbell import Bells, create_bells, unlink_bells
from marketd.ring.table import TableWriter, create_table
from marketd.ring.writer import RingWriter, create_ring
from marketd.rpc.framing import Deframer, frame

RING_ROWS = 1 << 20
INSTRUMENTS = 500
RATE_HZ = 20_000
TICK_S = 0.0005
BLOCK_ROWS = 1024
WARM_UP_S = 1.0
PREFIX = struct.Struct(">I")

context = multiprocessing.get_context("spawn")


# --- the gateway ---


def run_gateway_process(folder: str, out: Connection) -> None:
    """Run a gateway over the segments in a folder; say where it listens."""
    import structlog
    import trio

    from marketd.gateway.actor import run_gateway
    from marketd.supervise.handle import ActorHandle
    from marketd.supervise.link import Link
    from marketd.supervise.messages import ActorSpec, Demand, FeedInfo, GatewayReady, GatewaySpec

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    paths = [str(Path(folder) / what) for what in ("ring", "table", "bells")]

    async def feeds() -> list[FeedInfo]:
        return [FeedInfo("sim", "sim", *paths, "live")]

    async def ready(info: GatewayReady) -> None:
        out.send(info.addresses[0])

    async def ignore(_told: object = None) -> None:
        pass

    async def main() -> None:
        to_gateway, at_gateway = trio.open_memory_channel[bytes](64)
        to_supervisor, at_supervisor = trio.open_memory_channel[bytes](64)
        near, far = Link(to_supervisor.send, name="supervisor", held=True), Link(to_gateway.send, name="gateway")
        far.handle("feeds", None, feeds)
        far.handle("actor.ready", GatewayReady, ready)
        far.handle("demand", Demand, ignore)
        far.handle("actor.pulse", None, ignore)
        config = msgspec.Raw(msgspec.msgpack.encode(GatewaySpec("bench", ["127.0.0.1:0"])))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.run, at_gateway)
            nursery.start_soon(far.run, at_supervisor)
            nursery.start_soon(run_gateway, ActorHandle(ActorSpec("gateway", "", config), near))

    trio.run(main)


# --- the writer ---


def make_block(rows: int) -> np.ndarray:
    """Rows as a busy venue's: three quotes to a trade, over many instruments."""
    block = np.zeros(rows, layout.ROW)
    block["instrument"] = np.arange(rows) % INSTRUMENTS + 1
    block["kind"] = np.where(np.arange(rows) % 4, Kind.QUOTE, Kind.TRADE)
    return block


def write_flat_out(folder: str, progress: Any, stop: Any, out: Connection) -> None:
    """Write as fast as the slowest client allows."""
    writer = RingWriter(Path(folder) / "ring", Bells(Path(folder) / "bells"))
    out.send("ready")
    block = make_block(BLOCK_ROWS)
    while not stop.value:
        if writer.cursor - min(progress) < RING_ROWS // 8:
            writer.append_block(block)
            writer.publish()
        else:
            time.sleep(0.0002)


def write_paced(folder: str, stop: Any, out: Connection, *, rate_hz: float = RATE_HZ, tick_s: float = TICK_S) -> None:
    """Write so many rows a second, each stamped as it is written."""
    writer = RingWriter(Path(folder) / "ring", Bells(Path(folder) / "bells"))
    out.send("ready")
    begun, written = time.perf_counter(), 0
    while not stop.value:
        time.sleep(tick_s)
        due = int((time.perf_counter() - begun) * rate_hz)
        for number in range(written, due):
            now_ns = time.time_ns()
            writer.append((now_ns, now_ns, 0, number % INSTRUMENTS + 1, Kind.QUOTE, 0, 1, 1.0, 1.0, 1.0, 1.0))
        written = due
        writer.publish()


# --- clients ---


def open_stream(address: str) -> socket.socket:
    """Connect and subscribe to everything."""
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.sendall(frame(msgspec.msgpack.encode({"id": 1, "method": "hello", "params": {}})))
    subscribe = {"id": 2, "method": "subscribe", "params": {"instruments": ["*"]}}
    sock.sendall(frame(msgspec.msgpack.encode(subscribe)))
    answers = 0
    while answers < 2:
        (size,) = PREFIX.unpack(sock.recv(4, socket.MSG_WAITALL))
        answers += "id" in msgspec.msgpack.decode(sock.recv(size, socket.MSG_WAITALL))
    return sock


def count_rows(address: str, place: int, progress: Any, out: Connection) -> None:
    """Read for ever, and note how many rows came: a message's length says how many it has."""
    sock = open_stream(address)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    out.send("ready")
    with contextlib.suppress(ConnectionError):
        follow_progress(sock, progress, place)


def follow_progress(sock: socket.socket, progress: Any, place: int) -> None:
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    held = rows = 0
    while received := sock.recv_into(view[held:]):
        held += received
        start = 0
        while held - start >= 4:
            (size,) = PREFIX.unpack_from(buffer, start)
            if held - start < 4 + size:
                break
            rows += (size - 60) // layout.ROW_BYTES
            start += 4 + size
        buffer[: held - start] = view[start:held]
        held -= start
        progress[place] = rows


def time_rows(address: str, stop: Any, out: Connection) -> None:
    """Read until told to stop, and return how old each row was when it was read, in microseconds."""
    sock = open_stream(address)
    out.send("ready")
    # Only the clock is looked at meanwhile: ten clients that decode would take a core from what is to be measured.
    reads: list[tuple[int, bytes]] = []
    while not stop.value:
        data = sock.recv(1 << 18)
        reads.append((time.time_ns(), data))
    out.send(ages_of(reads).astype(np.float32).tobytes())


def ages_of(reads: list[tuple[int, bytes]]) -> np.ndarray:
    """Decode what was read; leave the first second out."""
    deframer = Deframer(1 << 24)
    counted_ns = reads[0][0] + int(WARM_UP_S * 1e9)
    ages = []
    for now_ns, data in reads:
        for payload in deframer.receive_data(data):
            rows = np.frombuffer(msgspec.msgpack.decode(payload)["params"].get("data", b""), layout.ROW)
            if now_ns > counted_ns:
                ages.append((now_ns - rows["received_ns"]) / 1000)
    return np.concatenate(ages)


# --- the baseline: bytes to sockets ---


def send_flat_out(clients: int, out: Connection) -> None:
    """Send the same ready-made message to every client in turn, for ever: one blocking `sendall` after the other."""
    payload = b"\0" * 4096 * layout.ROW_BYTES
    message = PREFIX.pack(len(payload) + 60) + b"\0" * 60 + payload
    socks = accept_clients(clients, out)
    with contextlib.suppress(OSError):
        while True:
            for sock in socks:
                sock.sendall(message)


def forward_pipe(clients: int, folder: str, out: Connection) -> None:
    """Send whatever a pipe holds by now to every client, for ever."""
    socks = accept_clients(clients, out)
    source = os.open(Path(folder) / "pipe", os.O_RDONLY)
    with contextlib.suppress(OSError):
        while data := os.read(source, 1 << 16):
            message = frame(msgspec.msgpack.encode({"method": "rows", "params": {"data": data}}))
            for sock in socks:
                sock.sendall(message)


def accept_clients(clients: int, out: Connection) -> list[socket.socket]:
    """Let so many clients in and answer their two requests."""
    listener = socket.create_server(("127.0.0.1", 0))
    out.send(f"127.0.0.1:{listener.getsockname()[1]}")
    socks = []
    for _ in range(clients):
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(2 * frame(msgspec.msgpack.encode({"id": 1})))
        socks.append(sock)
    return socks


def feed_pipe(folder: str, stop: Any, out: Connection) -> None:
    """Write rows to a pipe as `write_paced` does to a ring."""
    sink = os.open(Path(folder) / "pipe", os.O_WRONLY)
    out.send("ready")
    begun, written = time.perf_counter(), 0
    while not stop.value:
        time.sleep(TICK_S)
        due = int((time.perf_counter() - begun) * RATE_HZ)
        rows = bytearray()
        for _ in range(written, due):
            now_ns = time.time_ns()
            rows += layout.PACK.pack(1, now_ns, now_ns, 0, 1, Kind.QUOTE, 0, 1, 1.0, 1.0, 1.0, 1.0)
        written = due
        os.write(sink, rows)


# --- runs ---


class Run:
    """The processes of one measurement, in a folder of segments; they end with it."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(dir="/dev/shm", prefix="marketd-bench-")
        self.stop = context.Value("i", 0, lock=False)
        self.processes: list[Any] = []

    def __enter__(self) -> Run:
        folder = Path(self.folder)
        create_ring(folder / "ring", RING_ROWS)
        create_table(folder / "table", INSTRUMENTS)
        create_bells(folder / "bells")
        os.mkfifo(folder / "pipe")
        table = TableWriter(folder / "table")
        for number in range(INSTRUMENTS):
            table.add(MktPair(dst=f"i{number}", src="usd", backend="sim"))
        table.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.value = 1
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()
        unlink_bells(Path(self.folder) / "bells")
        shutil.rmtree(self.folder)

    def open(self, target: Callable[..., None], *args: object) -> Connection:
        """Start a process that says something over a pipe; return our end of it."""
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(*args, theirs), daemon=True)
        process.start()
        self.processes.append(process)
        return ours


def measure_rate(clients: int, seconds: float, *, bare: bool) -> float:
    """Return rows a second, to all clients together."""
    with Run() as run:
        server = run.open(send_flat_out, clients) if bare else run.open(run_gateway_process, run.folder)
        address = server.recv()
        progress = context.Array("q", clients, lock=False)
        readers = [run.open(count_rows, address, place, progress) for place in range(clients)]
        for reader in readers:
            reader.recv()
        if not bare:
            run.open(write_flat_out, run.folder, progress, run.stop).recv()
        time.sleep(WARM_UP_S)
        begun, before = time.perf_counter(), sum(progress)
        time.sleep(seconds)
        return (sum(progress) - before) / (time.perf_counter() - begun)


def measure_latency(clients: int, seconds: float, *, bare: bool) -> np.ndarray:
    """Return the age of every row at every client, in microseconds."""
    with Run() as run:
        server = run.open(forward_pipe, clients, run.folder) if bare else run.open(run_gateway_process, run.folder)
        address = server.recv()
        readers = [run.open(time_rows, address, run.stop) for _ in range(clients)]
        for reader in readers:
            reader.recv()
        writer = run.open(feed_pipe if bare else write_paced, run.folder, run.stop)
        writer.recv()
        time.sleep(seconds + WARM_UP_S)
        run.stop.value = 1
        return np.concatenate([np.frombuffer(reader.recv(), np.float32) for reader in readers])


def figures(seconds: float) -> Iterator[Figure]:
    """Measure everything."""
    for clients in (1, 10):
        bare = measure_rate(clients, seconds, bare=True)
        rate = measure_rate(clients, seconds, bare=False)
        name = f"delivered to {clients} lossless client{'s' * (clients > 1)} in total"
        yield Figure(name, rate, "rows/s", bare, "bare sockets, the same bytes")
    for clients in (1, 10):
        bare_us = measure_latency(clients, seconds, bare=True)
        ages_us = measure_latency(clients, seconds, bare=False)
        for percent in (50, 99):
            yield Figure(
                f"ring write to socket read, {clients} client{'s' * (clients > 1)}, 20,000 rows/s, p{percent}",
                float(np.percentile(ages_us, percent)),
                "us",
                float(np.percentile(bare_us, percent)),
                "a pipe and bare sockets",
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON a figure")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    args = parser.parse_args()
    report(list(figures(args.seconds)), json=args.json)


if __name__ == "__main__":
    main()

"""How long a row takes from a ring's writer to a reader in another process, and what writing costs.

The writer appends and publishes one row each 50 us; the reader sleeps on its doorbell in a trio loop. A latency is from
just before the append to when the reader holds the row. The baseline is the same row through a plain pipe, each write
waking a blocking read: what the operating system can do. Both take turns, and each figure is the median of the rounds;
those named ``best`` are of the round that the rest of the machine disturbed least.

The writer spins between two rows, so writer and reader are held on a core each: a reader that the kernel puts on the
spinning core waits milliseconds for its turn, ring or pipe alike.

    python -m benchmarks.ring_latency [--json] [--seconds 2] [--rounds 5]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import trio

from benchmarks.report import Figure, report
from marketd.errors import Lapped
from marketd.ring import layout
from marketd.ring.doorbell import Bell, Bells, create_bells
from marketd.ring.reader import RingReader
from marketd.ring.writer import RingWriter, create_ring

ROWS_PER_S = 20_000
RING_ROWS = 1 << 20
PERCENTILES = (50, 99, 99.9)
WRITES = 1_000_000
STAMP = struct.Struct("<Q64x")  # a row's worth of bytes

# Forked, so that both ends of a pipe are inherited.
_processes = multiprocessing.get_context("fork")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows = int(arguments.seconds * ROWS_PER_S)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="marketd.benchmark.") as folder:
        figures = latency(Path(folder), rows, arguments.rounds) + writing(Path(folder), arguments.rounds)
    report(figures, json=arguments.json)


def latency(folder: Path, rows: int, rounds: int) -> list[Figure]:
    """Measure the ring and the pipe in turns."""
    ring, pipe = [], []
    for turn in range(rounds):
        path = folder / f"latency{turn}"
        create_ring(path, RING_ROWS)
        create_bells(path.with_suffix(".bells"))
        measures = [(ring, lambda path=path: through_ring(path, rows)), (pipe, lambda: through_pipe(rows))]
        for results, measure in measures if turn % 2 else reversed(measures):
            results.append(np.percentile(measure(), PERCENTILES) / 1000)
        path.unlink()
    return [
        Figure(
            f"ring.latency.p{percentile}{suffix}",
            pick([result[n] for result in ring]),
            "us",
            pick([result[n] for result in pipe]),
            "os.pipe, blocking read",
        )
        for suffix, pick in (("", statistics.median), (".best", min))
        for n, percentile in enumerate(PERCENTILES)
    ]


def through_ring(path: Path, rows: int) -> np.ndarray:
    """Return the latency of each row in ns."""
    writer = RingWriter(path, Bells(path.with_suffix(".bells")))

    def send() -> None:
        writer.append((0, time.monotonic_ns(), 0, 1, 2, 0, 1, 1.0, 2.0, 3.0, 4.0))
        writer.publish()

    def receive(answer: Connection) -> None:
        trio.run(read_ring, path, rows, answer)

    return paced(rows, send, receive)


async def read_ring(path: Path, rows: int, answer: Connection) -> None:
    """Follow a ring; answer with the latencies."""
    reader, bell = RingReader(path), Bell(path.with_suffix(".bells"))
    answer.send("ready")
    latencies = []
    while reader.cursor < rows:
        await reader.wait_available(bell)
        try:
            read = reader.read_nowait()
        except Lapped:
            raise SystemExit("the reader was lapped: these figures would mean nothing") from None
        latencies.append(time.monotonic_ns() - read["received_ns"])
    answer.send(np.concatenate(latencies))


def through_pipe(rows: int) -> np.ndarray:
    """Return the latency of each row in ns."""
    read_fd, write_fd = os.pipe()

    def send() -> None:
        os.write(write_fd, STAMP.pack(time.monotonic_ns()))

    def receive(answer: Connection) -> None:
        answer.send("ready")
        latencies = []
        received = 0
        while received < rows:
            stamps = np.frombuffer(os.read(read_fd, STAMP.size * 900), "<u8")[:: STAMP.size // 8].astype("i8")
            latencies.append(time.monotonic_ns() - stamps)
            received += len(stamps)
        answer.send(np.concatenate(latencies))

    try:
        return paced(rows, send, receive)
    finally:
        os.close(read_fd)
        os.close(write_fd)


def paced(rows: int, send: Callable[[], None], receive: Callable[[Connection], None]) -> np.ndarray:
    """Call ``send`` at the pace while ``receive`` runs in a process of its own; return what that answers."""
    cores = sorted(os.sched_getaffinity(0))
    here, there = _processes.Pipe()
    os.sched_setaffinity(0, cores[-1:])  # the child inherits it
    process = _processes.Process(target=receive, args=(there,), daemon=True)
    process.start()
    os.sched_setaffinity(0, cores[:1])
    there.close()
    here.recv()
    period_ns = 1_000_000_000 // ROWS_PER_S
    due_ns = time.monotonic_ns()
    for _ in range(rows):
        due_ns += period_ns
        while time.monotonic_ns() < due_ns:
            pass
        send()
    latencies: np.ndarray = here.recv()
    process.join()
    os.sched_setaffinity(0, cores)
    return latencies


def writing(folder: Path, rounds: int) -> list[Figure]:
    """Measure what a row costs its writer while nobody sleeps."""
    path = folder / "writing"
    create_ring(path, RING_ROWS)
    create_bells(path.with_suffix(".bells"))
    writer = RingWriter(path, Bells(path.with_suffix(".bells")))
    row = (1, 2, 3, 1, 2, 0, 1, 1.0, 2.0, 3.0, 4.0)
    memory = bytearray(layout.HEADER_BYTES + RING_ROWS * layout.ROW_BYTES)
    block = np.zeros(256, layout.ROW)

    def bare() -> None:
        pack_into = layout.PACK.pack_into
        for n in range(WRITES):
            pack_into(memory, (n & (RING_ROWS - 1)) * layout.ROW_BYTES, n, *row)

    def append_and_publish() -> None:
        append, publish = writer.append, writer.publish
        for _ in range(WRITES):
            append(row)
            publish()

    def append_16_and_publish() -> None:
        append, publish = writer.append, writer.publish
        for _ in range(WRITES // 16):
            for _ in range(16):
                append(row)
            publish()

    def append_blocks_of_256() -> None:
        for _ in range(WRITES // 256):
            writer.append_block(block)
            writer.publish()

    variants = [bare, append_and_publish, append_16_and_publish, append_blocks_of_256]
    times: dict[str, list[float]] = {variant.__name__: [] for variant in variants}
    for turn in range(rounds):
        for variant in variants if turn % 2 else reversed(variants):
            begun_s = time.process_time()
            variant()
            times[variant.__name__].append((time.process_time() - begun_s) / WRITES * 1e9)
    writer.close()
    medians = {name: statistics.median(each) for name, each in times.items()}
    baseline_ns = medians.pop("bare")
    return [
        Figure(f"ring.write.{name}", cost_ns, "ns/row", baseline_ns, "bare struct.pack_into")
        for name, cost_ns in medians.items()
    ]


if __name__ == "__main__":
    main()

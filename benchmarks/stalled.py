"""A thousand subscribers, one of ten reading nothing for ever: what the others notice, and what it costs.

    python -m benchmarks.stalled [--json] [--subscribers 1000] [--seconds 8]

2,000 rows/s, far from what the gateway can do; the baseline is the same without the stalled ones. The gateway cuts a
client that takes nothing for ten seconds, so that less is measured. Memory is the gateway's own, and what the kernel
holds for the sockets besides is bounded by their buffers.
"""

from __future__ import annotations

import argparse
import functools
import select
import socket
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import psutil

from benchmarks.fanout import Run, ages_of, open_stream, run_gateway_process, write_paced
from benchmarks.readers import RECEIVE_BYTES, raise_file_limit, shares
from benchmarks.report import Figure, report

RATE_HZ = 2_000
TICK_S = 0.005


def hold_stalled(address: str, clients: int, stop: Any, out: Connection) -> None:
    """Subscribe and read nothing, with as little room in the kernel as it gives."""
    raise_file_limit()
    socks = []
    for _ in range(clients):
        sock = open_stream(address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        socks.append(sock)
    out.send("ready")
    while not stop.value:
        time.sleep(0.1)


def time_some(address: str, clients: int, stop: Any, out: Connection) -> None:
    """Hold many subscribers that all read; return the ages of the rows that every tenth of them got."""
    raise_file_limit()
    poll = select.epoll()
    socks = {}
    for number in range(clients):
        sock = open_stream(address)
        poll.register(sock, select.EPOLLIN)
        socks[sock.fileno()] = (sock, [] if number % 10 == 0 else None)
    out.send("ready")
    while not stop.value:
        for number, _ in poll.poll(0.2):
            sock, reads = socks[number]
            data = sock.recv(RECEIVE_BYTES)
            if reads is not None:
                reads.append((time.time_ns(), data))
    ages = [ages_of(reads) for _, reads in socks.values() if reads]
    out.send(np.concatenate(ages).astype(np.float32).tobytes())


def measure(subscribers: int, stalled_ones: int, seconds: float) -> tuple[np.ndarray, float]:
    """Return the ages of rows at those who read, and the gateway's memory in bytes when it is over."""
    with Run() as run:
        address = run.open(run_gateway_process, run.folder).recv()
        gateway = next(process for process in run.processes if process.is_alive())
        if stalled_ones:
            run.open(hold_stalled, address, stalled_ones, run.stop).recv()
        readers = [run.open(time_some, address, share, run.stop) for share in shares(subscribers - stalled_ones)[0]]
        for reader in readers:
            reader.recv()
        run.open(functools.partial(write_paced, rate_hz=RATE_HZ, tick_s=TICK_S), run.folder, run.stop).recv()
        time.sleep(seconds)
        memory = float(psutil.Process(gateway.pid).memory_info().rss)
        run.stop.value = 1
        return np.concatenate([np.frombuffer(reader.recv(), np.float32) for reader in readers]), memory


def figures(subscribers: int, seconds: float) -> Iterator[Figure]:
    """Measure without and with the stalled ones."""
    stalled_ones = subscribers // 10
    alone_us, alone_bytes = measure(subscribers - stalled_ones, 0, seconds)
    with_us, with_bytes = measure(subscribers, stalled_ones, seconds)
    for percent in (50, 99):
        value, other = (float(np.percentile(ages, percent)) for ages in (with_us, alone_us))
        name = f"{subscribers} subscribers, a tenth stalled: the others' p{percent}"
        yield Figure(name, value, "us", other, "none stalled")
    each = (with_bytes - alone_bytes) / stalled_ones / 1024
    yield Figure("gateway's memory for each stalled one", each, "KiB", 256.0, "the most it may be")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON a figure")
    parser.add_argument("--subscribers", type=int, default=1000, help="the stalled ones included")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    args = parser.parse_args()
    raise_file_limit()
    report(list(figures(args.subscribers, args.seconds)), json=args.json)


if __name__ == "__main__":
    main()

"""One to a thousand subscribers of the same rows: marketd beside a NATS server and a ZeroMQ publisher.

    python -m benchmarks.subscribers [--json] [--seconds 3] [--counts 1,10,100,1000] [--nats-server PATH]

Every subscriber has a connection of its own; up to two reader processes hold them. A publisher is as fast as the
slowest subscriber lets it be. NATS and ZeroMQ get the same 72-byte rows, one to a message, since that is how they are
used, and once more 64 to a message. Latency is taken at 20,000 rows/s with ten subscribers, each a process, as in
`fanout.py`.

NATS is the `nats-server` of the PATH (Debian has it), or the one that is named. What is not there is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fanout import (
    BLOCK_ROWS,
    WARM_UP_S,
    Run,
    make_block,
    open_stream,
    run_gateway_process,
    time_rows,
    write_paced,
)
from benchmarks.peers import (
    count_zmq,
    nats_message,
    nats_running,
    open_nats,
    pace_nats,
    publish_nats,
    publish_zmq,
    time_nats,
)
from benchmarks.readers import AHEAD_ROWS, ByteCounter, RowCounter, count_many, raise_file_limit, shares
from benchmarks.report import Figure, report
from marketd.ring.doorbell import Bells
from marketd.ring.writer import RingWriter


def publish_ring(folder: str, slowest: Any, stop: Any, out: Any) -> None:
    """Write to the ring as fast as the slowest subscriber allows."""
    writer = RingWriter(Path(folder) / "ring", Bells(Path(folder) / "bells"))
    out.send("ready")
    block = make_block(BLOCK_ROWS)
    while not stop.value:
        if writer.cursor - min(slowest) < AHEAD_ROWS:
            writer.append_block(block)
            writer.publish()
        else:
            time.sleep(0.0002)


def rate_of(run: Run, seconds: float, total: Any) -> float:
    """Return rows a second to all subscribers together, once they have begun."""
    while not all(total):
        time.sleep(0.05)
    time.sleep(WARM_UP_S)
    begun, before = time.perf_counter(), sum(total)
    time.sleep(seconds)
    return (sum(total) - before) / (time.perf_counter() - begun)


def rate_marketd(clients: int, seconds: float) -> float:
    parts, slowest, total = shares(clients)
    with Run() as run:
        address = run.open(run_gateway_process, run.folder).recv()
        for place, share in enumerate(parts):
            run.open(count_many, open_stream, RowCounter, address, share, place, slowest, total).recv()
        run.open(publish_ring, run.folder, slowest, run.stop).recv()
        return rate_of(run, seconds, total)


def rate_nats(server: str, clients: int, seconds: float, rows: int) -> float:
    parts, slowest, total = shares(clients)
    counter = functools.partial(ByteCounter, nats_message(rows), rows)
    with nats_running(server) as address, Run() as run:
        for place, share in enumerate(parts):
            run.open(count_many, open_nats, counter, address, share, place, slowest, total).recv()
        run.open(publish_nats, rows, address, slowest, run.stop).recv()
        return rate_of(run, seconds, total)


def rate_zmq(clients: int, seconds: float, rows: int) -> float:
    parts, slowest, total = shares(clients)
    with Run() as run:
        publisher = run.open(publish_zmq, rows, slowest, run.stop)
        address = publisher.recv()
        for place, share in enumerate(parts):
            run.open(count_zmq, rows, address, share, place, slowest, total).recv()
        time.sleep(1.0)  # the subscriptions reach the publisher in their own time
        publisher.send("begin")
        publisher.recv()
        return rate_of(run, seconds, total)


def latency(seconds: float, server: str | None) -> np.ndarray:
    """Return the age of every row at ten subscribers, in microseconds; of a NATS server's if one is named."""
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(Run())
        address = (
            stack.enter_context(nats_running(server)) if server else run.open(run_gateway_process, run.folder).recv()
        )
        readers = [run.open(time_nats if server else time_rows, address, run.stop) for _ in range(10)]
        for reader in readers:
            reader.recv()
        writer = run.open(pace_nats, address, run.stop) if server else run.open(write_paced, run.folder, run.stop)
        writer.recv()
        time.sleep(seconds + WARM_UP_S)
        run.stop.value = 1
        return np.concatenate([np.frombuffer(reader.recv(), np.float32) for reader in readers])


def figures(seconds: float, counts: list[int], server: str | None) -> Iterator[Figure]:
    """Measure everything."""
    for clients in counts:
        rate = rate_marketd(clients, seconds)
        name = f"delivered to {clients} subscriber{'s' * (clients > 1)} in total"
        for rows in (1, 64):
            if server:
                yield Figure(name, rate, "rows/s", rate_nats(server, clients, seconds, rows), f"NATS, {rows} a message")
            if has_zmq() and clients <= 100:
                yield Figure(name, rate, "rows/s", rate_zmq(clients, seconds, rows), f"ZeroMQ, {rows} a message")
        if not server:
            yield Figure(name, rate, "rows/s")
    ages_us = latency(seconds, None)
    nats_us = latency(seconds, server) if server else None
    for percent in (50, 99):
        value = float(np.percentile(ages_us, percent))
        other = None if nats_us is None else float(np.percentile(nats_us, percent))
        yield Figure(f"publisher to socket read, 10 subscribers, 20,000 rows/s, p{percent}", value, "us", other, "NATS")


def has_zmq() -> bool:
    """Whether pyzmq is here."""
    try:
        import zmq  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON a figure")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--counts", default="1,10,100,1000", help="of subscribers")
    parser.add_argument("--nats-server", default=shutil.which("nats-server"), help="the program")
    args = parser.parse_args()
    raise_file_limit()
    if not args.nats_server:
        print("no nats-server on the PATH: `apt install nats-server`, or say --nats-server", file=sys.stderr)
    if not has_zmq():
        print("no ZeroMQ here: `pip install pyzmq`", file=sys.stderr)
    counts = [int(text) for text in args.counts.split(",")]
    report(list(figures(args.seconds, counts, args.nats_server)), json=args.json)


if __name__ == "__main__":
    main()

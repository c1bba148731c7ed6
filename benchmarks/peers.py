"""NATS and ZeroMQ, as they are used: what publishes and what subscribes, for `subscribers.py`.

The clients of NATS are bare sockets that speak its protocol, as those of marketd in these benchmarks are.
https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.fanout import BLOCK_ROWS, RATE_HZ, TICK_S, WARM_UP_S, make_block
from benchmarks.readers import AHEAD_ROWS, raise_file_limit
from marketd.model import Kind
from marketd.ring import layout

RECEIVE_BYTES = 1 << 18
SUBJECT = b"md.rows"
_HEAD = re.compile(rb"MSG \S+ \S+ (\d+)\r\n")


def open_nats(address: str) -> socket.socket:
    """Connect to a NATS server and subscribe (https://docs.nats.io/reference/reference-protocols/nats-protocol)."""
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.recv(4096)  # INFO
    sock.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nSUB ' + SUBJECT + b" 1\r\nPING\r\n")
    while not sock.recv(4096).endswith(b"PONG\r\n"):
        pass
    return sock


def nats_message(rows: int) -> int:
    """Return the size of a NATS message of so many rows, as it comes."""
    size = rows * layout.ROW_BYTES
    return len(b"MSG " + SUBJECT + b" 1 " + str(size).encode() + b"\r\n") + size + 2


def publish_nats(rows: int, address: str, slowest: Any, stop: Any, out: Connection) -> None:
    """Publish the same rows to a NATS server, so many to a message."""
    sock = connect_publisher(address)
    data = make_block(BLOCK_ROWS).tobytes()
    size = rows * layout.ROW_BYTES
    head = b"PUB " + SUBJECT + b" " + str(size).encode() + b"\r\n"
    block = b"".join(head + data[start : start + size] + b"\r\n" for start in range(0, len(data), size))
    out.send("ready")
    sent = 0
    while not stop.value:
        if sent - min(slowest) < AHEAD_ROWS:
            sock.sendall(block)
            sent += BLOCK_ROWS
        else:
            time.sleep(0.0002)


def connect_publisher(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.recv(4096)
    sock.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
    return sock


def pace_nats(address: str, stop: Any, out: Connection) -> None:
    """Publish 20,000 rows a second, each stamped as it is sent, in ticks of half a millisecond."""
    sock = connect_publisher(address)
    head = b"PUB " + SUBJECT + b" " + str(layout.ROW_BYTES).encode() + b"\r\n"
    out.send("ready")
    begun, written = time.perf_counter(), 0
    while not stop.value:
        time.sleep(TICK_S)
        due = int((time.perf_counter() - begun) * RATE_HZ)
        data = bytearray()
        for _ in range(written, due):
            now_ns = time.time_ns()
            data += head + layout.PACK.pack(1, now_ns, now_ns, 0, 1, Kind.QUOTE, 0, 1, 1.0, 1.0, 1.0, 1.0) + b"\r\n"
        written = due
        if data:
            sock.sendall(data)


def time_nats(address: str, stop: Any, out: Connection) -> None:
    """Read until told to stop, and return how old each row was when it was read, in microseconds."""
    sock = open_nats(address)
    sock.settimeout(0.2)
    out.send("ready")
    reads: list[tuple[int, bytes]] = []
    while not stop.value:
        with contextlib.suppress(TimeoutError):
            data = sock.recv(RECEIVE_BYTES)
            reads.append((time.time_ns(), data))
    out.send(ages_of(reads).tobytes())


def ages_of(reads: list[tuple[int, bytes]]) -> np.ndarray:
    """Return the age of each row at the read that had its end, once the clients have warmed up, in microseconds."""
    whole = b"".join(data for _, data in reads)
    ends = np.cumsum([len(data) for _, data in reads])
    stamps, places, at = [], [], 0
    while (found := _HEAD.search(whole, at)) and found.end() + layout.ROW_BYTES <= len(whole):
        stamps.append(int.from_bytes(whole[found.end() + 8 : found.end() + 16], "little"))
        at = found.end() + int(found[1])
        places.append(at)
    read_ns = np.array([now_ns for now_ns, _ in reads])[np.searchsorted(ends, places)]
    ages = (read_ns - np.array(stamps)) / 1000
    return ages[read_ns > reads[0][0] + int(WARM_UP_S * 1e9)].astype(np.float32)


@contextlib.contextmanager
def nats_running(server: str) -> Iterator[str]:
    """Run a NATS server on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [server, "-a", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def count_zmq(rows: int, address: str, clients: int, place: int, slowest: Any, total: Any, out: Connection) -> None:
    """The same of ZeroMQ, whose library reads for us."""
    import zmq

    raise_file_limit()
    zcontext = zmq.Context()
    zcontext.set(zmq.MAX_SOCKETS, clients + 10)
    poller = zmq.Poller()
    counts: dict[Any, int] = {}
    for _ in range(clients):
        sock = zcontext.socket(zmq.SUB)
        sock.setsockopt(zmq.RCVHWM, 0)
        sock.setsockopt(zmq.SUBSCRIBE, b"")
        sock.connect(f"tcp://{address}")
        poller.register(sock, zmq.POLLIN)
        counts[sock] = 0
    out.send("ready")
    while True:
        for sock, _ in poller.poll():
            with contextlib.suppress(zmq.Again):
                for _ in range(256):
                    sock.recv(zmq.NOBLOCK, copy=True)
                    counts[sock] += rows
        slowest[place], total[place] = min(counts.values()), sum(counts.values())


def publish_zmq(rows: int, slowest: Any, stop: Any, out: Connection) -> None:
    """Publish the same rows from a ZeroMQ socket, which is its own server."""
    import zmq

    sock = zmq.Context().socket(zmq.PUB)
    sock.setsockopt(zmq.SNDHWM, 0)
    port = sock.bind_to_random_port("tcp://127.0.0.1")
    out.send(f"127.0.0.1:{port}")
    data = make_block(BLOCK_ROWS).tobytes()
    size = rows * layout.ROW_BYTES
    messages = [data[start : start + size] for start in range(0, len(data), size)]
    out.recv()
    out.send("ready")
    sent = 0
    while not stop.value:
        if sent - min(slowest) < AHEAD_ROWS:
            for message in messages:
                sock.send(message, copy=True)
            sent += BLOCK_ROWS
        else:
            time.sleep(0.0002)

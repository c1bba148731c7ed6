"""Processes that hold many subscribers and count what each has had; what publishes waits for the slowest."""

from __future__ import annotations

import resource
import select
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.fanout import PREFIX, RING_ROWS, context
from marketd.ring import layout

READERS = 2  # processes
AHEAD_ROWS = RING_ROWS // 8  # so much a publisher may be in front of the slowest subscriber
RECEIVE_BYTES = 1 << 18

Open = Callable[[str], socket.socket]


class RowCounter:
    """Counts the rows in a gateway's stream by its messages' lengths."""

    def __init__(self) -> None:
        self.rows = 0
        self._skip = 0
        self._head = b""

    def take(self, data: bytes | memoryview) -> None:
        """Take what one socket had."""
        at, size = 0, len(data)
        while at < size:
            if self._skip:
                step = min(self._skip, size - at)
                self._skip -= step
                at += step
                continue
            head = self._head + bytes(data[at : at + 4 - len(self._head)])
            at += len(head) - len(self._head)
            self._head = head
            if len(head) == 4:
                (length,) = PREFIX.unpack(head)
                self.rows += max(0, length - 60) // layout.ROW_BYTES
                self._skip, self._head = length, b""


class ByteCounter:
    """Counts rows where every message is as long as any other."""

    def __init__(self, message_bytes: int, rows: int) -> None:
        self._message_bytes = message_bytes
        self._message_rows = rows
        self._bytes = 0

    @property
    def rows(self) -> int:
        return self._bytes // self._message_bytes * self._message_rows

    def take(self, data: bytes | memoryview) -> None:
        """Take what one socket had."""
        self._bytes += len(data)


def count_many(
    open_one: Open,
    make_counter: Callable[[], RowCounter | ByteCounter],
    address: str,
    clients: int,
    place: int,
    slowest: Any,
    total: Any,
    out: Connection,
) -> None:
    """Hold many subscribers and read for ever; note what the slowest has had, and all together."""
    raise_file_limit()
    counters = {}
    poll = select.epoll()
    socks = [open_one(address) for _ in range(clients)]
    for sock in socks:
        poll.register(sock, select.EPOLLIN)
        counters[sock.fileno()] = (sock, make_counter())
    out.send("ready")
    buffer = memoryview(bytearray(RECEIVE_BYTES))
    while True:
        for number, _ in poll.poll():
            sock, counter = counters[number]
            received = sock.recv_into(buffer)
            if not received:
                return
            counter.take(buffer[:received])
        rows = [counter.rows for _, counter in counters.values()]
        slowest[place], total[place] = min(rows), sum(rows)


def shares(clients: int) -> tuple[list[int], Any, Any]:
    """Return how many subscribers each reader has, and two shared arrays for their counts."""
    found = [len(part) for part in np.array_split(np.arange(clients), min(READERS, clients))]
    return found, context.Array("q", len(found), lock=False), context.Array("q", len(found), lock=False)


def raise_file_limit() -> None:
    """Let a process hold a thousand sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

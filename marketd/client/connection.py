"""One blocking connection and its heartbeat."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
import time

from marketd.client.address import Address
from marketd.client.calls import HEARTBEAT
from marketd.client.protocol import SILENT_HEARTBEATS
from marketd.client.tls_socket import TlsState

SEND_TIMEOUT_S = 10.0
LET_GO_S = 0.5


class Connection:
    """A connected socket, of which at most ``receive_bytes`` are read at once; with TLS if somebody is to be trusted.

    Raises:
        OSError: it can't be made in time.
    """

    def __init__(
        self, address: Address, timeout_s: float, receive_bytes: int, trust: ssl.SSLContext | None = None
    ) -> None:
        self._socket = _connected(address, timeout_s)
        self._tls: TlsState | None = None
        if trust is not None:
            try:
                self._tls = TlsState(self._socket, trust, address.host)
            except BaseException:
                self._socket.close()
                raise
        self._socket.settimeout(SEND_TIMEOUT_S)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._received = bytearray(receive_bytes)
        self._sending = threading.Lock()
        self._closing = threading.Event()
        self._quiet_s = 0.0
        self._quiet_max_s = float("inf")

    def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            OSError: the other side is gone, or takes nothing any more.
        """
        if data:
            with self._sending:
                self._socket.sendall(data if self._tls is None else self._tls.encrypt(data))

    def receive(self, timeout_s: float | None) -> memoryview:
        """Return what comes; nothing at all if nothing comes in time. Good until the next call.

        Raises:
            OSError: the other side is gone, or has been silent for longer than it said it would be.
        """
        patience_s = max(0.0, self._quiet_max_s - self._quiet_s)
        wait_s = patience_s if timeout_s is None else min(timeout_s, patience_s)
        begun_s = time.monotonic()
        end_s = begun_s + max(0.0, wait_s)
        if count := self._decrypted():
            return memoryview(self._received)[:count]
        while self._selector.select(None if wait_s == float("inf") else max(0.0, end_s - time.monotonic())):
            self._quiet_s = 0.0
            if count := self._read():
                return memoryview(self._received)[:count]
        # Only what was waited for counts: the other side is not to blame for a reader that was busy elsewhere.
        self._quiet_s += time.monotonic() - begun_s
        if self._quiet_s >= self._quiet_max_s:
            raise TimeoutError(f"the other side was silent for {self._quiet_s:.1f} s")
        return memoryview(b"")

    def _read(self) -> int:
        """Read what is there; 0 if that is not enough for TLS to make anything of it."""
        if self._tls is not None:
            self._tls.feed(self._socket.recv(len(self._received)))
            return self._decrypted()
        count = self._socket.recv_into(self._received)
        if not count:
            raise ConnectionResetError("the other side closed it")
        return count

    def _decrypted(self) -> int:
        return 0 if self._tls is None else self._tls.read_into(self._received)

    def receive_by(self, deadline_s: float) -> memoryview:
        """Return what comes, on the monotonic clock by then.

        Raises:
            OSError: nothing has come.
        """
        data = self.receive(max(0.0, deadline_s - time.monotonic()))
        if not data:
            raise TimeoutError("the other side says nothing")
        return data

    def beat(self, heartbeat_s: float) -> None:
        """Send heartbeats from now on, and expect them."""
        if heartbeat_s > 0:
            self._quiet_max_s = SILENT_HEARTBEATS * heartbeat_s
            threading.Thread(target=self._beat, args=(heartbeat_s / 2,), name="marketd-heartbeat", daemon=True).start()

    def _beat(self, period_s: float) -> None:
        while not self._closing.wait(period_s):
            try:
                self.send(HEARTBEAT)
            except OSError:
                return  # whoever reads finds out by itself

    def close(self) -> None:
        """Close it; the heartbeat ends. May be called twice."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # lets go of a heartbeat that is stuck in `send`
        # Not for ever: if the program was interrupted at the wrong moment, it is this thread that has the lock.
        self._sending.acquire(timeout=LET_GO_S)
        self._selector.close()
        self._socket.close()
        self._sending.release()


def _connected(address: Address, timeout_s: float) -> socket.socket:
    if not address.path:
        found = socket.create_connection((address.host, address.port), timeout_s)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        found.settimeout(timeout_s)
        found.connect(address.path)
    except BaseException:
        found.close()
        raise
    return found

"""TLS for the blocking client, where one thread reads while another sends heartbeats.

``ssl.SSLSocket`` is not made for that: OpenSSL's state belongs to one thread at a time, and a thread that waits in it
for the network would keep the other one out. Here nobody waits while it has the lock.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

PIECE_BYTES = 1 << 16


class TlsState:
    """Makes encrypted bytes of plain ones and the other way round, after a handshake over a connected socket.

    Raises:
        OSError: the socket broke. ``ssl.SSLError``: we can't agree, or the server is not who it should be.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, hostname: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        self._lock = threading.Lock()
        try:
            while not self._agree():
                sock.sendall(self._outgoing.read())
                self._take(sock.recv(PIECE_BYTES))
        finally:
            with contextlib.suppress(OSError):
                sock.sendall(self._outgoing.read())

    def _agree(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def encrypt(self, data: bytes) -> bytes:
        """Return what is to be sent, in the order of the calls."""
        with self._lock:
            self._tls.write(data)
            return self._outgoing.read()

    def feed(self, data: bytes) -> None:
        """Take what was received; nothing at all for the end."""
        with self._lock:
            self._take(data)

    def read_into(self, buffer: bytearray) -> int:
        """Return how many plain bytes there are in the buffer now; 0 until more is fed.

        Raises:
            OSError: the other side has ended it; ``ssl.SSLError``, what came is not what it sent.
        """
        with self._lock:
            try:
                count = self._tls.read(len(buffer), buffer)
            except ssl.SSLWantReadError:
                return 0
        if not count:
            raise ConnectionResetError("the other side closed it")
        return int(count)

    def _take(self, data: bytes) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

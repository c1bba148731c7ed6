"""What systemd does for a service, for a test: it hears notifications on a real socket, and passes open sockets."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

# Becomes the daemon, with the sockets at 3, 4, 5 … and its own process id in the environment: sd_listen_fds(3).
EXEC = """
import fcntl, os, sys
count = int(os.environ["LISTEN_FDS"])
for number, given in enumerate([fcntl.fcntl(int(text), fcntl.F_DUPFD, 200) for text in sys.argv[1 : count + 1]]):
    os.dup2(given, 3 + number)
    os.close(given)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[count + 1], sys.argv[count + 1 :])
"""


class ServiceManager:
    """Starts daemons, and keeps what they say.

    Args:
        folder: for the notification socket.
        watchdog_s: what the daemon is told; nobody ends it.
        sockets: what it is given, listening, by name; there may be several of a name.

    Attributes:
        told: every notification, oldest first: when it came, and its assignments.
    """

    def __init__(
        self, folder: Path, *, watchdog_s: float = 0.0, sockets: list[tuple[str, socket.socket]] | None = None
    ) -> None:
        self.told: list[tuple[float, dict[str, str]]] = []
        self._path = folder / "notify"
        self._watchdog_s = watchdog_s
        self._sockets = sockets or []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        while datagram := self._socket.recv(8192):
            assignments = dict(line.split("=", 1) for line in datagram.decode().splitlines())
            self.told.append((time.monotonic(), assignments))

    def close(self) -> None:
        """Hear nothing any more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(self._path))
        self._thread.join(5)
        self._socket.close()

    # --- what a daemon is started with ---

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The sockets to be passed."""
        return tuple(sock.fileno() for _, sock in self._sockets)

    def environment(self) -> dict[str, str]:
        """The variables that systemd would set, but for the daemon's process id."""
        found = {"NOTIFY_SOCKET": str(self._path)}
        if self._watchdog_s:
            found["WATCHDOG_USEC"] = str(round(self._watchdog_s * 1_000_000))
        if self._sockets:
            found |= {
                "LISTEN_FDS": str(len(self._sockets)),
                "LISTEN_FDNAMES": ":".join(name for name, _ in self._sockets),
            }
        return found

    def command(self, command: list[str]) -> list[str]:
        """How to start a command with the sockets."""
        if not self._sockets:
            return command
        return [sys.executable, "-c", EXEC, *map(str, self.descriptors), *command]

    # --- what it has said ---

    def said(self, variable: str) -> list[str]:
        """All values of a variable so far."""
        return [assignments[variable] for _, assignments in list(self.told) if variable in assignments]

    def silence_s(self, variable: str) -> float:
        """How long ago a variable was last set."""
        times = [at_s for at_s, assignments in list(self.told) if variable in assignments]
        return time.monotonic() - times[-1] if times else float("inf")


@contextlib.contextmanager
def managing(folder: Path, **options: object) -> Iterator[ServiceManager]:
    """Be a service manager for a while."""
    manager = ServiceManager(folder, **options)  # type: ignore[arg-type]
    try:
        yield manager
    finally:
        manager.close()

"""What a service manager is told: sd_notify(3), in the lines that systemd reads from a datagram socket.

Every call does nothing where no service manager asked for it, and none ever raises: a daemon does not end because its
manager is not there to hear it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping

import structlog

USEC_PER_S = 1_000_000

log = structlog.get_logger("marketd.supervise.notify")


class Notifier:
    """Tells the service manager how this process fares.

    Args:
        send: takes one datagram; None where nobody listens.
        watchdog_s: the manager ends us when :meth:`watchdog` is not called for so long; 0: it does not watch.

    Attributes:
        wanted: whether anybody listens.
        told_ready: whether the start is over, as far as the manager knows.
    """

    def __init__(self, send: Callable[[bytes], None] | None = None, watchdog_s: float = 0.0) -> None:
        self.wanted = send is not None
        self.told_ready = False
        self.watchdog_s = watchdog_s if send is not None else 0.0
        self._send = send
        self._failing = False

    @classmethod
    def from_environment(cls, env: MutableMapping[str, str] = os.environ, pid: int | None = None) -> Notifier:
        """Take what the service manager has put there for this process, out of the environment: it is not for children.

        ``WATCHDOG_PID`` names the process that is to feed the watchdog; a variable that is none of our business, or
        makes no sense, counts as not there: sd_watchdog_enabled(3).
        """
        address = env.pop("NOTIFY_SOCKET", "")
        usec, watched = env.pop("WATCHDOG_USEC", ""), env.pop("WATCHDOG_PID", "")
        if not address:
            return cls()
        if address[0] not in "/@":
            log.warning("notify.unusable", socket=address, error="it begins with neither / nor @")
            return cls()
        ours = not watched or watched == str(os.getpid() if pid is None else pid)
        watchdog_s = int(usec) / USEC_PER_S if ours and usec.isascii() and usec.isdecimal() else 0.0
        # An abstract address begins with a zero byte, which a variable can't hold: unix(7).
        return cls(_Datagrams("\0" + address[1:] if address[0] == "@" else address), watchdog_s)

    def ready(self, status: str = "") -> None:
        """Say that the start, or a reload, is complete."""
        self.told_ready = True
        self._tell("READY=1", f"STATUS={status}" if status else "")

    def status(self, status: str) -> None:
        """Give the manager one line for people."""
        self._tell(f"STATUS={status}")

    def reloading(self) -> None:
        """Say that a reload has begun; :meth:`ready` ends it. The time tells it from one that was asked for later."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> None:
        """Say that the daemon is on its way out."""
        self._tell("STOPPING=1", f"STATUS={status}" if status else "")

    def watchdog(self) -> None:
        """Say that the work makes progress; without it the manager starts the daemon anew."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if self._send is None:
            return
        try:
            self._send("\n".join(line.replace("\n", " ") for line in lines if line).encode())
        except OSError as error:
            # Not again and again: the watchdog is fed every second.
            if not self._failing:
                log.warning("notify.failed", error=str(error))
            self._failing = True
        else:
            self._failing = False


class _Datagrams:
    """Sends to one address, with a socket for each datagram: that of a manager that started anew is another one."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __call__(self, datagram: bytes) -> None:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
            sock.setblocking(False)  # a manager that does not read must not hold the supervisor up
            sock.sendto(datagram, self._address)

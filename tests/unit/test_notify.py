"""What goes to the service manager, with a real datagram socket in its place."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from marketd.supervise.notify import Notifier


class Manager:
    """The end of the notification socket that systemd would read."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(5)

    def told(self) -> dict[str, str]:
        """The next datagram's assignments."""
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


def notifier_for(manager: Manager, **env: str) -> Notifier:
    return Notifier.from_environment({"NOTIFY_SOCKET": manager.socket.getsockname(), **env})


def test_each_message_has_the_lines_that_systemd_reads(manager: Manager) -> None:
    notifier = notifier_for(manager)
    assert notifier.wanted
    notifier.ready("all is well")
    assert manager.told() == {"READY": "1", "STATUS": "all is well"}
    notifier.ready()
    assert manager.told() == {"READY": "1"}
    notifier.status("two\nlines=of it")
    assert manager.told() == {"STATUS": "two lines=of it"}
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    told = manager.told()
    assert told.pop("RELOADING") == "1"
    assert before <= int(told.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert not told
    notifier.watchdog()
    assert manager.told() == {"WATCHDOG": "1"}
    notifier.stopping()
    assert manager.told() == {"STOPPING": "1"}


def test_abstract_socket_is_reached() -> None:
    name = f"marketd-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    Notifier.from_environment({"NOTIFY_SOCKET": f"@{name}"}).ready()
    assert manager.told() == {"READY": "1"}
    manager.socket.close()


def test_variables_are_taken_away_so_that_no_child_has_them(manager: Manager) -> None:
    env = {"NOTIFY_SOCKET": manager.socket.getsockname(), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "OTHER": "stays"}
    Notifier.from_environment(env)
    assert env == {"OTHER": "stays"}


@pytest.mark.parametrize(
    ("usec", "pid", "watchdog_s"),
    [
        ("60000000", None, 60.0),
        ("60000000", "77", 60.0),
        ("60000000", "78", 0.0),
        ("60000000", "me", 0.0),
        ("", None, 0.0),
        ("-1", None, 0.0),
        ("soon", None, 0.0),
        ("²", None, 0.0),
    ],
)
def test_watchdog_is_fed_by_the_process_that_is_meant(manager, usec, pid, watchdog_s) -> None:
    env = {"NOTIFY_SOCKET": manager.socket.getsockname(), "WATCHDOG_USEC": usec}
    if pid is not None:
        env["WATCHDOG_PID"] = pid
    assert Notifier.from_environment(env, pid=77).watchdog_s == watchdog_s


@pytest.mark.parametrize("address", ["", "relative/path", "vsock:2:1234", " /run/x"])
def test_without_a_usable_address_nothing_is_said(address: str) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    assert not notifier.wanted
    assert notifier.watchdog_s == 0
    notifier.ready("nobody hears it")


def test_manager_that_is_gone_or_does_not_read_is_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    manager = Manager(str(path))
    notifier = notifier_for(manager)
    for _ in range(2000):  # far beyond what the socket's queue takes
        notifier.status("x" * 1000)
    manager.socket.close()
    notifier.watchdog()
    path.unlink()
    notifier.watchdog()
    again = Manager(str(path))
    notifier.watchdog()
    assert again.told() == {"WATCHDOG": "1"}
    again.socket.close()

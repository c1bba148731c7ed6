"""The daemon under a service manager, whose notification socket and listening sockets are real ones."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from marketd.client import Frame, connect, open_client
from marketd.model import GapReason
from marketd.supervise.epochs import read_ends
from tests.conftest import PROJECT
from tests.scenario.daemon import running, wait_for
from tests.scenario.service_manager import ServiceManager, managing

CONFIG = """
[gateway]
listen = ["127.0.0.1:0"]
http = ["127.0.0.1:0"]
[bars]
periods = ["1s", "1m"]
[history]
periods = ["1m"]
[feeds.sim]
backend = "sim"
instruments = 4
"""
WATCHDOG_S = 0.8
CLIENTS = 50


WITH_TLS = {"marketd_certificate_expires_timestamp_seconds"}  # not there without a certificate


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[list[tuple[str, socket.socket]]]:
    """What the two socket units have: TCP, a Unix socket, HTTP."""
    with contextlib.ExitStack() as stack:
        tcp, http = (stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024)) for _ in range(2))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(tmp_path / "md.sock"))
        unix.listen(1024)
        yield [("protocol", tcp), ("protocol", unix), ("http", http)]


@pytest.mark.timeout(240)
def test_manager_is_told_of_the_start_of_progress_of_standstills_and_of_the_end(tmp_path: Path) -> None:
    with (
        managing(tmp_path, watchdog_s=WATCHDOG_S) as manager,
        running(tmp_path, CONFIG, wait=False, manager=manager) as daemon,
    ):
        wait_for(lambda: manager.said("READY"), 60, "READY=1")
        with connect(json.loads(daemon.paths.addresses.read_text())[0]) as md:
            status = md.status()
            assert status.ready, "it said so too early"
            assert status.feeds[0].instruments == 4
            wait_for(lambda: re.fullmatch(one_client(), manager.said("STATUS")[-1]), 15, "the client in STATUS=")
        order = [next(iter(assignments)) for _, assignments in manager.told]
        assert "WATCHDOG" not in order[: order.index("READY")]
        assert manager.said("STATUS")[0] == "starting; 0 of 1 feeds live, 0 instruments, 0 rows, 0 clients"
        daemon.wait_ready()
        known = exposed(next(address for address in daemon.addresses if address.startswith("http://")))
        for name in ("alerts.yml", "grafana.json"):
            assert metrics_in(name) <= known | WITH_TLS, f"deploy/{name} has metrics that the daemon does not expose"
        pids = daemon.pids()
        for name in ("feed.sim", "sampler", "gateway", "supervisor"):
            wait_for(lambda: manager.silence_s("WATCHDOG") < WATCHDOG_S, 30, "the watchdog to be fed")
            with stopped(pids[name]):
                wait_for(lambda: manager.silence_s("WATCHDOG") > 2 * WATCHDOG_S, 10, f"{name} to be missed")
        wait_for(lambda: manager.silence_s("WATCHDOG") < WATCHDOG_S, 30, "the watchdog to be fed again")
        assert '"watchdog.withheld"' in daemon.log
        assert any("feed.sim has given no sign of life for" in line for line in manager.said("STATUS"))
        for process in daemon.processes()[1:]:
            assert not process.environ().keys() & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS"}
        assert not manager.said("STOPPING")
        daemon.stop()
        wait_for(lambda: manager.said("STOPPING"), 5, "STOPPING=1")
        assert len(manager.said("READY")) == 1


def exposed(address: str) -> set[str]:
    """The names of all metrics, as rules may have them."""
    text = urllib.request.urlopen(f"{address}/metrics", timeout=10).read().decode()
    kinds = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    histograms = [name for name, kind in kinds if kind == "histogram"]
    parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    return {name for name, _ in kinds} | parts


def metrics_in(name: str) -> set[str]:
    """The metrics that the rules or the dashboard ask for."""
    found = set(re.findall(r"\bmarketd_\w+", (PROJECT / "deploy" / name).read_text()))
    assert len(found) > 8
    return found


def one_client() -> str:
    return r"1 of 1 feeds live, 4 instruments, [1-9][\d,]* rows, 1 clients"


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Keep a process from running. It may be ended meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_feed_that_can_not_be_live_does_not_keep_the_daemon_from_being_ready(tmp_path: Path) -> None:
    broken = tmp_path / "broken.ws"
    broken.write_text("no recording")
    config = f'[feeds.sim]\nbackend = "sim"\n[feeds.broken]\nbackend = "replay"\nfiles = ["{broken}"]\n'
    with managing(tmp_path) as manager, running(tmp_path, config, wait=False, manager=manager) as daemon:
        wait_for(lambda: manager.said("READY"), 60, "READY=1")
        with connect(json.loads(daemon.paths.addresses.read_text())[0]) as md:
            states = {feed.name: feed.state for feed in md.status().feeds}
        assert states.pop("broken") in ("down", "failing")
        assert states == {"sim": "live"}
        assert not manager.said("WATCHDOG"), "nobody wanted it"


ACTIVATED = """
[gateway]
listen = ["127.0.0.1:1"]
http = ["127.0.0.1:2"]
unix = false
processes = 2
[feeds.sim]
backend = "sim"
instruments = 4
rate_hz = 200
"""


class Knocker:
    """Somebody who connects again and again, and counts how often that was refused."""

    def __init__(self, addresses: list[tuple[socket.AddressFamily, object]]) -> None:
        self.knocks = 0
        self.refused: list[str] = []
        self._addresses = addresses
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._knock, daemon=True)

    def _knock(self) -> None:
        while not self._enough.wait(0.1):
            for family, address in self._addresses:
                with socket.socket(family) as sock:
                    sock.settimeout(5)
                    try:
                        sock.connect(address)
                    except OSError as error:
                        self.refused.append(f"{address}: {error}")
                    self.knocks += 1

    def __enter__(self) -> Knocker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join(10)


class Reader:
    """A client that keeps what it was told of each epoch: ranges of cursors, and which of them were gaps."""

    def __init__(self) -> None:
        self.ranges: dict[int, list[tuple[int, int]]] = {}
        self.gaps: list[tuple[int, str, int]] = []
        self.rows = 0
        self.returns = 0

    async def run(self, address: str) -> None:
        """Follow all instruments, for ever, with all kinds that there are: so each cursor has a row or is in a gap."""
        async with open_client(address, timeout_s=60) as md, md.subscribe(["*"], kinds=["trade", "quote"]) as stream:
            async for frame in stream:
                self.take(frame)

    def take(self, frame: Frame) -> None:
        """Note a frame."""
        if frame.state == "reconnected":
            self.returns, self.rows = self.returns + 1, 0
        if not frame.epoch:
            return
        self.rows += len(frame)
        self.ranges.setdefault(frame.epoch, []).append((frame.cursor_first, frame.cursor_last))
        if frame.kind == "gap":
            columns = frame.columns
            for reason, lost in zip(columns["reason"].tolist(), columns["lost"].tolist(), strict=True):
                self.gaps.append((frame.epoch, GapReason(reason).name, lost))


@pytest.mark.timeout(300)  # four starts of a gateway and two of a daemon, beside fifty busy clients
async def test_nobody_is_refused_and_nothing_is_lost_unsaid_when_gateways_and_daemon_are_replaced(
    tmp_path: Path, sockets: list[tuple[str, socket.socket]]
) -> None:
    """Fifty clients of a busy feed, through the death of both gateways and a restart of the daemon."""
    tcp, unix, http = (sock.getsockname() for _, sock in sockets)
    address = f"{tcp[0]}:{tcp[1]}"
    knocker = Knocker([(socket.AF_INET, tcp), (socket.AF_UNIX, unix), (socket.AF_INET, http)])
    readers = [Reader() for _ in range(CLIENTS)]

    def all_have(rows: int, *, returns: int) -> bool:
        """Whether all have come back so often, and have had so many rows since then."""
        return all(reader.returns >= returns and reader.rows >= rows for reader in readers)

    with managing(tmp_path, sockets=sockets) as manager, knocker:
        async with trio.open_nursery() as nursery:
            for number, reader in enumerate(readers):  # before there is a daemon: they wait
                nursery.start_soon(reader.run, f"unix:{unix}" if number % 5 == 0 else address)
            with running(tmp_path, ACTIVATED, instance="activated", wait=False, manager=manager) as daemon:
                await until(lambda: len(manager.said("READY")) == 1, "the daemon to be ready")
                daemon.addresses = json.loads(daemon.paths.addresses.read_text())
                assert sorted(daemon.addresses) == sorted([address, f"unix:{unix}", f"http://{http[0]}:{http[1]}"])
                assert await trio.to_thread.run_sync(is_ready, http)
                await until(lambda: all_have(200, returns=0), "rows for everybody")
                pids = await trio.to_thread.run_sync(daemon.pids)
                for name in ("gateway", "gateway.2"):
                    os.kill(pids[name], signal.SIGKILL)
                await until(lambda: all_have(200, returns=1), "everybody to be back at the new gateways")
                await trio.to_thread.run_sync(daemon.stop)
            with running(tmp_path, ACTIVATED, instance="activated", wait=False, manager=manager):
                await until(lambda: len(manager.said("READY")) == 2, "the new daemon to be ready")
                await until(lambda: all_have(200, returns=2), "everybody to be back at the new daemon")
                assert await trio.to_thread.run_sync(is_ready, http)
                nursery.cancel_scope.cancel()
    assert knocker.knocks >= 30
    assert not knocker.refused
    old_epoch, new_epoch = readers[0].ranges
    end = read_ends(daemon.paths.epochs("sim"))[old_epoch]
    reached = [reader.ranges[old_epoch][-1][1] for reader in readers]
    assert max(reached) == end, "a daemon that stops gives out all it has"
    for reader in readers:
        assert list(reader.ranges) == [old_epoch, new_epoch], "each epoch once, in order"
        for epoch, ranges in reader.ranges.items():
            seams = [(before, after) for before, after in itertools.pairwise(ranges) if after[0] != before[1] + 1]
            assert not seams, f"a hole, or something twice, in {'the new' if epoch == new_epoch else 'the old'} epoch"
        # Whether it had the old one to its end or not: that there may be more is told, and nothing else is missing.
        assert reader.ranges[new_epoch][0][0] == 1
        assert reader.gaps[0] == (new_epoch, "EPOCH", -1)
        assert {epoch for epoch, _, _ in reader.gaps} == {new_epoch}


async def until(condition, what: str, timeout_s: float = 60.0) -> None:
    """Wait for a condition, while other tasks run."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {timeout_s} s in vain for {what}"
        await trio.sleep(0.05)


def is_ready(http: tuple[str, int]) -> bool:
    url = f"http://{http[0]}:{http[1]}/readyz"
    return bool(json.loads(urllib.request.urlopen(url, timeout=10).read())["ready"])


def run_with(tmp_path: Path, name: str, sock: socket.socket) -> subprocess.CompletedProcess[str]:
    """Start a daemon with one passed socket, which it is expected to refuse."""
    manager = ServiceManager(tmp_path, sockets=[(name, sock)])
    try:
        return subprocess.run(
            manager.command([sys.executable, "-m", "marketd", "run", "--base", str(tmp_path / "base")]),
            env=os.environ | manager.environment() | {"MARKETD_CONFIG": ""},
            pass_fds=manager.descriptors,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        manager.close()


def test_socket_that_the_configuration_would_not_allow_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        done = run_with(tmp_path, "protocol", everywhere)
    assert done.returncode != 0
    assert "0.0.0.0" in done.stderr


def test_socket_of_another_kind_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        done = run_with(tmp_path, "protocol", datagrams)
    assert done.returncode == 2
    assert "marketd: the socket 'protocol' (descriptor 3) that was passed to the daemon does not listen" in done.stderr
    assert "ListenStream=" in done.stderr

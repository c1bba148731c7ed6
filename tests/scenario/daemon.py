"""A real daemon for a test: its own processes, sockets, files and instance name, and no trace of it afterwards."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from marketd.client import CannotConnect, connect
from marketd.paths import Paths
from marketd.rpc.messages import StatusResult
from tests.scenario.service_manager import ServiceManager

START_TIMEOUT_S = 60.0  # on a busy machine
_numbers = itertools.count(1)


def wait_for(
    condition: Callable[[], object], timeout_s: float = 10.0, what: str = "", *, every_s: float = 0.01
) -> object:
    """Return the condition's first true value; fail when there is none in time."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline_s, f"waited {timeout_s} s in vain for {what or condition}"
        time.sleep(every_s)


@dataclass
class Daemon:
    """A running `marketd run`."""

    instance: str
    folder: Path
    process: subprocess.Popen[bytes]
    paths: Paths
    addresses: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Its TCP address."""
        return next(address for address in self.addresses if not address.startswith("unix:"))

    @property
    def log(self) -> str:
        """All that it and its actors have said."""
        return (self.folder / "log").read_text(errors="replace")

    def pids(self) -> dict[str, int]:
        """The process of each actor by name."""
        with connect(self.address) as md:
            return {actor.name: actor.pid for actor in md.status().actors if actor.pid}

    def processes(self) -> list[psutil.Process]:
        """The root and all below it."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until clients can connect and every actor is live."""
        self.wait_status(lambda status: status.ready, timeout_s)

    def wait_status(self, wanted: Callable[[StatusResult], bool], timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until clients can connect and the daemon stands as is wanted."""

        def ready() -> bool:
            assert self.process.poll() is None, f"the daemon ended with {self.process.returncode}:\n{self.log}"
            if not self.paths.addresses.exists():
                return False
            with contextlib.suppress(json.JSONDecodeError):
                self.addresses = json.loads(self.paths.addresses.read_text())
            if not self.addresses:
                return False
            # Between its announcement and now the gateway may have died, and be on its way back.
            with contextlib.suppress(CannotConnect), connect(self.address) as md:
                return wanted(md.status())
            return False

        wait_for(ready, timeout_s, f"the daemon to be ready:\n{self.log}")

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 10.0) -> float:
        """Send a signal and wait for the end; return the seconds that it took."""
        began_s = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(timeout_s)
        return time.monotonic() - began_s


@functools.cache
def compile_bars() -> None:
    """Compile what makes bars, so that no daemon has to do it first while a test waits for it."""
    from marketd.sample.warm_up import warm_up

    warm_up()


@contextlib.contextmanager
def running(
    folder: Path,
    config: str,
    *,
    instance: str | None = None,
    wait: bool = True,
    environment: Mapping[str, str] | None = None,
    manager: ServiceManager | None = None,
    shm: Path | None = None,
) -> Iterator[Daemon]:
    """Run a daemon with this TOML (less instance and gateway address, which are chosen here).

    ``manager``: who starts it, as systemd would. ``shm``: a folder that its processes see as ``/dev/shm``; needs the
    right to mount. Without a key ``http`` it serves none. Without a table ``[bars]`` it
    makes none, and has no sampler: what is not about bars need not wait for them; without a table ``[history]`` it
    stores nothing. ``environment`` is added to ours.
    """
    instance = instance or f"test-{os.getpid()}-{next(_numbers)}"
    folder = folder / instance
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **(environment or {})} | {
        "STATE_DIRECTORY": str(folder / "state"),
        "RUNTIME_DIRECTORY": str(folder / "run"),
        "CACHE_DIRECTORY": str(folder / "cache"),
    }
    text = config if "[gateway]" in config else f'{config}\n[gateway]\nlisten = ["127.0.0.1:0"]\n'
    if "http =" not in text:
        text = text.replace("[gateway]\n", "[gateway]\nhttp = []\n")
    if "[bars" not in text:
        text += "[bars]\nperiods = []\n"
    else:
        compile_bars()
    if "[history" not in text:
        text += "[history]\nperiods = []\n"
    path = folder / "marketd.toml"
    path.write_text(f'instance = "{instance}"\n{text}')
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "marketd", "run", "--config", str(path)]
        if shm is not None:
            become = 'mount --bind "$0" /dev/shm && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", become, str(shm), *command]
        process = subprocess.Popen(
            command if manager is None else manager.command(command),
            env=environment if manager is None else environment | manager.environment(),
            pass_fds=() if manager is None else manager.descriptors,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    daemon = Daemon(instance, folder, process, Paths.for_instance(instance, env=environment))
    try:
        if wait:
            daemon.wait_ready()
        yield daemon
    finally:
        if process.poll() is None:
            daemon.stop()

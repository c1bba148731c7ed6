"""`marketd demo`: a daemon on the simulated venue and a live table of its ticks, in one terminal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marketd.cli.common import daemon_packages, exits, fail

if TYPE_CHECKING:
    from marketd.paths import Paths

EXAMPLE = "marketd demo --base /tmp/try-marketd"
INSTANCE = "demo"
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
LINES_PER_SECOND = 20


@exits(interrupted=0)
def demo(
    base: Annotated[Path, typer.Option("--base", help="The folder for its data and its log.")] = Path(".marketd"),
    address: Annotated[
        str, typer.Option("--address", "-a", metavar="HOST:PORT", help="Where it listens; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.1, help="End by itself after so long.")] = None,
) -> None:
    """Try marketd out: run a daemon on a simulated venue and show its ticks until Ctrl-C.

    Everything it writes lies in one folder; the daemon's log is `demo.log` in it.
    """
    with daemon_packages():
        import trio  # noqa: F401 - only to say at once what the daemon would say in its log

        from marketd.paths import Paths
    # A terminal that closes and a plain `kill` end it as Ctrl-C does: the daemon is stopped, not left behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    with running_daemon(Paths.for_instance(INSTANCE, base), base, address) as daemon:
        print(f"marketd demo: listening at {daemon.address}; data and log in {base}; Ctrl-C ends it", file=sys.stderr)
        _show(daemon, seconds)


@dataclass(frozen=True)
class Daemon:
    """The running child process."""

    process: subprocess.Popen[bytes]
    log: Path
    address: str = ""


@contextlib.contextmanager
def running_daemon(paths: Paths, base: Path, address: str) -> Iterator[Daemon]:
    """Start the daemon as a child process, and stop it at the end."""
    base.mkdir(parents=True, exist_ok=True)
    config, log = base / "demo.toml", base / "demo.log"
    config.write_text(_config(address))
    before = _changed_ns(paths.addresses)
    command = [sys.executable, "-m", "marketd", "run", "--config", str(config), "--base", str(base)]
    with log.open("wb") as log_file:
        # A session of its own, so that Ctrl-C reaches this process alone, which then stops the daemon in order.
        process = subprocess.Popen(
            [*command, "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
        )
    try:
        yield Daemon(process, log, _wait_ready(process, paths, before, log))
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _config(address: str) -> str:
    return (
        "# Written by `marketd demo` each time it starts.\n"
        f'instance = "{INSTANCE}"\n\n'
        '[log]\nformat = "console"\n\n'
        f"[gateway]\nlisten = [{json.dumps(address)}]\nunix = false\nhttp = []\n\n"
        '[feeds.sim]\nbackend = "sim"\n'
    )


def _wait_ready(process: subprocess.Popen[bytes], paths: Paths, before_ns: int, log: Path) -> str:
    """Wait for the file with the daemon's addresses, and return the first; a file from before is a killed daemon's."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    address = ""
    while not address:
        if process.poll() is not None or time.monotonic() > deadline_s:
            fail(f"the daemon has not started: {_last_line(log)} (see {log})")
        time.sleep(0.05)
        if _changed_ns(paths.addresses) != before_ns:
            with contextlib.suppress(OSError, ValueError):  # it may be half written
                address = json.loads(paths.addresses.read_text())[0]
    return address


def _changed_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1].removeprefix("marketd: ")


def _show(daemon: Daemon, seconds: float | None) -> None:
    from marketd.cli import lines
    from marketd.cli.output import console
    from marketd.cli.watch import TABLE_RATE_HZ, Wanted, follow, follow_on_board

    def fail_when_gone() -> None:
        """End the command with the daemon: the client alone would go on trying to reach it."""
        if daemon.process.poll() is not None:
            fail(f"the daemon has ended: {_last_line(daemon.log)} (see {daemon.log})")

    wanted = Wanted(["*"], ["trade", "quote"], "latest", TABLE_RATE_HZ, seconds=seconds)
    if console().is_terminal:
        follow_on_board(daemon.address, wanted, "name", fail_when_gone)
    else:
        output = lines.LineOutput(lines.text, per_second_max=LINES_PER_SECOND)
        follow(daemon.address, wanted, output, fail_when_gone)

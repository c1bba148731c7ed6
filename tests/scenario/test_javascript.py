"""The client in JavaScript, in Node, against the conformance vectors and the real daemon."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from marketd.ring import layout, steps
from marketd.rpc.framing import PREFIX, frame
from tests.conftest import PROJECT
from tests.scenario.daemon import Daemon, running, wait_for

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node here: `apt install nodejs`")

CONFIG = """
[gateway]
listen = ["127.0.0.1:0"]
http = ["127.0.0.1:0"]
[bars]
periods = ["1s"]
[history]
periods = ["1s"]
flush_s = 0.3
[feeds.sim]
backend = "sim"
instruments = 3
"""
WAIT_S = 20.0


def test_conformance_vectors() -> None:
    command = [NODE, "--test", str(PROJECT / "tests" / "javascript" / "conformance.test.mjs")]
    done = subprocess.run(command, capture_output=True, text=True)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("js"), CONFIG) as daemon:
        yield daemon


class Follower:
    """A node process that follows a stream."""

    def __init__(self, address: str, kinds: str = "trade,quote", contract: str = "lossless") -> None:
        script = str(PROJECT / "tests" / "javascript" / "follow.mjs")
        if address.startswith("ws") and _major() < 20:
            pytest.skip("this node has no WebSocket; version 20 and later have")
        flags = ["--experimental-websocket"] if address.startswith("ws") and _major() < 22 else []
        command = [NODE, *flags, script, address, "*.sim", kinds, contract]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # type: ignore[arg-type]
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.hello = self.next(lambda line: "instance" in line)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def next(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            line = self._lines.get(timeout=WAIT_S)
            if wanted(line):
                return line

    def ask(self, method: str, options: Any = None, **params: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"method": method, "params": params, "options": options}) + "\n")
        self.process.stdin.flush()
        return self.next(lambda line: line.get("answer") == method)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            self.process.wait(5)
        finally:
            self.process.kill()


def _major() -> int:
    said = subprocess.run([NODE, "--version"], capture_output=True, text=True)  # type: ignore[list-item]
    return int(said.stdout.strip().removeprefix("v").partition(".")[0])


def addresses(daemon: Daemon) -> dict[str, str]:
    unix = next(address for address in daemon.addresses if address.startswith("unix:"))
    http = next(address for address in daemon.addresses if address.startswith("http://"))
    return {"tcp": f"tcp://{daemon.address}", "unix": unix, "ws": http.replace("http", "ws") + "/ws"}


@pytest.mark.parametrize("transport", ["tcp", "unix", "ws"])
def test_every_row_comes_once_though_the_gateway_is_killed(daemon: Daemon, transport: str) -> None:
    with Follower(addresses(daemon)[transport]) as follower:
        cursors: list[int] = []

        def read(rows: int) -> None:
            until = len(cursors) + rows
            while len(cursors) < until:
                frame = follower.next(lambda line: line.get("kind") in ("rows", "gap"))
                assert frame["kind"] == "rows", frame
                cursors.extend(row["cursor"] for row in frame["rows"])

        def read_until(state: str) -> None:
            while (frame := follower.next(lambda line: "kind" in line)).get("state") != state:
                assert frame["kind"] != "gap", frame
                cursors.extend(row["cursor"] for row in frame["rows"])

        read(50)
        os.kill(daemon.pids()["gateway"], signal.SIGKILL)
        read_until("disconnected")
        read_until("reconnected")
        read(50)
        assert cursors == list(range(cursors[0], cursors[0] + len(cursors)))


def test_requests_errors_and_changes(daemon: Daemon) -> None:
    with Follower(addresses(daemon)["tcp"]) as follower:
        assert follower.hello == {"instance": daemon.instance, "unmatched": []}
        assert follower.ask("status")["result"]["feeds"][0]["name"] == "sim"
        assert follower.ask("instrument", fqme="BTCUSDT.spot.sim")["result"]["fqme"] == "btc/usdt.spot.sim"
        assert follower.ask("instrument", fqme="nope")["code"] == "unknown_instrument"
        assert follower.ask("subscribe", nope=1)["code"] == "invalid_params"
        row = follower.next(lambda line: line.get("kind") == "rows")["rows"][0]
        assert row["fqme"].endswith(".spot.sim")
        assert len(row["event_ns"]) == 19  # to the nanosecond
        wait_for(lambda: sum(follower.ask("history", instruments=["*.sim"], period="1s")["batches"]) > 1000, 20, "bars")
        changed = follower.ask("update", add=["btc/usdt.spot.sim"], remove=["*.sim"])
        assert "code" not in changed, changed
        frame = follower.next(lambda line: line.get("kind") == "rows" and len(line["rows"]) > 0)
        while {row["fqme"] for row in frame["rows"]} != {"btc/usdt.spot.sim"}:
            frame = follower.next(lambda line: line.get("kind") == "rows")
        assert follower.ask("update", paused=True).get("code") is None


@pytest.mark.parametrize("contract", ["latest", "frames", "trade_safe"])
def test_the_other_contracts(daemon: Daemon, contract: str) -> None:
    with Follower(addresses(daemon)["ws"], contract=contract) as follower:
        for _ in range(10):
            frame = follower.next(lambda line: line.get("kind") == "rows")
            kinds = [row["kind"] for row in frame["rows"]]
            if contract != "latest":
                assert kinds == sorted(kinds, key=["trade", "quote", "level", "gap", "status"].index)
            else:
                assert len({(row["kind"], row["fqme"]) for row in frame["rows"]}) == len(frame["rows"])


def test_bars_and_index_events(daemon: Daemon) -> None:
    with Follower(addresses(daemon)["tcp"], kinds="bar.1s,index.1s") as follower:
        kinds: set[str] = set()
        while kinds != {"bar.1s", "index.1s"}:
            frame = follower.next(lambda line: line.get("kind") == "rows")
            kinds |= {row["kind"] for row in frame["rows"]}
            for row in frame["rows"]:
                assert int(row["open_ns"]) % 10**9 == 0
                assert row["kind"] != "bar.1s" or row["low"] <= row["close"] <= row["high"]


def test_nobody_there_and_no_address(tmp_path: Path) -> None:
    script = str(PROJECT / "tests" / "javascript" / "follow.mjs")
    for address, said in (
        ("tcp://127.0.0.1:1", "can't connect to tcp://127.0.0.1:1"),
        ("nowhere", "nowhere is no address"),
    ):
        command = [NODE, script, address, "*", "trade", "lossless"]
        done = subprocess.run(command, capture_output=True, text=True)  # type: ignore[arg-type]
        assert done.returncode == 1
        assert said in done.stderr


class RudeServer:
    """Serves one client, hangs up on it, and from then on refuses every hello; or hangs up at each."""

    def __init__(self, *, serve_first: bool) -> None:
        self.connections = 0
        self._serve = serve_first
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                with contextlib.suppress(OSError), sock:
                    self._answer(sock)

    def _answer(self, sock: socket.socket) -> None:
        request = self._read(sock)
        if not self._serve:
            error = {"code": -32005, "message": "too many", "data": {"code": "limit_exceeded"}}
            sock.sendall(frame(msgspec.msgpack.encode({"id": request["id"], "error": error})))
            return
        self._serve = False
        hello = {"version": 1, "instance": "rude", "heartbeat_s": 0.0} | {
            "row_hash": f"{layout.dtype_hash():016x}",
            "step_hash": f"{steps.STEPS.hash():016x}",
        }
        sock.sendall(frame(msgspec.msgpack.encode({"id": request["id"], "result": hello})))
        result = {"subscription": 1, "feeds": [], "unmatched": []}
        sock.sendall(frame(msgspec.msgpack.encode({"id": self._read(sock)["id"], "result": result})))
        time.sleep(0.2)

    def _read(self, sock: socket.socket) -> Any:
        (size,) = PREFIX.unpack(sock.recv(PREFIX.size, socket.MSG_WAITALL))
        return msgspec.msgpack.decode(sock.recv(size, socket.MSG_WAITALL))

    def close(self) -> None:
        self._listener.close()


def test_server_that_refuses_is_asked_less_and_less_often() -> None:
    """Each refusal began another loop of attempts beside the first one."""
    with contextlib.closing(RudeServer(serve_first=True)) as server, Follower(server.address) as follower:
        follower.next(lambda line: line.get("state") == "disconnected")
        wait_for(lambda: server.connections > 3, 20, "some attempts")
        had, began_s = server.connections, time.monotonic()
        time.sleep(3.0)
        # 0.8 s doubling to 5 s, each times a random number from 0 to 1: a loop alone makes a handful of them.
        assert server.connections - had < 15, time.monotonic() - began_s


def test_client_that_was_never_let_in_ends() -> None:
    with contextlib.closing(RudeServer(serve_first=False)) as server:
        script = str(PROJECT / "tests" / "javascript" / "follow.mjs")
        command = [NODE, script, server.address, "*", "trade", "lossless"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)  # type: ignore[arg-type]
        assert done.returncode == 1
        assert "limit_exceeded" in done.stderr
        assert server.connections == 1

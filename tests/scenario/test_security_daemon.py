"""A whole daemon, seen by somebody who has no business with it: its files, its ports, its processes' environments."""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from marketd.client import CannotConnect, ConnectionLost, RequestError, connect
from marketd.rpc.framing import frame
from marketd.security.certificates import make_certificate
from tests.scenario.daemon import Daemon, running, wait_for

CONFIG = """
[gateway]
listen = ["127.0.0.1:0", "tls://127.0.0.1:0"]
http = ["127.0.0.1:0", "tls://127.0.0.1:0"]
[security]
require_token = true
tokens = "{folder}/tokens.json"
certificate = "{folder}/certificate.pem"
key = "{folder}/key.pem"
[bars]
periods = ["1s"]
[history]
periods = ["1s"]
flush_s = 0.2
[feeds.sim]
backend = "sim"
instruments = 4
"""
# What a stranger may be told: that it is one, or that it does not make sense.
HARMLESS = {"unauthorized", "hello_required", "frame_too_large", "parse_error", "invalid_request"}
SCAN_S = 0.5


def marketd(config: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "marketd", *arguments, *(["--config", str(config)] if arguments[0] == "token" else [])],
        capture_output=True, text=True, timeout=60, env=os.environ | environment,
    )  # fmt: skip


def ask(port: int, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Send something, and return what comes back until nothing more does."""
    answered = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SCAN_S) as plain:
            sock = context.wrap_socket(plain, server_hostname="localhost") if context is not None else plain
            sock.sendall(data)
            while part := sock.recv(1 << 16):
                answered += part
    except OSError:  # a time-out, a reset, or no TLS
        pass
    return answered


def is_harmless(answer: bytes) -> bool:
    """Whether an answer says no more than that there will be none."""
    if not answer:
        return True
    if answer.startswith(b"HTTP/1.1 "):
        status = int(answer.split()[1])
        return status in (400, 401, 403, 404) or answer.endswith((b"ok\n", b'{"ready":true,"problems":[]}'))
    try:
        message = msgspec.msgpack.decode(answer[4 : 4 + int.from_bytes(answer[:4], "big")])
        return message["error"]["data"]["code"] in HARMLESS
    except (ValueError, KeyError, TypeError):
        return False


def listening(daemon: Daemon) -> dict[int, str]:
    """Every TCP port of every process of the tree, and the process's number and command."""
    return {
        connection.laddr.port: f"{process.pid} {process.cmdline()[:6]}"
        for process in daemon.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def request(method: str, **params: object) -> bytes:
    return frame(msgspec.msgpack.encode({"id": 1, "method": method, "params": params}))


def get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


PROBES = [
    b"",
    b"\0" * 64,
    os.urandom(200),
    request("status"),
    request("hello"),
    request("hello") + request("status") + request("subscribe", instruments=["*"]),
    request("hello", token="mdt_" + "A" * 43) + request("status"),
    get("/metrics"),
    get("/v1/instruments"),
    get("/v1/instruments", "Authorization: Bearer mdt_AAAA"),
    get("/v1/bars?instrument=*"),
    get("/v1/bars?instrument=*", "Authorization: Basic bWR0Og=="),
    get("/healthz"),
    get("/readyz"),
    get("/client/../../../../etc/passwd"),
    get("/client/%2e%2e/aio.py"),
    bytes(32) + msgspec.msgpack.encode({"cmd": ["self", "cancel", {}, ["stranger", "1"], "2"]}),
]


def test_a_daemon_is_its_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make_certificate(tmp_path, ["localhost", "127.0.0.1"], 30)
    path = tmp_path / "marketd.toml"
    path.write_text(f'[security]\ntokens = "{tmp_path}/tokens.json"\n[feeds.sim]\nbackend = "sim"\n')
    state = {"STATE_DIRECTORY": str(tmp_path / "state")}
    made = marketd(path, "token", "create", "ops", "--scope", "admin", "--json", **state)
    token = json.loads(made.stdout)["token"]
    assert "token" not in made.stderr
    monkeypatch.setenv("MARKETD_TOKEN", token)
    monkeypatch.setenv("MARKETD_CA_FILE", str(files.authority))
    with running(tmp_path, CONFIG.format(folder=tmp_path)) as daemon:
        _everything_is_private(daemon)
        _no_port_answers_a_stranger(daemon, files.authority)
        _no_process_tells_a_secret(daemon, token)
        _the_commands_show_their_token(daemon, path, token, tmp_path)
        _a_revoked_token_is_worthless_at_once(daemon, path, state, monkeypatch)
        assert token not in daemon.log
        daemon.stop()
        assert token not in daemon.log
    for file in [*tmp_path.rglob("*")]:
        if file.is_file() and file.name != "operator.token":
            assert token.encode() not in file.read_bytes(), file


def _everything_is_private(daemon: Daemon) -> None:
    with connect(daemon.address) as md, md.subscribe(["*"]) as stream:
        next(iter(stream))
        wait_for(lambda: list(daemon.paths.store.rglob("*.parquet")), 20, "a stored bar")
        with connect(daemon.address) as other:
            other.record("sim", "monday", duration_s=0.2)
    made = [daemon.paths.state, daemon.paths.runtime, daemon.paths.cache]
    made += [file for folder in made for file in folder.rglob("*")]
    segments = daemon.paths.segments()
    assert len(segments) >= 5
    assert {"history.sock", "marketd.sock", "audit.log"} <= {file.name for file in made}
    for file in [*made, *segments, daemon.folder.parent / "tokens.json"]:
        try:
            facts = file.lstat()
        except FileNotFoundError:  # it was written beside, and has its name by now
            continue
        assert facts.st_uid == os.getuid(), file
        assert stat.S_IMODE(facts.st_mode) & 0o077 == 0, f"{file} is open to others: {facts.st_mode:o}"


def _no_port_answers_a_stranger(daemon: Daemon, authority: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(authority))
    ports = listening(daemon)
    announced = {int(address.rpartition(":")[2]) for address in daemon.addresses if not address.startswith("unix:")}
    assert announced <= ports.keys()
    # The supervisor and each actor listen for each other.
    assert len(ports) == len(announced) + len(daemon.processes()), ports
    answered: dict[int, list[bytes]] = {}
    tried = [
        (port, probe, context)
        for port in ports
        for probe in PROBES
        for context in ((None, trusting) if port in announced else (None,))
    ]
    with ThreadPoolExecutor(16) as threads:  # those that say nothing are waited for
        answers = list(threads.map(lambda each: ask(*each), tried))
    for (port, probe, _), answer in zip(tried, answers, strict=True):
        assert is_harmless(answer), f"{ports[port]} at {port} answers {probe[:60]!r}: {answer[:300]!r}"
        if answer:
            answered.setdefault(port, []).append(answer)
    assert answered.keys() == announced  # the others say nothing whatever
    # The control: with the token the same ports do answer.
    for address in daemon.addresses:
        if not address.startswith("http"):
            with connect(address) as md:
                assert md.status().ready
    with pytest.raises(RequestError, match="unauthorized"):
        connect(f"unix:{daemon.paths.socket}", token="mdt_wrong")


def _no_process_tells_a_secret(daemon: Daemon, token: str) -> None:
    for process in daemon.processes():
        said = " ".join(process.cmdline())
        assert token not in said
        names = {name for name in process.environ() if "SECRET" in name}
        assert not names, f"{said} has {names} in its environment"


def _the_commands_show_their_token(daemon: Daemon, config: Path, token: str, folder: Path) -> None:
    tls = next(address for address in daemon.addresses if address.startswith("tls://"))
    done = marketd(config, "status", "--json", "--address", tls)
    assert json.loads(done.stdout)["ready"], done.stderr
    none = {"MARKETD_TOKEN": "", "MARKETD_CA_FILE": ""}
    done = marketd(config, "status", "--address", daemon.address, **none)
    assert (done.returncode, "no token was given" in done.stderr) == (1, True), done.stderr
    done = marketd(config, "status", "--address", tls, **none)
    assert (done.returncode, "MARKETD_CA_FILE" in done.stderr) == (3, True), done.stderr
    file = folder / "operator.token"
    file.write_text(token + "\n")
    options = ("--token-file", str(file), "--ca-file", str(folder / "ca.pem"))
    done = marketd(config, *options, "status", "--json", "--address", tls, **none)
    assert json.loads(done.stdout)["ready"], done.stderr
    done = marketd(config, "--token-file", str(folder / "none"), "status", "--address", tls, **none)
    assert (done.returncode, "can't be read" in done.stderr) == (2, True), done.stderr


def _a_revoked_token_is_worthless_at_once(
    daemon: Daemon, config: Path, state: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = marketd(config, "token", "create", "guest", "--expires", "1h", "--instruments", "btc/*", **state)
    assert made.returncode == 0, made.stderr
    guest: Any = None

    def let_in() -> bool:
        nonlocal guest
        try:
            guest = connect(daemon.address, token=made.stdout.strip())
        except RequestError:
            return False
        return True

    wait_for(let_in, 10, "the new token to be known")
    with guest, guest.subscribe(["*"]) as stream:
        names: set[str] = set()
        for rows, _ in zip(stream, range(20), strict=False):
            if rows.kind in ("trade", "quote"):
                names |= {rows.fqme(number) for number in rows.rows["instrument"]}
        assert names
        assert all(name.startswith("btc/") for name in names), names
        assert marketd(config, "token", "revoke", "guest", **state).returncode == 0
        with pytest.raises((RequestError, ConnectionLost), match="not known here"):
            for _ in stream:
                pass
    again = marketd(config, "token", "create", "ops", **state)
    assert (again.returncode, "there is a token called 'ops'" in again.stderr) == (2, True)
    listed = marketd(config, "token", "ls", "--json", **state)
    assert [json.loads(line)["name"] for line in listed.stdout.splitlines()] == ["ops"]
    assert "sha256" not in listed.stdout


def test_what_no_client_could_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    files = make_certificate(tmp_path, ["localhost"], 30)
    (tmp_path / "tokens.json").write_text("{}")
    for security, sentence in (
        (f'tokens = "{tmp_path}/tokens.json"', "tokens.json"),
        (f'certificate = "{files.certificate}"', "TLS needs both"),
        (
            f'certificate = "{files.certificate}"\nkey = "{files.authority_key}"',
            "must be PEM files that belong together",
        ),
        (f'certificate = "{tmp_path}/none"\nkey = "{files.key}"', "marketd cert"),
    ):
        path = tmp_path / "marketd.toml"
        path.write_text(f'[security]\n{security}\n[feeds.sim]\nbackend = "sim"\n')
        done = subprocess.run(
            [sys.executable, "-m", "marketd", "run", "--config", str(path), "--base", str(tmp_path), "--http", "none",
             "--address", "127.0.0.1:0"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, sentence in done.stderr) == (2, True), (security, done.stderr)


def test_an_address_for_other_machines_wants_a_token_even_if_there_is_none(tmp_path: Path) -> None:
    text = CONFIG.replace('"127.0.0.1:0", "tls://127.0.0.1:0"', '"127.0.0.1:0", "0.0.0.0:0"', 1)
    text = text.replace("require_token = true", "allow_plaintext = true").replace("http = [", "http = []\nhosts = [")
    lines = [line for line in text.splitlines() if not line.startswith(("certificate", "key"))]
    config = "\n".join(lines).replace('periods = ["1s"]', "periods = []").format(folder=tmp_path)
    with running(tmp_path, config) as daemon:
        inner, outer = (address for address in daemon.addresses if not address.startswith("unix:"))
        assert outer.startswith("0.0.0.0:")
        with connect(inner) as md:
            assert md.status().ready
        with pytest.raises(RequestError, match="no token was given"):
            connect(outer.replace("0.0.0.0", "127.0.0.1"))
        assert "security.no_tokens" in daemon.log
        with pytest.raises(CannotConnect, match="does not speak TLS"):
            connect("tls://" + inner)

"""HTTP and WebSocket over real sockets: a gateway in this process, and a whole daemon where bars are asked for."""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import itertools
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from marketd.client import connect
from marketd.ring import layout
from marketd.rpc.framing import frame
from marketd.supervise.messages import LimitsSpec
from tests.gateway_harness import FakeFeed, Harness, RawClient, open_gateway, until
from tests.scenario.daemon import Daemon, running, wait_for

SECOND_NS = 10**9
BTC = "btc/usdt.spot.sim"


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


async def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """The same while the gateway runs in this thread."""
    return await trio.to_thread.run_sync(partial(get, url, **headers))


def error_of(body: bytes) -> str:
    return json.loads(body)["error"]["message"]


# --- WebSocket --------------------------------------------------------------------------------------------------------


class MessageStream:
    """A WebSocket as the stream of frames that it stands for."""

    def __init__(self, websocket: WebSocketConnection) -> None:
        self.websocket = websocket

    async def send_all(self, data: bytes) -> None:
        await self.websocket.send_message(data[4:])

    async def receive_some(self, _max_bytes: int = 0) -> bytes:
        try:
            return frame(await self.websocket.get_message())
        except ConnectionClosed:
            return b""


@contextlib.asynccontextmanager
async def open_websocket(harness: Harness, **headers: str) -> AsyncIterator[RawClient]:
    url = harness.http.replace("http://", "ws://") + "/ws"
    pairs = [(name, value.encode()) for name, value in headers.items()]
    async with open_websocket_url(url, extra_headers=pairs, max_message_size=1 << 24) as websocket:
        yield RawClient(MessageStream(websocket))  # type: ignore[arg-type]


async def test_websocket_for_which_no_descriptors_are_left_is_told_to_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    feed = FakeFeed(tmp_path, "sim")
    async with open_gateway(feed, http=True) as harness:
        monkeypatch.setattr("marketd.web.websocket.socket.socketpair", none_left)
        async with open_websocket(harness) as client:
            websocket: WebSocketConnection = client.stream.websocket  # type: ignore[attr-defined]
            with pytest.raises(ConnectionClosed) as closed:
                await websocket.get_message()
            assert closed.value.reason.code == 1013
            assert closed.value.reason.reason.endswith("Too many open files")
        monkeypatch.undo()
        async with open_websocket(harness) as client:
            assert (await client.call("hello", client="page"))["row_bytes"] == layout.ROW_BYTES


async def test_conversation_over_websocket_is_that_over_tcp(tmp_path: Path) -> None:
    feed = FakeFeed(tmp_path, "sim", instruments=2)
    async with open_gateway(feed, http=True) as harness, open_websocket(harness) as client:
        hello = await client.call("hello", client="page")
        assert hello["row_bytes"] == layout.ROW_BYTES
        made = await client.call("subscribe", instruments=["i1/*"], kinds=["trade"])
        first = feed.trade()
        feed.trades(200)
        cursors: list[int] = []
        while len(cursors) < 201:
            cursors += (await client.rows())["data"]["cursor"].tolist()
        assert cursors == list(range(first, first + 201))
        assert harness.report().clients[0].address.startswith("ws:127.0.0.1:")
        await client.call("unsubscribe", subscription=made["subscription"])
        assert (await client.refused("subscribe", {"instruments": []}))["data"]["code"] == "invalid_params"
    assert harness.gateway.served().rows_sent >= 101


async def test_json_in_text_frames_says_the_same(tmp_path: Path) -> None:
    feed = FakeFeed(tmp_path, "sim", instruments=1)
    async with open_gateway(feed, http=True) as harness, open_websocket(harness) as client:
        websocket: WebSocketConnection = client.stream.websocket  # type: ignore[attr-defined]

        async def ask(method: str, **params: Any) -> Any:
            await websocket.send_message(json.dumps({"id": method, "method": method, "params": params}))
            answer = json.loads(await websocket.get_message())
            assert answer["id"] == method
            return answer["result"]

        assert (await ask("hello"))["version"] == 1
        made = await ask("subscribe", instruments=["*"], format="columns")
        assert made["feeds"][0]["instruments"] == {"1": "i1/usd.sim"}  # keys are text in JSON
        cursor = feed.trade(price=1.5)
        told = json.loads(await websocket.get_message())
        assert told["method"] == "columns"
        assert told["params"]["columns"]["price"] == [1.5]
        assert told["params"]["cursor_last"] == cursor
        # The encoding is that of the client's last message, so one connection can be both.
        await websocket.send_message(msgspec.msgpack.encode({"id": 9, "method": "ping", "params": {"payload": "é"}}))
        assert msgspec.msgpack.decode(await websocket.get_message())["result"]["payload"] == "é"


@pytest.mark.parametrize(
    ("message", "said", "code"),
    [
        ("{nope", "this is no JSON object", 1007),
        ("[1e400]", "this is no JSON", 1007),
        ("[" * 100_000, "this is no JSON", 1007),
        (b"\xc1", "this is no MessagePack map", 1007),
        (b"", "this is no MessagePack map", 1007),
        (b"x" * ((1 << 16) + 1), "", 1009),
    ],
)
async def test_garbage_ends_one_websocket_with_a_reason(
    tmp_path: Path, message: str | bytes, said: str, code: int
) -> None:
    feed = FakeFeed(tmp_path, "sim", instruments=1)
    limits = LimitsSpec(frame_bytes_max=1 << 16)
    async with open_gateway(feed, http=True, limits=limits) as harness, open_websocket(harness) as other:
        await other.call("hello")
        if isinstance(message, str) and len(message) > 1 << 16:
            message = message[: 1 << 15]
        with trio.fail_after(5):
            async with open_websocket(harness) as client:
                await client.call("hello")
                websocket: WebSocketConnection = client.stream.websocket  # type: ignore[attr-defined]
                await websocket.send_message(message)
                if said:
                    answer = await websocket.get_message()
                    answer = json.loads(answer) if isinstance(answer, str) else msgspec.msgpack.decode(answer)
                    assert answer["error"]["message"].startswith(said)
                with pytest.raises(ConnectionClosed) as closed:
                    await websocket.get_message()
                assert closed.value.reason.code == code
        assert (await other.call("ping", payload="still here"))["payload"] == "still here"


async def test_websocket_of_a_foreign_page_is_refused(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim"), http=True) as harness:
        with pytest.raises(Exception, match="403"):
            async with open_websocket(harness, Origin="https://evil.example"):
                raise AssertionError("it was let in")
        async with open_websocket(harness, Origin="https://md.example.com") as client:
            await client.call("hello")


async def test_websocket_that_reads_nothing_is_cut_and_nobody_else_waits(tmp_path: Path) -> None:
    feed = FakeFeed(tmp_path, "sim", rows=1 << 16, instruments=1)
    limits = LimitsSpec(stall_timeout_s=0.5)
    async with open_gateway(feed, http=True, limits=limits) as harness, open_websocket(harness) as reading:
        await reading.call("hello")
        await reading.call("subscribe", instruments=["*"])
        host, port = harness.http.removeprefix("http://").split(":")
        # By hand: a client library reads on its own.
        with socket.create_connection((host, int(port))) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(
                b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert b" 101 " in await trio.to_thread.run_sync(sock.recv, 1000)
            for message in (
                '{"id":1,"method":"hello"}',
                '{"id":2,"method":"subscribe","params":{"instruments":["*"]}}',
            ):
                sock.sendall(bytes([0x81, 0x80 | len(message), 0, 0, 0, 0]) + message.encode())
            await until(lambda: sum(client.subscriptions for client in harness.report().clients) == 2)
            got = 0
            for _ in itertools.count():
                feed.trades(4096)
                while got < feed.writer.cursor:
                    message = await reading.rows()
                    got = message["cursor_last"]
                if len(harness.report().clients) == 1:
                    break
                assert got < 1 << 20
                await trio.sleep(0.02)
        assert harness.report().clients[0].lost == 0


async def test_websocket_is_told_when_the_daemon_stops(tmp_path: Path) -> None:
    feed = FakeFeed(tmp_path, "sim", instruments=1)
    async with open_gateway(feed, http=True) as harness, open_websocket(harness) as client:
        await client.call("hello")
        await client.call("subscribe", instruments=["*"])
        websocket: WebSocketConnection = client.stream.websocket  # type: ignore[attr-defined]
        began_s = trio.current_time()
        harness.actor.stopping.set()
        notice = msgspec.msgpack.decode(await websocket.get_message())
        assert (notice["method"], notice["params"]["code"]) == ("notice", "closing")
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.get_message()
        assert (closed.value.reason.code, closed.value.reason.reason) == (1001, "closing")
        with trio.fail_after(5):
            await harness.ended.wait()
        assert trio.current_time() - began_s < 2


async def test_more_websockets_than_may_be_are_told_to_come_back(tmp_path: Path) -> None:
    limits = LimitsSpec(clients_max=1)
    async with open_gateway(FakeFeed(tmp_path, "sim"), http=True, limits=limits) as harness:
        await harness.connect()
        with pytest.raises(ConnectionClosed) as closed:
            async with open_websocket(harness) as client:
                await client.stream.websocket.get_message()  # type: ignore[attr-defined]
        assert closed.value.reason.code == 1013


# --- HTTP without history ---------------------------------------------------------------------------------------------


async def test_health_instruments_and_what_is_not_there(tmp_path: Path) -> None:
    feed = FakeFeed(tmp_path, "sim", instruments=3)
    async with open_gateway(feed, http=True) as harness:
        assert (await fetch(f"{harness.http}/healthz"))[::2] == (200, b"ok\n")
        assert json.loads((await fetch(f"{harness.http}/readyz"))[2]) == {"ready": True, "problems": []}
        away = ["history is failing"]
        harness.supervisor.status = msgspec.structs.replace(harness.supervisor.status, ready=False, problems=away)
        status, _, body = await fetch(f"{harness.http}/readyz")
        assert (status, json.loads(body)) == (503, {"ready": False, "problems": away})
        status, headers, body = await fetch(f"{harness.http}/metrics")
        assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
        assert b"\nmarketd_ready 0.0\n" in body
        table = json.loads((await fetch(f"{harness.http}/v1/instruments?match=i2"))[2])["instruments"]
        assert [(row["fqme"], row["dst"], row["feed"]) for row in table] == [("i2/usd.sim", "i2", "sim")]
        csv = (await fetch(f"{harness.http}/v1/instruments?match=*.sim&format=csv"))[2]
        assert pl.read_csv(csv)["fqme"].to_list() == ["i1/usd.sim", "i2/usd.sim", "i3/usd.sim"]
        assert json.loads((await fetch(f"{harness.http}/v1/instruments/I2usd.sim"))[2])["market"]["dst"] == "i2"
        status, _, body = await fetch(f"{harness.http}/v1/instruments/i9/usd.sim")
        assert (status, error_of(body)[:40]) == (404, "no feed has an instrument 'i9/usd.sim'; ")
        status, headers, body = await fetch(f"{harness.http}/client/marketd.js")
        assert (status, headers["content-type"].split(";")[0]) == (200, "text/javascript")
        assert b"export async function connect" in body
        assert (await fetch(f"{harness.http}/client/../sync.py"))[0] == 404
        status, _, body = await fetch(f"{harness.http}/v1/candles")
        assert status == 404
        assert error_of(body).startswith("there is no /v1/candles; there are /v1/bars, /v1/ticks")
        status, _, body = await fetch(f"{harness.http}/v1/bars?instrument=i1/usd.sim")
        assert (status, json.loads(body)["error"]["code"]) == (503, "unavailable")
        assert "this daemon stores nothing" in error_of(body)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
        b"\x00\x00\x00\x05\x81\xa2id\x01",  # the protocol of the other port
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/bars HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /healthz HTTP/1.1\r\n\r\n",  # without a host
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxxxxxxx",
    ],
)
async def test_garbage_at_the_http_port_hurts_nobody(tmp_path: Path, data: bytes) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim"), http=True) as harness:
        host, port = harness.http.removeprefix("http://").split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(data)
            with trio.move_on_after(0.5), contextlib.suppress(trio.BrokenResourceError):
                answer = await stream.receive_some()
                assert answer == b"" or b" 40" in answer[:14] or b"\x00" in answer  # no, or a refusal
        assert (await fetch(f"{harness.http}/healthz"))[0] == 200
        assert (await harness.connect()) is not None


# --- a whole daemon ---------------------------------------------------------------------------------------------------

CONFIG = """
[gateway]
listen = ["127.0.0.1:0"]
http = ["127.0.0.1:0"]
[bars]
periods = ["1s", "1m"]
[history]
periods = ["1s"]
flush_s = 0.2
[feeds.sim]
backend = "sim"
instruments = ["btc/usdt", "eth/usdt"]
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("web"), CONFIG) as daemon:
        yield daemon


def http_of(daemon: Daemon) -> str:
    return next(address for address in daemon.addresses if address.startswith("http://"))


def test_bars_over_http_are_those_of_the_client(daemon: Daemon) -> None:
    base = f"{http_of(daemon)}/v1/bars"
    with connect(daemon.address) as md:

        def closed_bars() -> Any:
            with contextlib.suppress(Exception):
                found = md.history([BTC, "eth*"], "1s")
                return found if min(series.rows for series in found.series) >= 5 else None

        found = wait_for(closed_bars, 30, "some bars")
        end_ns = min(series.complete_until_ns for series in found.series)
        # The first second is not whole: nobody listened at its beginning.
        start_ns = max(series.missing[0][1] for series in found.series)
        expected = md.history([BTC, "eth*"], "1s", start=start_ns, end=end_ns).to_polars()
        since = f"&start={start_ns}&end={end_ns}"
    for form in ("json", "csv", "arrow", "parquet"):
        status, headers, body = get(f"{base}?instrument={BTC},eth*&period=1s&format={form}{since}")
        assert status == 200
        assert int(headers["marketd-missing-ranges"]) == 0
        assert headers["marketd-complete-until"].endswith("Z")
        if form == "json":
            whole = json.loads(body)
            assert [series["rows"] for series in whole["series"]] == [len(expected) // 2] * 2
            assert whole["period_ns"] == SECOND_NS
            frame = pl.DataFrame(whole["bars"])
        else:
            read = {"csv": pl.read_csv, "arrow": pl.read_ipc_stream, "parquet": pl.read_parquet}[form]
            frame = read(io.BytesIO(body))
        assert frame["instrument"].cast(pl.String).to_list() == expected["instrument"].cast(pl.String).to_list()
        for name in ("open_ns", "open", "high", "low", "close", "volume", "trade_count"):
            np.testing.assert_array_equal(frame[name].to_numpy(), expected[name].to_numpy(), err_msg=name)
        assert set(frame["state"].cast(pl.String)) <= {"closed", "revised"}
    newest = json.loads(get(f"{base}?instrument={BTC}&period=1s&limit=2&columns=close,open_ns")[2])
    assert list(newest["bars"][0]) == ["close", "open_ns"]
    assert (len(newest["bars"]), newest["series"][0]["limited"]) == (2, True)


def test_head_has_no_body_and_connections_are_kept(daemon: Daemon) -> None:
    connection = http.client.HTTPConnection(http_of(daemon).removeprefix("http://"), timeout=10)
    for method in ("HEAD", "GET", "HEAD"):
        connection.request(method, f"/v1/bars?instrument={BTC}&period=1s&limit=1")
        answer = connection.getresponse()
        assert answer.status == 200
        assert bool(answer.read()) == (method == "GET")
    connection.close()


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("", 400, "say which"),
        (f"instrument={BTC}&perod=1m", 400, "there is no parameter 'perod'"),
        (f"instrument={BTC}&period=7", 400, "period=7: "),
        (f"instrument={BTC}&period=1s&limit=0", 400, "limit=0: it is 1 or more"),
        (f"instrument={BTC}&start=2026-01-02&end=2026-01-01", 400, "bars: end_ns is before start_ns"),
        (f"instrument={BTC}&columns=close,vwap", 400, "columns: there is no column 'vwap'"),
        ("instrument=nope/usd.spot.sim&period=1s", 404, "bars: nothing is held of nope/usd.spot.sim"),
        ("instrument=nope*", 404, "nothing is called nope*"),
    ],
)
def test_bad_query_is_answered_with_what_to_do(daemon: Daemon, query: str, status: int, said: str) -> None:
    found, headers, body = get(f"{http_of(daemon)}/v1/bars?{query}")
    assert (found, headers["content-type"]) == (status, "application/json")
    assert error_of(body).startswith(said)


def test_readiness_and_metrics_follow_a_feed_that_is_killed(daemon: Daemon) -> None:
    base = http_of(daemon)
    wait_for(lambda: get(f"{base}/readyz")[0] == 200, 20, "readiness")
    pid = daemon.pids()["feed.sim"]
    os.kill(pid, signal.SIGSTOP)  # mute, until it is replaced
    try:
        told = wait_for(lambda: (found := get(f"{base}/readyz"))[0] == 503 and found, 20, "readiness to go")
        assert json.loads(told[2])["problems"][0].startswith("feed sim is ")  # type: ignore[index]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    wait_for(lambda: get(f"{base}/readyz")[0] == 200, 20, "readiness to come back")
    assert b'marketd_actor_restarts_total{actor="feed.sim"} 1.0' in get(f"{base}/metrics")[2]


def test_answer_that_can_not_be_finished_is_cut_and_does_not_look_whole(tmp_path: Path) -> None:
    """The history manager is killed while a client reads: what came must not pass for all there is."""
    with running(tmp_path, CONFIG) as daemon:
        fill_store(daemon, rows=400_000)
        connection = http.client.HTTPConnection(http_of(daemon).removeprefix("http://"), timeout=20)
        connection.request("GET", "/v1/bars?instrument=long/usd.spot.csv&period=1s&format=csv")
        answer = connection.getresponse()
        assert answer.status == 200
        assert len(answer.read(100_000)) == 100_000
        os.kill(daemon.pids()["history"], signal.SIGKILL)
        with pytest.raises(http.client.IncompleteRead):
            answer.read()
        wait_for(lambda: '"http.cut"' in daemon.log, 5, "the log to say so")
        assert '"http.failed"' not in daemon.log
        connection.close()
        status = wait_for(
            lambda: get(f"{http_of(daemon)}/v1/bars?instrument=long/usd.spot.csv&period=1s&limit=3")[0] == 200, 20
        )
        assert status
        # And a client that reads nothing does not keep the daemon from stopping.
        stuck = http.client.HTTPConnection(http_of(daemon).removeprefix("http://"), timeout=20)
        stuck.request("GET", "/v1/bars?instrument=long/usd.spot.csv&period=1s&format=csv")
        assert stuck.getresponse().status == 200
        assert daemon.stop() < 5
        stuck.close()


def fill_store(daemon: Daemon, rows: int) -> None:
    """Import bars of an instrument that no feed has."""
    import subprocess
    import sys

    opens = (1_700_000_000 + np.arange(rows)) * SECOND_NS
    prices = np.linspace(1.0, 2.0, rows)
    frame = pl.DataFrame({"open_ns": opens} | dict.fromkeys(("open", "high", "low", "close", "volume"), prices))
    path = daemon.folder / "long.parquet"
    frame.write_parquet(path)
    command = ["store", "import", str(path), "--as", "long/usd.spot.csv", "--period", "1s", "--store"]
    subprocess.run(
        [sys.executable, "-m", "marketd", *command, str(daemon.paths.store)], check=True, capture_output=True
    )

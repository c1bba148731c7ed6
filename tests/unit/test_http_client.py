from __future__ import annotations

import gzip
import ssl
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import h11
import pytest
import trio

from marketd.errors import ConfigError
from marketd.http import (
    HttpBadResponse,
    HttpClient,
    HttpConnectError,
    HttpStatusError,
    HttpTimeout,
    HttpTlsError,
    HttpTooLarge,
    Response,
    RetryPolicy,
    request_with_retry,
)
from tests import certificates
from tests.fakes import FakeClock
from tests.loopback import Exchange, HttpServer, read_all, reset, serve

NOW_NS = 1_700_000_000_000_000_000
QUICK = RetryPolicy(first_s=0.001, cap_s=0.01)


@pytest.fixture(autouse=True)
async def deadline() -> AsyncIterator[None]:
    """Nothing here may hang."""
    with trio.fail_after(30):
        yield


async def hello(exchange: Exchange) -> None:
    await exchange.answer(200, b"hello")


def client_of(port: int, **options: object) -> HttpClient:
    return HttpClient(f"http://127.0.0.1:{port}", **options)  # type: ignore[arg-type]


async def get(port: int, path: str = "/", **options: object) -> Response:
    """Make one request by a client of its own."""
    arguments = {"timeout_s": 5.0} | options
    async with client_of(port) as client:
        return await client.get(path, **arguments)  # type: ignore[arg-type]


# --- requests and answers ---


async def test_answer_has_status_headers_in_any_case_body_and_our_time() -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.answer(200, b"hello", X_Mbx_Used_Weight_1m="37")

    async with serve(HttpServer(handle).handle) as port, client_of(port, clock=FakeClock(NOW_NS)) as client:
        response = await client.get("/", timeout_s=5)
    assert (response.status, response.body, response.received_ns) == (200, b"hello", NOW_NS)
    assert response.headers["x-mbx-used-weight-1M"] == "37"
    assert "absent" not in response.headers


async def test_request_carries_path_query_and_headers() -> None:
    server = HttpServer(hello)
    async with (
        serve(server.handle) as port,
        HttpClient(f"http://127.0.0.1:{port}/binance/") as client,
    ):
        params = {"symbols": '["BTCUSDT","币安USDT"]', "limit": 5, "plus": "a+b c&d=%20"}
        await client.get("/api/v3/klines", params, {"X-Mine": "1"}, timeout_s=5)
    asked = server.exchanges[0]
    assert asked.method == "GET"
    assert asked.target == (
        "/binance/api/v3/klines?symbols=%5B%22BTCUSDT%22%2C%22%E5%B8%81%E5%AE%89USDT%22%5D&limit=5&plus=a%2Bb+c%26d%3D%2520"
    )
    assert asked.headers["host"] == f"127.0.0.1:{port}"
    assert asked.headers["connection"] == "keep-alive"
    assert asked.headers["x-mine"] == "1"


async def test_post_carries_its_body() -> None:
    server = HttpServer(hello)
    async with serve(server.handle) as port, client_of(port) as client:
        await client.post("/bullet", body=b'{"a":1}', headers={"Content-Type": "application/json"}, timeout_s=5)
        await client.post("/bullet", timeout_s=5)
    assert [(asked.method, asked.body) for asked in server.exchanges] == [("POST", b'{"a":1}'), ("POST", b"")]
    assert server.exchanges[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize("status", [204, 302, 304, 404, 429, 500])
async def test_answer_of_any_status_is_an_answer_and_no_redirect_is_followed(status: int) -> None:
    async def handle(exchange: Exchange) -> None:
        body = b"" if status in (204, 304) else b"why"
        headers = {} if status == 204 else {"Content_Length": str(len(body))}
        await exchange.send(h11.Response(status_code=status, headers=[("Location", "/elsewhere"), *_fields(headers)]))
        if body:
            await exchange.send(h11.Data(data=body))
        await exchange.send(h11.EndOfMessage())

    server = HttpServer(handle)
    async with serve(server.handle) as port:
        response = await get(port)
    assert response.status == status
    assert len(server.exchanges) == 1


def _fields(headers: dict[str, str]) -> list[tuple[str, str]]:
    return [(name.replace("_", "-"), value) for name, value in headers.items()]


async def test_chunked_body_is_joined() -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.send(h11.Response(status_code=200, headers=[("Transfer-Encoding", "chunked")]))
        for part in (b"one ", b"two ", b"three"):
            await exchange.send(h11.Data(data=part))
        await exchange.send(h11.EndOfMessage())

    async with serve(HttpServer(handle).handle) as port:
        assert (await get(port)).body == b"one two three"


async def test_body_until_the_end_of_the_connection_is_whole() -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.send(h11.Response(status_code=200, headers=[("Connection", "close")]))
        await exchange.send(h11.Data(data=b"until the end"))
        await exchange.send(h11.EndOfMessage())

    async with serve(HttpServer(handle).handle) as port:
        assert (await get(port)).body == b"until the end"


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_body_is_decompressed(encoding: str, compress: object) -> None:
    body = b'{"symbol":"BTCUSDT"}' * 10_000

    async def handle(exchange: Exchange) -> None:
        await exchange.answer(200, compress(body), Content_Encoding=encoding)  # type: ignore[operator]

    server = HttpServer(handle)
    async with serve(server.handle) as port:
        assert (await get(port)).body == body
    assert server.exchanges[0].headers["accept-encoding"] == "gzip"


# --- limits ---


async def test_server_that_never_answers_is_a_timeout() -> None:
    async def handle(exchange: Exchange) -> None:
        await trio.sleep_forever()

    async with serve(HttpServer(handle).handle) as port:
        with pytest.raises(HttpTimeout, match=r"GET .*: no answer within 0\.2 s"):
            await get(port, timeout_s=0.2)


async def test_dripping_body_is_a_timeout() -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.send(h11.Response(status_code=200, headers=[("Content-Length", "1000")]))
        for _ in range(1000):
            await exchange.send(h11.Data(data=b"x"))
            await trio.sleep(0.02)

    async with serve(HttpServer(handle).handle) as port:
        with pytest.raises(HttpTimeout):
            await get(port, timeout_s=0.3)


async def test_connection_of_a_request_that_timed_out_is_not_used_again() -> None:
    late = trio.Event()

    async def handle(exchange: Exchange) -> None:
        if exchange.target == "/slow":
            await late.wait()
        await exchange.answer(200, exchange.target.encode())

    async with serve(HttpServer(handle).handle) as port, client_of(port, connections=1) as client:
        with pytest.raises(HttpTimeout):
            await client.get("/slow", timeout_s=0.1)
        late.set()
        assert (await client.get("/quick", timeout_s=5)).body == b"/quick"


async def test_waiting_for_a_free_connection_counts() -> None:
    async def handle(exchange: Exchange) -> None:
        await trio.sleep_forever()

    async with (
        serve(HttpServer(handle).handle) as port,
        client_of(port, connections=1) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(_expect_timeout, client)


async def _expect_timeout(client: HttpClient) -> None:
    with pytest.raises(HttpTimeout):
        await client.get("/", timeout_s=0.2)


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_above_the_limit_is_an_error_after_no_more_than_that_was_read(chunked: bool) -> None:
    sent = 0

    async def handle(exchange: Exchange) -> None:
        nonlocal sent
        field = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(1 << 34))
        await exchange.send(h11.Response(status_code=200, headers=[field]))
        for _ in range(1 << 18):
            await exchange.send(h11.Data(data=bytes(1 << 16)))
            sent += 1 << 16

    async with serve(HttpServer(handle).handle) as port:
        with pytest.raises(HttpTooLarge, match="100000"):
            await get(port, body_bytes_max=100_000)
    assert sent < 64 << 20  # what the kernel has buffers for


async def test_body_of_exactly_the_limit_is_taken() -> None:
    async with serve(HttpServer(hello).handle) as port:
        assert (await get(port, body_bytes_max=5)).body == b"hello"
        with pytest.raises(HttpTooLarge):
            await get(port, body_bytes_max=4)


async def test_body_that_is_too_large_once_decompressed_is_an_error() -> None:
    bomb = gzip.compress(bytes(64 << 20))

    async def handle(exchange: Exchange) -> None:
        await exchange.answer(200, bomb, Content_Encoding="gzip")

    async with serve(HttpServer(handle).handle) as port:
        with pytest.raises(HttpTooLarge):
            await get(port, body_bytes_max=1 << 20)


# --- connections ---


async def test_connection_is_used_again() -> None:
    server = HttpServer(hello)
    async with serve(server.handle) as port, client_of(port) as client:
        for _ in range(5):
            await client.get("/", timeout_s=5)
    assert server.connections == 1
    assert len(server.exchanges) == 5


async def test_no_more_connections_than_asked_for() -> None:
    server = HttpServer(hello)
    async with (
        serve(server.handle) as port,
        client_of(port, connections=2) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(20):
            nursery.start_soon(lambda: client.get("/", timeout_s=10))
    assert len(server.exchanges) == 20
    assert server.connections <= 2


async def test_idle_connections_that_the_server_closed_are_not_noticed_by_who_gets_something() -> None:
    server = HttpServer(hello, requests_per_connection_max=1)  # closes without having said so
    async with serve(server.handle) as port, client_of(port, connections=3) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(lambda: client.get("/", timeout_s=10))
        for _ in range(4):
            assert (await client.get("/", timeout_s=5)).body == b"hello"


async def test_request_that_must_not_be_made_twice_is_not_made_twice() -> None:
    async def handle(exchange: Exchange) -> None:
        """Take the request, and close without an answer."""

    server = HttpServer(handle)
    async with serve(server.handle) as port, client_of(port) as client:
        with pytest.raises(HttpBadResponse):
            await client.post("/order", timeout_s=5)
        assert len(server.exchanges) == 1
        with pytest.raises(HttpBadResponse):
            await client.get("/", timeout_s=5)
        assert len(server.exchanges) == 3


# --- what can go wrong ---


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nplain",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 5\r\n\r\nplain",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    ],
)
async def test_answer_that_is_none_is_a_bad_response(answer: bytes) -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)

    async with serve(handle) as port:
        with pytest.raises(HttpBadResponse, match=r"^GET http://"):
            await get(port)


async def test_compressed_body_that_is_cut_is_a_bad_response() -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.answer(200, gzip.compress(b"x" * 1000)[:-9], Content_Encoding="gzip")

    async with serve(HttpServer(handle).handle) as port:
        with pytest.raises(HttpBadResponse):
            await get(port)


async def test_connection_reset_within_an_answer_is_a_bad_response() -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
        reset(stream)

    async with serve(handle) as port:
        with pytest.raises(HttpBadResponse) as bad:
            await get(port)
    assert bad.value.__cause__ is not None


async def test_nobody_listening_is_a_connect_error() -> None:
    with trio.socket.socket() as socket:
        await socket.bind(("127.0.0.1", 0))
        with pytest.raises(HttpConnectError):
            await get(socket.getsockname()[1])


async def test_connecting_has_a_shorter_limit_of_its_own(tmp_path: Path) -> None:
    """R87: here the server takes the connection and then says nothing to the TLS handshake."""

    async def handle(stream: trio.abc.Stream) -> None:
        await read_all(stream)

    async with (
        serve(handle) as port,
        HttpClient(
            f"https://127.0.0.1:{port}", ca_file=certificates.ca_file(tmp_path), connect_timeout_s=0.2
        ) as client,
    ):
        with pytest.raises(HttpConnectError, match="in time"):
            await client.get("/", timeout_s=20)


# --- TLS ---


async def test_server_with_a_good_certificate_is_believed(tmp_path: Path) -> None:
    server = HttpServer(hello)
    async with serve(server.handle, certificates.good()) as port:
        for name in ("localhost", "127.0.0.1"):
            async with HttpClient(f"https://{name}:{port}", ca_file=certificates.ca_file(tmp_path)) as client:
                for _ in range(3):
                    assert (await client.get("/", timeout_s=5)).body == b"hello"
    assert server.connections == 2


@pytest.mark.parametrize("kind", ["untrusted", "expired", "wrong_name"])
async def test_bad_certificate_is_refused_before_anything_is_sent(kind: str, tmp_path: Path) -> None:
    server = HttpServer(hello)
    async with (
        serve(server.handle, getattr(certificates, kind)()) as port,
        HttpClient(f"https://localhost:{port}", ca_file=certificates.ca_file(tmp_path)) as client,
    ):
        with pytest.raises(HttpTlsError) as refused:
            await client.get("/", timeout_s=5)
    assert isinstance(refused.value.__cause__, ssl.SSLCertVerificationError)
    assert server.exchanges == []


async def test_certificate_of_a_private_authority_is_refused_unless_that_is_trusted() -> None:
    async with (
        serve(HttpServer(hello).handle, certificates.good()) as port,
        HttpClient(f"https://localhost:{port}") as client,
    ):
        with pytest.raises(HttpTlsError):
            await client.get("/", timeout_s=5)


async def test_server_without_tls_is_a_tls_error() -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serve(handle) as port, HttpClient(f"https://localhost:{port}") as client:
        with pytest.raises(HttpTlsError):
            await client.get("/", timeout_s=5)


@pytest.mark.parametrize("url", ["ftp://example.com", "https://", "api.example.com", "https://example.com/?a=1"])
async def test_address_that_is_none_is_the_operators_error(url: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        HttpClient(url)


# --- again, or not ---


class Answers:
    """A server that gives these statuses one after the other, and then 200."""

    def __init__(self, *statuses: int, retry_after: str = "") -> None:
        self._statuses = list(statuses)
        self._headers = {"Retry_After": retry_after} if retry_after else {}
        self.server = HttpServer(self._answer)

    async def _answer(self, exchange: Exchange) -> None:
        if self._statuses:
            await exchange.answer(self._statuses.pop(0), b"", **self._headers)
        else:
            await exchange.answer(200, b"at last")


async def ask(port: int, **options: object) -> Response:
    arguments = {"timeout_s": 5.0, "total_timeout_s": 10.0, "policy": QUICK} | options
    async with client_of(port, connect_timeout_s=0.2) as client:
        return await request_with_retry(client, "GET", "/info", **arguments)  # type: ignore[arg-type]


async def test_server_errors_are_retried_until_an_answer_comes() -> None:
    """R81: a server that fails twice and then answers."""
    answers = Answers(500, 502)
    async with serve(answers.server.handle) as port:
        assert (await ask(port)).body == b"at last"
    assert len(answers.server.exchanges) == 3


async def test_server_errors_without_end_become_one_clear_error() -> None:
    """R81: a server that always fails is given up in bounded time, and the error has its last answer."""
    answers = Answers(*[503] * 100)
    async with serve(answers.server.handle) as port:
        with pytest.raises(HttpStatusError, match="GET /info: status 503, 4 attempts were made") as given_up:
            await ask(port)
    assert given_up.value.response.status == 503
    assert len(answers.server.exchanges) == QUICK.attempts_max


async def test_wrong_request_is_not_repeated() -> None:
    answers = Answers(400)
    async with serve(answers.server.handle) as port:
        with pytest.raises(HttpStatusError, match="400"):
            await ask(port)
    assert len(answers.server.exchanges) == 1


@pytest.mark.parametrize("status", [429, 418, 503])
async def test_retry_after_is_waited_for(status: int) -> None:
    answers = Answers(status, retry_after="1")
    seen: list[int] = []
    async with serve(answers.server.handle) as port:
        begun_s = trio.current_time()
        response = await ask(port, observe=lambda outcome: seen.append(outcome.status))  # type: ignore[attr-defined]
        assert trio.current_time() - begun_s >= 1.0
    assert response.body == b"at last"
    assert seen == [status, 200]


async def test_retry_after_beyond_the_callers_patience_is_an_error_at_once() -> None:
    answers = Answers(429, retry_after="3600")
    async with serve(answers.server.handle) as port:
        with trio.fail_after(5), pytest.raises(HttpStatusError, match="too late") as given_up:
            await ask(port)
    assert given_up.value.response.headers["Retry-After"] == "3600"


async def test_attempts_to_connect_are_bounded() -> None:
    """R87: a server that is not there is tried ``attempts_max`` times, and then reported."""
    seen: list[object] = []
    with trio.socket.socket() as socket:
        await socket.bind(("127.0.0.1", 0))
        with pytest.raises(HttpConnectError):
            await ask(socket.getsockname()[1], observe=seen.append)
    assert len(seen) == QUICK.attempts_max


async def test_whole_deadline_ends_attempts_that_each_time_out() -> None:
    async def handle(exchange: Exchange) -> None:
        await trio.sleep_forever()

    server = HttpServer(handle)
    async with serve(server.handle) as port:
        with trio.fail_after(5), pytest.raises(HttpTimeout):
            await ask(port, timeout_s=0.2, total_timeout_s=0.5, policy=RetryPolicy(attempts_max=100, first_s=0.001))
    assert 2 <= len(server.exchanges) <= 4

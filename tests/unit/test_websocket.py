from __future__ import annotations

import contextlib
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trio_websocket

from marketd.errors import ConfigError
from marketd.feed.frames import FrameParser
from marketd.feed.handshake import HandshakeReply
from marketd.feed.websocket import ConnectFailed, HandshakeRefused, WebSocket, WebSocketClosed, open_websocket
from tests import certificates
from tests.loopback import accept_websocket, frame, read_all, reset, serve

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
LIMIT = 1 << 20


@pytest.fixture(autouse=True)
async def deadline() -> AsyncIterator[None]:
    """Nothing here may hang."""
    with trio.fail_after(30):
        yield


def to(port: int, **options: object) -> contextlib.AbstractAsyncContextManager[WebSocket]:
    """Open a websocket to a server on loopback."""
    scheme = "wss" if "ca_file" in options else "ws"
    arguments = {"timeout_s": 5.0, "message_bytes_max": LIMIT, "close_timeout_s": 5.0} | options
    return open_websocket(f"{scheme}://127.0.0.1:{port}/ws?streams=a/b", **arguments)  # type: ignore[arg-type]


async def receive(websocket: WebSocket, count: int) -> list[bytes]:
    """Receive that many messages."""
    messages: list[bytes] = []
    while len(messages) < count:
        messages += await websocket.receive()
    return messages


async def ending_of(websocket: WebSocket) -> WebSocketClosed:
    """Wait for the end, and look again."""
    with pytest.raises(WebSocketClosed) as first:
        await websocket.receive()
    with pytest.raises(WebSocketClosed) as second:
        await websocket.receive()
    with pytest.raises(WebSocketClosed):
        await websocket.send("too late")
    assert (second.value.code, second.value.reason) == (first.value.code, first.value.reason)
    return first.value


# --- against a whole server: trio-websocket's ---


@contextlib.asynccontextmanager
async def trio_websocket_server(
    handler: Callable[[trio_websocket.WebSocketConnection], Awaitable[None]], context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            await handler(await request.accept())

    async with trio.open_nursery() as nursery:
        serve_here = partial(trio_websocket.serve_websocket, handle, "127.0.0.1", 0, ssl_context=context)
        server = await nursery.start(serve_here)
        yield server.port
        nursery.cancel_scope.cancel()


async def echo(connection: trio_websocket.WebSocketConnection) -> None:
    while True:
        await connection.send_message(await connection.get_message())


@pytest.mark.parametrize("tls", [False, True])
async def test_messages_of_any_size_come_back_whole_and_in_order(tls: bool, tmp_path: Path) -> None:
    options = {"ca_file": certificates.ca_file(tmp_path)} if tls else {}
    messages = [b"x" * size for size in (0, 1, 125, 126, 127, 4096, 65535, 65536, LIMIT)]
    async with (
        trio_websocket_server(echo, certificates.good() if tls else None) as port,
        to(port, **options) as websocket,
        trio.open_nursery() as nursery,
    ):

        async def send() -> None:
            for message in messages:
                await websocket.send(message)
                await websocket.send(message.decode())

        nursery.start_soon(send)
        received = await receive(websocket, 2 * len(messages))
    assert received[::2] == messages
    assert received[1::2] == messages


@pytest.mark.parametrize("tls", [False, True])
async def test_goodbyes_are_exchanged_when_we_leave(tls: bool, tmp_path: Path) -> None:
    reasons = []

    async def handle(connection: trio_websocket.WebSocketConnection) -> None:
        try:
            await connection.get_message()
        finally:
            reasons.append(connection.closed)

    options = {"ca_file": certificates.ca_file(tmp_path)} if tls else {}
    async with trio_websocket_server(handle, certificates.good() if tls else None) as port:
        async with to(port, **options):
            pass
        while not reasons:
            await trio.sleep(0.01)
    assert reasons[0] is not None
    assert reasons[0].code == 1000


async def test_goodbye_of_the_server_gives_its_code_and_reason() -> None:
    async def handle(connection: trio_websocket.WebSocketConnection) -> None:
        await connection.send_message("last")
        await connection.aclose(4001, "maintenance")

    async with trio_websocket_server(handle) as port, to(port) as websocket:
        assert await receive(websocket, 1) == [b"last"]
        closed = await ending_of(websocket)
    assert (closed.code, closed.reason) == (4001, "maintenance")


async def test_pings_both_ways_are_answered() -> None:
    answered = trio.Event()

    async def handle(connection: trio_websocket.WebSocketConnection) -> None:
        await connection.ping(b"are you there")
        answered.set()
        await echo(connection)

    async with trio_websocket_server(handle) as port, to(port) as websocket:
        before_s = websocket.heard_s
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket.receive)
            await answered.wait()
            await websocket.ping(b"and you")
            while not websocket.pongs:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert websocket.heard_s > before_s


async def test_subscriptions_can_be_sent_while_messages_are_received() -> None:
    async with trio_websocket_server(echo) as port, to(port) as websocket, trio.open_nursery() as nursery:
        nursery.start_soon(websocket.send, "one")
        nursery.start_soon(websocket.send, "two")
        nursery.start_soon(websocket.ping)
        assert sorted(await receive(websocket, 2)) == [b"one", b"two"]


# --- frame by frame ---


async def test_frames_that_come_with_the_handshake_are_not_lost() -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await accept_websocket(stream, and_send=frame(TEXT, b"one") + frame(TEXT, b"two") + frame(TEXT, b"three")[:4])
        await stream.send_all(frame(TEXT, b"three")[4:])
        await read_all(stream)

    async with serve(handle) as port, to(port, close_timeout_s=0.1) as websocket:
        assert await receive(websocket, 3) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("tls", [False, True])
async def test_everything_readable_comes_at_once(tls: bool, tmp_path: Path) -> None:
    go = trio.Event()

    async def handle(stream: trio.abc.Stream) -> None:
        await accept_websocket(stream)
        await stream.receive_some()
        for number in range(200):
            await stream.send_all(frame(TEXT, b"%d" % number))  # a TLS record each
        go.set()
        await read_all(stream)

    options = {"ca_file": certificates.ca_file(tmp_path)} if tls else {}
    context = certificates.good() if tls else None
    async with serve(handle, context) as port, to(port, close_timeout_s=0.1, **options) as websocket:
        await websocket.send("begin")
        await go.wait()
        batches = []
        while sum(map(len, batches)) < 200:
            batches.append(await websocket.receive())
        # How much has arrived at a time is the kernel's business.
        assert len(batches) < 100
        assert list(itertools.chain.from_iterable(batches)) == [b"%d" % number for number in range(200)]


async def test_frame_in_many_pieces_is_one_message() -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await accept_websocket(stream)
        for byte in frame(TEXT, b"piecemeal" * 20):
            await stream.send_all(bytes([byte]))
        await read_all(stream)

    async with serve(handle) as port, to(port, close_timeout_s=0.1) as websocket:
        assert await websocket.receive() == [b"piecemeal" * 20]


async def test_cancelled_receive_loses_nothing() -> None:
    more = trio.Event()

    async def handle(stream: trio.abc.Stream) -> None:
        await accept_websocket(stream)
        await stream.send_all(frame(TEXT, b"one")[:3])
        await more.wait()
        await stream.send_all(frame(TEXT, b"one")[3:] + frame(PING) + frame(TEXT, b"two"))
        await read_all(stream)

    async with serve(handle) as port, to(port, close_timeout_s=0.1) as websocket:
        for _ in range(3):
            with trio.move_on_after(0.02):
                await websocket.receive()
        more.set()
        assert await receive(websocket, 2) == [b"one", b"two"]


async def test_silent_server_is_silent_and_can_be_left_in_bounded_time() -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await accept_websocket(stream)
        await trio.sleep_forever()

    async with serve(handle) as port:
        with trio.fail_after(5):
            async with to(port, close_timeout_s=0.1) as websocket:
                with trio.move_on_after(0.1) as silence:
                    await websocket.receive()
                assert silence.cancelled_caught
                await websocket.ping()  # goes out all the same


async def test_body_left_by_cancellation_closes_without_waiting() -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await accept_websocket(stream)
        await trio.sleep_forever()

    async with serve(handle) as port:
        with trio.fail_after(10), trio.CancelScope() as scope:
            async with to(port, close_timeout_s=60):
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_error_of_the_caller_leaves_as_itself() -> None:
    async with trio_websocket_server(echo) as port:
        with pytest.raises(KeyError):
            async with to(port):
                raise KeyError


VIOLATIONS = {
    "masked": (frame(TEXT, b"hello", mask=b"1234"), 1002),
    "reserved bits": (frame(TEXT, b"hello", reserved=4), 1002),
    "opcode": (frame(3, b"hello"), 1002),
    "long ping": (frame(PING, bytes(126)), 1002),
    "fragmented close": (frame(CLOSE, fin=False), 1002),
    "continuation of nothing": (frame(0, b"hello"), 1002),
    "huge": (frame(BINARY, size=1 << 40), 1009),
    "bad close code": (frame(CLOSE, (1006).to_bytes(2, "big")), 1002),
    "bad close reason": (frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff"), 1007),
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_server_that_breaks_the_protocol_is_told_so(name: str) -> None:
    wrong, code = VIOLATIONS[name]
    received: list[bytes] = []

    async def handle(stream: trio.abc.Stream) -> None:
        await accept_websocket(stream, and_send=frame(TEXT, b"good") + wrong)
        received.append(await read_all(stream))

    async with serve(handle) as port:
        async with to(port, close_timeout_s=0.2) as websocket:
            assert await receive(websocket, 1) == [b"good"]
            closed = await ending_of(websocket)
        assert closed.code == code
        while not received:
            await trio.sleep(0.01)
    assert unmasked_close_code(received[0]) == code


def unmasked_close_code(data: bytes) -> int:
    """Read a client's close frame: FIN and CLOSE, masked (5.3)."""
    assert data[0] == 0x88
    assert data[1] & 0x80
    assert len(data) == 6 + (data[1] & 0x7F)
    return int.from_bytes(bytes(byte ^ key for byte, key in zip(data[6:8], data[2:4], strict=True)), "big")


async def test_close_frame_of_the_server_is_echoed() -> None:
    received: list[bytes] = []

    async def handle(stream: trio.abc.Stream) -> None:
        await accept_websocket(stream, and_send=frame(CLOSE, (1012).to_bytes(2, "big")))
        received.append(await read_all(stream))

    async with serve(handle) as port:
        async with to(port) as websocket:
            assert (await ending_of(websocket)).code == 1012
        while not received:
            await trio.sleep(0.01)
    assert unmasked_close_code(received[0]) == 1012


@pytest.mark.parametrize("tls", [False, True])
async def test_server_that_ends_the_stream_without_a_goodbye_is_1006(tls: bool, tmp_path: Path) -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await accept_websocket(stream, and_send=frame(TEXT, b"last") + frame(TEXT, b"cut")[:3])

    options = {"ca_file": certificates.ca_file(tmp_path)} if tls else {}
    async with serve(handle, certificates.good() if tls else None) as port, to(port, **options) as websocket:
        assert await receive(websocket, 1) == [b"last"]
        assert (await ending_of(websocket)).code == 1006


async def test_reset_connection_is_1006() -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await accept_websocket(stream)
        reset(stream)

    async with serve(handle) as port, to(port) as websocket:
        closed = await ending_of(websocket)
    assert closed.code == 1006
    assert closed.__cause__ is not None


async def test_bytes_that_are_not_encrypted_are_1006(tmp_path: Path) -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await accept_websocket(stream, and_send=frame(TEXT, b"last"))
        assert isinstance(stream, trio.SSLStream)
        await stream.transport_stream.send_all(frame(TEXT, b"injected"))
        await trio.sleep_forever()

    async with (
        serve(handle, certificates.good()) as port,
        to(port, ca_file=certificates.ca_file(tmp_path)) as websocket,
    ):
        assert await receive(websocket, 1) == [b"last"]
        assert (await ending_of(websocket)).code == 1006


async def test_messages_behind_a_ping_are_read_though_the_server_is_gone_and_its_pong_fails() -> None:
    """Without a kernel between: a real server takes back what it has sent if the pong comes after its end."""
    ours, theirs = trio.testing.memory_stream_pair()
    reply = HandshakeReply()
    reply.leftover = frame(TEXT, b"first") + frame(PING)
    websocket = WebSocket(ours, FrameParser(LIMIT), reply)
    await theirs.send_all(b"".join(frame(TEXT, b"x" * 200) for _ in range(3000)) + frame(CLOSE))
    await theirs.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_all(b"nobody takes this")
    assert len(await receive(websocket, 3001)) == 3001
    assert (await ending_of(websocket)).code == 1005


async def test_send_cancelled_half_way_ends_sending_and_not_receiving() -> None:
    go = trio.Event()

    async def handle(stream: trio.abc.Stream) -> None:
        await accept_websocket(stream)
        await go.wait()  # and reads nothing
        await stream.send_all(frame(TEXT, b"still here"))
        await trio.sleep_forever()

    async with serve(handle) as port, to(port, close_timeout_s=0.1) as websocket:
        with trio.move_on_after(0.1) as scope:
            await websocket.send(bytes(64 << 20))
        assert scope.cancelled_caught
        with pytest.raises(WebSocketClosed, match="in part"):
            await websocket.send("more")
        go.set()
        assert await websocket.receive() == [b"still here"]


async def test_ping_payload_is_at_most_125_bytes() -> None:
    async with trio_websocket_server(echo) as port, to(port) as websocket:
        with pytest.raises(ValueError, match="too long"):
            await websocket.ping(bytes(126))
        await websocket.ping(bytes(125))


# --- the handshake ---


async def test_request_names_the_resource_and_carries_our_headers_and_offers_no_extension() -> None:
    heads: list[bytes] = []

    async def handle(stream: trio.abc.Stream) -> None:
        heads.append(bytes(await stream.receive_some()))

    async with serve(handle) as port:
        with pytest.raises(ConnectFailed):
            async with open_websocket(
                f"ws://127.0.0.1:{port}/stream?streams=币安人生usdt@trade%20",
                timeout_s=5,
                message_bytes_max=LIMIT,
                headers={"User-Agent": "marketd"},
            ):
                pass
    lines = heads[0].decode().split("\r\n")
    assert lines[0] == "GET /stream?streams=%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9Fusdt@trade%20 HTTP/1.1"
    assert f"Host: 127.0.0.1:{port}" in lines
    assert "User-Agent: marketd" in lines
    assert "extensions" not in heads[0].decode().lower()


def answering(*parts: bytes, close: bool = True) -> Callable[[trio.abc.Stream], Awaitable[None]]:
    """A server that answers every handshake with the same bytes."""

    async def handle(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        for part in parts:
            await stream.send_all(part)
        if not close:
            await trio.sleep_forever()

    return handle


@pytest.mark.parametrize("status", [429, 418, 503, 404, 200, 302])
async def test_refusal_has_status_headers_and_body(status: int) -> None:
    answer = b"HTTP/1.1 %d no\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy" % status
    async with serve(answering(answer)) as port:
        with pytest.raises(HandshakeRefused) as refused:
            async with to(port):
                pass
    assert refused.value.status == status
    assert refused.value.headers["retry-after"] == "7"
    assert refused.value.body == b"busy"


@pytest.mark.parametrize(
    ("rest", "close", "body"),
    [
        (b"\r\nuntil the end", True, b"until the end"),
        (b"Content-Length: 100\r\n\r\ncut", True, b"cut"),
        (b"Content-Length: 100\r\n\r\nslow", False, b"slow"),
        (b"Transfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n\xff", True, b"good"),
    ],
)
async def test_refusal_is_one_however_its_body_ends(rest: bytes, close: bool, body: bytes) -> None:
    answer = b"HTTP/1.1 429 no\r\nRetry-After: 7\r\n" + rest
    async with serve(answering(answer, close=close)) as port:
        with pytest.raises(HandshakeRefused) as refused:
            async with to(port):
                pass
    assert (refused.value.status, refused.value.headers["Retry-After"], refused.value.body) == (429, "7", body)


async def test_refusal_with_an_endless_body_is_cut() -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 503 no\r\n\r\n")
        while True:
            await stream.send_all(bytes(1 << 16))

    async with serve(handle) as port:
        with pytest.raises(HandshakeRefused) as refused:
            async with to(port):
                pass
    assert len(refused.value.body) < 1 << 17


AGREED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 101 Switching",
        b"no HTTP at all\r\n\r\n",
        b"\x16\x03\x01\x00\x00",
        AGREED + b"\r\n",
        AGREED + b"Sec-WebSocket-Accept: nonsense\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + frame(TEXT, b"hello"),
    ],
)
async def test_answer_that_is_none_is_a_failed_connection(answer: bytes) -> None:
    async with serve(answering(answer)) as port:
        with pytest.raises(ConnectFailed):
            async with to(port):
                pass


async def test_endless_head_is_a_failed_connection() -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\n")
        while True:
            await stream.send_all(b"A: " + b"x" * 1000 + b"\r\n")

    async with serve(handle) as port:
        with pytest.raises(ConnectFailed):
            async with to(port):
                pass


async def test_connection_reset_during_the_handshake_is_a_failed_connection() -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        reset(stream)

    async with serve(handle) as port:
        with pytest.raises(ConnectFailed):
            async with to(port):
                pass


@pytest.mark.parametrize("tls", [False, True])
async def test_server_that_never_answers_is_a_failed_connection_in_time(tls: bool, tmp_path: Path) -> None:
    options = {"ca_file": certificates.ca_file(tmp_path)} if tls else {}
    async with serve(read_forever) as port:
        with pytest.raises(ConnectFailed, match=r"within 0\.2 s"):
            async with to(port, timeout_s=0.2, **options):
                pass


async def read_forever(stream: trio.abc.Stream) -> None:
    await read_all(stream)


async def test_nobody_listening_is_a_failed_connection() -> None:
    with trio.socket.socket() as socket:
        await socket.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectFailed):
            async with to(socket.getsockname()[1]):
                pass


@pytest.mark.parametrize("kind", ["untrusted", "expired", "wrong_name"])
async def test_bad_certificate_is_refused(kind: str, tmp_path: Path) -> None:
    async with serve(read_forever, getattr(certificates, kind)()) as port:
        with pytest.raises(ConnectFailed) as failed:
            async with to(port, ca_file=certificates.ca_file(tmp_path)):
                pass
    assert isinstance(failed.value.__cause__, ssl.SSLCertVerificationError)


async def test_certificate_of_a_private_authority_is_refused_unless_that_is_trusted(tmp_path: Path) -> None:
    async with serve(read_forever, certificates.good()) as port:
        with pytest.raises(ConnectFailed) as failed:
            async with open_websocket(f"wss://localhost:{port}/", timeout_s=5, message_bytes_max=LIMIT):
                pass
    assert isinstance(failed.value.__cause__, ssl.SSLCertVerificationError)


async def test_server_without_tls_is_a_failed_connection(tmp_path: Path) -> None:
    async with serve(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        with pytest.raises(ConnectFailed) as failed:
            async with to(port, ca_file=certificates.ca_file(tmp_path)):
                pass
    assert isinstance(failed.value.__cause__, ssl.SSLError)


@pytest.mark.parametrize("url", ["http://example.com", "wss://", "wss:///ws", "ws://host:port/", "ws://[::1/"])
async def test_address_that_is_none_is_the_operators_error(url: str) -> None:
    with pytest.raises(ConfigError, match="ws"):
        async with open_websocket(url, timeout_s=1, message_bytes_max=LIMIT):
            pass


async def test_ca_file_that_is_none_is_the_operators_error(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(ConfigError, match=name):
            async with to(1, ca_file=str(tmp_path / name)):
                pass

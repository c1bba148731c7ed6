"""The asynchronous client against a fake daemon on a real loopback socket, on both event loops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import anyio
import pytest

from marketd.client import (
    AsyncStream,
    CannotConnect,
    ConnectionLost,
    DeadlineExceeded,
    Frame,
    RequestError,
    open_client,
)
from marketd.client.subscription import State
from marketd.model import Kind
from marketd.rpc import messages
from tests.fake_server import FakeServer, FakeSteps, held_bars

WAIT_S = 10.0


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Run a coroutine function on an event loop, for ten seconds at most."""

    def runner(scenario: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            with anyio.fail_after(WAIT_S):
                await scenario()

        anyio.run(bounded, backend=request.param)

    return runner


Run = Callable[[Callable[[], Awaitable[None]]], None]


def write(server: FakeServer, count: int) -> None:
    with server.lock:
        for n in range(count):
            server.world.feeds["fake"].append(Kind.TRADE if n % 3 else Kind.QUOTE, 1 + n % 3)


async def take(stream: AsyncStream, rows: int) -> list[Frame]:
    frames: list[Frame] = []
    async for frame in stream:
        frames.append(frame)
        rows -= len(frame)
        if rows <= 0:
            break
    return frames


def cursors(frames: list[Frame]) -> list[int]:
    return [cursor for frame in frames for cursor in frame.columns["cursor"].tolist()]


def states(frames: list[Frame]) -> list[str]:
    return [frame.state for frame in frames if frame.state]


def test_requests_are_answered(server: FakeServer, run: Run) -> None:
    async def scenario() -> None:
        async with open_client(server.address) as md:
            assert md.address == server.address
            assert md.server.instance == "test"
            assert (await md.status()).ready
            assert (await md.backends())[0].feeds == ["fake"]
            assert (await md.instrument("BTC/USDT.spot.fake")).fqme == "btc/usdt.spot.fake"
            assert (await md.record("fake", "some.ws", 0.1)).bytes == 99
            assert 0 < await md.ping() < WAIT_S
            search = md.search("usdt fake")
            assert [hit.fqme async for hit in search] == [f"{dst}/usdt.spot.fake" for dst in ("btc", "eth", "sol")]
            assert search.failed == ["dead"]

    run(scenario)


def test_bars_are_answered_and_streamed(server: FakeServer, run: Run) -> None:
    server.world.bars["btc/usdt.spot.fake", "1m"] = held_bars()
    steps = FakeSteps()
    server.world.feeds["fake/bars"] = steps

    async def scenario() -> None:
        async with open_client(server.address) as md:
            series = await md.series("btc/usdt.spot.fake", start="1970-01-01T00:03", limit=10)
            assert series.rows["close"].tolist() == [4, 5]
            async with md.subscribe(["btc*"], kinds=["bar.1m"], forming_hz=2) as stream:
                with server.lock:
                    steps.append_step("bar.1m", 1, 2)
                    steps.forming = [steps.row(0, "bar.1m", 1, 1)]
                frames = await take(stream, 2)
                assert [(frame.kind, frame.forming) for frame in frames] == [("bar.1m", False), ("bar.1m", True)]
                assert stream.token == "fake/bars@5151:1"

    run(scenario)


def test_many_tasks_ask_at_once(server: FakeServer, run: Run) -> None:
    async def scenario() -> None:
        answers: list[str] = []
        async with open_client(server.address) as md, anyio.create_task_group() as tasks:

            async def ask(name: str) -> None:
                answers.append((await md.instrument(name)).fqme)

            for n in range(50):
                tasks.start_soon(ask, f"i{n:02}.fake")
        assert sorted(answers) == [f"i{n:02}.fake" for n in range(50)]

    run(scenario)


def test_stream_yields_every_row_in_order(server: FakeServer, run: Run) -> None:
    async def scenario() -> None:
        async with open_client(server.address) as md, md.subscribe(["btc*", "eth*"]) as stream:
            write(server, 30)
            frames = await take(stream, 20)
            assert cursors(frames) == [cursor for cursor in range(1, 31) if cursor % 3]
            assert frames[0].fqme(frames[0].rows["instrument"][0]) == "btc/usdt.spot.fake"
            assert stream.positions["fake"].cursor == frames[-1].cursor_last
            assert stream.result.kinds == ["trade", "quote"]

    run(scenario)


def test_broken_connection_is_made_again_and_nothing_is_lost_or_doubled(server: FakeServer, run: Run) -> None:
    async def scenario() -> None:
        async with open_client(server.address) as md, md.subscribe(["*"]) as stream:
            write(server, 10)
            frames = await take(stream, 10)
            server.drop_all()
            write(server, 10)
            frames += await take(stream, 10)
            assert cursors(frames) == list(range(1, 21))
            assert states(frames) == ["disconnected", "reconnected"]
            assert (await md.status()).ready
        token = stream.token
        write(server, 5)
        async with open_client(server.address) as md, md.subscribe(["*"], resume=token) as stream:
            assert cursors(await take(stream, 5)) == list(range(21, 26))

    run(scenario)


def test_unread_stream_is_bounded_and_blocks_neither_requests_nor_other_streams(server: FakeServer, run: Run) -> None:
    async def scenario() -> None:
        count = 6000
        async with (
            open_client(server.address, buffer_bytes=20_000) as md,
            md.subscribe(["*"], kinds=["quote"]) as unread,
            md.subscribe(["*"], kinds=["trade"]) as read,
        ):
            write(server, count)
            assert (await md.status()).ready
            expected = [cursor for cursor in range(1, count + 1) if (cursor - 1) % 3]
            assert cursors(await take(read, len(expected))) == expected
            assert unread._subscription.state is State.PARKED
            assert unread._subscription.buffered_bytes < 400_000
            expected = [cursor for cursor in range(1, count + 1) if (cursor - 1) % 3 == 0]
            frames = await take(unread, len(expected))
            assert cursors(frames) == expected
            assert states(frames) == []

    run(scenario)


def test_slow_reader_of_the_only_stream_lets_the_server_wait(server: FakeServer, run: Run) -> None:
    async def scenario() -> None:
        server.world.rows_max = 64
        count = 20_000
        async with open_client(server.address, buffer_bytes=50_000) as md, md.subscribe(["*"]) as stream:
            write(server, count)
            frames = await take(stream, 1)
            subscription = stream._subscription
            while not subscription.crowded:
                await anyio.sleep(0.001)
            await anyio.sleep(0.05)
            assert subscription.state is State.LIVE
            frames += await take(stream, count - sum(map(len, frames)))
            assert cursors(frames) == list(range(1, count + 1))

    run(scenario)


def test_update_and_pause_change_what_comes(server: FakeServer, run: Run) -> None:
    async def scenario() -> None:
        async with open_client(server.address) as md, md.subscribe(["btc*"]) as stream:
            await stream.update(add=["sol/usdt.spot.fake"], remove=["btc*"])
            write(server, 6)
            assert cursors(await take(stream, 2)) == [3, 6]
            await stream.update(paused=True)
            write(server, 6)
            with anyio.move_on_after(0.1):
                raise AssertionError(f"a paused stream yielded {await stream.__anext__()}")
            await stream.update(paused=False)
            assert cursors(await take(stream, 2)) == [9, 12]

    run(scenario)


def test_errors_have_their_types_and_come_without_groups(server: FakeServer, run: Run) -> None:
    """R80, as far as there is an asyncio side here, the client's: what goes wrong is an exception of its own type."""

    async def scenario() -> None:
        server.world.refuse["instrument"] = messages.ErrorBody(-32002, "no feed has x", {"code": "unknown_instrument"})
        server.world.mute = {"backends"}
        async with open_client(server.address) as md:
            with pytest.raises(RequestError, match="no feed has x") as caught:
                await md.instrument("x")
            assert caught.value.code == "unknown_instrument"
            with pytest.raises(DeadlineExceeded):
                await md.backends(timeout_s=0.05)
            assert (await md.status()).ready
        with pytest.raises(ZeroDivisionError):
            async with open_client(server.address) as md, md.subscribe(["*"]):
                raise ZeroDivisionError
        with pytest.raises(ConnectionLost, match="closed"):
            await md.status()

    run(scenario)


def test_nobody_there_is_said_with_how_to_start_a_daemon(server: FakeServer, run: Run) -> None:
    async def scenario() -> None:
        with pytest.raises(CannotConnect, match=r"`marketd run`"):
            async with open_client("unix:/nonexistent/marketd.sock"):
                raise AssertionError("connected to nothing")

    run(scenario)


def test_reconnect_that_is_switched_off_ends_streams_and_requests(server: FakeServer, run: Run) -> None:
    async def scenario() -> None:
        async with open_client(server.address, reconnect=False) as md, md.subscribe(["*"]) as stream:
            server.drop_all()
            assert (await stream.__anext__()).state == "disconnected"
            with pytest.raises(ConnectionLost):
                await stream.__anext__()
            with pytest.raises(ConnectionLost):
                await md.status()

    run(scenario)


def test_heartbeats_go_out_and_a_silent_server_is_called_again(server: FakeServer, run: Run) -> None:
    async def scenario() -> None:
        server.world.heartbeat_s = 0.1
        async with open_client(server.address) as md, md.subscribe(["*"]) as stream:
            write(server, 1)
            while server.world.heartbeats < 2:
                await take(stream, 1)
                write(server, 1)
                await anyio.sleep(0.02)
            server.gag = True
            frames = await take(stream, 1)
            while "disconnected" not in states(frames):
                frames += await take(stream, 0)
            assert "silent" in frames[-1].detail
            server.gag = False
            write(server, 1)
            assert cursors(await take(stream, 1))

    run(scenario)


def test_daemon_that_does_not_know_its_instruments_yet_is_asked_again(server: FakeServer, run: Run) -> None:
    async def scenario() -> None:
        async with open_client(server.address) as md, md.subscribe(["btc/usdt.spot.fake"]) as stream:
            with server.lock:
                refusal = messages.ErrorBody(-32002, "not yet", {"code": "unknown_instrument"})
                server.world.refuse["subscribe"] = refusal
                server.drop_all()
            assert [(await stream.__anext__()).state for _ in range(2)] == ["disconnected", "waiting"]
            server.world.refuse.clear()
            write(server, 1)
            frames = await take(stream, 1)
            assert (states(frames), cursors(frames)) == (["reconnected"], [1])

    run(scenario)


def test_cancelled_request_and_stream_leave_a_client_that_goes_on(server: FakeServer, run: Run) -> None:
    async def scenario() -> None:
        server.world.mute = {"backends"}
        async with open_client(server.address) as md, md.subscribe(["*"]) as stream:
            for _ in range(20):
                with anyio.move_on_after(0.005):
                    await md.backends()
                with anyio.move_on_after(0.005):
                    await stream.__anext__()
            with anyio.move_on_after(0.01):
                async with md.subscribe(["*"]):
                    await anyio.sleep(WAIT_S)
            write(server, 3)
            assert cursors(await take(stream, 3)) == [1, 2, 3]
            assert (await md.status()).ready

    run(scenario)

"""The blocking client against a fake daemon on a real loopback socket."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from marketd.client import (
    CannotConnect,
    Client,
    ConnectionLost,
    DeadlineExceeded,
    Frame,
    ProtocolError,
    RequestError,
    Stream,
    connect,
)
from marketd.client.subscription import State
from marketd.model import Kind
from marketd.rpc import messages
from tests.fake_server import MINUTE_NS, FakeServer, FakeSteps, held_bars, notify

WAIT_S = 10.0

TraceFunction = Callable[[FrameType, str, Any], Any]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


def until(condition: Callable[[], object], pump: Callable[[], object] = lambda: time.sleep(0.005)) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        pump()


def write(server: FakeServer, count: int, feed: str = "fake") -> None:
    with server.lock:
        for n in range(count):
            server.world.feeds[feed].append(Kind.TRADE if n % 3 else Kind.QUOTE, 1 + n % 3)


def take(stream: Stream, rows: int) -> list[Frame]:
    """Take frames until there are so many rows."""
    frames: list[Frame] = []
    deadline_s = time.monotonic() + WAIT_S
    while rows > 0:
        assert time.monotonic() < deadline_s, f"only {len(frames)} frames, the last is {frames[-1:]}"
        frame = stream.wait_next(0.2)
        if frame is not None:
            frames.append(frame)
            rows -= len(frame)
    return frames


def cursors(frames: list[Frame]) -> list[int]:
    return [cursor for frame in frames for cursor in frame.columns["cursor"].tolist()]


def states(frames: list[Frame]) -> list[str]:
    return [frame.state for frame in frames if frame.state]


def test_requests_are_answered(server: FakeServer) -> None:
    with connect(server.address, client="a test") as md:
        assert md.address == server.address
        assert md.server.instance == "test"
        assert md.status().ready
        assert md.backends()[0].feeds == ["fake"]
        assert md.instrument("BTC/USDT.spot.fake").fqme == "btc/usdt.spot.fake"
        assert md.record("fake", "some.ws", 0.1).bytes == 99
        assert 0 < md.ping() < WAIT_S
    assert server.world.requests[0] == ("hello", messages.HelloParams(client="a test", heartbeat_s=5.0))


def test_search_yields_hits_and_names_the_feeds_that_failed(server: FakeServer) -> None:
    with connect(server.address) as md:
        search = md.search("usdt fake", limit=2)
        assert [hit.fqme for hit in search] == ["btc/usdt.spot.fake", "eth/usdt.spot.fake"]
        assert search.failed == ["dead"]


@pytest.mark.parametrize("step_hash", ["ours", "another"])
def test_bars_are_those_of_the_range_in_order_of_time(server: FakeServer, step_hash: str) -> None:
    """A server whose rows have another layout is asked for columns."""
    server.world.bars["btc/usdt.spot.fake", "1m"] = held_bars()
    if step_hash != "ours":
        server.world.step_hash = step_hash
    with connect(server.address) as md:
        series = md.series("btc/usdt.spot.fake")
        assert (series.fqme, series.rows["close"].tolist(), series.limited) == (
            "btc/usdt.spot.fake",
            [1, 2, 3, 4, 5],
            False,
        )
        some = md.series("btc/usdt.spot.fake", "1m", "1970-01-01T00:01Z", 4 * MINUTE_NS, limit=2, order="oldest")
        assert (some.rows["close"].tolist(), some.limited) == ([2, 3], True)


def test_ticks_and_bars_come_in_one_stream(server: FakeServer) -> None:
    with server.lock:
        server.world.feeds["fake/bars"] = steps = FakeSteps()
    with connect(server.address) as md, md.subscribe(["*"], kinds=["trade", "bar.1m"], forming_hz=2) as stream:
        with server.lock:
            steps.append_step("bar.1m", 1, 2)
            steps.forming = [steps.row(0, "bar.1m", 1, 1)]
        frames = take(stream, 2)
        assert [(frame.kind, frame.forming) for frame in frames] == [("bar.1m", False), ("bar.1m", True)]
        write(server, 5)
        assert {frame.kind for frame in take(stream, 1)} == {"trade"}
        assert {feed: at.cursor for feed, at in stream.positions.items()}["fake/bars"] == 1


def test_stream_yields_every_row_in_order_under_its_name(server: FakeServer) -> None:
    """B16, R36: rows are keyed by the full name, backend included."""
    with connect(server.address) as md, md.subscribe(["btc*", "ETH/usdt.spot.fake".lower()]) as stream:
        write(server, 30)
        frames = take(stream, 20)
        assert cursors(frames) == [cursor for cursor in range(1, 31) if cursor % 3]
        assert {frame.fqme(frame.rows["instrument"][0]) for frame in frames} == {
            "btc/usdt.spot.fake",
            "eth/usdt.spot.fake",
        }
        assert stream.result.feeds[0].name == "fake"
        assert stream.positions["fake"].cursor == frames[-1].cursor_last


def test_columns_come_as_small_structs(server: FakeServer) -> None:
    with connect(server.address) as md, md.subscribe(["*"], kinds=["trade"], format="columns") as stream:
        write(server, 6)
        rows = [row for frame in take(stream, 4) for row in frame.rows]
        assert [row.cursor for row in rows] == [2, 3, 5, 6]
        assert rows[0].price == 2.0


def test_latest_counts_what_was_merged(server: FakeServer) -> None:
    write(server, 9)
    with connect(server.address) as md, md.subscribe(["*"], contract="latest", rate_hz=50) as stream:
        frames = take(stream, 3)
        merged = {frame.fqme(row["instrument"]): count for frame in frames for row, count in _counted(frame)}
        assert merged == {"btc/usdt.spot.fake": 3, "eth/usdt.spot.fake": 3, "sol/usdt.spot.fake": 3}


def _counted(frame: Frame) -> Iterator[tuple[object, int]]:
    assert frame.merged is not None
    return zip(frame.rows, frame.merged.tolist(), strict=True)


def test_refused_request_raises_the_servers_code_and_sentence(server: FakeServer) -> None:
    body = messages.ErrorBody(-32002, "no feed has that", {"code": "unknown_instrument", "unknown": ["x"]})
    server.world.refuse = {"subscribe": body, "instrument": body}
    with connect(server.address) as md:
        for ask in (lambda: md.instrument("x"), lambda: md.subscribe(["x"])):
            with pytest.raises(RequestError, match="no feed has that") as caught:
                ask()
            assert caught.value.code == "unknown_instrument"
            assert caught.value.data["unknown"] == ["x"]
        assert md.status().ready


def test_unanswered_request_raises_at_its_deadline_and_the_client_goes_on(server: FakeServer) -> None:
    server.world.mute = {"status"}
    with connect(server.address) as md:
        with pytest.raises(DeadlineExceeded):
            md.status(timeout_s=0.1)
        assert md.ping() > 0


def test_nobody_there_is_said_with_how_to_start_a_daemon(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    for address in (f"127.0.0.1:{free}", f"unix:{tmp_path}/none.sock"):
        with pytest.raises(CannotConnect, match=r"`marketd run`.*`marketd demo`"):
            connect(address)


def test_a_server_of_something_else_is_not_taken_for_a_daemon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(CannotConnect):
            connect(address, timeout_s=2)
        thread.join()


def test_refused_hello_is_not_tried_again(server: FakeServer) -> None:
    server.world.refuse["hello"] = messages.ErrorBody(-32001, "version 2 only", {"code": "unsupported_version"})
    with pytest.raises(RequestError, match="version 2 only"):
        connect(server.address)


def test_broken_connection_is_made_again_and_nothing_is_lost_or_doubled(server: FakeServer) -> None:
    with connect(server.address) as md, md.subscribe(["*"]) as stream:
        write(server, 10)
        frames = take(stream, 10)
        server.drop_all()
        write(server, 10)
        frames += take(stream, 10)
        assert cursors(frames) == list(range(1, 21))
        assert states(frames) == ["disconnected", "reconnected"]
        assert md.status().ready
    assert server.connections == 2


def test_rows_that_the_ring_lost_meanwhile_are_told_as_a_gap(server: FakeServer) -> None:
    with connect(server.address) as md, md.subscribe(["*"]) as stream:
        write(server, 10)
        assert len(cursors(take(stream, 10))) == 10
        with server.lock:
            server.drop_all()
            write(server, 10)
            server.world.feeds["fake"].oldest = 16
        frames = take(stream, 6)
        gap = next(frame for frame in frames if frame.kind == "gap")
        assert (gap.cursor_first, gap.cursor_last, gap.rows["lost"].tolist()) == (11, 15, [5])
        assert cursors([frame for frame in frames if frame.kind != "gap"]) == list(range(16, 21))


def test_reconnect_can_be_switched_off(server: FakeServer) -> None:
    with connect(server.address, reconnect=False) as md, md.subscribe(["*"]) as stream:
        server.drop_all()
        assert states([next(stream)]) == ["disconnected"]
        with pytest.raises(ConnectionLost):
            next(stream)
        with pytest.raises(ConnectionLost):
            md.status()


def test_reconnect_gives_up_after_its_time() -> None:
    with FakeServer() as server:
        md = connect(server.address, reconnect_timeout_s=0.5)
        stream = md.subscribe(["*"])
    with md, pytest.raises(ConnectionLost, match="can't be made again"):
        assert {frame.state for frame in stream} == {"disconnected"}


def test_token_resumes_with_another_client(server: FakeServer) -> None:
    with connect(server.address) as md, md.subscribe(["*"]) as stream:
        write(server, 6)
        first = take(stream, 3)
        token = stream.token
    write(server, 6)
    with connect(server.address) as md, md.subscribe(["*"], resume=token) as stream:
        rest = take(stream, 12 - sum(map(len, first)))
    assert cursors(first + rest) == list(range(1, 13))


def test_only_stream_is_never_parked_however_much_has_come_at_once(server: FakeServer) -> None:
    server.world.rows_max = 64
    count = 3000
    with connect(server.address, buffer_bytes=50_000) as md, md.subscribe(["*"]) as stream:
        write(server, count)
        frames: list[Frame] = []
        while (left := count - sum(map(len, frames))) > 0:
            time.sleep(0.02)  # the reader's own work, during which more comes than its buffer holds
            frames += take(stream, min(left, 500))
            assert stream._subscription.state is State.LIVE
    assert cursors(frames) == list(range(1, count + 1))


def test_several_streams_share_a_connection_and_an_unread_one_blocks_nothing(server: FakeServer) -> None:
    with connect(server.address, buffer_bytes=20_000) as md:
        unread, read = md.subscribe(["*"], kinds=["quote"]), md.subscribe(["*"], kinds=["trade"])
        count = 6000
        write(server, count)
        expected = [cursor for cursor in range(1, count + 1) if (cursor - 1) % 3]
        assert cursors(take(read, len(expected))) == expected
        assert md.status().ready
        # The unread stream was parked, and goes on from the daemon's ring.
        assert unread._subscription.state is State.PARKED
        expected = [cursor for cursor in range(1, count + 1) if (cursor - 1) % 3 == 0]
        frames = take(unread, len(expected))
        assert cursors(frames) == expected
        assert states(frames) == []


def test_update_changes_what_comes_and_survives_a_reconnect(server: FakeServer) -> None:
    with connect(server.address) as md, md.subscribe(["btc*"]) as stream:
        stream.update(add=["sol/usdt.spot.fake"], remove=["BTC*"])
        write(server, 6)
        assert cursors(take(stream, 2)) == [3, 6]
        server.drop_all()
        write(server, 6)
        assert cursors(take(stream, 2)) == [9, 12]
    subscribes = [params for method, params in server.world.requests if method == "subscribe"]
    assert subscribes[-1].instruments == ["sol/usdt.spot.fake"]


def test_paused_stream_stays_paused_over_a_reconnect_and_then_misses_nothing(server: FakeServer) -> None:
    with connect(server.address) as md, md.subscribe(["*"]) as stream:
        stream.update(paused=True)
        server.drop_all()
        write(server, 6)
        until(lambda: server.connections == 2, lambda: stream.wait_next(0.05))
        assert md.ping() > 0
        assert stream.wait_next(0.1) is None
        stream.update(paused=False)
        assert cursors(take(stream, 6)) == [1, 2, 3, 4, 5, 6]


def test_closed_stream_ends_its_iteration(server: FakeServer) -> None:
    with connect(server.address) as md:
        with md.subscribe(["*"]) as stream:
            pass
        assert list(stream) == []
        until(lambda: "unsubscribe" in server.world.methods())
        assert md.status().ready
    with pytest.raises(ConnectionLost, match="closed"):
        md.status()


def test_heartbeats_go_out_while_the_program_is_busy_elsewhere(server: FakeServer) -> None:
    server.world.heartbeat_s = 0.05
    with connect(server.address, heartbeat_s=0.05):
        until(lambda: server.world.heartbeats > 3)


def test_silent_server_is_left_and_called_again(server: FakeServer) -> None:
    """R47, R48: a connection that went dead without a word is replaced."""
    server.world.heartbeat_s = 0.1
    with connect(server.address) as md, md.subscribe(["*"]) as stream:
        server.gag = True
        frame = next(stream)
        assert (frame.state, "silent" in frame.detail) == ("disconnected", True)
        server.gag = False
        write(server, 3)
        assert cursors(take(stream, 3)) == [1, 2, 3]


def test_server_that_stops_making_sense_is_called_again(server: FakeServer) -> None:
    with connect(server.address) as md, md.subscribe(["*"]) as stream:
        server.extra.append(b"\0\0\0\3abc")
        write(server, 3)
        frames = take(stream, 3)
        assert states(frames)[:2] == ["disconnected", "reconnected"]
        assert cursors(frames) == [1, 2, 3]


def test_feed_news_and_notices_are_status_frames(server: FakeServer) -> None:
    with connect(server.address) as md, md.subscribe(["*"]) as stream:
        server.extra.append(notify("status", messages.Status(1, "fake", "down", "the venue is away")))
        server.extra.append(notify("notice", messages.Notice("closing", "goodbye")))
        first, second = next(stream), next(stream)
        assert (first.kind, first.feed, first.state, first.detail) == ("status", "fake", "down", "the venue is away")
        assert (second.state, second.detail) == ("closing", "goodbye")


def test_daemon_that_does_not_know_its_instruments_yet_is_asked_again(server: FakeServer) -> None:
    unknown = messages.ErrorBody(-32002, "no feed has that", {"code": "unknown_instrument"})
    with connect(server.address) as md, md.subscribe(["btc/usdt.spot.fake"]) as stream:
        with server.lock:
            server.world.refuse["subscribe"] = unknown
            server.drop_all()
        assert [next(stream).state, next(stream).state] == ["disconnected", "waiting"]
        server.world.refuse.clear()
        write(server, 1)
        frames = take(stream, 1)
        assert states(frames) == ["reconnected"]
        assert cursors(frames) == [1]


def test_rows_of_another_layout_are_not_misread(server: FakeServer) -> None:
    with connect(server.address) as md, md.subscribe(["*"]) as stream:
        with server.lock:
            server.world.row_hash = "0" * 16
            server.drop_all()
        with pytest.raises(ProtocolError, match="another layout"):
            take(stream, 1)
        with pytest.raises(ProtocolError, match="columns"):
            md.subscribe(["*"])
        with md.subscribe(["*"], format="columns") as columns:
            write(server, 1)
            assert cursors(take(columns, 1)) == [1]


def test_ctrl_c_leaves_a_client_that_goes_on_without_loss(server: FakeServer) -> None:
    frames: list[Frame] = []
    with connect(server.address) as md, md.subscribe(["*"]) as stream:
        for turn in range(3):
            main = threading.main_thread().ident
            assert main is not None
            timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                frames.extend(stream)
            timer.join()
            write(server, 5)
            frames += take(stream, 5)
            assert cursors(frames) == list(range(1, 5 * turn + 6))
        assert md.status().ready


class _Interrupt(BaseException):
    pass


@contextlib.contextmanager
def interrupted_at_line(number: int) -> Iterator[None]:
    """Raise before the so-many-th line that runs where bytes are on their way from the socket to frames."""
    left = number

    def trace(frame: FrameType, event: str, _argument: object) -> TraceFunction | None:
        nonlocal left
        names = set()
        caller: FrameType | None = frame
        while caller is not None:
            names.add(caller.f_code.co_name)
            caller = caller.f_back
        if names.isdisjoint({"pump", "_begin_source"}) or names & {"_redial", "_drop", "interrupted"}:
            return None
        if event == "line" and "/marketd/client/" in frame.f_code.co_filename:
            left -= 1
            if left == 0:
                raise _Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def test_interrupts_at_any_step_of_receiving_lose_and_double_nothing(server: FakeServer) -> None:
    """An exception from a signal handler may come between any two steps."""
    frames: list[Frame] = []
    interrupts = 0
    with connect(server.address) as md, md.subscribe(["*"]) as stream:
        for line in range(1, 250, 3):
            if server.world.feeds["fake"].published < len(frames) + 100:
                write(server, 20)
            for _ in range(3):
                try:
                    with interrupted_at_line(line):
                        frame = stream.wait_next(1)
                except _Interrupt:
                    interrupts += 1
                else:
                    frames += [frame] if frame is not None else []
        total = server.world.feeds["fake"].published
        frames += take(stream, total - sum(map(len, frames)))
    assert interrupts > 60
    assert cursors(frames) == list(range(1, total + 1))


def test_a_second_client_ends_while_the_first_goes_on(server: FakeServer) -> None:
    """R32: one client's end disturbs no other."""
    with contextlib.ExitStack() as stack:
        first: Client = stack.enter_context(connect(server.address))
        stream = stack.enter_context(first.subscribe(["*"]))
        with connect(server.address) as second, second.subscribe(["*"]):
            pass
        write(server, 3)
        assert cursors(take(stream, 3)) == [1, 2, 3]

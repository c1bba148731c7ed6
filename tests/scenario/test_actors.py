"""Actors as real processes: every fault of tractor 0.1.0a5 that we can meet, and every way for a child to end."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest
import structlog.testing
import trio

from marketd.errors import ActorDied, LinkClosed, RequestRefused, RequestTimeout
from marketd.supervise import actor as actor_module
from marketd.supervise import parent as parent_module
from marketd.supervise.actor import Child, Tree, open_tree
from marketd.supervise.link import Link
from marketd.supervise.messages import LogSpec
from tests.scenario.actors_for_tests import Facts, Flood, Number, Text, actor_spec

PROJECT = Path(__file__).resolve().parents[2]
KILLS = [10, pytest.param(50, marks=pytest.mark.soak)]
REQUESTS = [20_000, pytest.param(100_000, marks=pytest.mark.soak)]
QUIET = LogSpec(level="critical", format="json")


@pytest.fixture
async def tree() -> AsyncIterator[Tree]:
    async with open_tree("test", QUIET) as tree:
        yield tree


def nothing(link: Link) -> None:
    """The parent answers nothing."""


def hear_noise(link: Link) -> None:
    async def hear(_: Text) -> None:
        await trio.sleep(0.001)  # slower than the noise

    link.handle("noise", Text, hear)


async def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    with trio.fail_after(timeout_s):
        while not condition():
            await trio.sleep(0.01)


def lives(pid: int) -> bool:
    """Whether the process runs; one that nobody has reaped yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def echo(child: Child, value: int = 1) -> None:
    assert await child.link.request("echo", Number(value), result=Number, timeout_s=10) == Number(value)


@asynccontextmanager
async def open_serving(tree: Tree, **options) -> AsyncIterator[Child]:
    async with tree.open_actor(actor_spec("serve"), nothing, **options) as child:
        await child.wait_ready(10)
        yield child


# --- a life -----------------------------------------------------------------------------------------------------------


async def test_actor_gets_its_config_answers_and_reports(tree):
    async with open_serving(tree) as child:
        assert msgspec.msgpack.decode(child.info, type=Text) == Text("serving")
        assert msgspec.msgpack.decode(child.last_pulse.statistics, type=Number) == Number(0)
        await echo(child, 7)
        await eventually(lambda: msgspec.msgpack.decode(child.last_pulse.statistics, type=Number) == Number(1))
        pulse = child.last_pulse
        assert pulse.vitals.rss_bytes > 1 << 20
        assert pulse.vitals.cpu_s > 0
        assert pulse.vitals.tasks > 1
        with pytest.raises(RequestRefused, match="as you wish") as refused:
            await child.link.request("refuse", Text("because"), result=Number, timeout_s=5)
        assert refused.value.code == "because"
    assert await child.wait_gone() is None
    with pytest.raises(LinkClosed):
        await child.link.request("echo", Number(1), result=Number, timeout_s=1)


async def test_child_is_a_plain_process_that_imports_little_and_hides_the_secret(tree):
    async with open_serving(tree) as child:
        facts = await child.link.request("facts", result=Facts, timeout_s=5)
        command = Path(f"/proc/{child.pid}/cmdline").read_bytes()
    assert facts.main.endswith("marketd/supervise/child.py")
    heavy = {
        "typer",
        "rich",
        "marketd.cli",
        "numba",
        "numpy",
        "polars",
        "pyarrow",
        "tests.scenario.test_actors",
        "pytest",
    }
    assert heavy.isdisjoint(facts.modules)
    assert not facts.secret_in_environment
    assert actor_module._Secret.value.hex().encode() not in command


async def test_own_exception_arrives_with_its_type_text_and_traceback(tree):
    async with tree.open_actor(actor_spec("raise_exotic"), nothing) as child:
        death = await child.wait_gone()
    assert str(death) == "test.raise_exotic: tests.scenario.actors_for_tests.ExoticError: nobody expects this"
    assert "in raise_exotic" in death.__notes__[0]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("raise_exit", "SystemExit: 7"),
        ("raise_interrupt", "KeyboardInterrupt"),
        ("exit_in_a_task", "SystemExit: 7"),
        ("raise_in_statistics", "ExoticError: no statistics today"),
        ("exit_hard", "exited with status 3"),
        ("talk_nonsense", "was killed, because it talks nonsense"),
        ("no_such_function", "AttributeError: module 'tests.scenario.actors_for_tests' has no attribute"),
    ],
)
async def test_whatever_ends_the_function_ends_the_process_and_is_reported(tree, function, reason):
    with trio.fail_after(10):
        async with open_serving(tree) as sibling:
            with pytest.raises(ActorDied, match=reason):
                async with tree.open_actor(actor_spec(function), nothing) as child:
                    raise await child.wait_gone()
            await echo(sibling)


@pytest.mark.parametrize(
    ("source", "reason"),
    [("import no_such_library", "ModuleNotFoundError: No module named"), ("1 / 0", "ZeroDivision")],
)
async def test_module_that_does_not_import_is_the_childs_death_and_not_the_roots(
    tree, tmp_path, monkeypatch, source, reason
):
    (tmp_path / "unimportable.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    async with open_serving(tree) as sibling:
        async with tree.open_actor(actor_spec("run", module="unimportable"), nothing) as child:
            death = await child.wait_gone()
        assert reason in str(death)
        with pytest.raises(ActorDied, match=reason):
            await child.wait_ready(1)
        await echo(sibling)


async def test_function_that_returns_is_no_death(tree):
    async with tree.open_actor(actor_spec("return_soon"), nothing) as child:
        await child.wait_ready(10)
        assert msgspec.msgpack.decode(child.info, type=Text) == Text("done")
        assert await child.wait_gone() is None


async def test_waiting_for_an_actor_that_never_gets_ready_ends(tree):
    async with tree.open_actor(actor_spec("never_ready"), nothing) as child:
        with pytest.raises(RequestTimeout):
            await child.wait_ready(0.1)
    async with tree.open_actor(actor_spec("return_before_ready"), nothing) as child:
        with pytest.raises(ActorDied, match="returned before it was ready"):
            await child.wait_ready(10)


async def test_last_words_are_heard(tree):
    heard: list[int] = []

    def handlers(link: Link) -> None:
        async def hear(word: Number) -> None:
            heard.append(word.value)

        link.handle("word", Number, hear)

    async with tree.open_actor(actor_spec("say_much_and_return"), handlers) as child:
        assert await child.wait_gone() is None
    assert heard == list(range(500))


@pytest.mark.parametrize(
    ("program", "timeout_s", "reason"),
    [("exit 5", 9, "exited with status 5"), ("exec sleep 60", 1, "did not get up within 1 s and was killed")],
)
async def test_process_that_never_connects_is_given_up(tree, tmp_path, monkeypatch, program, timeout_s, reason):
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(fake))
    with trio.fail_after(10), pytest.raises(ActorDied, match=reason):
        async with tree.open_actor(actor_spec("serve"), nothing, start_timeout_s=timeout_s):
            pass
    assert not tree.children
    assert not tree._root._peer_connected


async def test_start_that_is_cancelled_leaves_no_process(tree):
    for delay_s in (0.0, 0.05, 0.1, 0.2):
        with trio.move_on_after(delay_s):
            async with tree.open_actor(actor_spec("serve"), nothing):
                await trio.sleep_forever()
    assert not tree.children
    assert not tree._root._contexts
    assert not tree._root._peer_connected
    assert not psutil.Process().children()


async def test_start_that_is_cancelled_half_way_leaves_no_trace_in_tractor(tree):
    async def start() -> None:
        async with tree.open_actor(actor_spec("serve"), nothing):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        with trio.fail_after(20):
            while not tree._root._contexts:
                await trio.sleep(0)
        nursery.cancel_scope.cancel()
    assert not tree._root._contexts
    assert not tree.children


# --- stopping ---------------------------------------------------------------------------------------------------------


async def test_after_the_tree_there_is_no_process_no_socket_and_no_trace():
    """R01: after teardown no child process is alive and the root's socket is released."""
    debugger = os.environ.get("PYTHONBREAKPOINT")
    async with AsyncExitStack() as stack:
        tree = await stack.enter_async_context(open_tree("test", QUIET))
        children = [await stack.enter_async_context(open_serving(tree)) for _ in range(3)]
        port = tree._root.accept_addr[1]
    for child in children:
        assert child.gone
        assert not psutil.pid_exists(child.pid)
    assert not psutil.Process().children()
    with pytest.raises(OSError):
        await trio.open_tcp_stream("127.0.0.1", port)
    assert os.environ.get("PYTHONBREAKPOINT") == debugger


async def test_one_process_has_one_tree(tree):
    with pytest.raises(RuntimeError, match="already"):
        async with open_tree("another", QUIET):
            pass


async def test_stopping_many_times_at_once_and_during_teardown_returns_once_it_is_gone(tree):
    """R02: stopping twice, or while the tree is torn down, returns once, with no recursion and no hang."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, open_serving(tree) as child:
            nursery.start_soon(child.stop)
            nursery.start_soon(child.stop)
            await child.stop()
            assert child.gone
            await child.stop()
        async with trio.open_nursery() as nursery, open_serving(tree) as child:
            nursery.start_soon(child.stop)  # begins just as leaving the block stops it too
        await child.stop()


async def test_stop_that_is_cancelled_can_be_done_again(tree):
    """R02: a stop that was cancelled half-way is no obstacle to the next one."""
    async with tree.open_actor(actor_spec("ignore_stop"), nothing, grace_s=0.1) as child:
        await child.wait_ready(10)
        with trio.move_on_after(0.05):
            await child.stop(10)
        assert not child.gone
        await child.stop(0.1)
        assert child.gone


async def test_child_whose_parent_is_cancelled_is_still_asked_politely(tree):
    with trio.CancelScope() as scope:
        async with open_serving(tree) as child:
            scope.cancel()
            await trio.sleep_forever()
    assert await child.wait_gone() is None


async def test_handlers_that_raise_leave_no_process(tree):
    def broken(link: Link) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with tree.open_actor(actor_spec("serve"), broken):
            pass
    assert not psutil.Process().children()


async def test_stopped_actor_is_really_gone_and_starts_again_at_once(tree):
    """R03: stop returns only when the process has exited and is off the books; the same actor starts again at once."""
    pids = set()
    for _ in range(5):
        async with open_serving(tree) as child:
            pids.add(child.pid)
            await echo(child)
            assert tree.children == {child}
            await child.stop()
            assert not psutil.pid_exists(child.pid)
            assert not tree.children
    assert len(pids) == 5


async def block(child: Child) -> None:
    await child.link.notify("block", Number(60))


async def stop_process(child: Child) -> None:
    os.kill(child.pid, signal.SIGSTOP)


async def just_ignore(child: Child) -> None:
    """The function does not look at `stopping`."""


@pytest.mark.parametrize(
    ("function", "misbehave"),
    [("ignore_stop", just_ignore), ("serve", block), ("serve", stop_process), ("flood", stop_process)],
)
async def test_child_that_does_not_stop_when_asked_is_killed_after_its_grace(tree, function, misbehave):
    """R09: a child that ignores the polite stop is killed after its grace, and leaving takes no second longer."""
    with trio.fail_after(20):
        config = Flood() if function == "flood" else None
        async with tree.open_actor(actor_spec(function, config), hear_noise, grace_s=1.0) as child:
            await child.wait_ready(10)
            await misbehave(child)
            await trio.sleep(0.1)
            left_s = trio.current_time()
        assert 1.0 <= trio.current_time() - left_s < 2.5
        assert "did not stop within 1 s and was killed" in str(await child.wait_gone())
        assert not psutil.pid_exists(child.pid)


async def test_cancelled_tree_stops_its_children_side_by_side():
    """R09: teardown takes one grace and not one for each child, whatever the children do."""
    with trio.fail_after(20):
        async with open_tree("test", QUIET) as tree, trio.open_nursery() as nursery:

            async def keep(task_status) -> None:
                async with tree.open_actor(actor_spec("ignore_stop"), nothing, grace_s=1.0) as child:
                    await child.wait_ready(10)
                    task_status.started()
                    await trio.sleep_forever()

            for _ in range(4):
                await nursery.start(keep)
            nursery.cancel_scope.cancel()
            left_s = trio.current_time()
    assert trio.current_time() - left_s < 3.5


# --- dying ------------------------------------------------------------------------------------------------------------


async def test_killed_child_fails_the_request_that_waits_for_it_at_once(tree, monkeypatch):
    monkeypatch.setattr(parent_module, "LAST_WORDS_S", 60)  # the end must be seen on the link itself
    async with open_serving(tree) as child, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(LinkClosed), trio.fail_after(5):
                await child.link.request("block", Number(60), result=type(None), timeout_s=60)

        nursery.start_soon(ask)
        await trio.sleep(0.1)
        os.kill(child.pid, signal.SIGKILL)
        with trio.fail_after(5):
            assert str(await child.wait_gone()) == "test.serve was killed by SIGKILL"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kills", KILLS)
async def test_busy_child_killed_again_and_again_takes_neither_root_nor_sibling_down(tree, kills):
    """Also: the sibling outlives by far the idle worker thread that started it."""
    rng = random.Random(50)
    async with open_serving(tree) as sibling:
        with structlog.testing.capture_logs() as logs:
            before = resources()
            for number in range(kills):
                flood = Flood(bytes=rng.choice([10, 1000, 65536]), tasks=rng.choice([1, 8]))
                async with (
                    tree.open_actor(actor_spec("flood", flood), hear_noise) as child,
                    trio.open_nursery() as nursery,
                ):
                    await child.wait_ready(10)
                    nursery.start_soon(keep_noisy, child, flood)
                    await trio.sleep(rng.uniform(0.0, 0.1))
                    os.kill(child.pid, signal.SIGKILL)
                    with trio.fail_after(5):
                        assert "killed by SIGKILL" in str(await child.wait_gone())
                    nursery.cancel_scope.cancel()
                await echo(sibling, number)
        assert [entry for entry in logs if entry["log_level"] == "error"] == []
        await eventually(lambda: resources() == before)
        assert tree.children == {sibling}
        assert len(tree._root._contexts) == 1
        assert len(tree._root._peers) == 1
        assert not tree._root._peer_connected
        assert not tree._root._actoruid2nursery
        assert not tree._root._registry


def resources() -> tuple[int, int]:
    """Open files and tasks of this process."""
    return psutil.Process().num_fds(), trio.lowlevel.current_statistics().tasks_living


async def keep_noisy(child: Child, flood: Flood) -> None:
    """Send as much as the other side takes."""
    try:
        while True:
            await child.link.notify("noise", Text("y" * flood.bytes))
    except LinkClosed:
        pass


async def test_flood_in_both_directions_to_slow_handlers_stalls_no_pulse_and_crashes_nothing(tree):
    flood = Flood(bytes=4000, tasks=8)
    with trio.fail_after(30):
        async with tree.open_actor(actor_spec("flood", flood), hear_noise, mute_after_s=2.0) as child:
            await child.wait_ready(10)
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(keep_noisy, child, flood)
                received = {child.last_pulse.received_monotonic}
                with trio.move_on_after(5):
                    while True:
                        await trio.sleep(0.05)
                        received.add(child.last_pulse.received_monotonic)
                nursery.cancel_scope.cancel()
            assert len(received) >= 5
            assert child.link.statistics().dropped > 0
            assert not child.gone
        # It was left while the feeder was as full as it gets, and it still could be told to stop.
        assert await child.wait_gone() is None


@pytest.mark.parametrize("misbehave", [block, stop_process])
async def test_child_that_does_nothing_any_more_is_noticed_killed_and_replaced(tree, misbehave):
    async with open_serving(tree) as sibling:
        async with open_serving(tree, mute_after_s=1.5) as child:
            await misbehave(child)
            with trio.fail_after(10):
                assert "gave no sign of life for 1.5 s and was killed" in str(await child.wait_gone())
        async with open_serving(tree, mute_after_s=1.5) as successor:
            await echo(successor)
        await echo(sibling)


async def test_parent_that_was_blocked_itself_does_not_blame_its_child(tree):
    async with open_serving(tree, mute_after_s=1.5) as child:
        time.sleep(3)
        await trio.sleep(0.3)
        await echo(child)


async def test_child_whose_channel_breaks_ends(tree):
    async with open_serving(tree) as child:
        channel = next(iter(tree._root._peers.values()))[0]
        await channel.aclose()
        with trio.fail_after(10):
            assert await child.wait_gone() is not None
    assert not psutil.pid_exists(child.pid)


# --- leaks ------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("requests", REQUESTS)
async def test_many_requests_leave_no_growth(tree, requests):
    own = psutil.Process()
    async with open_serving(tree) as child:

        async def ask_many(count: int) -> None:
            for value in range(count):
                await echo(child, value)

        async def ask_in_parallel(count: int, tasks: int = 20) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(tasks):
                    nursery.start_soon(ask_many, count // tasks)

        other = psutil.Process(child.pid)
        await ask_in_parallel(requests // 5)
        gc.collect()
        before = own.memory_info().rss, other.memory_info().rss
        await ask_in_parallel(requests - requests // 5)
        gc.collect()
        grown = own.memory_info().rss - before[0], other.memory_info().rss - before[1]
        facts = await child.link.request("facts", result=Facts, timeout_s=5)
        assert max(grown) < max(1 << 20, 40 * requests)  # a leak of 50 to 65 bytes a request
        assert facts.contexts == 1
        assert len(tree._root._contexts) == 1
        statistics = child.link.statistics()
        assert (statistics.pending, statistics.answering, statistics.outbox, statistics.dropped) == (0, 0, 0, 0)


# --- the root's death -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_root_process(*actors: str) -> AsyncIterator[tuple[trio.Process, dict, list[bytes]]]:
    """A tree in another process; yields it, what it says of itself, and the lines that it prints from then on."""
    command = [sys.executable, "-m", "tests.scenario.tree_for_tests", *actors]
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=PROJECT,
        start_new_session=True,
    )
    lines: list[bytes] = []
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_lines, process.stdout, lines)
            await eventually(lambda: len(lines) >= 2, 20)
            assert lines[0] == b"main runs"
            yield process, json.loads(lines[1]), lines
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _read_lines(stream: trio.abc.ReceiveStream, lines: list[bytes]) -> None:
    rest = b""
    async for data in stream:
        *whole, rest = (rest + data).split(b"\n")
        lines.extend(whole)


@pytest.mark.parametrize("how", ["idle", "blocked", "busy"])
async def test_children_of_a_killed_root_are_gone_within_two_seconds(how):
    actors = ["serve", "flood" if how == "busy" else "serve"]
    async with open_root_process(*actors) as (process, facts, _):
        if how == "blocked":
            await process.stdin.send_all(b"block\n")
            await trio.sleep(0.3)
        process.kill()
        await eventually(lambda: not any(map(lives, facts["children"])), 2)


async def test_signals_to_the_whole_process_group_are_for_the_root_alone():
    async with open_root_process("serve", "serve") as (process, facts, lines):
        assert os.getpgid(facts["children"][0]) == os.getpgid(process.pid)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.killpg(process.pid, number)
        await process.stdin.send_all(b"echo\n")
        await eventually(lambda: b"alive" in lines)


async def test_root_that_ends_says_nothing_on_standard_error_and_its_children_do_not_run_its_main():
    async with open_root_process("serve", "serve") as (process, _, lines):
        await process.stdin.send_all(b"end\n")
        with trio.fail_after(10):
            assert await process.wait() == 0
        assert await process.stderr.receive_some() == b""
        assert lines.count(b"main runs") == 1


async def test_two_trees_of_one_name_do_not_meet(tree):
    """R06: two instances side by side; the death of one leaves the other as it was."""
    async with open_serving(tree) as child:
        async with open_root_process("serve") as (process, facts, _):
            assert facts["port"] != tree._root.accept_addr[1]
            await echo(child)
            process.kill()
            await process.wait()
        await echo(child)


# --- strangers --------------------------------------------------------------------------------------------------------


def frame(message: object) -> bytes:
    body = msgspec.msgpack.encode(message)
    return struct.pack("<I", len(body)) + body


def listening_port(pid: int) -> int:
    [port] = [c.laddr.port for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    return port


async def talk(port: int, data: bytes) -> bytes:
    """Connect, send, and return what is answered until the other side closes, or for a while."""
    answered = b""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        with trio.move_on_after(0.4):
            try:
                await stream.send_all(data)
                async for part in stream:
                    answered += part
            except trio.BrokenResourceError:
                pass
    return answered


CANCEL = frame(["stranger", "1"]) + frame({"cmd": ["self", "cancel", {}, ["stranger", "1"], "2"]})


async def test_stranger_without_the_secret_is_refused_by_root_and_children(tree):
    async with open_serving(tree) as child:
        for port in (tree._root.accept_addr[1], listening_port(child.pid)):
            for data in (CANCEL, bytes(32) + CANCEL, b"GET / HTTP/1.1\r\n\r\n" * 10, b"", b"\xff" * 100_000):
                assert await talk(port, data) == b""
                await echo(child)


async def test_who_knows_the_secret_is_let_in(tree):
    """The control to the test above: there it is the secret that makes the difference."""
    async with open_serving(tree) as child:
        answered = await talk(listening_port(child.pid), actor_module._Secret.value + frame(["friend", "1"]))
        assert b"test.serve" in answered
        for rest in (b"", b"\x01", b"\xff\xff\x00\x00half a message", frame("nonsense"), frame(7), frame([])):
            root_port = tree._root.accept_addr[1]
            await talk(root_port, actor_module._Secret.value + frame(["friend", "2"]) + rest)
            await talk(root_port, actor_module._Secret.value + rest)
            await echo(child)


async def test_silent_stranger_is_hung_up_on(tree, monkeypatch):
    monkeypatch.setattr(actor_module, "SECRET_TIMEOUT_S", 0.2)
    stream = await trio.open_tcp_stream("127.0.0.1", tree._root.accept_addr[1])
    with trio.fail_after(5):
        assert await stream.receive_some() == b""


async def test_many_silent_strangers_keep_nobody_out(tree, monkeypatch):
    monkeypatch.setattr(actor_module, "STRANGERS_MAX", 8)
    async with contextlib.AsyncExitStack() as stack:
        port = tree._root.accept_addr[1]
        strangers = [await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(20)]
        with trio.fail_after(3):  # less than a stranger has who is alone
            for stream in strangers[:12]:
                assert await stream.receive_some() == b""
        assert len(actor_module._strangers) <= 8
        async with open_serving(tree) as child:
            await echo(child)


def test_received_message_is_not_formatted_for_logs_that_are_off():
    assert "payload" not in repr(actor_module._Message(a="payload"))


@pytest.mark.parametrize("sent", [b"", b"\x02", b"\x08\x00\x00\x00", b"\x08\x00\x00\x00half"])
async def test_connection_that_ends_at_any_byte_has_ended_and_not_failed(sent):
    here, there = (trio.SocketStream(end) for end in trio.socket.socketpair())
    transport = actor_module._Transport(here)
    await there.send_all(frame({"whole": 1}) + sent)
    await there.aclose()
    assert await transport.recv() == {"whole": 1}
    with pytest.raises(actor_module.tractor._exceptions.TransportClosed):
        await transport.recv()

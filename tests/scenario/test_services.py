"""A service outlives its actors: the restart policy with real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import msgspec
import psutil
import pytest
import trio

from marketd.retry import RestartPolicy
from marketd.supervise.actor import open_tree
from marketd.supervise.messages import ActorSpec, LogSpec
from marketd.supervise.service import Service

NOTHING = msgspec.Raw(msgspec.msgpack.encode(None))


def make(function: str, name: str = "tested", **options: object) -> Service:
    spec = ActorSpec(name=name, run=f"tests.scenario.service_actors:{function}", config=NOTHING)
    return Service(name, lambda: spec, lambda link: None, **options)  # type: ignore[arg-type]


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    with trio.fail_after(timeout_s):
        while not condition():
            await trio.sleep(0.01)


def is_live(service: Service) -> bool:
    return service.state == "live" and service.child is not None


async def test_killed_actor_is_replaced_and_its_sibling_is_not_touched() -> None:
    async with open_tree("services", LogSpec()) as tree, trio.open_nursery() as nursery:
        one, two = make("run_well", "one"), make("run_well", "two")
        for service in (one, two):
            nursery.start_soon(service.keep, tree)
        await until(lambda: is_live(one) and is_live(two))
        assert one.child is not None
        assert two.child is not None
        killed, sibling = one.child.pid, two.child.pid
        os.kill(killed, signal.SIGKILL)
        await until(lambda: is_live(one) and one.child is not None and one.child.pid != killed)
        assert one.restarts == 1
        assert two.restarts == 0
        assert two.child.pid == sibling
        await one.stop()
        await two.stop()


@pytest.mark.parametrize(
    ("function", "said"), [("run_and_raise", "the price of tea"), ("run_and_block", ""), ("run_never_ready", "")]
)
async def test_actor_that_fails_is_replaced_and_the_reason_kept(
    function: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketd.supervise.service.READY_TIMEOUT_S", 3.0)
    async with open_tree("services", LogSpec()) as tree, trio.open_nursery() as nursery:
        states: list[tuple[str, str]] = []
        service = make(function, changed=lambda: states.append((service.state, service.detail)))
        nursery.start_soon(service.keep, tree)
        await until(lambda: service.restarts >= 2, 40)
        await service.stop()
        assert service.state == "stopped"
        assert any(state == "down" and said in detail and detail for state, detail in states)


async def test_service_that_dies_more_than_five_times_a_minute_is_failing_and_can_still_be_stopped() -> None:
    async with open_tree("services", LogSpec()) as tree, trio.open_nursery() as nursery:
        service = make("run_and_raise", policy=RestartPolicy(first_s=0.01))
        nursery.start_soon(service.keep, tree)
        await until(lambda: service.state == "failing", 40)
        assert service.restarts == 6
        with trio.fail_after(2):
            await service.stop()


async def test_stopping_twice_or_while_starting_returns_and_leaves_no_process() -> None:
    """R02, R03: any number of times, from anywhere; after it, the same service starts again at once."""
    async with open_tree("services", LogSpec()) as tree:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                service = make("run_well")
                nursery.start_soon(service.keep, tree)
                await until(lambda service=service: service.child is not None)  # type: ignore[misc]
                assert service.child is not None
                pid = service.child.pid
                async with trio.open_nursery() as stoppers:
                    for _ in range(5):
                        stoppers.start_soon(service.stop)
                await service.stop()
                assert service.complete.is_set()
                assert not psutil.pid_exists(pid)


async def test_actor_that_ignores_stop_is_killed_within_its_grace() -> None:
    """R09."""
    async with open_tree("services", LogSpec()) as tree, trio.open_nursery() as nursery:
        service = make("run_and_ignore_stop", grace_s=0.5)
        nursery.start_soon(service.keep, tree)
        await until(lambda: is_live(service))
        assert service.child is not None
        pid = service.child.pid
        with trio.fail_after(3):
            await service.stop()
        assert not psutil.pid_exists(pid)


async def test_cancelling_a_service_leaves_no_process() -> None:
    """R01."""
    async with open_tree("services", LogSpec()) as tree:
        async with trio.open_nursery() as nursery:
            service = make("run_well")
            nursery.start_soon(service.keep, tree)
            await until(lambda: is_live(service))
            assert service.child is not None
            pid = service.child.pid
            nursery.cancel_scope.cancel()
        assert service.complete.is_set()
        assert not psutil.pid_exists(pid)


async def test_service_is_restarted_started_again_and_cancelled_at_any_moment_and_never_once_it_is_retired() -> None:
    """R02, R03."""
    async with open_tree("services", LogSpec()) as tree, trio.open_nursery() as nursery:
        service = make("run_well")
        nursery.start_soon(service.keep, tree)
        await until(lambda: is_live(service))
        pids = [_pid(service)]
        for _ in range(3):  # before the successor is up, too
            service.restart()
        assert service.state == "starting"
        with trio.fail_after(20):
            await service.settled.wait()
        pids.append(_pid(service))
        with trio.fail_after(20):
            async with trio.open_nursery() as several:
                for _ in range(3):
                    several.start_soon(service.cancel)
                    several.start_soon(service.stop, "asked")
        assert (service.state, service.child, service.wanted) == ("stopped", None, False)
        service.restart()  # changes nothing
        assert service.state == "stopped"
        with trio.fail_after(20):
            async with trio.open_nursery() as several:
                for _ in range(3):
                    several.start_soon(service.start, nursery, tree)
            await service.settled.wait()
        pids.append(_pid(service))
        assert len(set(pids)) == 3
        assert [psutil.pid_exists(pid) for pid in pids] == [False, False, True]
        assert service.restarts == 0
        async with trio.open_nursery() as several:
            several.start_soon(service.retire)
            several.start_soon(service.start, nursery, tree)
        await service.start(nursery, tree)
        assert (service.state, service.wanted) == ("stopped", False)
        assert not psutil.pid_exists(pids[-1])


def _pid(service: Service) -> int:
    assert service.child is not None
    return service.child.pid


async def test_service_that_never_gets_ready_is_stopped_without_waiting_for_that() -> None:
    async with open_tree("services", LogSpec()) as tree, trio.open_nursery() as nursery:
        service = make("run_never_ready", grace_s=0.5)
        nursery.start_soon(service.keep, tree)
        await until(lambda: service.child is not None)
        with trio.fail_after(5):
            await service.stop()

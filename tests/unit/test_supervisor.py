"""What the supervisor tells its actors, with a tree that starts nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from marketd.config import Bars, Config, History, Ring
from marketd.errors import SegmentError
from marketd.paths import Paths
from marketd.ring import segment
from marketd.supervise.messages import ActorSpec, FeedInfo
from marketd.supervise.segments import make_segments, open_segments, size_bytes
from marketd.supervise.specs import addresses_for_gateway
from marketd.supervise.supervisor import Supervisor


class FakeLink:
    """Keeps what an actor is told."""

    def __init__(self) -> None:
        self.feeds: list[FeedInfo] = []
        self.told = trio.Event()

    async def notify(self, method: str, params: object) -> None:
        assert method == "feeds_changed"
        assert isinstance(params, list)
        self.feeds = params
        self.told.set()


class FakeChild:
    """An actor that is ready at once and never dies."""

    pid, last_pulse, info = 1, None, msgspec.Raw(msgspec.msgpack.encode({"addresses": []}))

    def __init__(self) -> None:
        self.link = FakeLink()

    async def wait_ready(self, _timeout_s: float) -> None: ...

    async def wait_gone(self) -> None:
        await trio.sleep_forever()

    async def stop(self, _grace_s: float) -> None: ...


class SlowTree:
    """Starts an actor as soon as somebody lets it; its spec is made before."""

    def __init__(self) -> None:
        self.child = FakeChild()
        self.starting, self.go_on = trio.Event(), trio.Event()

    @contextlib.asynccontextmanager
    async def open_actor(self, _spec: ActorSpec, _handlers: object) -> AsyncIterator[FakeChild]:
        self.starting.set()
        await self.go_on.wait()
        yield self.child


@pytest.mark.parametrize("name", ["sampler", "history", "gateway"])
async def test_actor_that_starts_slowly_learns_what_changed_meanwhile(name: str, tmp_path: Path) -> None:
    """A history manager that believed its feed to be still starting asked it for nothing, for ever."""
    bars, ring = Bars(periods=["1m"], step_rows=1024), Ring(rows=1024, instruments=8)
    config = Config(ring=ring, bars=bars, history=History(periods=["1m"]), feeds={"sim": {"backend": "sim"}})
    folders = {f"{what}_DIRECTORY": str(tmp_path) for what in ("RUNTIME", "STATE")}
    paths = Paths.for_instance(f"unit-{os.getpid()}", env=folders)
    paths.create()
    with open_segments(config, paths), trio.fail_after(5):
        supervisor = Supervisor(config, paths)
        service = next(service for service in supervisor.services if service.name == name)
        tree = SlowTree()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.tell_actors)
            nursery.start_soon(service.keep, tree)
            await tree.starting.wait()
            supervisor.feeds["sim"].service.state = "live"
            supervisor.feeds_changed()
            await trio.testing.wait_all_tasks_blocked()  # it can't be told: it is not there
            assert not tree.child.link.told.is_set()
            tree.go_on.set()
            await tree.child.link.told.wait()
            assert [feed.state for feed in tree.child.link.feeds] == ["live"]
            nursery.cancel_scope.cancel()


def test_a_gateways_successor_listens_where_it_did_and_in_the_same_way():
    announced = ["127.0.0.1:1", "tls://0.0.0.0:2", "unix:/run/x", "http://127.0.0.1:3", "https://[::]:4"]
    assert addresses_for_gateway(announced) == (announced[:3], ["127.0.0.1:3", "tls://[::]:4"])
    assert addresses_for_gateway([]) == ([], [])


def test_what_a_feed_needs_is_what_its_segments_take(tmp_path: Path) -> None:
    paths = Paths("sized", tmp_path, tmp_path, tmp_path, shm=tmp_path / "shm")
    paths.shm.mkdir()
    config = Config(
        feeds={"sim": {"backend": "sim"}},
        ring=Ring(rows=1024, instruments=5),
        bars=Bars(periods=["1s", "1m"], step_rows=1024, activity={"*": ["100t"]}),
    )
    make_segments(config, paths, "sim")
    assert size_bytes(config, "sim", paths) == sum(path.stat().st_blocks * 512 for path in paths.segments())


def test_feed_for_which_there_is_no_room_says_how_much_it_needs_and_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths("full", tmp_path, tmp_path, tmp_path, shm=tmp_path / "shm")
    paths.shm.mkdir()
    monkeypatch.setattr(segment, "free_bytes", lambda folder: 4096)
    config = Config(feeds={"sim": {"backend": "sim"}}, ring=Ring(rows=1024, instruments=5), bars=Bars(periods=[]))
    with pytest.raises(SegmentError, match=r"feed sim needs 94,208 bytes in .*/shm, and 4,096 are free"):
        make_segments(config, paths, "sim")
    assert paths.segments() == []

"""Feeds that go, and come again, under clients that read them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio

from marketd.gateway.names import suggest
from tests.gateway_harness import FakeFeed, Harness, RawClient, open_gateway, until


def feed_of(folder: Path, name: str, instruments: int = 1) -> FakeFeed:
    """A feed whose announcement says its epoch, as a supervisor's does."""
    folder.mkdir(exist_ok=True)
    feed = FakeFeed(folder, name, 1024, instruments)
    feed.info = msgspec.structs.replace(feed.info, epoch=feed.epoch)
    return feed


async def announce(gateway: Harness, *feeds: FakeFeed) -> None:
    """Announce these feeds, and none besides."""
    gateway.supervisor.infos = {feed.name: feed.info for feed in feeds}
    await gateway.supervisor.announce()


async def cursors(client: RawClient, feed: FakeFeed) -> list[int]:
    """Read all that there is of a feed."""
    found: list[int] = []
    while not found or found[-1] < feed.writer.cursor:
        message = await client.rows()
        assert message["method"] == "rows", message
        assert (message["feed"], message["epoch"]) == (feed.name, feed.epoch)
        found += message["data"]["cursor"].tolist()
    return found


@pytest.mark.parametrize("at_once", [True, False])
async def test_feed_that_goes_is_told_to_its_end_and_one_in_its_place_from_its_beginning(
    tmp_path: Path, at_once: bool
) -> None:
    sim, other = feed_of(tmp_path / "1", "sim", 3), feed_of(tmp_path / "1", "other")
    async with open_gateway(sim, other) as gateway:
        client, eager = await gateway.connect(), await gateway.connect()
        await eager.call("subscribe", instruments=["*"])
        subscription = (await client.call("subscribe", instruments=["*"]))["subscription"]
        await client.call("update", subscription=subscription, paused=True)
        sim.trades(50)
        successor = feed_of(tmp_path / "2", "sim", 2)
        successor.trades(20, 2)
        if not at_once:
            await announce(gateway, other)
            await until(lambda: "sim" not in gateway.report().feeds)
            sessions = gateway.gateway.sessions
            follows = [each.follows for session in sessions for each in session.subscriptions.values()]
            await until(lambda: [("sim" in each) for each in follows].count(True) == 1)  # the other one is paused
        await announce(gateway, successor, other)
        await until(lambda: gateway.report().feeds.get("sim") == successor.epoch)
        await client.call("update", subscription=subscription, paused=False)
        assert await cursors(client, sim) == list(range(1, 51))
        status = await client.told("status")
        assert (status["feed"], status["state"], status["detail"]) == ("sim", "stopped", "no longer configured")
        told = await client.told("instruments")
        assert (told["epoch"], told["instruments"]) == (successor.epoch, {1: "i1/usd.sim", 2: "i2/usd.sim"})
        assert await cursors(client, successor) == list(range(1, 21))
        assert await cursors(eager, sim) == list(range(1, 51))
        assert await cursors(eager, successor) == list(range(1, 21))
        other.trades(3)
        assert await cursors(client, other) == [1, 2, 3]
        successor.close()


async def test_names_of_a_feed_that_went_mean_nothing_to_who_asks_later(tmp_path: Path) -> None:
    sim, other = feed_of(tmp_path, "sim"), feed_of(tmp_path, "other")
    async with open_gateway(sim, other) as gateway:
        old, new = await gateway.connect(), await gateway.connect()
        number = (await old.call("subscribe", instruments=["i1/usd.sim", "i1/usd.other"]))["subscription"]
        await gateway.demand({"sim": 1, "other": 1})
        await announce(gateway, other)
        await old.told("status")
        await gateway.demand({"other": 1})
        error = await new.refused("subscribe", {"instruments": ["i1/usd.sim"]})
        assert error["data"]["code"] == "unknown_instrument"
        answer = await old.call("update", subscription=number, remove=["i1/usd.sim"])
        assert [feed["name"] for feed in answer["feeds"]] == ["other"]
        await until(lambda: not gateway.gateway.feeds.all_and_retired[1:], 20)  # and its segments are let go of


@pytest.mark.parametrize("contract", ["lossless", "frames", "latest"])
async def test_end_of_a_feed_is_told_after_its_last_row(tmp_path: Path, contract: str) -> None:
    """Also to who has not had all of it yet."""
    sim, other = feed_of(tmp_path, "sim"), feed_of(tmp_path, "other")
    async with open_gateway(sim, other) as gateway:
        client = await gateway.connect()
        wish = {"instruments": ["*"], "contract": contract, "kinds": ["trade"]}
        subscription = (await client.call("subscribe", **wish))["subscription"]
        await client.call("update", subscription=subscription, paused=True)
        sim.trades(50)
        sim.quote()
        await announce(gateway, other)
        await until(lambda: "sim" not in gateway.report().feeds)
        await client.call("update", subscription=subscription, paused=False)
        reached = 0
        while (message := await client.told("rows", "status"))["method"] == "rows":
            reached = message["cursor_last"]
        assert (message["state"], reached) == ("stopped", 51)


async def test_feed_that_comes_while_a_subscription_is_being_opened_belongs_to_it(tmp_path: Path) -> None:
    """Opening asks for what is recorded, which may take its time."""
    sim, successor, other = feed_of(tmp_path / "1", "sim"), feed_of(tmp_path / "2", "sim"), feed_of(tmp_path, "other")
    asked, answers = trio.Event(), trio.Event()

    async def history(stream: trio.SocketStream) -> None:
        asked.set()
        await answers.wait()
        await stream.aclose()

    path = tmp_path / "history"
    with trio.socket.socket(trio.socket.AF_UNIX) as sock:
        await sock.bind(str(path))
        sock.listen()
        async with trio.open_nursery() as nursery, open_gateway(sim, other, history_socket=str(path)) as gateway:
            nursery.start_soon(trio.serve_listeners, history, [trio.SocketListener(sock)])
            client = await gateway.connect()
            resume = {"sim": {"epoch": 1, "cursor": 1}}
            request = await client.request("subscribe", {"instruments": ["*"], "resume": resume})
            await asked.wait()
            await announce(gateway, successor, other)
            await until(lambda: gateway.report().feeds.get("sim") == successor.epoch)
            answers.set()
            feeds = (await client.answer(request))["result"]["feeds"]
            assert {feed["name"]: feed["epoch"] for feed in feeds} == {"sim": successor.epoch, "other": other.epoch}
            successor.trade()
            assert (await client.told("gap"))["reason"] == "epoch"
            assert (await client.rows())["epoch"] == successor.epoch
            successor.close()
            nursery.cancel_scope.cancel()


async def test_names_are_suggested_though_a_feed_goes_meanwhile(tmp_path: Path) -> None:
    async with open_gateway(feed_of(tmp_path, "sim"), feed_of(tmp_path, "other")) as gateway:
        feeds = gateway.gateway.feeds

        def permits(_name: str) -> bool:
            gone.extend(filter(None, [feeds.by_name.pop("other", None)]))
            return True

        gone: list[object] = []
        assert await suggest(feeds, ["i1/usd.sin"], permits) == ["i1/usd.sim", "i1/usd.other"]
        assert gone
        feeds.by_name["other"] = gone[0]  # type: ignore[assignment]

"""A gateway's start, its heartbeats and its end."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from marketd.errors import ConfigError
from marketd.rpc.framing import frame
from tests.gateway_harness import FakeFeed, open_client, open_gateway, until


async def test_both_transports_serve_the_same(tmp_path: Path) -> None:
    listen = ["127.0.0.1:0", f"unix:{tmp_path / 'md.sock'}"]
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", instruments=1), listen=listen) as gateway:
        tcp, unix = gateway.supervisor.addresses
        assert unix == listen[1]
        assert not tcp.endswith(":0")
        for address in (tcp, unix):
            async with open_client(address) as client:
                await client.call("hello", client=address[:4])
                await client.call("subscribe", instruments=["*"])
                feed.trades(10)
                assert len((await client.rows())["data"]) == 10
                addresses = {status.name: status.address for status in gateway.report().clients}
                assert addresses[address[:4]].startswith("unix:pid " if address is unix else "127.0.0.1:")


async def test_address_in_use_fails_the_actor_with_a_sentence(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "one")) as gateway:
        with pytest.raises(ConfigError, match="Address already in use"):
            async with open_gateway(FakeFeed(tmp_path, "two"), listen=[gateway.address]):
                pass


async def test_gateway_without_feeds_answers(tmp_path: Path) -> None:
    async with open_gateway() as gateway:
        client = await gateway.connect()
        assert await client.call("search", text="x") == {"count": 0, "failed": []}
        answer = await client.call("subscribe", instruments=["*"])
        assert (answer["feeds"], answer["unmatched"]) == ([], ["*"])
        late = FakeFeed(tmp_path, "late", instruments=1)
        await gateway.supervisor.announce(late)
        await client.told("instruments")
        late.trades(3)
        assert len((await client.rows())["data"]) == 3
        late.close()


async def test_feed_whose_segments_are_missing_is_left_out_until_they_are_there(tmp_path: Path) -> None:
    feed = FakeFeed(tmp_path, "sim", instruments=1)
    path = Path(feed.info.table_path)
    path.rename(tmp_path / "hidden")
    async with open_gateway(feed) as gateway:
        client = await gateway.connect()
        assert (await client.call("subscribe", instruments=["*"]))["feeds"] == []
        (tmp_path / "hidden").rename(path)
        await gateway.supervisor.announce(feed)
        assert (await client.told("instruments"))["instruments"] == {1: "i1/usd.sim"}


# --- heartbeats ---


async def test_server_is_never_silent_for_longer_than_agreed(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", instruments=1)) as gateway:
        client = await gateway.connect(hello=False)
        assert (await client.call("hello", heartbeat_s=0.01))["heartbeat_s"] == 0.25  # what it will really do
        begun = trio.current_time()
        for _ in range(3):
            assert (await client.told("heartbeat")) == {"method": "heartbeat"}
            await client.send({"method": "heartbeat"})
        assert trio.current_time() - begun > 0.6
        # A stream that flows needs no heartbeats.
        await client.call("subscribe", instruments=["*"])
        with trio.move_on_after(0.6):
            while True:
                feed.trade()
                await client.rows()
                await client.send({"method": "heartbeat"})
        assert all(message["method"] != "heartbeat" for message in client.received)


async def test_client_that_promised_heartbeats_and_fell_silent_is_dismissed(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim")) as gateway:
        client, other = await gateway.connect(heartbeat_s=0.25), await gateway.connect()
        notice = await client.told("notice")
        assert notice["code"] == "silent"
        assert "nothing came for 0.75 s" in notice["message"]
        await client.closed()
        await other.call("ping")


async def test_nobody_hears_heartbeats_that_nobody_wanted(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim")) as gateway:
        client = await gateway.connect()
        with trio.move_on_after(0.7):
            await client.pump()
        assert client.received == []


# --- the end ---


async def test_stop_gives_every_client_what_is_in_the_rings_and_then_says_goodbye(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1 << 15, 2)) as gateway:
        clients = [await gateway.connect() for _ in range(3)]
        for client in clients:
            await client.call("subscribe", instruments=["*"])
        latest = await gateway.connect()
        await latest.call("subscribe", instruments=["*"], contract="latest", rate_hz=0.01)
        feed.trade(1)
        await latest.rows()
        feed.trades(20_000, 2)
        gateway.actor.stopping.set()
        for client in clients:
            last = 0
            while last < 20_001:
                message = await client.rows()
                assert message["cursor_first"] == last + 1
                last = message["cursor_last"]
            notice = await client.told("notice")
            assert notice["code"] == "closing"
            assert notice["positions"] == {1: {"sim": {"epoch": feed.epoch, "cursor": 20_001}}}
            await client.closed()
        assert (await latest.rows())["cursor_last"] == 20_001
        assert (await latest.told("notice"))["code"] == "closing"
        with trio.fail_after(2):
            await gateway.ended.wait()


async def test_stop_waits_for_no_client_that_does_not_read(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1 << 16, 1)) as gateway:
        stalled, silent = await gateway.connect(), await gateway.connect(hello=False)
        await stalled.call("subscribe", instruments=["*"])
        feed.trades(60_000)
        await silent.stream.send_all(frame(b"half")[:5])
        gateway.actor.stopping.set()
        with trio.fail_after(3):
            begun = trio.current_time()
            await gateway.ended.wait()
        assert trio.current_time() - begun < 2


async def test_stop_accepts_nobody_any_more(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1 << 16, 1)) as gateway:
        stalled = await gateway.connect()
        await stalled.call("subscribe", instruments=["*"])
        feed.trades(60_000)
        gateway.actor.stopping.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        async with open_client(gateway.address) as late:
            await late.request("hello")
            with trio.fail_after(3):
                await late.closed()
            assert late.received == []


async def test_client_that_leaves_is_answered_first(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim")) as gateway:
        client = await gateway.connect()
        numbers = [await client.request("ping") for _ in range(100)]
        await client.stream.send_eof()
        for number in numbers:
            await client.answer(number)
        await client.closed()
        await until(lambda: not gateway.report().clients)


async def test_error_within_one_session_ends_that_session_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim", instruments=1)) as gateway:
        client, other = await gateway.connect(), await gateway.connect()

        def broken(*_args: object) -> None:
            raise RuntimeError("a bug of ours")

        with monkeypatch.context() as patch:
            patch.setattr("marketd.gateway.subscription.Subscription.describe", broken)
            error = await client.refused("subscribe", {"instruments": ["*"]})
            assert error["data"]["code"] == "internal"
            assert "a bug of ours" not in error["message"]
        with monkeypatch.context() as patch:
            patch.setattr("marketd.gateway.subscription.Subscription.take", broken)
            await client.request("subscribe", {"instruments": ["*"]})
            await client.closed()
        await other.call("ping")
        answer = await other.call("subscribe", instruments=["*"])
        assert answer["subscription"] == 1


async def test_supervisor_that_is_gone_makes_its_methods_unavailable_and_nothing_else(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", instruments=1)) as gateway:
        client = await gateway.connect()
        gateway.actor.link.closed.set()
        gateway.actor.link._outbox_send.close()
        assert (await client.refused("status"))["data"]["code"] == "unavailable"
        assert await client.call("search", text="x") == {"count": 0, "failed": ["sim"]}
        await client.call("subscribe", instruments=["*"])
        feed.trades(1)
        assert len((await client.rows())["data"]) == 1

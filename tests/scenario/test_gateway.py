"""Streams of a gateway: what clients get, and in which order."""

from __future__ import annotations

import gc
import socket
from pathlib import Path

import numpy as np
import pytest
import trio

from marketd.model import Kind
from marketd.ring import layout
from tests.gateway_harness import FakeFeed, RawClient, open_gateway, until


async def read_to(client: RawClient, cursor: int, feed: str = "sim") -> list[int]:
    """Read a lossless stream, which has no gaps, up to a cursor; return the cursors of its rows."""
    cursors: list[int] = []
    last = None
    while last != cursor:
        message = await client.rows()
        if message["feed"] != feed:
            continue
        assert message["method"] == "rows", message
        assert last in (None, message["cursor_first"] - 1)
        last = message["cursor_last"]
        cursors += message["data"]["cursor"].tolist()
    return cursors


# --- lossless ---


async def test_lossless_client_gets_every_row_in_order(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", rows=1 << 14, instruments=3)) as gateway:
        client = await gateway.connect()
        answer = await client.call("subscribe", instruments=["*.sim"])
        assert (answer["contract"], answer["format"], answer["kinds"]) == ("lossless", "rows", ["quote", "trade"])
        (described,) = answer["feeds"]
        assert described == {
            "name": "sim",
            "epoch": feed.epoch,
            "cursor": 0,
            "instruments": {1: "i1/usd.sim", 2: "i2/usd.sim", 3: "i3/usd.sim"},
        }
        feed.trades(10_000, 3)
        assert await read_to(client, 10_000) == list(range(1, 10_001))
        feed.quote(2)
        message = await client.rows()
        assert message["data"]["kind"].tolist() == [Kind.QUOTE]
        assert (message["cursor_first"], message["cursor_last"], message["epoch"]) == (10_001, 10_001, feed.epoch)


async def test_answer_comes_before_the_first_rows_and_nothing_after_the_answer_to_unsubscribe(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", rows=1 << 16, instruments=1)) as gateway:
        client = await gateway.connect()
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                while True:
                    feed.trades(100)
                    await trio.sleep(0.001)

            nursery.start_soon(write)
            for _ in range(10):
                subscribed = await client.request("subscribe", {"instruments": ["*"]})
                first = await client.find(lambda message: True)
                assert first["id"] == subscribed
                assert (await client.rows())["cursor_first"] == first["result"]["feeds"][0]["cursor"] + 1
                unsubscribed = await client.request("unsubscribe", {"subscription": first["result"]["subscription"]})
                await client.answer(unsubscribed)
                pong = await client.request("ping")
                await client.answer(pong)
                last = client.received[-1]["params"] if client.received else None
                client.received.clear()
                assert last is None or last["subscription"] == first["result"]["subscription"]
            nursery.cancel_scope.cancel()
        await until(lambda: gateway.supervisor.demands[-1] == {"sim": 0})


async def test_positions_of_unsubscribe_are_those_of_the_last_row(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", instruments=2)) as gateway:
        client = await gateway.connect()
        answer = await client.call("subscribe", instruments=["i1/*"])
        feed.trade(1)
        feed.trade(2)
        await client.rows()
        result = await client.call("unsubscribe", subscription=answer["subscription"])
        # Trade 2 is not wanted: whether it was looked at already is a matter of time.
        assert result["positions"]["sim"]["epoch"] == feed.epoch
        assert result["positions"]["sim"]["cursor"] in (1, 2)


async def test_two_feeds_come_side_by_side_and_a_flood_of_one_does_not_starve_the_other(tmp_path: Path) -> None:
    """B18: one stream for all feeds, in one loop, and none of them waits for another."""
    flood, quiet = FakeFeed(tmp_path, "flood", 1 << 17, 1), FakeFeed(tmp_path, "quiet", 1024, 1)
    async with open_gateway(flood, quiet) as gateway:
        client = await gateway.connect()
        await client.call("subscribe", instruments=["*"])
        flood.trades(100_000)
        quiet.trade()
        order = []
        while not order or order[-1] != "quiet":
            order.append((await client.rows())["feed"])
        # 100,000 rows are 25 messages; the quiet feed's single row is told of among the very first.
        assert len(order) <= 3


async def test_rows_of_other_instruments_and_kinds_are_left_out_but_positions_advance(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", instruments=3)) as gateway:
        client = await gateway.connect()
        await client.call("subscribe", instruments=["i2/usd.sim"], kinds=["trade"])
        feed.trade(1)
        feed.trade(2)
        feed.quote(2)
        feed.gap(0)
        feed.gap(1)
        feed.gap(2)
        assert await read_to(client, 6) == [2, 4, 6]
        for _ in range(5):
            feed.trade(3)
        message = await client.rows()
        assert (message["cursor_first"], message["cursor_last"], len(message["data"])) == (7, 11, 0)


async def test_levels_of_books_come_to_those_who_want_them_and_to_nobody_else(tmp_path: Path) -> None:
    """Whether they want them alone or with all there is; and a range is never shared with who wants something else."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", instruments=2)) as gateway:
        wishes = (["trade", "quote"], ["level"], ["trade", "quote", "level"])
        clients = [await gateway.connect() for _ in wishes]
        for client, kinds in zip(clients, wishes, strict=True):
            await client.call("subscribe", instruments=["*"], kinds=kinds)
        for number in range(1, 4):
            for append in (feed.level, feed.trade, feed.quote):
                append(1 + number % 2, float(number), publish=False)
        feed.gap()
        for client, kinds in zip(clients, wishes, strict=True):
            message = await client.rows()
            assert message["cursor_last"] == 10
            assert {layout.KIND_NAMES[kind] for kind in message["data"]["kind"]} == {*kinds, "gap"}
            assert len(message["data"]) == 3 * len(kinds) + 1


async def test_ranges_that_hold_nothing_are_merged_into_the_next_message(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1 << 14, instruments=2)) as gateway:
        client = await gateway.connect()
        await client.call("subscribe", instruments=["i2/usd.sim"])
        for _ in range(10_000):  # more than one message's worth
            feed.trade(1, publish=False)
        feed.trade(2)
        assert await read_to(client, 10_001) == [10_001]


async def test_columns_come_by_runs_of_a_kind(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1 << 14, instruments=2)) as gateway:
        client = await gateway.connect()
        await client.call("subscribe", instruments=["*"], format="columns")
        feed.trade(1, 1.5, publish=False)
        feed.trade(2, 2.5, publish=False)
        feed.quote(1, 3.5, publish=False)
        feed.gap(publish=True)
        found = [await client.told("columns") for _ in range(3)]
        assert [(m["kind"], m["cursor_first"], m["cursor_last"]) for m in found] == [
            ("trade", 1, 2),
            ("quote", 3, 3),
            ("gap", 4, 4),
        ]
        assert found[0]["columns"]["price"] == [1.5, 2.5]
        assert found[1]["columns"]["bid"] == [3.5]
        feed.trades(1000, 2)  # alternating kinds make many small messages
        for kind in ("trade", "quote") * 600:
            getattr(feed, kind)(1, publish=False)
        feed.trade(1)
        last = 4
        while last < 1004 + 1200 + 1:
            message = await client.told("columns")
            assert message["cursor_first"] == last + 1
            assert {len(values) for values in message["columns"].values()} == {message["cursor_last"] - last}
            last = message["cursor_last"]


async def test_client_that_is_lapped_is_told_how_much_and_goes_on_at_the_oldest_row(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 1)) as gateway:
        client = await gateway.connect()
        answer = await client.call("subscribe", instruments=["*"])
        await client.call("update", subscription=answer["subscription"], paused=True)
        feed.trades(100)
        await client.call("ping")
        feed.trades(5000)
        await client.call("update", subscription=answer["subscription"], paused=False)
        gap = await client.rows()
        assert (gap["method"], gap["reason"], gap["cursor_first"]) == ("gap", "lapped", 1)
        assert gap["lost"] == gap["cursor_last"]
        assert 5100 - 1024 <= gap["lost"] < 5100 - 512
        assert await read_to(client, 5100) == list(range(gap["cursor_last"] + 1, 5101))
        assert gateway.supervisor.ready.is_set()


async def test_paused_lossless_stream_goes_on_where_it_was(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 1)) as gateway:
        client = await gateway.connect()
        number = (await client.call("subscribe", instruments=["*"]))["subscription"]
        feed.trades(10)
        await read_to(client, 10)
        await client.call("update", subscription=number, paused=True)
        feed.trades(10)
        await client.call("ping")
        assert client.received == []
        await client.call("update", subscription=number, paused=False)
        assert await read_to(client, 20) == list(range(11, 21))


async def test_two_subscriptions_of_one_client_are_independent(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 2)) as gateway:
        client = await gateway.connect()
        one = (await client.call("subscribe", instruments=["i1/*"]))["subscription"]
        two = (await client.call("subscribe", instruments=["i2/*"], format="columns"))["subscription"]
        assert one != two
        feed.trade(1, publish=False)
        feed.trade(2)
        rows, columns = await client.told("rows"), await client.told("columns")
        assert (rows["subscription"], columns["subscription"]) == (one, two)
        assert columns["columns"]["instrument"] == [2]


# --- resuming ---


async def resume(client: RawClient, epoch: int, cursor: int, feed: str = "sim", **params: object) -> dict:
    position = {feed: {"epoch": epoch, "cursor": cursor}}
    return await client.call("subscribe", instruments=["*"], resume=position, **params)


async def test_position_that_is_still_in_the_ring_continues_seamlessly(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 1)) as gateway:
        feed.trades(100)
        client = await gateway.connect()
        answer = await resume(client, feed.epoch, 37)
        assert answer["feeds"][0]["cursor"] == 37
        feed.trades(10)
        assert await read_to(client, 110) == list(range(38, 111))


async def test_position_that_is_too_old_gets_a_gap_and_the_oldest_rows(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 1)) as gateway:
        feed.trades(5000)
        client = await gateway.connect()
        await resume(client, feed.epoch, 37)
        gap = await client.rows()
        assert (gap["method"], gap["reason"], gap["cursor_first"], gap["lost"]) == (
            "gap",
            "lapped",
            38,
            gap["cursor_last"] - 37,
        )
        assert await read_to(client, 5000) == list(range(gap["cursor_last"] + 1, 5001))


@pytest.mark.parametrize(("epoch_off", "cursor"), [(2, 37), (2, 0), (0, 101), (0, (1 << 63) - 1)])
@pytest.mark.parametrize("contract", ["lossless", "latest"])
async def test_position_of_another_epoch_or_from_the_future_goes_on_from_now(
    tmp_path: Path, epoch_off: int, cursor: int, contract: str
) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 1)) as gateway:
        feed.trades(100)
        client = await gateway.connect()
        # The gateway's own idea of now follows a moment later: wait for it.
        probe = await resume(client, feed.epoch, 0)
        await read_to(client, 100)
        await client.call("unsubscribe", subscription=probe["subscription"])
        await resume(client, feed.epoch + epoch_off, cursor, contract=contract)
        gap = await client.rows()
        assert (gap["method"], gap["reason"], gap["lost"]) == ("gap", "epoch", -1)
        assert (gap["cursor_first"], gap["cursor_last"], gap["epoch"]) == (1, 100, feed.epoch)
        feed.trades(1)
        while (message := await client.rows())["cursor_last"] < 101:
            assert contract == "latest"
        assert message["data"]["cursor"][-1] == 101


async def test_positions_of_feeds_that_are_not_read_are_ignored_with_a_notice(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim", 1024, 1)) as gateway:
        client = await gateway.connect()
        await resume(client, 1, 1, feed="gone")
        notice = await client.told("notice")
        assert notice["code"] == "resume_ignored"
        assert "gone" in notice["message"]


# --- globs ---


async def test_instrument_that_matches_a_glob_joins_before_its_first_row(tmp_path: Path) -> None:
    """B16, R36: what a client is told is always the full name, with the backend."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 1)) as gateway:
        client = await gateway.connect()
        number = (await client.call("subscribe", instruments=["*.SIM"]))["subscription"]
        added = feed.add("late")
        feed.trade(added)
        joined = await client.find(lambda message: True)
        assert joined["method"] == "instruments"
        assert joined["params"] == {
            "subscription": number,
            "feed": "sim",
            "epoch": feed.epoch,
            "instruments": {added: "late/usd.sim"},
        }
        assert (await client.rows())["data"]["instrument"].tolist() == [added]


async def test_new_feed_is_announced_and_read_from_its_first_row_on(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim", 1024, 1)) as gateway:
        client, other = await gateway.connect(), await gateway.connect()
        await client.call("subscribe", instruments=["*"])
        await other.call("subscribe", instruments=["*.sim"])
        await gateway.demand({"sim": 2})
        late = FakeFeed(tmp_path, "late", 1024, 2)
        late.trades(50)
        await gateway.supervisor.announce(late)
        joined = await client.told("instruments")
        assert (joined["feed"], joined["epoch"]) == ("late", late.epoch)
        assert joined["instruments"] == {1: "i1/usd.late", 2: "i2/usd.late"}
        await gateway.demand({"sim": 2, "late": 1})
        late.trades(5)
        assert await read_to(client, 55, "late") == list(range(1, 56))
        await other.call("ping")
        assert other.received == []
        late.close()


async def test_feed_without_instruments_yet_is_wanted_by_every_glob_that_could_match(tmp_path: Path) -> None:
    """A replay may know its instruments only once it has begun, and begin only once somebody wants it."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024)) as gateway:
        client = await gateway.connect()
        answer = await client.call("subscribe", instruments=["*.binance"])
        assert answer["unmatched"] == ["*.binance"]
        assert [f["name"] for f in answer["feeds"]] == ["sim"]
        await gateway.demand({"sim": 1})
        feed.add("x")
        feed.trade(1)
        assert (await client.rows())["data"]["cursor"].tolist() == []


async def test_unmatched_globs_are_named(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim", 1024, 2)) as gateway:
        client = await gateway.connect()
        answer = await client.call("subscribe", instruments=["i1/*", "zz*", "*.kraken", "i2/usd.sim"])
        assert answer["unmatched"] == ["*.kraken", "zz*"]
        assert [f["name"] for f in answer["feeds"]] == ["sim"]


async def test_name_is_taken_in_any_case_and_without_the_slash(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim", 1024, 3)) as gateway:
        client = await gateway.connect()
        answer = await client.call("subscribe", instruments=[" I1/USD.sim ", "i2usd.SIM"])
        assert answer["feeds"][0]["instruments"] == {1: "i1/usd.sim", 2: "i2/usd.sim"}


# --- update ---


async def test_update_adds_and_removes_from_where_the_stream_stands(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 3)) as gateway:
        client = await gateway.connect()
        number = (await client.call("subscribe", instruments=["i1/usd.sim"]))["subscription"]
        feed.trades(9, 3)
        assert await read_to(client, 9) == [3, 6, 9]
        answer = await client.call("update", subscription=number, add=["i2*"], remove=["I1/usd.sim"])
        assert answer["feeds"][0]["instruments"] == {2: "i2/usd.sim"}
        assert answer["feeds"][0]["cursor"] == 9
        feed.trades(9, 3)
        assert await read_to(client, 18) == [10, 13, 16]


async def test_what_is_added_and_removed_in_one_update_is_there_afterwards(tmp_path: Path) -> None:
    """As a client keeps it for the next connection: what it had goes, then what is new comes."""
    async with open_gateway(FakeFeed(tmp_path, "sim", 1024, 3)) as gateway:
        client = await gateway.connect()
        number = (await client.call("subscribe", instruments=["i1/usd.sim", "i2*"]))["subscription"]
        change = {"add": ["i1/usd.sim", "i2*"], "remove": ["i2*", "i1usd.sim"]}
        answer = await client.call("update", subscription=number, **change)
        assert answer["feeds"][0]["instruments"] == {1: "i1/usd.sim", 2: "i2/usd.sim"}


async def test_rows_that_were_passed_over_are_looked_at_again_for_what_is_added(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 2)) as gateway:
        client = await gateway.connect()
        number = (await client.call("subscribe", instruments=["i1/usd.sim"]))["subscription"]
        feed.trade(1)
        await read_to(client, 1)
        feed.trade(2)
        answer = await client.call("update", subscription=number, add=["i2/usd.sim"])
        start = answer["feeds"][0]["cursor"]
        passed_over = await client.find(lambda m: m.get("method") == "rows") if start == 2 else None
        feed.trade(2)
        # From the position that the answer tells on, nothing of the added instrument is missing.
        found = await read_to(client, 3)
        assert found == list(range(start + 1, 4)) or passed_over is not None


async def test_update_to_other_feeds_leaves_and_joins_them(tmp_path: Path) -> None:
    one, two = FakeFeed(tmp_path, "one", 1024, 1), FakeFeed(tmp_path, "two", 1024, 1)
    async with open_gateway(one, two) as gateway:
        client = await gateway.connect()
        number = (await client.call("subscribe", instruments=["*.one"]))["subscription"]
        await gateway.demand({"one": 1, "two": 0})
        answer = await client.call("update", subscription=number, add=["*.two"], remove=["*.one"])
        assert [f["name"] for f in answer["feeds"]] == ["two"]
        await gateway.demand({"one": 0, "two": 1})
        one.trade()
        two.trade()
        assert (await client.rows())["feed"] == "two"


# --- states ---


async def test_feed_states_reach_the_subscribers_of_that_feed(tmp_path: Path) -> None:
    one, two = FakeFeed(tmp_path, "one", 1024, 1), FakeFeed(tmp_path, "two", 1024, 1)
    async with open_gateway(one, two) as gateway:
        client, other = await gateway.connect(), await gateway.connect()
        number = (await client.call("subscribe", instruments=["*.one"]))["subscription"]
        await other.call("subscribe", instruments=["*.two"])
        await gateway.supervisor.announce(one="down")
        told = await client.told("status")
        assert told == {"method": "status", "subscription": number, "feed": "one", "state": "down", "detail": ""}
        late = await gateway.connect()
        await late.call("subscribe", instruments=["*"])
        assert (await late.told("status"))["state"] == "down"
        await gateway.supervisor.announce(one="live")
        assert (await client.told("status"))["state"] == "live"
        await other.call("ping")
        assert other.received == []


async def test_feed_that_was_replaced_goes_on_in_the_same_stream(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 1)) as gateway:
        client = await gateway.connect()
        await client.call("subscribe", instruments=["*"])
        feed.trades(10)
        await read_to(client, 10)
        feed.replace_writer()
        feed.gap()
        feed.trades(5)
        assert await read_to(client, 16) == list(range(11, 17))


# --- latest ---


async def test_latest_begins_with_the_state_and_merges_what_follows(tmp_path: Path) -> None:
    """B20, R37: the newest of each kind is there without a walk through the others, and none is lost in the counts."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 3)) as gateway:
        feed.quote(1, 1.0)
        feed.quote(1, 2.0)
        feed.trade(2, 3.0)
        client = await gateway.connect()
        await client.call("subscribe", instruments=["*"], contract="latest", rate_hz=20)
        snapshot = await client.rows()
        assert snapshot["data"]["v0"].tolist() == [2.0, 3.0]
        assert snapshot["merged"] == [1, 1]
        for number in range(10):
            feed.quote(1, float(number))
            feed.trade(3, float(number))
        feed.gap(0)
        merged: dict[tuple[int, int], int] = {}
        last = snapshot["cursor_last"]
        while last < 24:
            message = await client.rows()
            assert message["cursor_first"] == last + 1
            last = message["cursor_last"]
            for row, count in zip(message["data"], message["merged"], strict=True):
                key = (int(row["instrument"]), int(row["kind"]))
                merged[key] = merged.get(key, 0) + count
        assert merged == {(1, Kind.QUOTE): 10, (3, Kind.TRADE): 10, (0, Kind.GAP): 1}
        assert message["data"]["v0"][message["data"]["kind"] == Kind.QUOTE].tolist() == [9.0]


async def test_latest_keeps_to_its_rate_over_all_its_instruments(tmp_path: Path) -> None:
    """B19, R38: the rate is that of the subscription and not of each of its instruments."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1 << 14, 50)) as gateway:
        client = await gateway.connect()
        await client.call("subscribe", instruments=["*"], contract="latest", rate_hz=10)
        times, total = [], 0
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                while True:
                    feed.trades(20, 50)
                    await trio.sleep(0.005)

            nursery.start_soon(write)
            while len(times) < 6:
                message = await client.rows()
                times.append(trio.current_time())
                total += sum(message["merged"])
            nursery.cancel_scope.cancel()
        # Five intervals of 0.1 s: how much longer they are depends on the machine, that they are no shorter does not.
        assert times[-1] - times[0] > 0.45
        assert total > 20


async def test_latest_in_columns_is_a_message_for_each_kind_and_the_last_has_the_range(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 2)) as gateway:
        for instrument in (1, 2):
            feed.quote(instrument, 1.0)
            feed.trade(instrument, 2.0)
        client = await gateway.connect()
        await client.call("subscribe", instruments=["*"], contract="latest", format="columns", rate_hz=1000)
        found = [await client.told("columns") for _ in range(2)]
        assert [(m["kind"], m["cursor_first"], m["cursor_last"], m["merged"]) for m in found] == [
            ("trade", 1, 0, [1, 1]),
            ("quote", 1, 4, [1, 1]),
        ]
        assert [m["columns"]["cursor"] for m in found] == [[2, 4], [1, 3]]
        assert found[0]["columns"]["price"] == [2.0, 2.0]
        feed.gap()
        feed.quote(2, 3.0)
        feed.quote(2, 4.0)
        found = [await client.told("columns") for _ in range(2)]
        assert [(m["kind"], m["cursor_first"], m["cursor_last"], m["merged"]) for m in found] == [
            ("quote", 5, 4, [2]),
            ("gap", 5, 7, [1]),
        ]
        assert [m["columns"]["cursor"] for m in found] == [[7], [5]]


@pytest.mark.parametrize("form", ["rows", "columns"])
async def test_latest_without_any_state_says_how_far_it_is(tmp_path: Path, form: str) -> None:
    """Who resumes from there has missed nothing."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 2)) as gateway:
        for _ in range(5):
            feed.trade(1)
        client = await gateway.connect()
        await client.call("subscribe", instruments=["i2/usd.sim"], contract="latest", format=form)
        message = await client.told(form)
        assert (message["cursor_first"], message["cursor_last"]) == (1, 5)


async def test_paused_latest_tells_the_newest_state_when_it_goes_on(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 256, 2)) as gateway:
        client = await gateway.connect()
        answer = await client.call("subscribe", instruments=["*"], contract="latest", rate_hz=1000)
        feed.trade(1, 1.0)
        await client.rows()
        await client.call("update", subscription=answer["subscription"], paused=True)
        for number in range(100):
            feed.trade(1, float(number))
        feed.quote(2, 7.0)
        await client.call("ping")
        assert client.received == []
        await client.call("update", subscription=answer["subscription"], paused=False, rate_hz=500)
        message = await client.rows()
        assert message["data"]["v0"].tolist() == [99.0, 7.0]
        assert message["merged"] == [100, 1]


async def test_latest_of_an_added_instrument_comes_with_its_state(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 2)) as gateway:
        feed.quote(1, 1.0)
        feed.quote(2, 2.0)
        client = await gateway.connect()
        answer = await client.call("subscribe", instruments=["i1/*"], contract="latest", rate_hz=1000)
        assert (await client.rows())["data"]["instrument"].tolist() == [1]
        await client.call("update", subscription=answer["subscription"], add=["i2/*"])
        feed.quote(1, 3.0)
        message = await client.rows()
        while 2 not in message["data"]["instrument"]:
            message = await client.rows()
        assert message["data"]["v0"][message["data"]["instrument"] == 2].tolist() == [2.0]


@pytest.mark.parametrize("form", ["rows", "columns"])
async def test_latest_of_an_added_instrument_is_told_though_nothing_changes_any_more(tmp_path: Path, form: str) -> None:
    """Its market may be shut; the rate holds all the same."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 2)) as gateway:
        feed.quote(1, 1.0)
        feed.quote(2, 2.0)
        client = await gateway.connect()
        wish = {"contract": "latest", "rate_hz": 5, "format": form}
        answer = await client.call("subscribe", instruments=["i1/*"], **wish)
        await client.told(form)
        told_s = trio.current_time()
        await client.call("update", subscription=answer["subscription"], add=["i2/*"])
        message = await client.told(form)
        assert trio.current_time() - told_s > 0.15
        rows = np.frombuffer(message["data"], layout.ROW) if form == "rows" else message["columns"]
        assert list(rows["instrument"]) == [2]
        assert (message["cursor_last"], message["merged"]) == (2, [1])


async def test_latest_survives_a_flood_and_says_so_if_it_had_to_skip(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 256, 4)) as gateway:
        client = await gateway.connect()
        await client.call("subscribe", instruments=["*"], contract="latest", rate_hz=1000)
        feed.trades(10, 4)
        await client.rows()
        feed.trades(5000, 4)  # many times the ring, in one turn of the loop
        gap = await client.rows()
        assert (gap["method"], gap["reason"]) == ("gap", "lapped")
        assert gap["lost"] > 4000
        message = await client.rows()
        assert message["cursor_first"] == gap["cursor_last"] + 1
        assert sorted(message["data"]["cursor"].tolist()) == [5007, 5008, 5009, 5010]


# --- many clients ---


async def test_latest_that_resumes_is_told_when_states_may_have_changed_unseen(tmp_path: Path) -> None:
    """A gateway that has seen only what the ring still holds can't know the newest of what it does not."""
    feed = FakeFeed(tmp_path, "sim", 1024, 2)
    feed.trade(1)
    held = feed.trade(2)
    async with open_gateway(feed) as gateway:
        feed.trade(2)  # what the client never hears of
        feed.trades(2000)
        await until(lambda: gateway.gateway.feeds.by_name["sim"].head == feed.writer.cursor)
        client = await gateway.connect()
        asked = {"instruments": ["*"], "contract": "latest"}
        await client.call("subscribe", **asked, resume={"sim": {"epoch": feed.epoch, "cursor": held}})
        gap = await client.told("gap")
        assert (gap["cursor_first"], gap["lost"], gap["reason"]) == (held + 1, -1, "lapped")
        assert 900 < feed.writer.cursor - gap["cursor_last"] <= 1024
        message = await client.rows()
        assert message["data"]["instrument"].tolist() == [1]
        # Who has had everything that the ring holds needs no such warning.
        again = await gateway.connect()
        await again.call("subscribe", **asked, resume={"sim": {"epoch": feed.epoch, "cursor": feed.writer.cursor}})
        assert (await again.told("rows", "gap"))["method"] == "rows"


async def test_client_that_vanishes_in_the_middle_does_not_disturb_the_others(tmp_path: Path) -> None:
    """B12, R12, R32: the others get every row, the one that is gone is forgotten, and the feed is still read."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1 << 15, 1)) as gateway:
        stays, goes, throttled = [await gateway.connect() for _ in range(3)]
        for client in (stays, goes):
            await client.call("subscribe", instruments=["*"])
        await throttled.call("subscribe", instruments=["*"], contract="latest", rate_hz=5)
        await gateway.demand({"sim": 3})
        feed.trades(1000)
        await goes.rows()
        # A reset, as of a machine that lost its power, in the middle of a flood.
        for client in (goes, throttled):
            client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.stream.socket.close()
        for _ in range(10):
            feed.trades(1000)
            await trio.sleep(0)
        assert await read_to(stays, 11_000) == list(range(1, 11_001))
        await gateway.demand({"sim": 1})
        feed.trades(1)
        assert await read_to(stays, 11_001) == [11_001]


async def test_hundred_clients_with_and_without_the_same_wishes_all_get_their_rows(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1 << 14, 10)) as gateway:
        clients = [await gateway.connect() for _ in range(100)]
        for number, client in enumerate(clients):
            wanted = "*" if number % 2 else f"i{number % 10 + 1}/*"
            await client.call("subscribe", instruments=[wanted])
        for _ in range(10):
            feed.trades(1000, 10)
            await trio.sleep(0.001)
        for number, client in enumerate(clients):
            rows: list[np.ndarray] = []
            while not rows or rows[-1]["cursor"][-1] < 9980:
                rows.append((await client.rows())["data"])
            cursors = np.concatenate(rows)["cursor"]
            step = 1 if number % 2 else 10
            assert (np.diff(cursors.astype(np.int64)) == step).all()


async def test_subscriptions_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    """A pause that leaked a task, or a selection that outlived its subscription, would grow for ever."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 5)) as gateway:
        client = await gateway.connect()
        await client.call("subscribe", instruments=["*"])
        tasks = trio.lowlevel.current_statistics().tasks_living
        for number in range(300):
            contract = "latest" if number % 2 else "lossless"
            wanted = [f"i{number % 5 + 1}/usd.sim", f"x{number}*"]
            answer = await client.call("subscribe", instruments=wanted, contract=contract)
            subscription = answer["subscription"]
            await client.call("update", subscription=subscription, paused=True)
            feed.trade(number % 5 + 1)
            await client.call("update", subscription=subscription, add=[f"y{number}*"], remove=[f"x{number}*"])
            await client.call("update", subscription=subscription, paused=False, rate_hz=100)
            await client.call("unsubscribe", subscription=subscription)
            client.received.clear()
        gc.collect()
        attached = gateway.gateway.feeds.by_name["sim"]
        assert len(attached._choices) == 1
        assert len(attached.listeners) == 1
        assert trio.lowlevel.current_statistics().tasks_living == tasks

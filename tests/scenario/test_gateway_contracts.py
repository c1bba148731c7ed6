"""What the contracts promise beyond the order of rows: frames by kind, snapshots, replays, and word to slow clients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trio

from marketd.client.aio import open_client as open_async
from marketd.model import Flag, Kind
from marketd.ring import layout
from tests.gateway_harness import FakeFeed, open_gateway, until

KINDS = [Kind.TRADE, Kind.QUOTE]


@pytest.mark.parametrize("form", ["rows", "columns"])
async def test_frames_have_all_rows_by_kind_at_the_rate(tmp_path: Path, form: str) -> None:
    """B19, B20, R37, R38: the newest of a kind is the last of its part, and the rate is the subscription's."""
    async with (
        open_gateway(feed := FakeFeed(tmp_path, "sim", 1 << 14, 4)) as gateway,
        open_async(gateway.address) as md,
        md.subscribe(["*"], contract="frames", rate_hz=20, format=form) as stream,
    ):
        cursors: list[int] = []
        times: list[float] = []
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                for n in range(400):
                    feed.quote(1 + n % 4, float(n))
                    feed.trade(1 + n % 4, float(n))
                    await trio.sleep(0.001)

            nursery.start_soon(write)
            before = 0
            async for frame in stream:
                kind_cursors = [int(cursor) for cursor in frame.columns["cursor"]]
                assert kind_cursors == sorted(kind_cursors)
                cursors += kind_cursors
                if frame.cursor_last >= frame.cursor_first:
                    assert frame.cursor_first == before + 1
                    before = frame.cursor_last
                    times.append(trio.current_time())
                else:
                    assert frame.kind == "trade", "trades come first"
                if before == 800:
                    break
            nursery.cancel_scope.cancel()
        assert sorted(cursors) == list(range(1, 801))
        # In columns a frame of more than 512 cursors comes in two messages.
        assert len(times) <= 20 * (times[-1] - times[0]) + 2 + len(cursors) // 512


@pytest.mark.parametrize("form", ["rows", "columns"])
async def test_trade_safe_has_every_trade_and_says_how_many_quotes_it_merged(tmp_path: Path, form: str) -> None:
    async with (
        open_gateway(feed := FakeFeed(tmp_path, "sim", 1 << 14, 3)) as gateway,
        open_async(gateway.address) as md,
        md.subscribe(["*"], contract="trade_safe", rate_hz=10, format=form) as stream,
    ):
        for n in range(300):
            feed.quote(1 + n % 3, float(n), publish=False)
            if n % 10 == 0:
                feed.trade(2, float(n), publish=False)
        feed.gap(0)
        trades, quotes, gaps, reached = [], 0, 0, 0
        bids: dict[int, float] = {}
        async for frame in stream:
            columns = frame.columns
            merged = frame.merged
            assert merged is not None
            if frame.kind == "trade":
                trades += columns["price"].tolist()
                assert set(merged.tolist()) == {1}
            elif frame.kind == "quote":
                quotes += int(merged.sum())
                assert len(set(columns["instrument"].tolist())) == len(frame)
                bids |= dict(zip(columns["instrument"].tolist(), columns["bid"].tolist(), strict=True))
            else:
                gaps += len(frame)
            reached = max(reached, frame.cursor_last)
            if reached == 331:
                break
        assert trades == [float(n) for n in range(0, 300, 10)]
        assert (quotes, gaps, bids) == (300, 1, {1: 297.0, 2: 298.0, 3: 299.0})


async def test_frames_of_many_clients_are_encoded_once(tmp_path: Path) -> None:
    """They are due at the same moments, whenever each of them has come."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1 << 14, 1)) as gateway:
        clients = [await gateway.connect() for _ in range(8)]
        for client in clients:
            await client.call("subscribe", instruments=["*"], contract="frames", rate_hz=4)
        feed.trades(10)
        for client in clients:
            assert (await client.rows())["cursor_last"] == 10
        encoded = gateway.gateway.feeds.by_name["sim"].fanout.encoded
        feed.trades(10)
        for client in clients:
            assert (await client.rows())["cursor_last"] == 20
        assert gateway.gateway.feeds.by_name["sim"].fanout.encoded - encoded <= 2


@pytest.mark.parametrize("form", ["rows", "columns"])
@pytest.mark.parametrize("contract", ["lossless", "frames", "trade_safe"])
async def test_snapshot_tells_how_instruments_stand_where_the_stream_begins(
    tmp_path: Path, contract: str, form: str
) -> None:
    """Whole, before any row, and without a place among the cursors; the next connection does not repeat it."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 3)) as gateway, open_async(gateway.address) as md:
        for n in range(5):
            feed.quote(1, float(n))
        feed.trade(2, 7.0)
        feed.quote(3, 9.0)
        async with md.subscribe(
            ["i1/*", "i2/*"], contract=contract, format=form, snapshot=True, rate_hz=1000
        ) as stream:
            feed.trade(1, 8.0)
            found = [await anext(stream) for _ in range(3)]
            assert [frame.kind for frame in found[:2]] == (["quote", "trade"] if form == "rows" else ["trade", "quote"])
            by_kind = {frame.kind: frame for frame in found[:2]}
            assert by_kind["quote"].columns["bid"].tolist() == [4.0]
            assert by_kind["trade"].columns["price"].tolist() == [7.0]
            assert all((frame.columns["flags"] & Flag.SNAPSHOT).all() for frame in found[:2])
            assert [(frame.cursor_first, frame.cursor_last) for frame in found[:2]] == [(8, 7)] * 2
            assert (found[2].kind, found[2].cursor_first, found[2].cursor_last) == ("trade", 8, 8)
            assert stream.positions["sim"].cursor == 8
        async with md.subscribe(["i1/*"], resume=stream.token, snapshot=True) as again:
            feed.trade(1, 10.0)
            assert (await anext(again)).cursor_first == 9, "who resumes knows how they stand"


async def test_stream_from_a_time_replays_and_goes_on_without_a_seam(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 2)) as gateway, open_async(gateway.address) as md:
        for n in range(20):
            feed.trade(1 + n % 2, float(n))
        times = [int(row["received_ns"]) for row in _rows(feed, 1, 20)]
        async with md.subscribe(["i1/*"], start=times[9]) as stream:
            feed.trade(1, 20.0)
            seen: list[object] = []
            async for frame in stream:
                seen += frame.columns["price"].tolist() if frame.kind == "trade" else [frame.state]
                if seen[-1] == 20.0 and "replay_completed" in seen:
                    break
        assert [price for price in seen if isinstance(price, float)] == [10.0, 12.0, 14.0, 16.0, 18.0, 20.0]
        assert seen.index("replay_completed") >= 5
        async with md.subscribe(["i1/*"], start=times[-1] + 10**12) as stream:
            feed.trade(1, 21.0)
            frames = [await anext(stream) for _ in range(2)]
            assert [frame.state or frame.columns["price"].tolist() for frame in frames] == ["replay_completed", [21.0]]


@pytest.mark.parametrize(("rows", "reason"), [(1024, "epoch"), (64, "lapped")])
async def test_what_is_too_old_to_be_replayed_is_a_gap(tmp_path: Path, rows: int, reason: str) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", rows, 1)) as gateway, open_async(gateway.address) as md:
        for n in range(100):
            feed.trade(1, float(n))
        async with md.subscribe(["*"], start="2020-01-01") as stream:
            gap = await anext(stream)
            assert (gap.kind, gap.detail) == ("gap", reason)
            [lost] = gap.rows["lost"].tolist()
            assert lost == -1 if reason == "epoch" else lost >= 100 - rows
            prices = []
            async for frame in stream:
                if frame.state:
                    break
                prices += frame.columns["price"].tolist()
            assert prices == [float(n) for n in range(max(0, lost), 100)]
            assert stream.positions["sim"].cursor == 100


async def test_slow_client_is_warned_once_and_told_when_it_has_caught_up(tmp_path: Path) -> None:
    """With hysteresis; a replay is no slowness."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1 << 18, 1)) as gateway:
        client = await gateway.connect()
        await client.call("subscribe", instruments=["*"])
        count = 250 << 10  # half of it is more than sockets take, and all of it not more than the ring keeps
        feed.trades(count)
        [session] = gateway.gateway.sessions
        await until(lambda: session.slow)
        notice = await client.told("notice")
        assert notice["code"] == "slow"
        assert notice["positions"][1]["sim"]["cursor"] < count
        assert "read faster" in notice["message"]
        assert (await client.told("notice"))["code"] == "caught_up"
        feed.trade()
        last = 0
        while last < count + 1:
            last = (await client.rows())["cursor_last"]
        assert not [message for message in client.received if message.get("method") == "notice"]
        replaying = await gateway.connect()
        resume = {"sim": {"epoch": feed.epoch, "cursor": 0}}
        await replaying.call("subscribe", instruments=["*"], resume=resume)
        completed = await replaying.told("replay_completed")
        assert completed["cursor"] == count + 1
        assert not [message for message in replaying.received if message.get("method") == "notice"]


async def test_status_rows_alone_can_be_subscribed_to(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1024, 1)) as gateway:
        client = await gateway.connect()
        await client.call("subscribe", instruments=["*"], kinds=["status", "gap"])
        feed.trade()
        feed.gap(1)
        message = await client.rows()
        assert message["data"]["kind"].tolist() == [Kind.GAP]


def _rows(feed: FakeFeed, first: int, last: int) -> np.ndarray:
    from marketd.ring.reader import RingReader

    ring = RingReader(Path(feed.info.ring_path), of=layout.TICKS)
    rows = ring.read_range(first, last)
    ring.close()
    return rows

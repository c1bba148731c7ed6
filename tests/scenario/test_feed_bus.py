"""Feeds and their clients: what one does must not wear on the other."""

from __future__ import annotations

import json
from pathlib import Path

import trio

from backends.binance.instruments import Host, parse_listed
from marketd.model import Kind, Quality
from marketd.ring.doorbell import create_bells
from marketd.ring.reader import RingReader
from marketd.ring.table import TableReader, create_table
from marketd.ring.writer import create_ring
from marketd.supervise.link import Link
from tests.gateway_harness import FakeFeed, open_gateway

CYCLES = 1000


async def test_a_thousand_pauses_leave_as_many_tasks_as_before(tmp_path: Path) -> None:
    """B21, R33: paused, a client gets nothing; resumed, all that it missed; and nothing is left behind."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 1 << 14, 1)) as gateway:
        client = await gateway.connect()
        subscription = (await client.call("subscribe", instruments=["*"]))["subscription"]
        await client.call("update", subscription=subscription, paused=True)
        await client.call("update", subscription=subscription, paused=False)
        before = trio.lowlevel.current_statistics().tasks_living
        for number in range(CYCLES):
            await client.call("update", subscription=subscription, paused=True)
            feed.trade(1, float(number))
            if number % 100 == 0:
                await client.call("ping")
                assert not [message for message in client.received if message.get("method") == "rows"]
            await client.call("update", subscription=subscription, paused=False)
            rows = (await client.rows())["data"]
            assert rows["v0"].tolist() == [float(number)]
        assert trio.lowlevel.current_statistics().tasks_living == before


async def test_last_price_is_kept_for_an_instrument_that_nobody_has_asked_for(tmp_path: Path) -> None:
    """R39: who comes late to `latest` is told the price of now, whatever was subscribed to before."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", 256, 2)) as gateway:
        other = await gateway.connect()
        await other.call("subscribe", instruments=["i2/usd.sim"], contract="latest")
        for price in range(1000):
            feed.trade(1, float(price))
        client = await gateway.connect()
        await client.call("subscribe", instruments=["i1/usd.sim"], contract="latest")
        snapshot = (await client.rows())["data"]
        assert snapshot[snapshot["kind"] == Kind.TRADE]["v0"].tolist() == [999.0]


def test_feed_of_an_instrument_without_any_data_opens_empty_and_fills(tmp_path: Path) -> None:
    """B13, R31: nothing has to be there before the first live row, and nothing has to be waited for."""
    create_ring(tmp_path / "ring", 64)
    create_table(tmp_path / "table", 4)
    create_bells(tmp_path / "bells")
    reader, table = RingReader(tmp_path / "ring", cursor=0), TableReader(tmp_path / "table")
    assert len(reader.read_nowait()) == 0
    assert table.markets() == []
    feed = FakeFeed(tmp_path, "sim", 64)
    number = feed.add("new")
    table = TableReader(Path(feed.info.table_path))
    assert table.quality(number) == Quality.UNKNOWN
    reader = RingReader(Path(feed.info.ring_path), cursor=0)
    feed.trade(number)
    assert reader.read_nowait()["instrument"].tolist() == [number]
    feed.close()


async def test_bulk_answers_pass_a_control_link_without_an_overrun() -> None:
    """B22, R35: a link carries answers of any size and number; what waits is bounded, and nobody is cut for it."""
    to_far, at_far = trio.open_memory_channel[bytes](1)
    to_near, at_near = trio.open_memory_channel[bytes](1)
    near, far = Link(to_far.send, name="far"), Link(to_near.send, name="near")

    async def page(rows: int) -> bytes:
        return b"r" * rows

    far.handle("page", int, page)
    sizes: list[int] = []

    async def ask(rows: int) -> None:
        sizes.append(len(await near.request("page", rows, result=bytes, timeout_s=30)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.run, at_near)
        nursery.start_soon(far.run, at_far)
        async with trio.open_nursery() as askers:
            for number in range(200):
                askers.start_soon(ask, number * 2000)
        nursery.cancel_scope.cancel()
    assert sorted(sizes) == [number * 2000 for number in range(200)]


def test_two_expiries_of_one_underlying_are_two_instruments() -> None:
    """R85: each loads under its own name, and its name leads back to it."""

    def symbol(name: str, kind: str, delivery_ms: int) -> dict[str, object]:
        return {
            "symbol": name,
            "pair": "BTCUSDT",
            "contractType": kind,
            "deliveryDate": delivery_ms,
            "status": "TRADING",
            "baseAsset": "BTC",
            "quoteAsset": "USDT",
            "marginAsset": "USDT",
            "baseAssetPrecision": 8,
            "quotePrecision": 8,
            "filters": [
                {"filterType": "PRICE_FILTER", "tickSize": "0.10", "minPrice": "1", "maxPrice": "1000000"},
                {"filterType": "LOT_SIZE", "stepSize": "0.001", "minQty": "0.001", "maxQty": "1000"},
            ],
        }

    body = {
        "symbols": [
            symbol("BTCUSDT_261225", "CURRENT_QUARTER", 1_798_185_600_000),
            symbol("BTCUSDT_270326", "NEXT_QUARTER", 1_806_048_000_000),
        ]
    }
    markets = parse_listed(json.dumps(body).encode(), Host("binance", futures=True))
    assert len({market.fqme for market in markets}) == 2
    assert {market.fqme: market.bs_mktid for market in markets} == {
        market.fqme: f"BTCUSDT_{market.expiry[2:]}" for market in markets
    }

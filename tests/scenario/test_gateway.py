"""Clients and a gateway, from hello to goodbye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trio

from tests.gateway_harness import FakeFeed, open_gateway


async def test_lossless_client_gets_every_row_in_order(tmp_path: Path) -> None:
    feed = FakeFeed(tmp_path, "sim", instruments=3)
    async with open_gateway(feed) as gateway:
        client = await gateway.connect()
        answer = await client.call("subscribe", instruments=["*.sim"])
        print(answer)
        feed.trades(100, 3)
        message = await client.rows()
        print(message)
        assert message["data"]["cursor"].tolist() == list(range(1, 101))

"""Both clients against the real gateway, over real rings, in the test's own event loop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from marketd.client import AsyncStream, Frame, RequestError, connect, open_client
from marketd.model import GapReason
from tests.gateway_harness import FakeFeed, open_gateway

WAIT_S = 20.0


class Proxy:
    """Passes bytes on, and breaks the connection when it is told to."""

    def __init__(self, target: str) -> None:
        self.address = ""
        self._target = target
        self._left = 1 << 60

    def cut_after(self, count: int) -> None:
        """Break the connection after so many more bytes to the client."""
        self._left = count

    async def serve(self, near: trio.SocketStream) -> None:
        """Pass one connection on."""
        host, _, port = self._target.rpartition(":")
        far = await trio.open_tcp_stream(host, int(port))
        async with near, far, trio.open_nursery() as nursery:

            async def upstream() -> None:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    async for data in near:
                        await far.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(upstream)
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async for data in far:
                    passed, self._left = data[: self._left], self._left - len(data)
                    await near.send_all(passed)
                    if self._left < 0:
                        self._left = 1 << 60
                        break
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def open_proxy(target: str) -> AsyncIterator[Proxy]:
    """Run a proxy in front of an address."""
    proxy = Proxy(target)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, proxy.serve, 0, host="127.0.0.1"))
        proxy.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield proxy
        nursery.cancel_scope.cancel()


async def take(stream: AsyncStream, rows: int) -> list[Frame]:
    """Take frames until there are so many rows of data."""
    frames: list[Frame] = []
    async for frame in stream:
        frames.append(frame)
        rows -= len(frame) if frame.kind in ("trade", "quote") else 0
        if rows <= 0:
            break
    return frames


def cursors(frames: list[Frame], *kinds: str) -> list[int]:
    return [c for frame in frames if frame.kind in kinds for c in frame.columns["cursor"].tolist()]


@pytest.mark.parametrize("form", ["rows", "columns"])
async def test_lossless_stream_has_every_row_of_every_feed(tmp_path: Path, form: str) -> None:
    """B18: two feeds in one stream, each row under its full name."""
    one, two = FakeFeed(tmp_path, "one", instruments=3), FakeFeed(tmp_path, "two", rows=4096, instruments=3)
    with trio.fail_after(WAIT_S):
        async with (
            open_gateway(one, two) as gateway,
            open_client(gateway.address) as md,
            md.subscribe(["*.one", "i2/usd.two"], format=form) as stream,  # type: ignore[arg-type]
        ):
            for n in range(10):
                one.trade(1 + n % 3, float(n)), one.quote(1 + n % 3)
            one.gap()
            two.trades(3000, instruments=3)
            frames = await take(stream, 20 + 1000)
            seen = [frame for frame in frames if frame.feed == "one"]
            assert cursors(seen, "trade", "quote") == list(range(1, 21))
            assert {frame.fqme(i) for frame in seen for i in frame.columns["instrument"].tolist() if i} == {
                f"i{n}/usd.one" for n in (1, 2, 3)
            }
            seen = [frame for frame in frames if frame.feed == "two"]
            assert cursors(seen, "trade") == [c for c in range(1, 3001) if 1 + c % 3 == 2]
            assert [c for frame in seen for c in frame.columns["price"].tolist()] == cursors(seen, "trade")
            assert {frame.epoch for frame in seen} == {two.epoch}


async def test_connection_cut_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    feed = FakeFeed(tmp_path, "one", rows=1 << 14, instruments=2)
    with trio.fail_after(WAIT_S):
        async with (
            open_gateway(feed) as gateway,
            open_proxy(gateway.address) as proxy,
            open_client(proxy.address) as md,
            md.subscribe(["*.one"]) as stream,
        ):
            frames = []
            for turn in range(5):
                feed.trades(500, instruments=2)
                proxy.cut_after(turn * 8000 + turn)
                frames += await take(stream, 100)
                feed.trades(500, instruments=2)
            frames += await take(stream, 5000 - len(cursors(frames, "trade")))
            assert cursors(frames, "trade") == list(range(1, 5001))
            assert not [frame for frame in frames if frame.kind == "gap"]
            states = [frame.state for frame in frames if frame.state]
            assert states.count("disconnected") == states.count("reconnected") > 2


async def test_resume_after_the_ring_went_round_tells_the_gap(tmp_path: Path) -> None:
    feed = FakeFeed(tmp_path, "one", rows=1024, instruments=1)
    with trio.fail_after(WAIT_S):
        async with open_gateway(feed) as gateway:
            async with open_client(gateway.address) as md, md.subscribe(["*.one"]) as stream:
                feed.trades(10)
                frames = await take(stream, 10)
                token = stream.token
            feed.trades(5000)
            async with open_client(gateway.address) as md, md.subscribe(["*.one"], resume=token) as stream:
                frames += await take(stream, 500)
            gap = next(frame for frame in frames if frame.kind == "gap")
            assert (gap.cursor_first, gap.rows["reason"][0]) == (11, GapReason.LAPPED)
            assert gap.rows["lost"][0] == gap.cursor_last - 10
            rest = cursors(frames, "trade")[10:]
            assert rest == list(range(gap.cursor_last + 1, gap.cursor_last + 1 + len(rest)))


async def test_token_of_another_epoch_is_told_as_a_gap_of_unknown_size(tmp_path: Path) -> None:
    feed = FakeFeed(tmp_path, "one", instruments=1)
    with trio.fail_after(WAIT_S):
        async with open_gateway(feed) as gateway, open_client(gateway.address) as md:
            feed.trades(5)
            async with md.subscribe(["*.one"], resume="one@99:7") as stream:
                gap = await stream.__anext__()
                assert (gap.kind, gap.epoch, gap.rows["reason"][0]) == ("gap", feed.epoch, GapReason.EPOCH)
                assert gap.rows["lost"][0] == -1
                feed.trades(2)
                assert cursors(await take(stream, 2), "trade") == [6, 7]


@pytest.mark.parametrize("form", ["rows", "columns"])
async def test_latest_begins_with_the_state_and_counts_what_it_merges(tmp_path: Path, form: str) -> None:
    feed = FakeFeed(tmp_path, "one", instruments=2)
    feed.trades(10, instruments=2)
    with trio.fail_after(WAIT_S):
        async with (
            open_gateway(feed) as gateway,
            open_client(gateway.address) as md,
            md.subscribe(["*.one"], contract="latest", rate_hz=20, format=form) as stream,  # type: ignore[arg-type]
        ):
            state = await take(stream, 2)
            assert cursors(state, "trade") == [9, 10]
            feed.trades(100, instruments=2)
            seen, merged = 0, 0
            while seen < 110:
                frame = await stream.__anext__()
                assert frame.merged is not None
                merged += int(frame.merged.sum())
                seen = int(frame.columns["cursor"].max())
            assert merged == 100


async def test_instrument_and_feed_that_come_later_belong_to_the_glob(tmp_path: Path) -> None:
    one, two = FakeFeed(tmp_path, "one", instruments=1), FakeFeed(tmp_path, "two", instruments=1)
    with trio.fail_after(WAIT_S):
        async with (
            open_gateway(one) as gateway,
            open_client(gateway.address) as md,
            md.subscribe(["*"]) as stream,
        ):
            await gateway.supervisor.announce(two)
            one.trade(one.add("new"))
            frames = await take(stream, 1)
            assert frames[-1].fqme(frames[-1].rows["instrument"][0]) == "new/usd.one"
            while "two" not in stream.positions:
                two.trade()
                frames += await take(stream, 1)
            assert not [frame for frame in frames if frame.kind == "gap"]


async def test_blocking_client_speaks_the_same_protocol(tmp_path: Path) -> None:
    feed = FakeFeed(tmp_path, "one", rows=1 << 14, instruments=2)

    def program(address: str) -> list[int]:
        with connect(address, heartbeat_s=0.3) as md:
            assert md.instrument("I1USD.one").fqme == "i1/usd.one"
            with pytest.raises(RequestError) as caught:
                md.subscribe(["i9/usd.one"])
            assert caught.value.code == "unknown_instrument"
            with md.subscribe(["i1/usd.one"]) as stream:
                feed.trades(5000, instruments=2)
                found: list[int] = []
                for frame in stream:
                    found += cursors([frame], "trade")
                    if len(found) == 2500:
                        break
                # Longer than the three heartbeats after which the gateway would let a silent client go.
                assert stream.wait_next(1.2) is None
            assert md.ping() > 0
            return found

    with trio.fail_after(WAIT_S):
        async with open_gateway(feed, listen=["127.0.0.1:0", f"unix:{tmp_path}/md.sock"]) as gateway:
            for address in gateway.supervisor.addresses:
                before = feed.writer.cursor
                found = await trio.to_thread.run_sync(program, address)
                assert found == [c for c in range(before + 1, before + 5001) if 1 + c % 2 == 1]

"""Requests to a gateway: answers, refusals, limits, deadlines."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from marketd.gateway.streams import GLOBS_MAX
from marketd.model import MktPair, Quality
from marketd.ring import layout
from marketd.rpc.messages import METHODS, SearchHit
from marketd.supervise.messages import LimitsSpec
from tests.gateway_harness import FakeFeed, open_gateway, until


async def test_hello_settles_everything_a_client_must_know(tmp_path: Path) -> None:
    limits = LimitsSpec(subscriptions_max=3, requests_max=4, instruments_max=5, frame_bytes_max=6000)
    async with open_gateway(FakeFeed(tmp_path, "sim"), limits=limits) as gateway:
        client = await gateway.connect(hello=False)
        answer = await client.call("hello", client="test", heartbeat_s=2.5)
        assert answer["version"] == 1
        assert answer["server"].startswith("marketd ")
        assert answer["instance"] == "test"
        assert answer["heartbeat_s"] == 2.5
        assert answer["row_bytes"] == layout.ROW_BYTES
        assert answer["row_hash"] == f"{layout.dtype_hash():016x}"
        assert answer["limits"] == {
            "frame_bytes_max": 6000,
            "subscriptions_max": 3,
            "instruments_max": 5,
            "requests_max": 4,
        }


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"hello"}))
async def test_every_other_method_wants_hello_first(tmp_path: Path, method: str) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim")) as gateway:
        client = await gateway.connect(hello=False)
        assert (await client.refused(method))["data"]["code"] == "hello_required"
        await client.call("hello")


async def test_hello_of_another_version_is_refused_and_may_be_said_again(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim")) as gateway:
        client = await gateway.connect(hello=False)
        error = await client.refused("hello", {"version": 99})
        assert error["data"] == {"code": "unsupported_version", "versions": [1]}
        await client.call("hello", version=1)
        assert (await client.refused("hello"))["data"]["code"] == "invalid_request"


async def test_ping_brings_the_payload_back(tmp_path: Path) -> None:
    async with open_gateway() as gateway:
        client = await gateway.connect()
        answer = await client.call("ping", payload="hello")
        assert answer["payload"] == "hello"
        assert answer["server_ns"] > 1_700_000_000 * 10**9


async def test_status_and_backends_come_from_the_supervisor(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim")) as gateway:
        client = await gateway.connect()
        assert (await client.call("status"))["instance"] == "test"
        assert (await client.call("backends"))["backends"] == [
            {"name": "sim", "description": "simulated", "feeds": ["sim"]}
        ]


async def test_gateway_reports_each_client(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim", instruments=1)) as gateway:
        client = await gateway.connect(client="mine")
        await client.call("subscribe", instruments=["*"])
        feed.trades(10)
        await client.rows()
        (status,) = gateway.report().clients
        assert (status.name, status.subscriptions, status.rows_sent, status.lost) == ("mine", 1, 10, 0)
        assert status.bytes_sent > 720
        assert status.address.startswith("127.0.0.1:")


# --- instrument ---


async def test_instrument_is_described_whatever_way_it_is_written(tmp_path: Path) -> None:
    """B17, R36: the answer has the full name, and everything that is known of the instrument."""
    async with open_gateway(feed := FakeFeed(tmp_path, "sim")) as gateway:
        number = feed.table.add(MktPair(dst="btc", src="usdt", venue="spot", backend="sim", bs_mktid="BTCUSDT"))
        feed.table.set_quality(number, Quality.STALE)
        client = await gateway.connect()
        for text in ("btc/usdt.spot.sim", "BTC/USDT.SPOT.SIM", " btcusdt.spot.sim "):
            answer = await client.call("instrument", fqme=text)
            assert (answer["fqme"], answer["feed"], answer["id"]) == ("btc/usdt.spot.sim", "sim", number)
            assert (answer["epoch"], answer["quality"]) == (feed.epoch, "stale")
            assert answer["market"]["bs_mktid"] == "BTCUSDT"
            assert answer["market"]["price_tick"] == "0.01"


async def test_instrument_that_was_added_just_now_is_known(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim")) as gateway:
        client = await gateway.connect()
        for number in range(20):
            feed.add(f"new{number}")
            await client.call("instrument", fqme=f"new{number}/usd.sim")


async def test_unknown_instrument_is_refused_with_close_ones(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim")) as gateway:
        feed.add("btc", "usdt")
        feed.add("eth", "usdt")
        client = await gateway.connect()
        error = await client.refused("instrument", {"fqme": "btc/usd.sim"})
        assert error["data"]["code"] == "unknown_instrument"
        assert error["data"]["close"][0] == "btc/usdt.sim"
        assert "btc/usdt.sim" in error["message"]


async def test_name_without_a_slash_that_could_be_two_is_none(tmp_path: Path) -> None:
    async with open_gateway(feed := FakeFeed(tmp_path, "sim")) as gateway:
        feed.add("ab", "c")
        feed.add("a", "bc")
        client = await gateway.connect()
        assert (await client.refused("instrument", {"fqme": "abc.sim"}))["data"]["code"] == "unknown_instrument"
        await client.call("instrument", fqme="a/bc.sim")


# --- subscribe: refusals ---


async def test_all_unknown_instruments_are_listed(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim", instruments=3)) as gateway:
        client = await gateway.connect()
        wanted = ["i1/usd.sim", "i9/usd.sim", "nonsense", "*.sim", *(f"x{n}/usd.sim" for n in range(10))]
        error = await client.refused("subscribe", {"instruments": wanted})
        assert error["data"]["code"] == "unknown_instrument"
        assert sorted(error["data"]["unknown"]) == sorted(set(wanted) - {"i1/usd.sim", "*.sim"})
        assert "i3/usd.sim" in error["data"]["close"]
        assert "and 7 more" in error["message"]
        assert gateway.supervisor.demands in ([], [{"sim": 0}])


async def test_limits_of_subscriptions_and_instruments_are_said(tmp_path: Path) -> None:
    limits = LimitsSpec(subscriptions_max=2, instruments_max=5)
    async with open_gateway(FakeFeed(tmp_path, "sim", instruments=9), limits=limits) as gateway:
        client = await gateway.connect()
        names = [f"i{n}/usd.sim" for n in range(1, 10)]
        error = await client.refused("subscribe", {"instruments": names[:6]})
        assert error["data"] == {"code": "limit_exceeded", "limit": 5}
        first = await client.call("subscribe", instruments=names[:3])
        error = await client.refused("update", {"subscription": first["subscription"], "add": names[3:6]})
        assert error["data"] == {"code": "limit_exceeded", "limit": 5}
        await client.call("subscribe", instruments=names[:2])
        error = await client.refused("subscribe", {"instruments": names[:1]})
        assert error["data"] == {"code": "limit_exceeded", "limit": 2}
        assert "2 subscriptions" in error["message"]
        await client.call("unsubscribe", subscription=first["subscription"])
        await client.call("subscribe", instruments=names[:1])


async def test_globs_are_limited_because_each_costs_a_look_at_every_instrument(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim", instruments=1)) as gateway:
        client = await gateway.connect()
        error = await client.refused("subscribe", {"instruments": [f"{n}*" for n in range(GLOBS_MAX + 1)]})
        assert error["data"] == {"code": "limit_exceeded", "limit": GLOBS_MAX}


async def test_unknown_subscription_is_refused_with_those_there_are(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim", instruments=1)) as gateway:
        client = await gateway.connect()
        await client.call("subscribe", instruments=["*"])
        for method in ("update", "unsubscribe"):
            error = await client.refused(method, {"subscription": 9})
            assert error["data"] == {"code": "unknown_subscription", "subscriptions": [1]}


async def test_what_was_not_subscribed_can_not_be_removed(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim", instruments=3)) as gateway:
        client = await gateway.connect()
        await client.call("subscribe", instruments=["i1/usd.sim", "*.sim"])
        error = await client.refused("update", {"subscription": 1, "remove": ["i2/usd.sim", "x*"]})
        assert error["data"] == {"code": "invalid_params", "key": "params.remove", "unknown": ["i2/usd.sim", "x*"]}


async def test_book_has_no_newest_row_and_latest_says_so(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim", instruments=1)) as gateway:
        client = await gateway.connect()
        wish = {"instruments": ["*"], "kinds": ["quote", "level"], "contract": "latest"}
        error = await client.refused("subscribe", wish)
        assert error["data"] == {"code": "invalid_params", "key": "params.kinds"}
        assert "contract lossless" in error["message"]
        await client.call("subscribe", **wish | {"contract": "lossless"})


async def test_negative_cursor_is_refused_with_its_place(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim", instruments=3)) as gateway:
        client = await gateway.connect()
        position = {"sim": {"epoch": 1, "cursor": -1}}
        error = await client.refused("subscribe", {"instruments": ["*"], "resume": position})
        assert error["data"] == {"code": "invalid_params", "key": "params.resume['sim'].cursor"}


# --- search, record ---


async def test_search_streams_each_feeds_hits_and_names_the_feeds_that_failed(tmp_path: Path) -> None:
    feeds = [FakeFeed(tmp_path, name) for name in ("one", "two", "three")]
    async with open_gateway(*feeds) as gateway:
        hits = {name: [SearchHit(f"a/b.{name}", "spot", name, 1.0)] for name in ("one", "two")}
        gateway.supervisor.hits = hits
        client = await gateway.connect()
        request = await client.request("search", {"text": "a"})
        answer = await client.answer(request)
        assert answer["result"] == {"count": 2, "failed": ["three"]}
        told = [await client.told("search.hits") for _ in range(2)]
        assert {message["id"] for message in told} == {request}
        assert sorted(message["hits"][0]["feed"] for message in told) == ["one", "two"]


async def test_search_gives_no_more_hits_than_asked_for(tmp_path: Path) -> None:
    feeds = [FakeFeed(tmp_path, name) for name in ("one", "two")]
    async with open_gateway(*feeds) as gateway:
        for feed in feeds:
            gateway.supervisor.hits[feed.name] = [SearchHit(f"a{n}.x", "spot", feed.name, 1.0) for n in range(5)]
        client = await gateway.connect()
        answer = await client.call("search", text="a", limit=7)
        assert answer == {"count": 7, "failed": []}
        assert sum(len(message["params"]["hits"]) for message in client.received) == 7


async def test_other_requests_are_answered_while_a_search_runs(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim")) as gateway:
        gateway.supervisor.search_gate = trio.Event()
        client = await gateway.connect()
        search = await client.request("search", {"text": "a"})
        await client.call("ping")
        gateway.supervisor.search_gate.set()
        await client.answer(search)


async def test_record_asks_the_feed(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim")) as gateway:
        client = await gateway.connect()
        answer = await client.call("record", feed="sim", name="x.ws", duration_s=1)
        assert answer == {"path": "/recordings/x.ws", "messages": 1, "bytes": 2}
        error = await client.refused("record", {"feed": "no", "name": "x", "duration_s": 1})
        assert error["data"] == {"code": "unknown_feed", "feeds": ["sim"]}


# --- deadlines and limits of requests ---


async def test_request_past_its_deadline_is_answered_so(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim")) as gateway:
        gateway.supervisor.search_gate = trio.Event()
        client = await gateway.connect()
        error = await client.refused("search", {"text": "a"}, deadline_ms=50)
        assert error["data"] == {"code": "deadline_exceeded", "deadline_ms": 50}
        gateway.supervisor.search_gate.set()
        await client.call("search", text="a")


async def test_requests_under_way_are_limited(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim"), limits=LimitsSpec(requests_max=3)) as gateway:
        gateway.supervisor.search_gate = trio.Event()
        client = await gateway.connect()
        running = [await client.request("search", {"text": "a"}) for _ in range(3)]
        error = await client.refused("search", {"text": "a"})
        assert error["data"] == {"code": "limit_exceeded", "limit": 3}
        await client.call("ping")
        gateway.supervisor.search_gate.set()
        for request in running:
            assert "result" in await client.answer(request)
        await client.call("search", text="a")


async def test_searches_of_one_client_wait_for_each_other(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim")) as gateway:
        gateway.supervisor.search_gate = trio.Event()
        client = await gateway.connect()
        requests = [await client.request("search", {"text": "a"}) for _ in range(20)]
        await until(lambda: gateway.supervisor.searching == 4)
        await client.call("ping")
        assert gateway.supervisor.searching == 4
        gateway.supervisor.search_gate.set()
        for request in requests:
            assert "result" in await client.answer(request)
        assert gateway.supervisor.searching == 20


# --- limits of clients ---


async def test_client_too_many_is_turned_away_with_a_reason(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "sim"), limits=LimitsSpec(clients_max=2)) as gateway:
        first, _second = await gateway.connect(), await gateway.connect()
        third = await gateway.connect(hello=False)
        answer = await third.answer(None)
        assert answer["error"]["data"] == {"code": "limit_exceeded", "limit": 2}
        await third.closed()
        await first.stream.aclose()
        await until(lambda: len(gateway.report().clients) == 1)
        await gateway.connect()


async def test_demand_is_told_after_each_change_and_only_then(tmp_path: Path) -> None:
    async with open_gateway(FakeFeed(tmp_path, "one"), FakeFeed(tmp_path, "two", instruments=1)) as gateway:
        client = await gateway.connect()
        await client.call("subscribe", instruments=["*.two"])
        await gateway.demand({"one": 1, "two": 1})  # what the empty one will have is not known yet
        await client.call("subscribe", instruments=["*.two"])
        await gateway.demand({"one": 2, "two": 2})
        await client.call("unsubscribe", subscription=1)
        await client.call("unsubscribe", subscription=2)
        await gateway.demand({"one": 0, "two": 0})
        count = len(gateway.supervisor.demands)
        await client.call("ping")
        await client.stream.aclose()
        await until(lambda: not gateway.report().clients)
        assert len(gateway.supervisor.demands) == count

"""Bad input and bad clients: each gets a clear error or a clean close, memory stays flat, and others notice nothing."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from marketd.gateway.session import LEAVE_BYTES_MAX
from marketd.gateway.writer import BATCH_BYTES, OUTBOX_BYTES_MAX
from marketd.rpc import messages
from marketd.rpc.framing import frame
from marketd.supervise.messages import LimitsSpec
from tests.gateway_harness import FakeFeed, Harness, RawClient, open_gateway, until

QUICK = LimitsSpec(hello_timeout_s=1.5, frame_timeout_s=1.5, stall_timeout_s=1.5)
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def rss_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Witness:
    """A well-behaved client that is connected all the while."""

    def __init__(self, client: RawClient, feed: FakeFeed) -> None:
        self.client = client
        self.feed = feed
        self.seen = feed.writer.cursor

    async def notices_nothing(self) -> None:
        """Fail unless its stream goes on without a gap and its requests are answered."""
        with trio.fail_after(5):
            await self.client.call("ping")
            self.feed.trades(10)
            while self.seen < self.feed.writer.cursor:
                message = await self.client.rows("notice")
                assert message["method"] == "rows", message
                assert message["cursor_first"] == self.seen + 1
                self.seen = message["cursor_last"]


@contextlib.asynccontextmanager
async def besieged(tmp_path: Path, **limits: Any) -> AsyncIterator[tuple[Harness, Witness]]:
    """A gateway with a client that must notice nothing."""
    feed = FakeFeed(tmp_path, "sim", 1 << 13, 3)
    async with open_gateway(feed, limits=msgspec.structs.replace(QUICK, **limits)) as gateway:
        client = await gateway.connect(client="witness")
        await client.call("subscribe", instruments=["*"])
        witness = Witness(client, feed)
        await witness.notices_nothing()
        yield gateway, witness
        await witness.notices_nothing()


# --- bytes that are no protocol ---


@pytest.mark.parametrize("hello", [True, False])
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"\xc1garbage"), "parse_error"),
        (frame(b""), "parse_error"),
        (frame(os.urandom(1000)), None),
        (b"GET / HTTP/1.1\r\nHost: marketd\r\n\r\n", "frame_too_large"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "frame_too_large"),  # TLS
        ((1 << 31).to_bytes(4, "big"), "frame_too_large"),
        (b"\xff\xff\xff\xff", "frame_too_large"),
        (frame(msgspec.msgpack.encode({"id": 1, "method": "ping"}))[:-1] + b"\xc1", None),
        (frame(b"\x91" * 100_000), None),
        (frame(b"\x81\xa6params" + b"\x91" * 100_000), "parse_error"),
    ],
)
async def test_garbage_is_answered_and_the_connection_closed(
    tmp_path: Path, data: bytes, code: str | None, hello: bool
) -> None:
    async with besieged(tmp_path) as (gateway, witness):
        client = await gateway.connect(hello=hello)
        await client.stream.send_all(data)
        answer = await client.find(lambda message: "error" in message)
        if code is not None:
            assert answer["id"] is None
            assert answer["error"]["data"]["code"] == code
            await client.closed()
        await witness.notices_nothing()


async def test_two_gigabytes_that_follow_their_prefix_are_not_kept(tmp_path: Path) -> None:
    async with besieged(tmp_path) as (gateway, witness):
        before = rss_bytes()
        client = await gateway.connect()
        await client.stream.send_all((1 << 31).to_bytes(4, "big"))
        sent = 0
        with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(10):
            while sent < 1 << 31:
                await client.stream.send_all(bytes(1 << 18))
                sent += 1 << 18
        # It was read for a while, so that the client could read the answer, and then cut.
        assert sent < LEAVE_BYTES_MAX + (32 << 20)
        assert rss_bytes() - before < 16 << 20
        await witness.notices_nothing()


async def test_requests_in_front_of_garbage_are_answered(tmp_path: Path) -> None:
    async with besieged(tmp_path) as (gateway, _):
        client = await gateway.connect()
        ping = frame(msgspec.msgpack.encode({"id": 7, "method": "ping"}))
        await client.stream.send_all(ping + b"\xff\xff\xff\xff")
        assert "result" in await client.answer(7)
        assert (await client.answer(None))["error"]["data"]["code"] == "frame_too_large"


async def test_half_a_frame_and_then_silence_is_closed_with_a_reason(tmp_path: Path) -> None:
    async with besieged(tmp_path) as (gateway, witness):
        client = await gateway.connect()
        await client.stream.send_all(frame(b"x" * 1000)[:500])
        error = (await client.answer(None))["error"]
        assert "not completed within 1.5 s" in error["message"]
        await client.closed()
        await witness.notices_nothing()


async def test_dripping_frame_is_closed_too(tmp_path: Path) -> None:
    async with besieged(tmp_path) as (gateway, _):
        client = await gateway.connect()
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    for byte in frame(b"x" * 1000):
                        await client.stream.send_all(bytes([byte]))
                        await trio.sleep(0.01)

            nursery.start_soon(drip)
            await client.closed()
            nursery.cancel_scope.cancel()


async def test_frames_that_come_slowly_but_come_are_no_half_frames(tmp_path: Path) -> None:
    async with besieged(tmp_path) as (gateway, _):
        client = await gateway.connect()
        data = b"".join(frame(msgspec.msgpack.encode({"id": n, "method": "ping"})) for n in range(100, 110))
        # Each piece ends within a frame, so that there is half a frame all the time, but never the same one for long.
        for start in range(0, len(data), 15):
            await client.stream.send_all(data[start : start + 15])
            await trio.sleep(0.15)
        assert "result" in await client.answer(109)


async def test_client_that_says_nothing_is_closed_with_a_reason(tmp_path: Path) -> None:
    async with besieged(tmp_path) as (gateway, _):
        client = await gateway.connect(hello=False)
        error = (await client.answer(None))["error"]
        assert error["data"]["code"] == "hello_required"
        assert "no hello came within 1.5 s" in error["message"]
        await client.closed()


# --- requests that are none ---

RIGHT: dict[str, dict[str, Any]] = {
    "hello": {"version": 1, "client": "x", "token": "x", "heartbeat_s": 1.0},
    "ping": {"payload": "x"},
    "status": {},
    "backends": {},
    "search": {"text": "x", "limit": 5},
    "instrument": {"fqme": "i1/usd.sim"},
    "why": {"fqme": "i1/usd.sim"},
    "debug": {},
    "subscribe": {
        "instruments": ["*"],
        "kinds": ["trade"],
        "contract": "lossless",
        "format": "rows",
        "rate_hz": 1.0,
        "resume": {"sim": {"epoch": 1, "cursor": 1}},
        "forming_hz": 1.0,
        "snapshot": True,
        "from_ns": 1,
    },
    "bars": {
        "fqme": "a/b.c.sim",
        "period": "1m",
        "start_ns": 1,
        "end_ns": 2,
        "limit": 1,
        "order": "newest",
        "format": "rows",
    },
    "history": {
        "instruments": ["a/b.c.sim"],
        "period": "1m",
        "start_ns": 1,
        "end_ns": 2,
        "limit": 1,
        "order": "newest",
        "columns": ["open_ns"],
    },
    "ticks": {
        "instruments": ["a/b.c.sim"],
        "kind": "quote",
        "start_ns": 1,
        "end_ns": 2,
        "limit": 1,
        "order": "newest",
        "columns": ["event_ns"],
    },
    "coverage": {"fqme": "a/b.c.sim", "period": "1m", "start_ns": 1, "end_ns": 2},
    "gaps": {"fqme": "a/b.c.sim", "period": "1m", "start_ns": 1, "end_ns": 2},
    "backfill": {"fqme": "a/b.c.sim", "period": "1m", "start_ns": 1, "end_ns": 2},
    "update": {"subscription": 1, "add": ["*"], "remove": ["*"], "rate_hz": 1.0, "paused": True},
    "unsubscribe": {"subscription": 1},
    "record": {"feed": "sim", "name": "x", "duration_s": 1.0},
    "services.list": {},
    "services.restart": {"service": "sim"},
    "services.stop": {"service": "sim"},
    "services.start": {"service": "sim"},
    "services.cancel": {"service": "sim"},
    "clients.list": {},
    "clients.kick": {"client": 1, "reason": "x"},
    "log.level": {"level": "debug", "actor": "sim"},
    "reload": {},
}
WRONG: list[Any] = [
    None,
    True,
    -1,
    1.5,
    float("nan"),
    1 << 64 - 1,
    "",
    "\x00",
    "no such thing",
    [],
    [None],
    [[]],
    {},
    {"x": 1},
    b"x",
]


def wrong_params() -> list[tuple[str, str, Any]]:
    """Each field of each method with each value of another type or out of range."""
    found = []
    for method, (params, _) in messages.METHODS.items():
        fields = {field.name: field for field in msgspec.structs.fields(params)}
        assert fields.keys() == RIGHT[method].keys(), "a new field needs its right value here"
        for name, field in fields.items():
            for value in WRONG:
                try:
                    msgspec.convert(value, field.type)
                except msgspec.ValidationError:
                    found.append((method, name, value))
    return found


def test_there_are_wrong_values_for_every_field() -> None:
    expected = {(method, name) for method, right in RIGHT.items() for name in right}
    assert {(method, name) for method, name, _ in wrong_params()} == expected


async def test_wrong_type_in_each_field_is_refused_with_its_place(tmp_path: Path) -> None:
    async with besieged(tmp_path) as (gateway, witness):
        client = await gateway.connect()
        await client.call("subscribe", instruments=["*"])
        for method, name, value in wrong_params():
            error = await client.refused(method, RIGHT[method] | {name: value})
            assert error["data"]["code"] == "invalid_params", (method, name, value, error)
            assert error["data"]["key"].startswith(f"params.{name}"), (method, name, value, error)
            assert error["message"].startswith(f"{method}: ")
        await witness.notices_nothing()


@pytest.mark.parametrize("params", [None, 5, "x", [1, 2], {"no such": 1}, {1: 2}])
async def test_params_that_are_no_map_of_known_keys_are_refused(tmp_path: Path, params: object) -> None:
    async with besieged(tmp_path) as (gateway, _):
        client = await gateway.connect()
        for method in messages.METHODS:
            await client.send({"id": method, "method": method, "params": params})
            error = (await client.answer(method))["error"]
            assert error["data"]["code"] == "invalid_params", (method, error)


async def test_required_field_that_is_missing_is_named(tmp_path: Path) -> None:
    async with besieged(tmp_path) as (gateway, _):
        client = await gateway.connect()
        for method, field in [("subscribe", "instruments"), ("instrument", "fqme"), ("unsubscribe", "subscription")]:
            assert f"`{field}`" in (await client.refused(method))["message"]


async def test_unknown_method_and_missing_id_leave_the_connection_usable(tmp_path: Path) -> None:
    async with besieged(tmp_path) as (gateway, _):
        client = await gateway.connect()
        error = await client.refused("no_such_method")
        assert error["data"]["code"] == "unknown_method"
        assert error["data"]["methods"] == list(messages.METHODS)
        await client.send({"method": "ping"})
        assert (await client.answer(None))["error"]["data"]["code"] == "invalid_request"
        await client.call("ping")


# --- floods ---


async def test_ten_thousand_subscriptions_of_one_client_are_limited_and_cost_no_memory(tmp_path: Path) -> None:
    async with besieged(tmp_path) as (gateway, witness):
        client = await gateway.connect()
        before = rss_bytes()
        request = {"method": "subscribe", "params": {"instruments": ["i1/usd.sim", "*"]}}
        codes: dict[str, int] = {}
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                for number in range(10_000):
                    await client.send({"id": number} | request)

            nursery.start_soon(ask)
            for number in range(10_000):
                answer = await client.answer(number)
                code = answer["error"]["data"]["code"] if "error" in answer else "fine"
                codes[code] = codes.get(code, 0) + 1
        assert codes == {"fine": 64, "limit_exceeded": 9936}
        assert rss_bytes() - before < 24 << 20
        await witness.notices_nothing()


async def test_hundred_thousand_instruments_in_one_subscription_do_not_hold_the_others_up(tmp_path: Path) -> None:
    async with besieged(tmp_path, frame_bytes_max=4 << 20) as (gateway, witness):
        client = await gateway.connect()
        names = [f"x{number}/usd.sim" for number in range(100_000)]
        request = await client.request("subscribe", {"instruments": names})
        while not any(message.get("id") == request for message in client.received):
            await witness.notices_nothing()
            with trio.move_on_after(0.02):
                await client.pump()
        error = (await client.answer(request))["error"]
        assert len(error["data"]["unknown"]) == 100_000
        assert len(error["message"]) < 2000


async def test_client_that_asks_and_never_reads_is_not_read_and_then_cut(tmp_path: Path) -> None:
    async with besieged(tmp_path) as (gateway, witness):
        before = rss_bytes()
        client = await gateway.connect(client="deaf")
        ping = frame(msgspec.msgpack.encode({"id": 1, "method": "ping", "params": {"payload": "x" * 10_000}}))
        sent = 0
        with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(20):
            while True:
                await client.stream.send_all(ping)
                sent += len(ping)
        # What a kernel holds on both sides, and what may wait here; and then no more was taken.
        assert sent < (32 << 20)
        assert rss_bytes() - before < OUTBOX_BYTES_MAX + BATCH_BYTES + (16 << 20)
        assert all(status.name != "deaf" for status in gateway.report().clients)
        await witness.notices_nothing()


async def test_client_that_stops_reading_its_stream_is_cut_and_the_others_go_on(tmp_path: Path) -> None:
    """B22: a slow client costs neither memory nor anybody else their rows."""
    async with besieged(tmp_path) as (gateway, witness):
        client = await gateway.connect(client="stalled")
        await client.call("subscribe", instruments=["*"])
        before = rss_bytes()
        with trio.fail_after(10):
            while any(status.name == "stalled" for status in gateway.report().clients):
                witness.feed.trades(1000)
                await witness.notices_nothing()
        assert rss_bytes() - before < 24 << 20
        await gateway.demand({"sim": 1})


async def test_stalled_client_that_wakes_up_reads_where_it_can_go_on(tmp_path: Path) -> None:
    """It has had every row up to there, or a gap for it; and what comes after is not lost."""
    async with besieged(tmp_path) as (gateway, witness):
        client = await gateway.connect(client="stalled")
        await client.call("subscribe", instruments=["*"])
        session = next(each for each in gateway.gateway.sessions if each.hello and each.hello.client == "stalled")
        with trio.fail_after(10):
            while not session.ended:
                witness.feed.trades(1000)
                await witness.notices_nothing()
        notice = await client.told("notice")
        while notice["code"] != "stalled":
            notice = await client.told("notice")
        assert notice["message"].startswith("nothing was taken for 1.5 s; go on from these positions")
        [position] = notice["positions"][1].values()
        reached, lost = 0, 0
        for message in client.received:
            if message.get("method") in ("rows", "gap"):
                params = message["params"]
                assert params["cursor_first"] == reached + 1 or not reached
                reached = params["cursor_last"]
                lost += params.get("lost", 0)
        assert (reached, lost) == (position["cursor"], notice["lost"])
        await client.closed()
        again = await gateway.connect()
        await again.call("subscribe", instruments=["*"], resume={"sim": position})
        message = await again.told("rows", "gap")
        assert message["cursor_first"] == reached + 1


async def test_slow_client_that_does_read_is_kept(tmp_path: Path) -> None:
    async with besieged(tmp_path) as (gateway, witness):
        client = await gateway.connect(client="slow")
        await client.call("subscribe", instruments=["*"])
        with trio.move_on_after(3.5):
            while True:
                witness.feed.trades(1000)
                await witness.notices_nothing()
                await client.stream.receive_some(2000)
                await trio.sleep(0.005)
        assert any(status.name == "slow" for status in gateway.report().clients)


async def test_hundred_bad_clients_at_once_leave_nothing_behind(tmp_path: Path) -> None:
    async with besieged(tmp_path) as (gateway, witness):
        before, files = rss_bytes(), open_files()
        evil: list[Callable[[RawClient], Any]] = [
            lambda client: client.stream.send_all(b"\xff\xff\xff\xff"),
            lambda client: client.stream.send_all(frame(b"\xc1")),
            lambda client: client.stream.send_all(b"\0\0"),
            lambda client: client.stream.aclose(),
            lambda client: client.request("subscribe", {"instruments": ["*"]}),
        ]
        for _round in range(5):
            clients = [await gateway.connect(hello=number % 2 == 0) for number in range(20)]
            for number, client in enumerate(clients):
                with contextlib.suppress(trio.BrokenResourceError):
                    await evil[number % len(evil)](client)
            await witness.notices_nothing()
            for client in clients:
                with contextlib.suppress(OSError):  # some have left by themselves
                    client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                await client.stream.aclose()
        await until(lambda: len(gateway.report().clients) == 1)
        await gateway.demand({"sim": 1})
        assert rss_bytes() - before < 16 << 20
        assert open_files() <= files

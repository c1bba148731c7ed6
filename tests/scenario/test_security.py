"""Who gets in and what each may see and do, at a gateway with real sockets, files and TLS."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from marketd.client import CannotConnect, RequestError, connect, open_client
from marketd.errors import ConfigError
from marketd.gateway.guard import LOOK_EVERY_S
from marketd.rpc import messages
from marketd.security import tokens
from marketd.security.quotas import Usage
from marketd.security.tokens import Quotas, Token
from marketd.supervise.messages import LimitsSpec, SecuritySpec
from tests import certificates
from tests.conftest import PROJECT
from tests.gateway_harness import FakeFeed, Harness, RawClient, open_gateway, until

TEXTS = {name: tokens.new_token() for name in ("reader", "historian", "operator", "bounded", "old", "poor", "browser")}
METHODS = {  # a request of each method that a token may be refused; what it is answered without a daemon is no matter
    "status": {},
    "why": {"fqme": "i1/usd.sim"},
    "backends": {},
    "search": {"text": "usd"},
    "instrument": {"fqme": "i1/usd.sim"},
    "subscribe": {"instruments": ["*"]},
    "update": {"subscription": 1},
    "unsubscribe": {"subscription": 1},
    "bars": {"fqme": "i1/usd.sim"},
    "history": {"instruments": ["i1/usd.sim"]},
    "ticks": {"instruments": ["i1/usd.sim"]},
    "coverage": {"fqme": "i1/usd.sim"},
    "gaps": {"fqme": "i1/usd.sim"},
    "backfill": {"fqme": "i1/usd.sim", "start_ns": 0},
    "record": {"feed": "sim", "name": "x", "duration_s": 1.0},
}
READ = {"status", "why", "backends", "search", "instrument", "subscribe", "update", "unsubscribe"}
HISTORY = {"bars", "history", "ticks", "coverage", "gaps"}


def token(name: str, *scopes: str, **facts: object) -> Token:
    table = {"name": name, "sha256": tokens.hash_of(TEXTS[name]), "scopes": scopes or ["read"]} | facts
    return msgspec.convert(table, Token)


ALL = [
    token("reader"),
    token("historian", "history"),
    token("operator", "admin"),
    token("bounded", "read", "history", instruments=["i1/*"]),
    token("old", expires_ns=1),
]


@contextlib.asynccontextmanager
async def guarded(
    folder: Path, *known: Token, tls: ssl.SSLContext | None = None, http: bool = False, **facts: Any
) -> AsyncIterator[tuple[Harness, FakeFeed]]:
    """A gateway of a feed of three instruments that knows these tokens."""
    feed = FakeFeed(folder, "sim", 1 << 12, 3)
    path = folder / "tokens.json"
    if known:
        tokens.save(path, list(known))
    security = SecuritySpec(str(path), str(folder / "audit.log"), **facts)
    async with open_gateway(feed, security=security, http=http) as gateway:
        yield gateway, feed


async def hello(gateway: Harness, name: str | None) -> RawClient:
    return await gateway.connect(**({} if name is None else {"token": TEXTS[name]}))


# --- who comes in ---


async def test_a_client_needs_a_good_token_and_is_told_what_to_do(tmp_path: Path) -> None:
    async with guarded(tmp_path, *ALL) as (gateway, _):
        good = await hello(gateway, "reader")
        for text, sentence in (
            (None, "no token was given"),
            ("", "no token was given"),
            ("mdt_" + "x" * 43, "not known"),
            (TEXTS["reader"] + " ", "not known"),
            (TEXTS["reader"].swapcase(), "not known"),
            (tokens.hash_of(TEXTS["reader"]), "not known"),
            ("x" * 100_000, "not known"),
            ("é\0", "not known"),
            (TEXTS["old"], "the token 'old' has expired"),
        ):
            client = await gateway.connect(hello=False)
            error = await client.refused("hello", {"token": text})
            assert error["data"]["code"] == "unauthorized"
            assert sentence in error["message"] or text == ""
            assert "marketd token create" in error["message"]
            await client.closed()
        stranger = await gateway.connect(hello=False)
        assert (await stranger.refused("status"))["data"]["code"] == "hello_required"
        assert (await stranger.refused("hello", {"token": 7}))["data"]["code"] == "invalid_params"
        assert await good.call("ping", payload="still here")
        assert [client.token for client in gateway.report().clients if client.id == 1] == ["reader"]


async def test_without_tokens_loopback_is_open_and_with_the_first_one_it_is_not(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (gateway, _):
        client = await gateway.connect()
        await client.call("status")
        tokens.save(tmp_path / "tokens.json", [token("reader")])
        notice = await client.told("notice")
        assert (notice["code"], notice["message"].split(";")[0]) == ("unauthorized", "tokens are wanted here now")
        await client.closed()
        await (await hello(gateway, "reader")).call("status")


@pytest.mark.parametrize("required", [False, True])
async def test_the_unix_socket_wants_a_token_only_if_the_configuration_says_so(required: bool, tmp_path: Path) -> None:
    feed = FakeFeed(tmp_path, "sim", 1 << 12, 3)
    tokens.save(tmp_path / "tokens.json", [token("reader")])
    security = SecuritySpec(str(tmp_path / "tokens.json"), require_token=required)
    async with open_gateway(feed, listen=[f"unix:{tmp_path}/s"], security=security) as gateway:
        client = await gateway.connect(hello=False)
        if required:
            assert (await client.refused("hello"))["data"]["code"] == "unauthorized"
        else:
            await client.call("hello")
            assert (await client.call("record", feed="sim", name="x", duration_s=1.0))["bytes"] == 2


async def test_a_revoked_token_ends_its_clients_alone_and_says_where_they_stand(tmp_path: Path) -> None:
    async with guarded(tmp_path, *ALL) as (gateway, feed):
        stays, goes = await hello(gateway, "historian"), await hello(gateway, "reader")
        subscribed = await goes.call("subscribe", instruments=["*"])
        feed.trades(5)
        while (await goes.rows())["cursor_last"] < 5:
            pass
        tokens.save(tmp_path / "tokens.json", [each for each in ALL if each.name != "reader"])
        notice = await goes.told("notice")
        assert notice["code"] == "unauthorized"
        assert "'reader' was revoked" in notice["message"]
        [positions] = notice["positions"].values()
        assert positions["sim"] == {"epoch": subscribed["feeds"][0]["epoch"], "cursor": 5}
        await goes.closed()
        again = await gateway.connect(hello=False)
        assert (await again.refused("hello", {"token": TEXTS["reader"]}))["data"]["code"] == "unauthorized"
        (tmp_path / "tokens.json").unlink()  # all are worthless then, and the door stays shut
        assert (await stays.told("notice"))["code"] == "unauthorized"
        again = await gateway.connect(hello=False)
        assert (await again.refused("hello"))["data"]["code"] == "unauthorized"


async def test_a_client_is_cut_when_its_token_expires(tmp_path: Path) -> None:
    short = token("reader", expires_ns=time.time_ns() + 10**9)
    async with guarded(tmp_path, short) as (gateway, _):
        client = await hello(gateway, "reader")
        assert "has expired" in (await client.told("notice"))["message"]
        await client.closed()


@pytest.mark.parametrize("damage", ["garbage", "mode"])
async def test_a_damaged_file_changes_nothing_and_is_told(damage: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "tokens.json"
    async with guarded(tmp_path, *ALL) as (gateway, _):
        client = await hello(gateway, "reader")
        if damage == "garbage":
            path.write_text(path.read_text()[:-10])
        else:
            path.chmod(0o644)
        await trio.sleep(0)
        seen: list[str] = []

        def told() -> bool:
            seen.append("".join(capsys.readouterr()))
            return "security.tokens_refused" in "".join(seen)

        await until(told)
        await client.call("status")
        await (await hello(gateway, "historian")).call("ping")
        tokens.save(path, [token("historian", "history")])
        await client.told("notice")
        text = "".join(seen)
        assert not any(secret in text for secret in TEXTS.values())


async def test_a_file_that_can_not_be_opened_for_want_of_descriptors_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a token that was revoked meanwhile would be good for ever."""
    read, tried = tokens.load, 0

    def none_left(path: Path) -> list[Token] | None:
        nonlocal tried
        tried += 1
        if tried < 3:
            raise ConfigError("it can't be read") from OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read(path)

    async with guarded(tmp_path, *ALL) as (gateway, _):
        client = await hello(gateway, "reader")
        monkeypatch.setattr(tokens, "load", none_left)
        tokens.save(tmp_path / "tokens.json", [token("historian", "history")])
        assert "was revoked" in (await client.told("notice"))["message"]
        assert tried == 3


# --- what each may do ---


@pytest.mark.parametrize(
    ("name", "may"),
    [("reader", READ), ("historian", HISTORY), ("operator", set(METHODS)), ("bounded", READ | HISTORY)],
)
async def test_a_token_may_what_its_scopes_say_and_nothing_else(name: str, may: set[str], tmp_path: Path) -> None:
    assert METHODS.keys() >= messages.METHODS.keys() - {"hello", "ping"} - _LATER
    async with guarded(tmp_path, *ALL) as (gateway, _):
        client = await hello(gateway, name)
        for method, params in METHODS.items():
            answer = await client.answer(await client.request(method, params))
            code = answer.get("error", {}).get("data", {}).get("code")
            assert (code == "forbidden") == (method not in may), (method, answer)
            if code == "forbidden":
                assert answer["error"]["data"]["scopes"] == sorted({"reader": ["read"], "historian": ["history"]}.get(
                    name, ["history", "read"]))  # fmt: skip
        await client.call("ping")


# Methods of which the table of scopes says enough; the operator's own are tested with what they do.
_LATER = {
    name for name in messages.METHODS if name.partition(".")[0] in ("services", "clients", "store", "debug", "log")
} | {"reload"}


async def test_what_the_operator_does_is_noted_with_who_and_what_came_of_it(tmp_path: Path) -> None:
    async with guarded(tmp_path, *ALL) as (gateway, _):
        operator, reader = await hello(gateway, "operator"), await hello(gateway, "reader")
        await operator.call("record", feed="sim", name="monday", duration_s=1.0)
        await operator.refused("record", {"feed": "nowhere", "name": "x", "duration_s": 1.0})
        await operator.refused("backfill", {"fqme": "i1/usd.sim", "start_ns": 0})
        await reader.refused("record", {"feed": "sim", "name": "x", "duration_s": 1.0})
        await reader.refused("bars", {"instruments": ["i1/usd.sim"]})  # not the operator's: not in there
        await operator.call("status")
    entries = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert [(entry["action"], entry["token"], entry["result"]) for entry in entries] == [
        ("record", "operator", "done"),
        ("record", "operator", "unknown_feed"),
        ("backfill", "operator", "unavailable"),
        ("record", "reader", "forbidden"),
    ]
    assert entries[0]["detail"]["name"] == "monday"
    assert entries[0]["peer"].startswith("127.0.0.1:")
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600
    assert TEXTS["operator"] not in (tmp_path / "audit.log").read_text()


async def test_a_full_audit_log_does_not_keep_the_operator_from_acting(tmp_path: Path) -> None:
    (tmp_path / "audit.log").mkdir()
    async with guarded(tmp_path, *ALL) as (gateway, _):
        operator = await hello(gateway, "operator")
        assert (await operator.call("record", feed="sim", name="x", duration_s=1.0))["bytes"] == 2


# --- what each may see ---


async def test_a_bounded_token_sees_its_instruments_alone(tmp_path: Path) -> None:
    async with guarded(tmp_path, *ALL) as (gateway, feed):
        client = await hello(gateway, "bounded")
        for number in (1, 2, 3):
            feed.trade(number)
            feed.quote(number)
        await until(lambda: gateway.gateway.feeds.by_name["sim"].head == feed.writer.cursor)
        subscribed = await client.call("subscribe", instruments=["*", "i1/usd.sim"], snapshot=True)
        assert list(subscribed["feeds"][0]["instruments"].values()) == ["i1/usd.sim"]
        snapshot = await client.told("snapshot")
        assert len(snapshot["data"]) == 2 * 72
        feed.trades(30, 3)
        fourth = feed.add("i10")
        allowed = feed.add("i1", "eur")
        feed.trade(fourth)
        feed.trade(allowed)
        feed.gap(2)
        feed.gap(1)
        last = feed.writer.cursor
        seen: set[int] = set()
        told: dict[int, str] = {}
        cursor = 0
        while cursor < last:
            message = await client.find(lambda each: each.get("method") in ("rows", "instruments", "gap"))
            params = message["params"]
            cursor = params.get("cursor_last", cursor)
            told |= params.get("instruments", {})
            if message["method"] == "rows" and params["data"]:
                import numpy as np

                from marketd.ring import layout

                seen |= set(np.frombuffer(params["data"], layout.ROW)["instrument"].tolist())
        assert seen == {1, allowed}
        assert set(told.values()) == {"i1/eur.sim"}
        assert (await client.call("subscribe", instruments=["i2*"]))["unmatched"] == ["i2*"]
        for params in ({"instruments": ["i2/usd.sim"]}, {"instruments": ["i1/usd.sim", "I2/USD.sim"]},
                       {"instruments": ["i2usd.sim"]}, {"instruments": ["nobody/usd.sim"]}):  # fmt: skip
            error = await client.refused("subscribe", params)
            assert error["data"]["code"] == "forbidden", params
            assert error["data"]["instruments"] == ["i1/*"]
        error = await client.refused("update", {"subscription": subscribed["subscription"], "add": ["i3/usd.sim"]})
        assert error["data"]["code"] == "forbidden"
        updated = await client.call("update", subscription=subscribed["subscription"], add=["i3*"])
        assert set(updated["feeds"][0]["instruments"].values()) <= {"i1/usd.sim", "i1/eur.sim"}


async def test_a_bounded_token_is_told_of_no_other_names(tmp_path: Path) -> None:
    async with guarded(tmp_path, *ALL) as (gateway, _):
        client = await hello(gateway, "bounded")
        hits = [messages.SearchHit(f"i{number}/usd.sim", "spot", "sim", 1.0) for number in range(50, 0, -1)]
        gateway.supervisor.hits["sim"] = hits
        assert (await client.call("search", text="usd", limit=5))["count"] == 1
        assert [hit["fqme"] for hit in (await client.told("search.hits"))["hits"]] == ["i1/usd.sim"]
        assert (await client.call("instrument", fqme="I1/usd.sim"))["id"] == 1
        for method in ("instrument", "coverage", "gaps", "bars"):
            for name in ("i2/usd.sim", "i2usd.sim", "nobody/usd.sim"):
                error = await client.refused(method, {"fqme": name})
                assert error["data"]["code"] == "forbidden", (method, name)
        for method in ("history", "ticks"):
            error = await client.refused(method, {"instruments": ["i1/usd.sim", "i2/usd.sim"]})
            assert error["data"]["code"] == "forbidden", method
        error = await client.refused("instrument", {"fqme": "i1/usx.sim"})
        assert error["data"]["close"] == ["i1/usd.sim"]


async def test_a_bounded_token_hears_of_its_own_filled_gaps_alone(tmp_path: Path) -> None:
    from marketd.supervise.messages import FilledRange

    async with guarded(tmp_path, *ALL) as (gateway, feed):
        client = await hello(gateway, "bounded")
        session = next(iter(gateway.gateway.sessions))
        await client.call("subscribe", instruments=["*"])
        [subscription] = session.subscriptions.values()
        subscription.kinds = {"bar.1m": 40}
        for name in ("i2/usd.sim", "i1/usd.sim"):
            session.tell_filled(FilledRange("sim", name, "1m", 0, 60, 1))
        assert (await client.told("gap_filled"))["fqme"] == "i1/usd.sim"
        assert feed.name == "sim"


async def test_who_is_no_operator_sees_of_the_clients_only_its_own(tmp_path: Path) -> None:
    async with guarded(tmp_path, *ALL) as (gateway, _):
        clients = [messages.ClientStatus(1, "a", "10.0.0.1:5", 0, 0, 0, 0, 1.0, token="reader"),
                   messages.ClientStatus(2, "b", "10.0.0.2:5", 0, 0, 0, 0, 1.0, token="operator"),
                   messages.ClientStatus(3, "c", "unix:pid 7", 0, 0, 0, 0, 1.0)]  # fmt: skip
        gateway.supervisor.status = msgspec.structs.replace(gateway.supervisor.status, clients=clients)
        for name, seen in (("reader", [1]), ("operator", [1, 2, 3]), ("bounded", [])):
            found = (await (await hello(gateway, name)).call("status"))["clients"]
            assert [client["id"] for client in found] == seen


# --- how much ---


async def test_the_quotas_of_connections_subscriptions_and_requests_are_of_the_token(tmp_path: Path) -> None:
    quotas = Quotas(connections=2, subscriptions=2, requests_per_s=5.0)
    poor = token("poor", quotas=msgspec.to_builtins(quotas))
    async with guarded(tmp_path, poor, token("reader")) as (gateway, _):
        first, second = await hello(gateway, "poor"), await hello(gateway, "poor")
        third = await gateway.connect(hello=False)
        error = await third.refused("hello", {"token": TEXTS["poor"]})
        assert (error["data"]["code"], error["data"]["limit"]) == ("limit_exceeded", 2)
        await third.closed()
        mine = await first.call("subscribe", instruments=["*"])
        await second.call("subscribe", instruments=["*"])
        error = await second.refused("subscribe", {"instruments": ["*"]})
        assert (error["data"]["code"], error["data"]["limit"]) == ("limit_exceeded", 2)
        await first.call("unsubscribe", subscription=mine["subscription"])
        await second.call("subscribe", instruments=["*"])
        for _ in range(20):
            answer = await first.answer(await first.request("ping"))
            if "error" in answer:
                break
        data = answer["error"]["data"]
        assert data["code"] == "limit_exceeded"
        assert 0 < data["retry_after_ms"] <= 202
        await trio.sleep(data["retry_after_ms"] / 1000)
        await first.call("ping")
        rich = await hello(gateway, "reader")
        for _ in range(20):
            await rich.call("ping")
        await second.stream.aclose()  # what a client had is free when it has gone
        await until(lambda: len(gateway.gateway.sessions) == 2)
        await trio.sleep(0.5)
        await (await hello(gateway, "poor")).call("subscribe", instruments=["*"])


async def test_a_stream_beyond_the_days_bytes_ends_where_it_can_go_on(tmp_path: Path, monkeypatch: Any) -> None:
    poor = token("poor", quotas={"bytes_per_day": 20_000})
    async with guarded(tmp_path, poor) as (gateway, feed):
        client = await hello(gateway, "poor")
        await client.call("subscribe", instruments=["*"])
        feed.trades(1000)
        notice = await client.told("notice")
        assert notice["code"] == "quota"
        assert "midnight UTC" in notice["message"]
        [positions] = notice["positions"].values()
        assert positions["sim"]["cursor"] == feed.writer.cursor
        await client.closed()
        again = await gateway.connect(hello=False)
        error = await again.refused("hello", {"token": TEXTS["poor"]})
        assert error["data"]["code"] == "limit_exceeded"
        assert 0 < error["data"]["retry_after_ms"] <= 86_400_000
        feed.trades(10)
        monkeypatch.setattr(Usage, "spent", lambda self, now_ns: False)  # midnight
        resumed = await hello(gateway, "poor")
        await resumed.call("subscribe", instruments=["*"], resume={"sim": positions["sim"]})
        assert (await resumed.rows())["cursor_first"] == positions["sim"]["cursor"] + 1


# --- HTTP ---


async def ask(url: str, name: str | None = None, context: ssl.SSLContext | None = None) -> tuple[int, bytes, Any]:
    def get() -> tuple[int, bytes, Any]:
        headers = {} if name is None else {"Authorization": f"Bearer {TEXTS.get(name, name)}"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers=headers), timeout=10, context=context
            ) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers

    return await trio.to_thread.run_sync(get)


async def test_http_wants_the_token_in_its_header_and_the_scope_of_the_path(tmp_path: Path) -> None:
    known = [*ALL, token("poor", quotas={"requests_per_s": 1.0})]
    async with guarded(tmp_path, *known, http=True) as (gateway, _):
        for path, scope in (("/v1/instruments", "read"), ("/v1/instruments/i1/usd.sim", "read"), ("/metrics", "read"),
                            ("/v1/bars?instrument=i1/usd.sim", "history"),
                            ("/v1/ticks?instrument=i1/usd.sim", "history")):  # fmt: skip
            status, body, headers = await ask(gateway.http + path)
            assert (status, json.loads(body)["error"]["code"]) == (401, "unauthorized")
            assert headers["WWW-Authenticate"].startswith("Bearer")
            assert (await ask(gateway.http + path, "nonsense"))[0] == 401
            assert (await ask(gateway.http + path, "old"))[0] == 401
            for name, has in (("reader", "read"), ("historian", "history"), ("operator", scope)):
                status, body, _ = await ask(gateway.http + path, name)
                assert (status == 403) == (has != scope), (path, name, status, body)
                assert status != 401
        assert (await ask(gateway.http + "/healthz"))[:2] == (200, b"ok\n")
        assert json.loads((await ask(gateway.http + "/readyz"))[1]) == {"ready": True, "problems": []}
        status, body, _ = await ask(gateway.http + "/client/marketd.js")
        assert status == 200
        assert (await ask(gateway.http + "/nowhere"))[0] == 404
        statuses = [(await ask(gateway.http + "/metrics", "poor"))[0] for _ in range(3)]
        assert statuses[0] == 200
        assert 429 in statuses


async def test_http_answers_429_where_a_token_has_its_connections(tmp_path: Path) -> None:
    async with guarded(tmp_path, token("poor", quotas={"connections": 1}), http=True) as (gateway, _):
        client = await hello(gateway, "poor")
        status, body, _ = await ask(gateway.http + "/metrics", "poor")
        assert (status, json.loads(body)["error"]["code"]) == (429, "limit_exceeded")
        await client.stream.aclose()
        await until(lambda: not gateway.gateway.sessions)
        assert (await ask(gateway.http + "/metrics", "poor"))[0] == 200


async def test_readyz_tells_its_reasons_to_readers_only(tmp_path: Path) -> None:
    async with guarded(tmp_path, *ALL, http=True) as (gateway, _):
        problems = ["history is down: the disk is full"]
        gateway.supervisor.status = msgspec.structs.replace(gateway.supervisor.status, ready=False, problems=problems)
        status, body, _ = await ask(gateway.http + "/readyz")
        assert (status, json.loads(body)["problems"]) == (503, [])
        assert "the disk is full" in json.loads((await ask(gateway.http + "/readyz", "reader"))[1])["problems"][0]


async def test_instruments_over_http_are_those_of_the_token(tmp_path: Path) -> None:
    async with guarded(tmp_path, *ALL, http=True) as (gateway, _):
        url = gateway.http + "/v1/instruments"
        assert [row["fqme"] for row in json.loads((await ask(url, "bounded"))[1])["instruments"]] == ["i1/usd.sim"]
        assert len(json.loads((await ask(url, "reader"))[1])["instruments"]) == 3
        assert (await ask(url + "/i2/usd.sim", "bounded"))[0] == 403
        for path in ("bars", "ticks"):
            assert (await ask(f"{gateway.http}/v1/{path}?instrument=i2/usd.sim", "bounded"))[0] == 403
            assert (await ask(f"{gateway.http}/v1/{path}?instrument=i2*", "bounded"))[0] == 404


async def test_a_websocket_shows_its_token_in_hello_or_in_its_header(tmp_path: Path) -> None:
    from trio_websocket import open_websocket_url

    async def talk(gateway: Harness, params: dict[str, object], header: str | None) -> tuple[dict[str, Any], object]:
        url = gateway.http.replace("http", "ws") + "/ws"
        headers = [] if header is None else [("Authorization", f"Bearer {header}")]
        async with open_websocket_url(url, extra_headers=headers) as socket:
            await socket.send_message(json.dumps({"id": 1, "method": "hello", "params": params}))
            answer = json.loads(await socket.get_message())
            if "error" in answer:
                with contextlib.suppress(Exception):
                    await socket.get_message()
                return answer["error"], socket.closed
            await socket.send_message(json.dumps({"id": 2, "method": "bars", "params": {"fqme": "i1/usd.sim"}}))
            return json.loads(await socket.get_message())["error"], None

    async with guarded(tmp_path, *ALL, http=True) as (gateway, _):
        for params, header in (({"token": TEXTS["reader"]}, None), ({}, TEXTS["reader"]),
                               ({"token": TEXTS["reader"]}, TEXTS["operator"])):  # fmt: skip
            error, _ = await talk(gateway, params, header)
            assert error["data"]["code"] == "forbidden"
        for params, header in (({}, None), ({"token": "x"}, None), ({}, "x"), ({"token": "x"}, TEXTS["reader"])):
            error, closed = await talk(gateway, params, header)
            assert error["data"]["code"] == "unauthorized"
            assert closed.code == 1008  # type: ignore[attr-defined]


# --- TLS ---


@contextlib.asynccontextmanager
async def encrypted(
    folder: Path, issue: Callable[..., Any] | None = None, **limits: Any
) -> AsyncIterator[tuple[Harness, FakeFeed]]:
    """A gateway that speaks TLS, with the test authority's certificate for loopback unless told otherwise."""
    write_certificate(folder, issue or (lambda: certificates.authority().issue_cert(*certificates.NAMES)))
    feed = FakeFeed(folder, "sim", 1 << 14, 3)
    path = folder / "tokens.json"
    tokens.save(path, ALL)
    security = SecuritySpec(str(path), "", certificate=str(folder / "cert.pem"), key=str(folder / "key.pem"))
    async with open_gateway(
        feed,
        listen=["tls://127.0.0.1:0"],
        web=["tls://127.0.0.1:0"],
        security=security,
        limits=LimitsSpec(hello_timeout_s=3.0, stall_timeout_s=2.0, **limits),
    ) as gateway:
        yield gateway, feed


def write_certificate(folder: Path, issue: Callable[[], Any]) -> None:
    made = issue()
    (folder / "key.pem").write_bytes(made.private_key_pem.bytes())
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))


def expired() -> Any:
    from datetime import UTC, datetime

    return certificates.authority().issue_cert(
        *certificates.NAMES, not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=datetime(2020, 2, 1, tzinfo=UTC)
    )


def blocking(address: str, **options: Any) -> Any:
    return trio.to_thread.run_sync(partial(connect, address, **options))


async def test_clients_stream_over_tls_and_are_refused_as_without(tmp_path: Path) -> None:
    ca_file = certificates.ca_file(tmp_path)
    async with encrypted(tmp_path) as (gateway, feed):
        assert gateway.address.startswith("tls://127.0.0.1:")

        def stream() -> int:
            with connect(gateway.address, ca_file=ca_file, token=TEXTS["reader"], heartbeat_s=0.5) as md:
                assert md.ping() < 5
                with md.subscribe(["*"], kinds=["trade"]) as frames:
                    feed.trades(10_000)
                    count = 0
                    for frame in frames:
                        count += len(frame.rows)
                        if count == 10_000:
                            return count
            return 0

        assert await trio.to_thread.run_sync(stream) == 10_000
        async with open_client(gateway.address, ca_file=ca_file, token=TEXTS["reader"]) as md:
            async with md.subscribe(["*"], kinds=["trade"]) as frames:
                feed.trades(10_000)
                count = 0
                async for frame in frames:
                    count += len(frame.rows)
                    if count == 10_000:
                        break
            assert (await md.status()).version
        with pytest.raises(RequestError, match="no token was given"):
            await blocking(gateway.address, ca_file=ca_file)
        with pytest.raises(RequestError, match="unauthorized"):
            async with open_client(gateway.address, ca_file=ca_file, token="mdt_wrong"):
                pass
        await until(lambda: not gateway.gateway.sessions)


@pytest.mark.parametrize(
    ("issue", "trusted", "sentence"),
    [
        (expired, True, "certificate has expired"),
        (lambda: certificates.authority().issue_cert("elsewhere.example"), True, "(IP address|Hostname) mismatch"),
        (None, False, "MARKETD_CA_FILE"),
    ],
)
async def test_a_certificate_that_is_not_good_is_refused_with_the_reason(
    issue: Callable[..., Any] | None, trusted: bool, sentence: str, tmp_path: Path
) -> None:
    ca_file = certificates.ca_file(tmp_path) if trusted else None
    async with encrypted(tmp_path, issue) as (gateway, _):
        with pytest.raises(CannotConnect, match=sentence):
            await blocking(gateway.address, ca_file=ca_file, token=TEXTS["reader"])
        with pytest.raises(CannotConnect, match=sentence):
            async with open_client(gateway.address, ca_file=ca_file, token=TEXTS["reader"]):
                pass
        assert not gateway.gateway.sessions


async def test_who_speaks_plainly_to_tls_or_tls_to_a_plain_port_is_told(tmp_path: Path) -> None:
    ca_file = certificates.ca_file(tmp_path)
    async with encrypted(tmp_path) as (gateway, _):
        plain = gateway.address.removeprefix("tls://")
        with pytest.raises(CannotConnect, match="this address speaks TLS"):
            await blocking(plain, token=TEXTS["reader"])
        with pytest.raises(CannotConnect, match="this address speaks TLS"):
            async with open_client(plain, token=TEXTS["reader"]):
                pass
        url = gateway.supervisor.addresses[-1]
        assert url.startswith("https://")
        status, body, _ = await ask(url.replace("https", "http") + "/healthz")
        assert (status, body) == (400, b"this address speaks TLS: ask https:// or wss://\n")
        context = ssl.create_default_context(cafile=ca_file)
        assert (await ask(url + "/healthz", context=context))[0] == 200
        assert (await ask(url + "/metrics", context=context))[0] == 401
        assert (await ask(url + "/metrics", "reader", context=context))[0] == 200
    async with guarded(tmp_path / "..", http=False) as (gateway, _):
        with pytest.raises(CannotConnect, match="does not speak TLS"):
            await blocking("tls://" + gateway.address, ca_file=ca_file)
        with pytest.raises(CannotConnect, match="does not speak TLS"):
            async with open_client("tls://" + gateway.address, ca_file=ca_file):
                pass


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node here: `apt install nodejs`")
async def test_the_client_in_javascript_speaks_tls_and_shows_its_token(tmp_path: Path) -> None:
    ca_file = certificates.ca_file(tmp_path)
    script = """
      const { connect } = await import(process.argv[1]);
      for (const token of process.argv.slice(3)) {
        let md;
        try {
          md = await connect(process.argv[2], { token });
          console.log((await md.request("status")).version === undefined ? "nothing" : "status");
        } catch (error) { console.log(error.code); }
        md?.close();
      }
    """
    async with encrypted(tmp_path) as (gateway, _):
        for address in (gateway.address, gateway.address.replace("127.0.0.1", "localhost")):
            done = await trio.run_process(
                ["node", "--input-type=module", "-e", script, str(PROJECT / "marketd/client/javascript/marketd.js"),
                 address, TEXTS["reader"], "mdt_wrong", TEXTS["historian"]],
                capture_stdout=True, env=os.environ | {"NODE_EXTRA_CA_CERTS": ca_file},
            )  # fmt: skip
            assert done.stdout.split() == [b"status", b"unauthorized", b"forbidden"]


async def test_a_client_for_which_no_descriptors_are_left_is_cut_and_others_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca_file = certificates.ca_file(tmp_path)

    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with encrypted(tmp_path) as (gateway, _):
        first = await blocking(gateway.address, ca_file=ca_file, token=TEXTS["reader"])
        monkeypatch.setattr("marketd.gateway.actor.socket.socketpair", none_left)
        with pytest.raises(CannotConnect):
            await blocking(gateway.address, ca_file=ca_file, token=TEXTS["reader"])
        monkeypatch.undo()
        second = await blocking(gateway.address, ca_file=ca_file, token=TEXTS["reader"])
        for client in (first, second):
            assert await trio.to_thread.run_sync(client.ping) < 5
            await trio.to_thread.run_sync(client.close)


async def test_old_tls_and_half_a_handshake_get_nowhere(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as (gateway, _):
        host, _, port = gateway.address.removeprefix("tls://").rpartition(":")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        stream = await trio.open_ssl_over_tcp_stream(host, int(port), ssl_context=context)
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        half = await trio.open_tcp_stream(host, int(port))
        await half.send_all(b"\x16\x03\x01\x02\x00")
        with trio.fail_after(10):  # hello_timeout_s, and no longer
            assert await half.receive_some(100) == b""
        await until(lambda: not gateway.gateway.full and not gateway.gateway.sessions)


async def test_a_client_that_takes_nothing_is_cut_behind_tls_too(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as (gateway, feed):
        host, _, port = gateway.address.removeprefix("tls://").rpartition(":")
        context = ssl.create_default_context(cafile=certificates.ca_file(tmp_path))
        stream = await trio.open_ssl_over_tcp_stream(host, int(port), ssl_context=context)
        client = RawClient(stream)  # type: ignore[arg-type]
        await client.call("hello", token=TEXTS["reader"])
        await client.call("subscribe", instruments=["*"])
        with trio.fail_after(30):
            while gateway.gateway.sessions:
                feed.trades(4000)
                await trio.sleep(0.02)
        await client.closed()


async def test_a_new_certificate_is_served_to_who_comes_and_nobody_is_cut(tmp_path: Path) -> None:
    ca_file = certificates.ca_file(tmp_path)
    async with (
        encrypted(tmp_path) as (gateway, feed),
        open_client(gateway.address, ca_file=ca_file, token=TEXTS["reader"], reconnect=False) as old,
    ):
        write_certificate(tmp_path, expired)

        async def refused() -> bool:
            with contextlib.suppress(CannotConnect):
                async with open_client(gateway.address, ca_file=ca_file, token=TEXTS["reader"]):
                    return False
            return True

        with trio.fail_after(10):
            while not await refused():
                await trio.sleep(0.05)
        await old.status()
        (tmp_path / "cert.pem").write_text("half of it")
        await trio.sleep(1.5 * LOOK_EVERY_S)
        assert await refused()  # the expired one is still there, and not none at all
        write_certificate(tmp_path, lambda: certificates.authority().issue_cert(*certificates.NAMES))
        with trio.fail_after(10):
            while await refused():
                await trio.sleep(0.05)
        async with old.subscribe(["*"], kinds=["trade"]) as frames:
            feed.trades(10)
            async for frame in frames:
                assert len(frame.rows)
                break

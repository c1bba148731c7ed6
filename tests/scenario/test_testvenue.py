"""The test venue over real sockets, each fault as a raw client sees it."""

from __future__ import annotations

import contextlib
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, open_websocket_url

from marketd.errors import ConfigError
from marketd.testvenue.server import Settings, VenueServer, serve
from tests import certificates
from tests.kraken_book import KrakenBook

DEADLINE_S = 20.0
HANDSHAKE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
STREAMS = "/stream?streams=btcusdt@trade/ethusdt@trade"


@pytest.fixture
async def server(nursery: trio.Nursery) -> VenueServer:
    # Each of the four instruments has 50 trades and 50 quotes a second.
    return await nursery.start(serve, Settings(instruments=4, rate=400))


@contextlib.asynccontextmanager
async def connect(server: VenueServer, venue: str, path: str = "") -> AsyncIterator[WebSocketConnection]:
    """Connect; for KuCoin with a token."""
    url = server.ws_url(venue) + path
    if venue == "kucoin":
        _, _, body = await http(server, "POST", "/kucoin/api/v1/bullet-public")
        url += f"/?token={body['data']['token']}"
    with trio.fail_after(DEADLINE_S):
        async with open_websocket_url(url, disconnect_timeout=5) as websocket:
            yield websocket


async def http(
    server: VenueServer,
    method: str,
    path: str,
    body: object = None,
    context: ssl.SSLContext | None = None,
    headers: str = "",
) -> tuple[int, dict[str, str], Any]:
    """Ask by HTTP; the body is decoded if it is JSON."""
    with trio.fail_after(DEADLINE_S):
        stream: trio.abc.Stream = await trio.open_tcp_stream(server.host, server.port)
        if context is not None:
            stream = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
        data = b"" if body is None else json.dumps(body).encode()
        extra = headers or "Connection: close\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: {server.host}:{server.port}\r\n{extra}"
        async with stream:
            await stream.send_all(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            answer = b""
            while chunk := await stream.receive_some(65_536):
                answer += chunk
    head, _, content = answer.decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    answered = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    with contextlib.suppress(json.JSONDecodeError):
        return int(status.split()[1]), answered, json.loads(content)
    return int(status.split()[1]), answered, content


async def next_where(websocket: WebSocketConnection, wanted: Callable[[Any], Any]) -> Any:
    """The next message for which ``wanted`` is true."""
    while True:
        message = json.loads(await websocket.get_message())
        if wanted(message):
            return message


async def next_trades(websocket: WebSocketConnection, count: int, symbol: str = "BTCUSDT") -> list[dict[str, Any]]:
    """The next Binance trades of one symbol."""
    return [
        (await next_where(websocket, lambda message: message.get("data", {}).get("s") == symbol))["data"]
        for _ in range(count)
    ]


async def numbers(websocket: WebSocketConnection, count: int, symbol: str = "BTCUSDT") -> list[int]:
    return [trade["t"] for trade in await next_trades(websocket, count, symbol)]


async def closed_with(websocket: WebSocketConnection) -> int:
    """Read to the end; the code it is closed with, 1006 for a broken connection."""
    while True:
        try:
            await websocket.get_message()
        except ConnectionClosed as closed:
            return closed.reason.code if closed.reason else 1006


async def wait_until(condition: Callable[[], object]) -> None:
    with trio.fail_after(DEADLINE_S):
        while not condition():
            await trio.sleep(0.01)


async def silent_for(websocket: WebSocketConnection, seconds: float) -> bool:
    """Whether nothing comes for so long, after what may be under way."""
    await trio.sleep(0.1)
    with trio.move_on_after(0.02):
        while True:
            await websocket.get_message()
    with trio.move_on_after(seconds):
        await websocket.get_message()
        return False
    return True


async def subscribe_kraken(websocket: WebSocketConnection, **params: object) -> Any:
    await websocket.send_message(json.dumps({"method": "subscribe", "params": params}))
    return await next_where(websocket, lambda message: message.get("method") == "subscribe")


def gaps(ids: list[int]) -> list[int]:
    return [right - left for left, right in itertools.pairwise(ids)]


async def test_streamed_trades_are_those_of_rest_and_make_its_candles(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        trades = await next_trades(websocket, 30)
        assert gaps([trade["t"] for trade in trades]) == [1] * 29
        path = f"/binance/api/v3/aggTrades?symbol=BTCUSDT&fromId={trades[0]['t']}&limit=30"
        _, _, rows = await http(server, "GET", path)
        assert [(row["a"], row["p"], row["q"], row["T"], row["m"]) for row in rows] == [
            (trade["t"], trade["p"], trade["q"], trade["T"], trade["m"]) for trade in trades
        ]
        second = rows[10]["T"] // 1000 * 1000
        _, _, own = await http(
            server, "GET", f"/binance/api/v3/aggTrades?symbol=BTCUSDT&startTime={second}&endTime={second + 999}"
        )
        await wait_until(lambda: server.engine.now_ns() > (second + 1000) * 1_000_000)
        _, _, [kline] = await http(
            server, "GET", f"/binance/api/v3/klines?symbol=BTCUSDT&interval=1s&startTime={second}&limit=1"
        )
        _, _, own = await http(
            server, "GET", f"/binance/api/v3/aggTrades?symbol=BTCUSDT&startTime={second}&endTime={second + 999}"
        )
        assert kline[8] == len(own)
        assert (kline[1], kline[4]) == (own[0]["p"], own[-1]["p"])


async def test_all_venues_stream_over_their_own_protocols(server: VenueServer):
    async with connect(server, "kraken", "/v2") as websocket:
        assert json.loads(await websocket.get_message())["channel"] == "status"
        assert (await subscribe_kraken(websocket, channel="trade", symbol=["BTC/USD"]))["success"]
        ids = [
            (await next_where(websocket, lambda m: m.get("channel") == "trade"))["data"][0]["trade_id"]
            for _ in range(5)
        ]
        assert gaps(ids) == [1] * 4
    async with connect(server, "kucoin") as websocket:
        assert json.loads(await websocket.get_message())["type"] == "welcome"
        await websocket.send_message('{"id":1,"type":"subscribe","topic":"/market/match:BTC-USDT","response":true}')
        assert json.loads(await websocket.get_message()) == {"id": "1", "type": "ack"}
        ids = [int(json.loads(await websocket.get_message())["data"]["tradeId"]) for _ in range(5)]
        assert gaps(ids) == [1] * 4
    async with connect(server, "binance-futures", "/market/ws/btcusdt@aggTrade") as websocket:
        assert json.loads(await websocket.get_message())["st"] == 1


async def test_state_counts_what_was_sent_and_asked(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        ids = await numbers(websocket, 5)
        await http(server, "GET", "/binance/api/v3/time")
        _, _, state = await http(server, "GET", "/control/state")
        venue = state["venues"]["binance"]
        stream = venue["streams"]["btcusdt@trade"]
        assert stream["first"] == ids[0]
        assert stream["sent"] == stream["last"] - stream["first"] + 1 >= 5
        assert venue["requests"]["/api/v3/time"] == {"count": 1, "by_status": {"200": 1}}
        assert venue["limits"]["weight_used"] == 1
        assert [attempt["outcome"] for attempt in venue["attempts"]] == ["opened"]
        assert venue["connections"][0]["subscriptions"] == 2
    await wait_until(lambda: server.state("binance")["closed_connections"])
    assert server.state("binance")["closed_connections"][0]["closed_by"] == "client"
    assert (await http(server, "POST", "/control/reset"))[0] == 200
    assert server.state("binance")["attempts"] == []


async def test_control_refuses_what_it_does_not_know(server: VenueServer):
    for body, words in (
        ({"fault": "explode"}, "allowed are cut"),
        ({"fault": "cut", "venue": "mtgox"}, "mtgox"),
        ([{"fault": "cut"}, {"fault": "nope"}], "nope"),
    ):
        status, _, answer = await http(server, "POST", "/control/faults", body)
        assert (status, answer["ok"]) == (400, False)
        assert words in answer["error"]
    assert (await http(server, "POST", "/control/tuning", {"venue": "kraken", "volume": 11}))[0] == 400
    assert (await http(server, "GET", "/control/nope"))[0] == 404
    assert (await http(server, "GET", "/nowhere"))[0] == 404
    assert (await http(server, "GET", "/binance/api/v3/nope"))[0] == 404
    with pytest.raises(ConfigError):
        server.inject(fault="explode")


async def test_cut_breaks_the_connection_without_a_word(server: VenueServer):
    async with connect(server, "binance", STREAMS) as first, connect(server, "kraken") as other:
        await numbers(first, 1)
        status, _, answer = await http(server, "POST", "/control/faults", {"venue": "binance", "fault": "cut"})
        assert (status, answer["ok"]) == (200, True)
        assert await closed_with(first) == 1006
        await next_where(other, lambda message: message["channel"] == "status")
    await wait_until(lambda: server.state("binance")["closed_connections"])
    assert server.state("binance")["closed_connections"][0]["closed_by"] == "fault"


async def test_close_names_its_code(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        server.inject(venue="binance", fault="close", code=1012, reason="service restart")
        assert await closed_with(websocket) == 1012


async def test_faults_wait_for_their_time_and_strike_the_connection_they_name(server: VenueServer):
    async with connect(server, "binance", STREAMS) as first, connect(server, "binance", STREAMS) as second:
        await numbers(second, 1)
        connections = [one["connection"] for one in server.state("binance")["connections"]]
        server.inject(fault="cut", connection=connections[0], after_s=0.3)
        assert len(server.engine.state()["faults"]["pending"]) == 1
        began_s = trio.current_time()
        assert await closed_with(first) == 1006
        assert trio.current_time() - began_s > 0.2
        await numbers(second, 3)


async def test_cut_strikes_the_connections_that_carry_an_instrument(server: VenueServer):
    async with connect(server, "binance", "/ws/ethusdt@trade") as other, connect(server, "binance", STREAMS) as both:
        server.inject(fault="cut", instrument="BTC/USDT")
        assert await closed_with(both) == 1006
        assert json.loads(await other.get_message())["s"] == "ETHUSDT"


async def test_announced_cut_of_binance_is_announced(server: VenueServer):
    async with connect(server, "binance", STREAMS) as combined, connect(server, "binance", "/ws/btcusdt@trade") as raw:
        server.inject(venue="binance", fault="announced_cut", delay_s=0.3)
        wrapped = await next_where(combined, lambda message: message["stream"] == "!serverShutdown")
        assert wrapped["data"]["e"] == "serverShutdown"
        bare = await next_where(raw, lambda message: message["e"] == "serverShutdown")
        assert set(bare) == {"e", "E"}
        assert await closed_with(combined) == 1001


async def test_stall_is_silence_on_an_open_connection(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        before = (await numbers(websocket, 1))[0]
        server.inject(venue="binance", fault="stall")
        assert await silent_for(websocket, 0.3)
        await websocket.ping()  # the connection itself lives
        assert server.state("binance")["streams"]["btcusdt@trade"]["lost"] > 10
        server.engine.reset()
        assert (await numbers(websocket, 1))[0] > before + 10


async def test_stall_of_one_instrument_leaves_the_others_alone(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        server.inject(venue="binance", fault="stall", instrument="BTCUSDT")
        await silent_for(websocket, 0.01)
        symbols_seen = {
            (await next_where(websocket, lambda message: "data" in message))["data"]["s"] for _ in range(20)
        }
        assert symbols_seen == {"ETHUSDT"}


async def test_held_stall_loses_nothing(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        await numbers(websocket, 1)
        server.inject(venue="binance", fault="stall", for_s=0.4, hold=True)
        ids = await numbers(websocket, 40)
        assert gaps(ids) == [1] * 39


async def test_black_hole_answers_nothing_at_all(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        server.inject(venue="binance", fault="blackhole")
        assert await silent_for(websocket, 0.2)
        with trio.move_on_after(0.2) as patience:
            await websocket.ping()
        assert patience.cancelled_caught
        with trio.move_on_after(0.2) as patience:
            await http(server, "GET", "/binance/api/v3/time")
        assert patience.cancelled_caught
        server.engine.reset()
        ids = await numbers(websocket, 60)  # what the sockets' buffers held arrives
        assert gaps(ids) == [1] * 59


async def test_drop_loses_the_messages_of_one_stream(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        ids = await numbers(websocket, 1)
        server.inject(venue="binance", fault="drop", instrument="BTC/USDT", count=3)
        ids += await numbers(websocket, 30)
        assert sorted(gaps(ids))[-1] == 4
        assert gaps(await numbers(websocket, 10, "ETHUSDT")) == [1] * 9
        assert server.state("binance")["streams"]["btcusdt@trade"]["lost"] == 3
        assert server.engine.state()["faults"]["active"] == []


async def test_duplicate_sends_a_message_twice(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        ids = await numbers(websocket, 1)
        server.inject(venue="binance", fault="duplicate", instrument="BTCUSDT", count=2)
        ids += await numbers(websocket, 30)
        assert sorted(gaps(ids))[:3] == [0, 0, 1]


async def test_reorder_lets_messages_change_places(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        ids = await numbers(websocket, 1)
        server.inject(venue="binance", fault="reorder", instrument="BTCUSDT", depth=3)
        ids += await numbers(websocket, 30)
        assert gaps(ids) != [1] * 30
        assert gaps(sorted(ids)) == [1] * 30


async def test_malformed_message_takes_the_place_of_a_good_one(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        ids = await numbers(websocket, 1)
        server.inject(venue="binance", fault="malformed_message", instrument="BTCUSDT")
        bad = 0
        while len(ids) < 20:
            try:
                message = json.loads(await websocket.get_message())
            except json.JSONDecodeError:
                bad += 1
            else:
                ids += [message["data"]["t"]] if message["data"]["s"] == "BTCUSDT" else []
        assert bad == 1
        assert sorted(gaps(ids))[-1] == 2


async def test_extra_malformed_message_loses_nothing(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        await numbers(websocket, 1)
        server.inject(venue="binance", fault="malformed_message", variant="unknown", extra=True, count=2)
        seen: list[Any] = []
        while len(seen) < 2:
            seen += [m for m in [json.loads(await websocket.get_message())] if m.get("e") == "novelty"]
        assert server.state("binance")["streams"]["btcusdt@trade"]["lost"] == 0


async def test_malformed_frame_ends_the_connection_from_the_client(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        server.inject(venue="binance", fault="malformed_frame", variant="rsv")
        assert await closed_with(websocket) == 1002
        server.inject(venue="binance", fault="cut")  # this client says no more, and waits for the server to go


async def test_bad_checksum_is_wrong_once(server: VenueServer):
    async with connect(server, "kraken") as websocket:
        await subscribe_kraken(websocket, channel="book", symbol=["BTC/USD"])
        held, verdicts = KrakenBook(10, (1, 8)), []
        server.inject(venue="kraken", fault="bad_checksum", after_s=0.2)
        while False not in verdicts[:-20]:
            message = await next_where(websocket, lambda message: message.get("channel") == "book")
            verdicts.append(held.apply(message["data"][0]))
        assert verdicts.count(False) == 1


async def test_clock_skew_shifts_event_times(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        [true] = await next_trades(websocket, 1)
        server.inject(venue="binance", fault="clock_skew", instrument="BTCUSDT", skew_s=-3600)
        wrong = await next_where(websocket, lambda message: message["data"]["T"] < true["T"] - 3_000_000)
        assert (wrong["data"]["s"], wrong["data"]["E"] - wrong["data"]["T"]) == ("BTCUSDT", 1)
        [again] = await next_trades(websocket, 1)
        assert again["T"] < true["T"] - 3_000_000
        [other] = await next_trades(websocket, 1, "ETHUSDT")
        assert other["T"] - true["T"] > 0


async def test_lost_subscription_ends_without_a_word(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        await numbers(websocket, 1)
        server.inject(venue="binance", fault="lose_subscription", instrument="BTCUSDT")
        await wait_until(lambda: server.state("binance")["connections"][0]["subscriptions"] == 1)
        await silent_for(websocket, 0.01)
        await next_trades(websocket, 10, "ETHUSDT")
        last = server.state("binance")["streams"]["btcusdt@trade"]["last"]
        await next_trades(websocket, 10, "ETHUSDT")
        assert server.state("binance")["streams"]["btcusdt@trade"]["last"] == last


async def test_slow_and_missing_acks(server: VenueServer):
    request = '{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":9}'
    async with connect(server, "binance", "/ws") as websocket:
        server.inject(venue="binance", fault="slow_acks", delay_s=0.5, count=1)
        await wait_until(lambda: server.engine.board.busy)
        began_s = trio.current_time()
        await websocket.send_message(request)
        await next_where(websocket, lambda message: message.get("id") == 9)
        assert trio.current_time() - began_s > 0.4
        server.inject(venue="binance", fault="no_acks", for_s=0.5)
        await wait_until(lambda: server.engine.board.busy)
        await websocket.send_message(request)
        with trio.move_on_after(0.3):
            assert not await next_where(websocket, lambda message: "id" in message)


async def test_late_welcome_and_missing_pongs(server: VenueServer):
    server.inject(venue="kucoin", fault="late_welcome", delay_s=1.0)
    server.inject(venue="kucoin", fault="no_pong", count=1)
    async with connect(server, "kucoin") as websocket:
        with trio.move_on_after(0.2) as early:
            await websocket.get_message()
        assert early.cancelled_caught
        assert json.loads(await websocket.get_message())["type"] == "welcome"
        await websocket.send_message('{"id":"1","type":"ping"}')
        await websocket.send_message('{"id":"2","type":"ping"}')
        assert json.loads(await websocket.get_message())["id"] == "2"


async def test_refused_connections_are_counted(server: VenueServer):
    server.inject(venue="binance", fault="refuse", count=2)
    server.inject(venue="binance", fault="refuse", status=503, count=1)
    await wait_until(lambda: server.engine.board.busy)
    for _ in range(2):  # trio-websocket waits for ever when its handshake is broken off
        with pytest.raises((OSError, trio.BrokenResourceError)):
            await http(server, "GET", f"/binance{STREAMS}", headers=HANDSHAKE)
    with pytest.raises(ConnectionRejected) as caught:
        async with connect(server, "binance", STREAMS):
            pass
    assert caught.value.status_code == 503
    async with connect(server, "binance", STREAMS) as websocket:
        await numbers(websocket, 1)
    outcomes = [attempt["outcome"] for attempt in server.state("binance")["attempts"]]
    assert outcomes == ["refused", "refused", "refused", "opened"]


@pytest.mark.parametrize("venue", ["binance", "kraken", "kucoin"])
async def test_maintenance_is_told_as_each_venue_tells_it(server: VenueServer, venue: str):
    paths = {
        "binance": ("/binance/api/v3/time", "/binance/sapi/v1/system/status"),
        "kraken": ("/kraken/0/public/Time", "/kraken/0/public/SystemStatus"),
        "kucoin": ("/kucoin/api/v1/market/histories?symbol=BTC-USDT", "/kucoin/api/v1/status"),
    }
    async with connect(server, venue) as websocket:
        server.inject(venue=venue, fault="maintenance")
        if venue == "kraken":
            await next_where(websocket, lambda message: system_status(message) == "maintenance")
        else:
            assert await closed_with(websocket) == 1001
        assert (await http(server, "GET", paths[venue][0]))[0] == 503
        assert (await http(server, "GET", paths[venue][1]))[0] == 200
        server.engine.reset()
        if venue == "kraken":
            await next_where(websocket, lambda message: system_status(message) == "online")
    assert (await http(server, "GET", paths[venue][0]))[0] == 200


def system_status(message: dict[str, Any]) -> str:
    return str(message["data"][0]["system"]) if message["channel"] == "status" else ""


async def test_maintenance_ends_by_itself(server: VenueServer):
    server.inject(venue="kraken", fault="maintenance", for_s=0.3)
    await wait_until(lambda: server.state("kraken")["maintenance"])
    await wait_until(lambda: not server.state("kraken")["maintenance"])


async def test_rate_limit_answers_as_each_venue_does(server: VenueServer):
    server.inject(fault="rate_limit", for_s=5, delay_s=7)
    await wait_until(lambda: server.engine.board.busy)
    status, headers, body = await http(server, "GET", "/binance/api/v3/time")
    assert (status, headers["retry-after"], body["code"]) == (429, "7", -1003)
    status, headers, body = await http(server, "GET", "/kucoin/api/v1/status")
    assert (status, headers["gw-ratelimit-reset"], body["code"]) == (429, "7000", "429000")
    status, headers, body = await http(server, "GET", "/kraken/0/public/Time")
    assert (status, body["error"]) == (200, ["EGeneral:Too many requests"])
    await http(server, "POST", "/control/reset")
    assert (await http(server, "GET", "/binance/api/v3/time"))[0] == 200


async def test_ban_strikes_rest_and_leaves_streams_alone(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        server.inject(fault="ban", for_s=60)
        await wait_until(lambda: server.state("binance")["limits"]["banned_s"])
        status, headers, body = await http(server, "GET", "/binance/api/v3/time")
        assert (status, body["code"]) == (418, -1003)
        assert 55 <= int(headers["retry-after"]) <= 60
        assert (await http(server, "GET", "/kraken/0/public/Time"))[2]["error"] == ["EGeneral:Too many requests"]
        assert (await http(server, "POST", "/kucoin/api/v1/bullet-public"))[0] == 429
        await numbers(websocket, 3)
        await http(server, "POST", "/control/reset")
        assert (await http(server, "GET", "/binance/api/v3/time"))[0] == 200


async def test_rest_faults_strike_the_path_they_name(server: VenueServer):
    server.inject(venue="binance", fault="rest_error", path="exchangeInfo", status=502, count=1)
    server.inject(venue="binance", fault="rest_slow", path="klines", delay_s=0.4, count=1)
    server.inject(venue="binance", fault="rest_garbage", path="depth", count=1)
    server.inject(venue="binance", fault="rest_cut", path="aggTrades", count=1)
    await wait_until(lambda: len(server.engine.state()["faults"]["active"]) == 4)
    assert (await http(server, "GET", "/binance/api/v3/time"))[0] == 200
    assert (await http(server, "GET", "/binance/api/v3/exchangeInfo"))[0] == 502
    assert (await http(server, "GET", "/binance/api/v3/exchangeInfo"))[0] == 200
    began_s = trio.current_time()
    await http(server, "GET", "/binance/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1")
    assert trio.current_time() - began_s > 0.3
    assert isinstance((await http(server, "GET", "/binance/api/v3/depth?symbol=BTCUSDT"))[2], str)
    with pytest.raises((OSError, trio.BrokenResourceError)):
        await http(server, "GET", "/binance/api/v3/aggTrades?symbol=BTCUSDT")
    assert server.state("binance")["requests"]["/api/v3/exchangeInfo"]["by_status"] == {"502": 1, "200": 1}


async def test_limits_are_counted_and_can_be_made_smaller(server: VenueServer):
    assert (await http(server, "POST", "/control/tuning", {"venue": "binance", "weight_limit": 45}))[0] == 200
    statuses = [(await http(server, "GET", "/binance/api/v3/exchangeInfo"))[0] for _ in range(3)]
    assert statuses in ([200, 200, 429], [200, 200, 200])  # a new minute may have begun
    assert server.state("binance")["limits"]["weight_limit"] == 45


async def test_ping_interval_is_the_servers_to_give(server: VenueServer):
    tuning = {"venue": "kucoin", "ping_interval_ms": 300, "ping_timeout_ms": 200}
    await http(server, "POST", "/control/tuning", tuning)
    _, _, body = await http(server, "POST", "/kucoin/api/v1/bullet-public")
    assert body["data"]["instanceServers"][0]["pingInterval"] == 300
    async with connect(server, "kucoin") as websocket:
        assert await closed_with(websocket) == 1000


async def test_connections_expire(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        await http(server, "POST", "/control/tuning", {"venue": "binance", "connection_max_s": 0.3})
        assert await closed_with(websocket) == 1008


async def test_scripts_run_by_themselves(nursery: trio.Nursery, tmp_path: Path):
    path = tmp_path / "script.toml"
    path.write_text('[[fault]]\nat_s = 0.5\nfault = "close"\ncode = 4000\n')
    server: VenueServer = await nursery.start(serve, Settings(instruments=4, script=path))
    async with connect(server, "kraken") as websocket:
        assert await closed_with(websocket) == 4000


async def test_recordings_are_played_to_whoever_connects(nursery: trio.Nursery, shared_data: Path):
    folder = shared_data / "recordings"
    names = ("binance-spot.ws", "binance-spot.exchangeInfo.rest", "kucoin-spot.ws")
    recordings = tuple(folder / name for name in names)
    server: VenueServer = await nursery.start(serve, Settings(recordings=recordings, speed=50))
    async with connect(server, "binance", "/stream") as websocket:
        await websocket.send_message('{"method":"SUBSCRIBE","params":["nknusdt@trade"],"id":1}')
        messages = [await websocket.get_message() for _ in range(20)]
        recorded = (folder / names[0]).read_text()
        assert sum(message in recorded for message in messages) >= 19
        assert any(json.loads(message) == {"result": None, "id": 1} for message in messages)
        _, _, info = await http(server, "GET", "/binance/api/v3/exchangeInfo")
        assert len(info["symbols"]) > 1000
    async with connect(server, "kucoin") as websocket:
        assert json.loads(await websocket.get_message())["type"] == "welcome"
        assert (await next_where(websocket, lambda message: "subject" in message))["type"] == "message"
    async with connect(server, "kraken") as websocket:  # it has no recording, and so its simulated market
        assert (await subscribe_kraken(websocket, channel="trade", symbol=["BTC/USD"]))["success"]


async def test_tls_is_served_with_the_given_certificate(nursery: trio.Nursery, tmp_path: Path):
    issued = certificates.authority().issue_cert("localhost", "127.0.0.1")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    settings = Settings(instruments=4, rate=400, certificate=certificate, key=key)
    server: VenueServer = await nursery.start(serve, settings)
    context = ssl.create_default_context(cafile=certificates.ca_file(tmp_path))
    status, _, body = await http(server, "POST", "/kucoin/api/v1/bullet-public", context=context)
    assert status == 200
    assert body["data"]["instanceServers"][0]["endpoint"].startswith("wss://")
    with trio.fail_after(DEADLINE_S):
        async with open_websocket_url(server.ws_url("binance") + STREAMS, ssl_context=context) as websocket:
            await numbers(websocket, 3)
            server.inject(fault="cut")
            assert await closed_with(websocket) == 1006


async def test_a_taken_port_and_a_bad_certificate_are_told_in_a_sentence(server: VenueServer, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"{server.port} can't be listened at"):
        await serve(Settings(port=server.port))
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"bad\.pem"):
        await serve(Settings(certificate=tmp_path / "bad.pem"))


async def test_a_thousand_instruments_at_a_high_rate_arrive_whole(nursery: trio.Nursery):
    server: VenueServer = await nursery.start(serve, Settings(instruments=1000, rate=10_000))
    names = [f"{symbol.lower()}@trade" for symbol in symbols(server)]
    async with connect(server, "binance", "/stream") as websocket:
        await websocket.send_message(json.dumps({"method": "SUBSCRIBE", "params": names, "id": 1}))
        last: dict[str, int] = {}
        for _ in range(5000):
            data = json.loads(await websocket.get_message()).get("data")
            if data is not None:
                assert data["t"] == last.get(data["s"], data["t"] - 1) + 1
                last[data["s"]] = data["t"]
        assert len(last) == 1000


def symbols(server: VenueServer) -> list[str]:
    market = server.engine.venues["binance"].market
    return [instrument.base + instrument.quote for instrument in market.instruments]


async def test_garbage_is_answered_and_hurts_nobody(server: VenueServer):
    async with connect(server, "binance", STREAMS) as websocket:
        stream = await trio.open_tcp_stream(server.host, server.port)
        async with stream:
            await stream.send_all(b"\x00\x01\x02 nonsense\r\n\r\n")
            with trio.fail_after(DEADLINE_S):
                assert b"400" in await stream.receive_some(100)
        stream = await trio.open_tcp_stream(server.host, server.port)
        async with stream:
            await stream.send_all(b"GET /binance/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
            with trio.fail_after(DEADLINE_S):
                assert b"400" in await stream.receive_some(100)
        await numbers(websocket, 3)

"""What venues say when they are asked for their time, and what a feed makes of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import trio

from backends.binance.live import BinanceConfig, open_venues
from backends.kraken.live import KrakenSpot
from backends.kucoin.live import KucoinSpot
from backends.live import HttpRequest, LiveConfig, LiveVenue, ServerTime
from marketd.errors import WireError
from marketd.feed.budget import Priority
from marketd.feed.fetch import Answered, FetchFailed
from marketd.feed.venue_time import EVERY_S, FIRST_PAUSES_S, keep_asking
from marketd.observe.venue_clock import ServerTimes
from marketd.testvenue import listing
from marketd.testvenue.binance.venue import Binance
from marketd.testvenue.kraken.venue import Kraken
from marketd.testvenue.kucoin.venue import Kucoin
from marketd.testvenue.venue import Request
from tests.venue_sides import NOW_NS, market

SECOND_NS = 10**9
# The answers are those of the venues' documents.
CASES = {
    "spot": ({"serverTime": 1499827319559}, 1_499_827_319_559 * 10**6),
    "usdm": ({"serverTime": 1499827319559}, 1_499_827_319_559 * 10**6),
    "kraken": (
        {"error": [], "result": {"unixtime": 1688669448, "rfc1123": "Thu, 06 Jul 23 18:50:48 +0000"}},
        1_688_669_448 * SECOND_NS,
    ),
    "kucoin": ({"code": "200000", "data": 1546837113087}, 1_546_837_113_087 * 10**6),
}
BAD = [
    b"",
    b"[",
    b"null",
    b"{}",
    b"<html>",
    b'{"serverTime":-5}',
    b'{"serverTime":"soon"}',
    b'{"error":["EService:Busy"]}',
    b'{"error":[],"result":{"unixtime":0}}',
    b'{"code":"429000","msg":"too many"}',
    b'{"code":"200000"}',
    b"\xff\xfe",
]


def ours(name: str) -> LiveVenue:
    if name in ("spot", "usdm"):
        return open_venues(BinanceConfig(market=name))[0]  # type: ignore[arg-type]
    return {"kraken": KrakenSpot, "kucoin": KucoinSpot}[name](LiveConfig())


def theirs(name: str) -> Binance | Kraken | Kucoin:
    if name == "kraken":
        return Kraken(market(listing.KRAKEN))
    if name == "kucoin":
        return Kucoin(market(listing.KUCOIN))
    futures = name == "usdm"
    return Binance(market(listing.BINANCE_FUTURES if futures else listing.BINANCE), futures=futures)


@pytest.mark.parametrize("name", CASES)
def test_time_is_read_from_the_documented_answer_and_from_the_test_venues(name: str) -> None:
    venue, (body, expected_ns) = ours(name), CASES[name]
    assert venue.server_time is not None
    assert venue.server_time.parse(json.dumps(body).encode()) == expected_ns
    assert venue.server_time.request.bucket in venue.limits.buckets
    for skew_ns in (0, 60 * SECOND_NS):
        asked = venue.server_time.request
        answer = theirs(name).rest(Request(asked.path, dict(asked.params), asked.method, skew_ns=skew_ns), NOW_NS)
        assert answer.status == 200
        behind_ns = NOW_NS + skew_ns - venue.server_time.parse(answer.body)
        assert 0 <= behind_ns < venue.server_time.resolution_ns


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("body", BAD)
def test_answer_that_is_no_time_is_said_to_be_none(name: str, body: bytes) -> None:
    server_time = ours(name).server_time
    assert server_time is not None
    with pytest.raises(WireError):
        server_time.parse(body)


class Answers:
    """In place of a :class:`marketd.feed.fetch.Fetcher`: gives what it is told to, one after the other."""

    def __init__(self, *bodies: bytes | None) -> None:
        self.bodies = list(bodies)
        self.asked: list[tuple[float, Priority]] = []

    async def fetch_once(self, request: HttpRequest, priority: Priority, *, timeout_s: float) -> Answered:
        self.asked.append((trio.current_time(), priority))
        body = self.bodies.pop(0) if self.bodies else None
        if body is None:
            raise FetchFailed(f"{request.path}: away")
        return Answered(body, NOW_NS, NOW_NS + 2 * 10**7)


async def test_feed_asks_now_and_then_and_goes_on_when_the_venue_does_not_answer(autojump_clock: object) -> None:
    def parse(body: bytes) -> int:
        if not body:
            raise WireError("nothing")
        return NOW_NS - 5 * SECOND_NS

    answers, times = Answers(None, b"", b"x"), ServerTimes()
    began_s = trio.current_time()
    with trio.move_on_after(sum(FIRST_PAUSES_S) + 2.5 * EVERY_S):
        await keep_asking(ServerTime(HttpRequest("GET", "/time"), parse, 1), answers, times)  # type: ignore[arg-type]
    pauses = [round(at_s - began_s, 3) for at_s, _ in answers.asked]
    first = [sum(FIRST_PAUSES_S[: count + 1]) for count in range(len(FIRST_PAUSES_S))]
    assert pauses == [*first, first[-1] + EVERY_S, first[-1] + 2 * EVERY_S]
    assert {priority for _, priority in answers.asked} == {Priority.BACKFILL}, "after all else that is asked"
    found = times.offset(NOW_NS)
    assert found is not None
    assert found.middle_ns == pytest.approx(5 * SECOND_NS + 10**7, abs=2_000)
    assert found.uncertainty_ns == pytest.approx(10**7, abs=2_000)


async def test_time_in_the_queue_of_the_budget_is_not_taken_for_time_on_the_way(autojump_clock: object) -> None:
    """The request goes when the budget lets it go, and its clock begins then."""
    from marketd.feed.fetch import Fetcher
    from marketd.feed.gate import RateGate
    from tests.fake_venue import LIMITS, FakeServer, FakeVenue, TrioClock, reply

    clock = TrioClock()
    gate = RateGate({"rest": next(iter(LIMITS.buckets.values()))}, clock)
    await gate.rest("rest", 3.0)
    server = FakeServer()
    server.respond = lambda path: replace(reply(b"[]", 200 if path == "/time" else 503), received_ns=clock.now_ns())
    fetcher = Fetcher(FakeVenue(), server, gate, clock)  # type: ignore[arg-type]
    before_ns = clock.now_ns()
    answered = await fetcher.fetch_once(HttpRequest("GET", "/time"), Priority.BACKFILL, timeout_s=20)
    assert answered.sent_ns - before_ns >= 3 * SECOND_NS
    assert 0 < answered.received_ns - answered.sent_ns < SECOND_NS
    with pytest.raises(FetchFailed, match="/away: status 503"):
        await fetcher.fetch_once(HttpRequest("GET", "/away"), Priority.BACKFILL, timeout_s=20)

"""Waiting for the rate budget, and asking through it."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest
import trio
import trio.testing

from backends.live import Bucket, HttpRequest
from marketd.clock import SECOND_NS
from marketd.feed.budget import BudgetState, Priority
from marketd.feed.fetch import Fetcher, FetchFailed
from marketd.feed.gate import BudgetError, RateGate
from marketd.http import ONCE, HttpBadResponse, HttpError, HttpTlsError, Response
from tests.fake_venue import FakeServer, FakeVenue, TrioClock, reply

REQUEST = HttpRequest("GET", "/x", weight=10)


def gate(capacity: int = 100, window_s: float = 60.0, path=None) -> RateGate:
    return RateGate({"rest": Bucket(capacity, window_s)}, TrioClock(), path)


def fetcher(respond: Callable[[], Response | HttpError], **options) -> tuple[Fetcher, FakeServer]:
    server = FakeServer(respond=lambda path: respond())
    return Fetcher(FakeVenue(), server, gate(**options), TrioClock(), random.Random(1)), server


async def test_higher_priority_goes_first_whoever_came_first(autojump_clock):
    """Repair, then subscription, then backfill; within one, in order of arrival."""
    shared, order = gate(capacity=10, window_s=1.0), []

    async def ask(name: str, priority: Priority) -> None:
        grant = await shared.acquire("rest", 10, priority, timeout_s=100)
        order.append(name)
        shared.settle(grant)

    async with trio.open_nursery() as nursery:
        for name, priority in (
            ("first", Priority.BACKFILL),
            ("backfill 1", Priority.BACKFILL),
            ("backfill 2", Priority.BACKFILL),
            ("subscription", Priority.SUBSCRIPTION),
            ("repair", Priority.REPAIR),
        ):
            nursery.start_soon(ask, name, priority)
            await trio.sleep(0.01)
    assert order == ["first", "repair", "subscription", "backfill 1", "backfill 2"]


async def test_heavy_request_is_not_overtaken_for_ever_by_light_ones(autojump_clock):
    """Only the first in the queue looks at the budget."""
    shared, done = gate(capacity=10, window_s=1.0), trio.Event()

    async def light() -> None:
        while not done.is_set():
            shared.settle(await shared.acquire("rest", 1, Priority.REPAIR, timeout_s=100))
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(light)
        await trio.sleep(0.5)
        with trio.fail_after(3):
            shared.settle(await shared.acquire("rest", 10, Priority.REPAIR, timeout_s=100))
        done.set()


async def test_backfill_leaves_room_for_a_repair(autojump_clock):
    """However much of it waits."""
    shared = gate(capacity=100, window_s=60.0)

    async def backfill() -> None:
        shared.settle(await shared.acquire("rest", 5, Priority.BACKFILL, timeout_s=1e4))

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(backfill)
        await trio.sleep(1)
        with trio.fail_after(0.1):
            shared.settle(await shared.acquire("rest", 25, Priority.REPAIR, timeout_s=1))


async def test_backfill_gets_through_once_the_others_are_done(autojump_clock):
    """It waits for finite work only."""
    shared, got = gate(capacity=10, window_s=1.0), []

    async def repair() -> None:
        shared.settle(await shared.acquire("rest", 10, Priority.REPAIR, timeout_s=1e4))

    async def backfill() -> None:
        shared.settle(await shared.acquire("rest", 5, Priority.BACKFILL, timeout_s=1e4))
        got.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(repair)
        await trio.testing.wait_all_tasks_blocked()  # or trio, which starts tasks in any order, may let it go first
        nursery.start_soon(backfill)
    assert 19 <= got[0] <= 22


async def test_waiting_is_bounded(autojump_clock):
    """R83: a request whose time is up fails; one that can't make it fails at once."""
    shared = gate()
    await shared.rest("rest", 300)
    with pytest.raises(BudgetError) as failure:
        await shared.acquire("rest", 1, Priority.REPAIR, timeout_s=10)
    assert trio.current_time() < 0.5
    assert 299 < failure.value.retry_s <= 300
    shared.settle(await shared.acquire("rest", 1, Priority.REPAIR, timeout_s=301))
    assert trio.current_time() >= 300


async def test_request_without_an_end_keeps_others_waiting_only_to_their_deadline(autojump_clock):
    """Weight that is not settled has no date to wait for."""
    shared = gate(capacity=10)
    await shared.acquire("rest", 10, Priority.REPAIR, timeout_s=1)
    with pytest.raises(BudgetError):
        await shared.acquire("rest", 1, Priority.REPAIR, timeout_s=5)
    assert 4.9 < trio.current_time() < 5.1


async def test_number_of_those_who_wait_is_bounded(autojump_clock, monkeypatch):
    """The queue has a size."""
    monkeypatch.setattr("marketd.feed.gate.WAITERS_MAX", 2)
    shared = gate()
    await shared.rest("rest", 300)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(lambda: shared.acquire("rest", 1, Priority.REPAIR, timeout_s=1e3))
        await trio.sleep(1)
        with pytest.raises(BudgetError, match="wait"):
            await shared.acquire("rest", 1, Priority.REPAIR, timeout_s=1e3)
        nursery.cancel_scope.cancel()


async def test_cancelled_waiter_does_not_block_the_next(autojump_clock):
    """It leaves the queue."""
    shared = gate(capacity=10, window_s=1.0)
    shared.settle(await shared.acquire("rest", 10, Priority.REPAIR, timeout_s=1))
    with trio.move_on_after(0.5):
        await shared.acquire("rest", 10, Priority.REPAIR, timeout_s=100)
    with trio.fail_after(2):
        shared.settle(await shared.acquire("rest", 1, Priority.BACKFILL, timeout_s=100))


async def test_request_heavier_than_the_bucket_is_our_mistake(autojump_clock):
    """It would wait for ever."""
    with pytest.raises(ValueError, match="never fits"):
        await gate(capacity=10).acquire("rest", 11, Priority.REPAIR, timeout_s=1)
    with pytest.raises(KeyError):
        await gate().acquire("nonesuch", 1, Priority.REPAIR, timeout_s=1)


async def test_ban_and_use_survive_a_restart(autojump_clock, tmp_path):
    """R83: a successor knows what was used, and until when to keep away."""
    path = tmp_path / "state" / "budget.json"
    first = gate(path=path)
    first.settle(await first.acquire("rest", 60, Priority.REPAIR, timeout_s=1))
    await first.rest("rest", 600)
    successor = gate(path=path)
    now_ns = TrioClock().now_ns()
    assert successor.budget.used("rest", now_ns) == 60
    assert successor.budget.resting(now_ns)["rest"] == pytest.approx(now_ns + 600 * SECOND_NS, abs=5 * SECOND_NS)
    assert not [entry for entry in path.parent.iterdir() if entry != path]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"version":99,"buckets":{}}', b'{"version":1}', b"\xff"])
async def test_state_that_can_not_be_read_is_as_good_as_none(autojump_clock, tmp_path, content):
    """It is no reason not to start."""
    path = tmp_path / "budget.json"
    path.write_bytes(content)
    assert gate(path=path).budget.used("rest", TrioClock().now_ns()) == 0


async def test_state_is_saved_while_the_budget_is_used(autojump_clock, tmp_path):
    """A feed that is killed has said most of what it used."""
    path = tmp_path / "budget.json"
    shared = gate(path=path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shared.keep_saved)
        shared.settle(await shared.acquire("rest", 7, Priority.REPAIR, timeout_s=1))
        with trio.fail_after(1000):
            while not path.exists():
                await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    state = msgspec.json.decode(path.read_bytes(), type=BudgetState)
    assert sum(entry.weight for entry in state.buckets["rest"].slices) == 7


async def test_folder_that_can_not_be_written_is_no_reason_to_stop(autojump_clock, tmp_path):
    """The ban holds in memory."""
    (tmp_path / "file").write_text("")
    shared = gate(path=tmp_path / "file" / "budget.json")
    await shared.rest("rest", 60)
    assert shared.budget.resting(TrioClock().now_ns())


# --- asking ------------------------------------------------------------------------------------------------


async def test_server_error_is_retried_and_then_given_up(autojump_clock):
    """R81: a few attempts, with backoff, each paid for; then a clear error within the deadline."""
    asker, server = fetcher(lambda: reply(b"", 503))
    with pytest.raises(FetchFailed, match="503"):
        await asker.fetch(REQUEST, Priority.REPAIR, timeout_s=60)
    assert len(server.requests) == 4
    assert asker.gate.budget.used("rest", TrioClock().now_ns()) == 40


@pytest.mark.parametrize(
    ("outcome", "retry_s"),
    [
        (reply(b"", 503), 0.0),
        (reply(b"", 503, Retry_After="20"), 20.0),
        (reply(b"", 429, Retry_After="30"), 30.0),
        (HttpBadResponse("cut"), 0.0),
    ],
)
async def test_request_of_who_has_a_policy_of_his_own_is_made_once(autojump_clock, outcome, retry_s):
    """Whatever comes of it; and he is told for how long the venue wants to be left alone."""
    asker, server = fetcher(lambda: outcome)
    with pytest.raises(FetchFailed) as failure:
        await asker.fetch_all([REQUEST, REQUEST], Priority.REPAIR, timeout_s=60, policy=ONCE)
    assert len(server.requests) == 1
    assert failure.value.retry_s == retry_s


async def test_answer_that_is_no_http_is_retried(autojump_clock):
    """And the body of the good one is returned."""
    outcomes = [HttpBadResponse("cut"), reply(b"fine")]
    asker, _ = fetcher(lambda: outcomes.pop(0))
    assert await asker.fetch(REQUEST, Priority.REPAIR, timeout_s=60) == b"fine"


async def test_bad_certificate_is_not_retried(autojump_clock):
    """It would be the same again."""
    asker, server = fetcher(lambda: HttpTlsError("expired"))
    with pytest.raises(FetchFailed, match="expired"):
        await asker.fetch(REQUEST, Priority.REPAIR, timeout_s=60)
    assert len(server.requests) == 1


async def test_throttled_request_waits_as_long_as_it_is_told_and_so_do_all_others(autojump_clock):
    """A 429 is a state of the bucket, not of the request."""
    outcomes = [reply(b"", 429, Retry_After="30"), reply(b"one"), reply(b"two")]
    asker, server = fetcher(lambda: outcomes.pop(0))
    got = []

    async def ask() -> None:
        got.append(await asker.fetch(REQUEST, Priority.REPAIR, timeout_s=100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(1)
        nursery.start_soon(ask)
    assert sorted(got) == [b"one", b"two"]
    assert all(at >= 30 for at, _ in server.requests[1:])


async def test_ban_longer_than_the_deadline_fails_at_once(autojump_clock):
    """R83: with the time after which it is worth another try."""
    asker, _ = fetcher(lambda: reply(b"", 418, Retry_After="3600"))
    with pytest.raises(FetchFailed) as failure:
        await asker.fetch(REQUEST, Priority.REPAIR, timeout_s=60)
    assert trio.current_time() < 5
    assert 3500 < failure.value.retry_s <= 3600


async def test_venue_that_throttles_for_ever_is_given_up(autojump_clock):
    """Three times for one request."""
    asker, server = fetcher(lambda: reply(b"", 429, Retry_After="1"))
    with pytest.raises(FetchFailed, match="throttled"):
        await asker.fetch(REQUEST, Priority.REPAIR, timeout_s=600)
    assert len(server.requests) == 3


async def test_budget_learns_from_the_venue_what_others_use(autojump_clock):
    """Another program at our address counts as well."""
    asker, _ = fetcher(lambda: reply(b"", X_Used="90"))
    await asker.fetch(REQUEST, Priority.REPAIR, timeout_s=60)
    assert asker.gate.budget.used("rest", TrioClock().now_ns()) == 90
    begun_s = trio.current_time()
    await asker.fetch(HttpRequest("GET", "/x", weight=20), Priority.REPAIR, timeout_s=100)
    assert trio.current_time() - begun_s > 59


async def test_two_hundred_instruments_with_backfill_are_never_told_off(autojump_clock):
    """Everything at once, against a venue that counts in windows of its own."""
    window = {"begin": 0.0, "used": 0}

    def respond() -> Response:
        begin = trio.current_time() // 60
        if begin != window["begin"]:
            window.update(begin=begin, used=0)
        window["used"] += 10
        return reply(b"x") if window["used"] <= 100 else reply(b"", 429, Retry_After="60")

    asker, server = fetcher(respond)
    async with trio.open_nursery() as nursery:
        for number in range(200):
            priority = Priority.SUBSCRIPTION if number % 10 == 0 else Priority.BACKFILL
            nursery.start_soon(lambda priority=priority: asker.fetch(REQUEST, priority, timeout_s=1e5))
    assert len(server.requests) == 200
    assert asker.gate.budget.resting(TrioClock().now_ns()) == {}

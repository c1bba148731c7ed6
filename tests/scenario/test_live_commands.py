"""Live feeds as their user meets them: the commands, and a venue's limits."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import msgspec
import pytest
import trio

from backends.backend import NAMES, load
from backends.live import Page
from marketd.client import connect
from marketd.clock import SECOND_NS, SystemClock
from marketd.feed.budget import Priority
from marketd.feed.venue import VenueSource
from tests.conftest import PROJECT
from tests.fakes import ListSink
from tests.scenario.daemon import running, wait_for
from tests.scenario.listener import Listener, listening
from tests.scenario.venue import venue_running

VENUES = ("binance", "kraken", "kucoin")
MANY = 200
BAN_S = 60
TRADES_PER_S = 15  # of each of three instruments, at 90 messages a second
TOLD_OFF = (418, 429)
TIMES = ("/api/v3/time", "/fapi/v1/time", "/0/public/Time", "/api/v1/timestamp")  # are asked now and then


def marketd(*arguments: str) -> str:
    """Run a command and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "marketd", *arguments], capture_output=True, text=True, timeout=60, cwd=PROJECT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def venues():
    with venue_running(instruments=MANY) as found:
        yield found


@pytest.fixture(scope="module")
def daemon(venues, tmp_path_factory):
    feeds = "".join(venues.feed(venue, instruments=["*"]) for venue in VENUES)
    with running(tmp_path_factory.mktemp("live"), feeds) as found:
        yield found


def test_search_finds_what_each_venue_lists_and_asks_none_of_them(daemon, venues):
    def asked() -> dict[str, list[str]]:
        paths = {venue: [request["path"] for request in venues.venue(venue)["recent_requests"]] for venue in VENUES}
        return {venue: [path for path in found if path not in TIMES] for venue, found in paths.items()}

    before = asked()
    hits = [json.loads(line) for line in marketd("search", "btc", "--json", "--address", daemon.address).splitlines()]
    assert {hit["feed"] for hit in hits} == set(VENUES)
    assert "btc/usdt.spot.binance" in {hit["fqme"] for hit in hits}
    assert asked() == before


def test_instrument_shows_the_venues_own_metadata(daemon):
    found = json.loads(marketd("instrument", "BTC/USDT.spot.binance", "--json", "--address", daemon.address))
    assert found["fqme"] == "btc/usdt.spot.binance"
    assert found["market"]["bs_mktid"] == "BTCUSDT"
    assert found["market"]["price_tick"] == "0.01"
    assert "BTCUSDT" in marketd("instrument", "btc/usdt.spot.binance", "--address", daemon.address)


def test_check_finds_nothing_wrong_with_any_backend():
    assert json.loads(marketd("backends", "--check", "--json")) == {name: [] for name in NAMES}


def test_two_hundred_instruments_of_each_venue_are_subscribed_to_without_a_reproach(daemon, venues):
    def live() -> bool:
        with connect(daemon.address) as md:
            return all(feed.instruments == MANY and not feed.detail for feed in md.status().feeds)

    wait_for(live, 30, "all instruments to be live")
    for venue in VENUES:
        state = venues.venue(venue)
        assert sum(one["subscriptions"] for one in state["connections"]) == 2 * MANY
        assert state["closed_connections"] == []
        assert [one["outcome"] for one in state["attempts"]] == ["opened"] * len(state["connections"])
        assert not [one for one in state["recent_requests"] if one["status"] != 200]


async def test_history_of_two_hundred_instruments_at_once_never_makes_the_venue_say_too_many(venues, tmp_path):
    """Three pages of each weigh more than what KuCoin allows in one window; live feeds share the same budget."""
    pages_each, minutes = 3, 100
    backend = load("kucoin")
    config = msgspec.convert(venues.urls["kucoin"] | {"instruments": ["*"]}, backend.config)
    source = VenueSource(backend.open_venues(config), config, SystemClock(), state_path=tmp_path, cache_path=tmp_path)
    end_ns = time.time_ns() // (60 * SECOND_NS) * 60 * SECOND_NS
    before = len(venues.venue("kucoin")["recent_requests"])
    pages = []

    async def load_pages(name: str) -> None:
        for number in range(pages_each):
            until_ns = end_ns - number * minutes * 60 * SECOND_NS
            since_ns = until_ns - minutes * 60 * SECOND_NS
            page = await source.page(name, 60, since_ns, until_ns, priority=Priority.BACKFILL, timeout_s=90)
            pages.append(page)

    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.run, ListSink())
            await source.prepared.wait()
            async with trio.open_nursery() as loading:
                for market in source.search_space():
                    loading.start_soon(load_pages, market.fqme)
            nursery.cancel_scope.cancel()
    assert len(pages) == pages_each * MANY
    assert all(isinstance(page, Page) for page in pages)
    answered = [one["status"] for one in venues.venue("kucoin")["recent_requests"][before:]]
    assert len(answered) >= len(pages)
    assert set(answered) == {200}


def test_ban_does_not_touch_live_streams_and_outlives_the_daemon(tmp_path):
    """The venue is left alone for as long as it said, by a daemon that has never heard it say so, too."""
    with venue_running(instruments=3, rate=90) as venues:
        feed = venues.feed("binance", instruments=["*"], refresh_s=2.0)
        with running(tmp_path, feed) as daemon:
            with listening(daemon.address, 3) as listener:
                venues.inject([{"venue": "binance", "fault": "ban", "for_s": BAN_S}])
                wait_for(lambda: told_off(venues), 10, "a request to meet the ban")
                listen_on(listener, 6.0)  # three times the list would be asked for
                assert len(told_off(venues)) == 1
                assert requests_since(venues, told_off(venues)[0]) == 0
                assert listener.gaps == []
            daemon.stop()
        with (
            running(tmp_path, feed, instance=daemon.instance) as successor,
            listening(successor.address, 3) as listener,
            connect(successor.address) as md,
        ):
            assert "rest throttled" in md.status().feeds[0].detail
            assert list(md.search("btc")), "the list is known from before"
            listen_on(listener, 4.0)
            assert requests_since(venues, told_off(venues)[0]) == 0
            assert listener.trouble == []


def listen_on(listener: Listener, duration_s: float) -> None:
    """Return when so much of the market's time has gone by, as its trades tell."""
    name = min(listener.trades)
    trades = round(duration_s * TRADES_PER_S)
    until = listener.trades[name][-1] + trades
    wait_for(lambda: listener.trades[name][-1] >= until, 4 * duration_s, f"{trades} trades of {name}")


def told_off(venues) -> list[int]:
    """When the venue had to say no."""
    recent = venues.venue("binance")["recent_requests"]
    return [one["time_ns"] for one in recent if one["status"] in TOLD_OFF]


def requests_since(venues, since_ns: int) -> int:
    return sum(one["time_ns"] > since_ns for one in venues.venue("binance")["recent_requests"])

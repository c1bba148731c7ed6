"""Clients can have what the configuration does not declare: it comes with them and goes with the last of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from marketd.client import RequestError, connect
from tests.scenario.daemon import Daemon, running, wait_for
from tests.scenario.venue import VenueProcess, venue_running

LINGER_S = 0.3


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, VenueProcess]]:
    with venue_running(instruments=6, rate=120) as venue:
        feed = venue.feed("binance", instruments=["btc/usdt.spot.binance"], linger_s=LINGER_S)
        with running(tmp_path_factory.mktemp("demand"), f"[ring]\nrows = 65536\n{feed}") as daemon:
            yield daemon, venue


def offered(daemon: Daemon) -> list[str]:
    with connect(daemon.address) as md:
        return sorted(hit.fqme for hit in md.search("*.binance"))


def carried(venue: VenueProcess) -> int:
    """How many streams the venue is asked for right now; an instrument takes two."""
    return sum(connection["subscriptions"] for connection in venue.venue("binance")["connections"])


def test_search_and_instrument_know_what_is_not_subscribed(both: tuple[Daemon, VenueProcess]) -> None:
    daemon, _ = both
    names = offered(daemon)
    assert len(names) == 6
    other = next(name for name in names if not name.startswith("btc/usdt"))
    with connect(daemon.address) as md:
        found = md.instrument(other)
        assert (found.fqme, found.id, found.quality) == (other, 0, "unknown")
        assert md.instrument("BTC/USDT.spot.binance").id > 0
        with pytest.raises(RequestError, match=r"no feed has|no/such"):
            md.instrument("no/such.spot.binance")


def test_two_clients_share_one_subscription_at_the_venue_and_the_last_one_ends_it(
    both: tuple[Daemon, VenueProcess],
) -> None:
    """B12: an instrument is taken from the venue once, whoever shares it, and is let go with the last of them."""
    daemon, venue = both
    wanted = next(name for name in offered(daemon) if not name.startswith("btc/usdt"))
    declared = carried(venue)
    assert declared == 2
    with connect(daemon.address) as first, connect(daemon.address) as second, first.subscribe([wanted]) as one:
        for frame in one:
            if frame.kind == "trade":
                assert frame.fqme(frame.rows["instrument"][0]) == wanted
                break
        assert carried(venue) == declared + 2
        with second.subscribe([wanted]) as two:
            assert next(frame for frame in two if frame.kind == "trade")
            assert carried(venue) == declared + 2
    # Both have left by now, but only after the grace time is the venue told so; what is declared stays.
    wait_for(lambda: carried(venue) == declared, LINGER_S + 10, "the venue to be told")


def test_a_successor_of_the_feed_carries_what_clients_want_too(both: tuple[Daemon, VenueProcess]) -> None:
    daemon, _ = both
    wanted = next(name for name in offered(daemon) if not name.startswith("btc/usdt"))
    with connect(daemon.address) as md, md.subscribe([wanted]) as stream:
        frames = iter(stream)
        next(frame for frame in frames if frame.kind == "trade")
        os.kill(daemon.pids()["feed.binance"], signal.SIGKILL)
        gap_seen = False
        deadline_s = time.monotonic() + 20
        for frame in frames:
            assert time.monotonic() < deadline_s
            gap_seen = gap_seen or frame.kind == "gap"
            if gap_seen and frame.kind == "trade":
                break


def test_a_glob_selects_from_what_is_carried_and_asks_the_venue_for_nothing(both: tuple[Daemon, VenueProcess]) -> None:
    daemon, venue = both
    wait_for(lambda: carried(venue) == 2, LINGER_S + 10, "others to be dropped")
    with connect(daemon.address) as md, md.subscribe(["*.binance"]) as stream:
        next(frame for frame in stream if frame.kind == "trade")
        assert carried(venue) == 2

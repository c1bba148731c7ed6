"""Every fault that a venue can have, at three venues at once, against one real daemon.

What a lossless client got is held against the venues' own numbers each time: a trade either came, or a gap row of its
instrument is there for its time. Faults follow each other in one daemon's life, as they do in real ones.

Not here: wrong checksums, which only books have (`test_books.py`).
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

import pytest

from marketd.client import connect
from marketd.clock import MILLISECOND_NS, SECOND_NS
from marketd.feed.habits import WORDS_MIN
from marketd.feed.reconnect import ReconnectPolicy
from marketd.model import GapReason
from tests.scenario.daemon import Daemon, running, wait_for
from tests.scenario.listener import GapRow, Listener, listening
from tests.scenario.venue import VenueProcess, venue_running

VENUES = ("binance", "kraken", "kucoin")
CONTIGUOUS = ("binance", "kraken")  # whose trade numbers have no holes; KuCoin's don't tell that one is missing
BYSTANDER = "bystander"  # a feed at an address that no fault is meant for
INSTRUMENTS = 3
STRUCK = {"binance": "BTC/USDT", "kraken": "BTC/USD", "kucoin": "BTC/USDT"}  # where only one is struck
KEYS = {
    "instruments": ["*"],
    "msg_recv_timeout_s": 0.5,
    "reset_after": 2,
    "connect_timeout_s": 1.0,
    "refresh_s": 4.0,  # so that there always are REST requests
}
DEADLINE_S = 25.0
HEALTHY_S = ReconnectPolicy().healthy_s + 0.5  # then the next attempt counts as the first
SLACK_S = 1.5  # of a busy machine
TOKEN_PATH = "/bullet-public"
ATTEMPTS_MAX = 10  # in the few seconds of an outage: with the policy's growing delays one in 10,000 makes more

DISCONNECT, SEQUENCE, STALE = GapReason.DISCONNECT, GapReason.SEQUENCE, GapReason.STALE
MAINTENANCE, MALFORMED = GapReason.MAINTENANCE, GapReason.MALFORMED


@dataclass(frozen=True)
class Case:
    """A fault, and what must come of it.

    Attributes:
        faults: what each of the three venues is told, or the one that is named.
        gaps: the reasons of the gap rows at each venue, for each struck instrument; no rows where it is not named.
        one: whether a single instrument is struck.
        repeats: how many rows there may be for the same instrument and reason.
        attempts: how many connections may be asked for at each venue; where it is not named, none.
        fresh: whether the connections must have lived for long enough before, so that the first retry is at once.
        age_s: for how long they must have lived, where it is for something else.
        prompt: whether the venue sees each attempt as it is made, so that their times can be held against the policy.
        tokens: whether KuCoin sees each request for a token as it is made: as many as there are attempts.
        unseen: the venues that lose trades in a way that their numbers don't show.
    """

    faults: list[dict[str, object]]
    gaps: dict[str, tuple[GapReason, ...]] = field(default_factory=dict)
    one: bool = False
    repeats: int = 1
    attempts: dict[str, int] = field(default_factory=dict)
    fresh: bool = False
    age_s: float = 0.0
    prompt: bool = False
    tokens: bool = False
    unseen: tuple[str, ...] = ()


def at(venues: tuple[str, ...], *reasons: GapReason) -> dict[str, tuple[GapReason, ...]]:
    return dict.fromkeys(venues, reasons)


def one_trade(fault: str, gaps: dict[str, tuple[GapReason, ...]], repeats: int = 1, **keys: object) -> Case:
    """Strike one instrument's trades."""
    told = {"fault": fault, "stream": "trade", "instrument": STRUCK} | keys
    unseen = () if "kucoin" in gaps or fault == "duplicate" else ("kucoin",)
    return Case([told], gaps, one=True, repeats=repeats, unseen=unseen)


ONCE = dict.fromkeys(VENUES, 1)
MANY = dict.fromkeys(VENUES, ATTEMPTS_MAX)
BAD_TRADE = {**at(CONTIGUOUS, MALFORMED, SEQUENCE), "kucoin": (MALFORMED,)}
CUT: dict[str, object] = {"fault": "cut"}

CASES = {
    # Nothing of these ends a connection.
    "duplicate": one_trade("duplicate", {}, count=5),
    "drop": one_trade("drop", at(CONTIGUOUS, SEQUENCE), count=3),
    "reorder": one_trade("reorder", at(VENUES, SEQUENCE), repeats=2, depth=3),
    "truncated message": one_trade("malformed_message", BAD_TRADE, variant="truncated"),
    "message without its price": one_trade("malformed_message", BAD_TRADE, variant="missing"),
    "message of wrong types": one_trade("malformed_message", BAD_TRADE, variant="types"),
    "message of an unknown kind": one_trade("malformed_message", at(CONTIGUOUS, SEQUENCE), variant="unknown"),
    "message of a megabyte": one_trade("malformed_message", {}, variant="huge", extra=True),
    "clock ahead": Case([{"fault": "clock_skew", "skew_s": 60, "for_s": 1}]),
    "clock behind": Case([{"fault": "clock_skew", "skew_s": -60, "for_s": 1}]),
    "short stall": Case([{"fault": "stall", "for_s": 2}], at(CONTIGUOUS, SEQUENCE), unseen=("kucoin",)),
    # A subscription ends on the venue's side, and nobody is told. By then its habit must be known.
    "lost subscription": Case(
        [{"fault": "lose_subscription", "stream": "trade", "instrument": STRUCK}],
        at(VENUES, STALE),
        one=True,
        age_s=WORDS_MIN * 1.5,
    ),
    # These do.
    "cut": Case([CUT], at(VENUES, DISCONNECT), attempts=ONCE, fresh=True, prompt=True),
    "malformed frame": Case([{"fault": "malformed_frame"}], at(VENUES, DISCONNECT), attempts=ONCE),
    "announced cut": Case(
        [{"fault": "announced_cut", "delay_s": 4}], at(("kraken", "kucoin"), DISCONNECT), attempts=ONCE
    ),
    # Pongs come all the while, so only a venue that has heartbeats is known to be silent.
    "long stall": Case([{"fault": "stall", "hold": True, "for_s": 6}], {"kraken": (STALE,)}, attempts={"kraken": 2}),
    "REST answers 500": Case([{"fault": "rest_error", "for_s": 5}]),
    "refused connections": Case(
        [{"fault": "refuse", "for_s": 3, "count": 0}, CUT],
        at(VENUES, DISCONNECT),
        attempts=MANY,
        fresh=True,
        prompt=True,
        tokens=True,
    ),
    "too many requests": Case([{"fault": "rate_limit", "delay_s": 1, "for_s": 5}]),
    "garbage from REST": Case([{"fault": "rest_garbage", "for_s": 5}]),
    "REST is cut": Case([{"fault": "rest_cut", "for_s": 4}]),
    "maintenance": Case(
        [{"fault": "maintenance", "for_s": 3}],
        {"kraken": (MAINTENANCE,), **at(("binance", "kucoin"), DISCONNECT)},
        attempts={"binance": ATTEMPTS_MAX, "kucoin": ATTEMPTS_MAX},
        fresh=True,
        tokens=True,
    ),
    "black hole": Case([{"fault": "blackhole", "for_s": 3}], at(VENUES, STALE), attempts=MANY, fresh=True),
    "no acks": Case([{"fault": "no_acks", "for_s": 6}, CUT], at(VENUES, DISCONNECT), attempts=ONCE),
    "late welcome": Case(
        [{"fault": "late_welcome", "delay_s": 2, "for_s": 2}, CUT], at(VENUES, DISCONNECT), attempts=ONCE
    ),
    "slow acks": Case([{"fault": "slow_acks", "delay_s": 1, "for_s": 2}, CUT], at(VENUES, DISCONNECT), attempts=ONCE),
    "cut at one venue": Case([CUT | {"venue": "kraken"}], {"kraken": (DISCONNECT,)}, attempts={"kraken": 1}),
}


class Story:
    """One daemon's life."""

    def __init__(self, daemon: Daemon, venues: VenueProcess, listener: Listener) -> None:
        self.daemon = daemon
        self.listener = listener
        self.instruments: dict[str, list[str]] = {feed: [] for feed in (*VENUES, BYSTANDER)}
        self._venues = venues
        self._time_ns = cache(venues.trade_time_ns)
        for name in sorted(listener.trades):
            feed = BYSTANDER if ".perp." in name else name.rpartition(".")[2]
            self.instruments[feed].append(name)

    # --- letting things happen ------------------------------------------------------------------------------

    def inject(self, faults: list[dict[str, object]]) -> None:
        told = [{"venue": venue} | fault for fault in faults for venue in VENUES if fault.get("venue", venue) == venue]
        for fault in told:
            if "instrument" in fault:
                fault["instrument"] = STRUCK[str(fault["venue"])]
        self._venues.inject(told)

    def grow_old(self, age_s: float) -> None:
        """Wait until each connection has lived for so long."""

        def old() -> bool:
            state = self._venues.state()
            connections = [state["venues"][venue]["connections"] for venue in VENUES]
            ages_ns = [state["now_ns"] - max(one["opened_ns"] for one in ours) for ours in connections if ours]
            return len(ages_ns) == len(VENUES) and min(ages_ns) > age_s * SECOND_NS

        wait_for(old, 3 * DEADLINE_S, "connections that have lived for some time")

    def wait_over(self) -> None:
        """Wait until no fault is on."""

        def over() -> bool:
            faults = self._venues.state()["faults"]
            return not faults["active"] and not faults["pending"]

        wait_for(over, DEADLINE_S, "the faults to be over")

    def wait_whole(self) -> None:
        """Wait until every instrument is well, and all trades that the venues have sent by now, and one more."""

        def well() -> bool:
            with connect(self.daemon.address) as md:
                names = itertools.chain.from_iterable(self.instruments.values())
                return all(md.instrument(name).quality == "ok" for name in names)

        wait_for(well, DEADLINE_S, "all instruments to be well")
        for feed, names in self.instruments.items():
            sent = self._venues.trades_sent(venue_of(feed))
            for name in names:
                last, trades = sent[symbol_of(name)][1], self.listener.trades[name]
                wait_for(
                    lambda trades=trades, last=last: trades[-1] > last, DEADLINE_S, f"a trade after {last} of {name}"
                )

    # --- what became of it ----------------------------------------------------------------------------------

    def attempts_ns(self, venue: str) -> list[int]:
        """When connections were asked for, all of them."""
        return [attempt["time_ns"] for attempt in self._venues.venue(venue)["attempts"]]

    def tokens_ns(self) -> list[int]:
        """When KuCoin was asked for a token, all of them."""
        requests = self._venues.venue("kucoin")["recent_requests"]
        return [request["time_ns"] for request in requests if request["path"].endswith(TOKEN_PATH)]

    def losses(self, venue: str) -> int:
        """How many connections, and attempts to have one, have ended: each is followed by one attempt."""
        lines = (json.loads(line) for line in self.daemon.log.splitlines() if '"feed.disconnected"' in line)
        return sum(line["venue"] == venue for line in lines)

    def check_accounts(self, feed: str, since: dict[str, int]) -> None:
        """Hold what came against what there was: each trade once, in order, or in a gap.

        Args:
            since: at which place of each instrument's trades to begin.
        """
        for name in self.instruments[feed]:
            trades = self.listener.trades[name][since[name] :]
            assert all(earlier < later for earlier, later in itertools.pairwise(trades)), f"{name}: order, doubles"
            spans = [(gap.from_ns, gap.to_ns) for gap in self.listener.gaps if gap.fqme == name]
            for number in sorted(set(range(trades[0], trades[-1])).difference(trades)):
                time_ns = self._time_ns(venue_of(feed), symbol_of(name), number)
                assert within(time_ns, spans), f"{name}: trade {number} is missing, and no gap tells of it: {spans}"

    def check_nothing_crashed(self) -> None:
        with connect(self.daemon.address) as md:
            status = md.status()
        assert {actor.name: actor.restarts for actor in status.actors if actor.restarts} == {}
        assert status.ready
        assert self.listener.trouble == []
        assert "Traceback" not in self.daemon.log


def venue_of(feed: str) -> str:
    return "binance-futures" if feed == BYSTANDER else feed


def symbol_of(fqme: str) -> str:
    """``xbt/usd.spot.kraken`` is BTC/USD at the test venue."""
    return fqme.partition(".")[0].upper().replace("XBT", "BTC")


def within(time_ns: int, spans: list[tuple[int, int]]) -> bool:
    """Whether a time is in one of the spans; venues say their times in milliseconds."""
    time_ms = time_ns // MILLISECOND_NS
    return any(from_ns // MILLISECOND_NS <= time_ms <= to_ns // MILLISECOND_NS for from_ns, to_ns in spans)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    with venue_running(instruments=INSTRUMENTS, rate=90) as venues:
        feeds = [venues.feed(venue, **KEYS) for venue in VENUES]
        feeds.append(venues.feed(BYSTANDER, "binance-futures", backend="binance", market="usdm", **KEYS))
        with (
            running(tmp_path_factory.mktemp("faults"), "".join(feeds)) as daemon,
            listening(daemon.address, INSTRUMENTS * len(feeds)) as listener,
        ):
            yield Story(daemon, venues, listener)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_fault_costs_the_struck_instruments_a_gap_and_nobody_anything_else(story: Story, case: Case) -> None:
    """R46, R48, R49: resets, silence and refusals lead to a reconnect; each subscribes again, however late the acks."""
    story.grow_old(HEALTHY_S if case.fresh else case.age_s)
    story.wait_whole()
    already, since_ns = len(story.listener.gaps), time.time_ns()
    trades = {name: len(found) - 1 for name, found in story.listener.trades.items()}
    attempts = {venue: len(story.attempts_ns(venue)) for venue in VENUES}
    tokens, losses = len(story.tokens_ns()), story.losses("kucoin")

    story.inject(case.faults)
    story.wait_over()
    wait_for(lambda: expected_gaps(story, case) <= Counter(keys_of(story, already)), DEADLINE_S, f"gaps: {case.gaps}")
    story.wait_whole()

    gaps = story.listener.gaps[already:]
    assert set(keys_of(story, already)) == set(expected_gaps(story, case)), gaps
    assert max(Counter(keys_of(story, already)).values(), default=0) <= case.repeats, gaps
    for gap in gaps:
        check_times(gap, since_ns)
    for venue in VENUES:
        attempts_ns = story.attempts_ns(venue)[attempts[venue] :]
        assert len(attempts_ns) <= case.attempts.get(venue, 0), f"{venue}: {attempts_ns}"
        if case.prompt:
            check_policy(attempts_ns, since_ns)
        if venue not in case.unseen:
            story.check_accounts(venue, trades)
    if case.tokens:
        tokens_ns = story.tokens_ns()[tokens:]
        assert len(tokens_ns) == story.losses("kucoin") - losses
        check_policy(tokens_ns, since_ns)
    story.check_accounts(BYSTANDER, trades)
    story.check_nothing_crashed()


def test_feeds_that_start_while_rest_fails_are_whole_soon_after(tmp_path):
    """R81: a server error on the endpoints that tell of instruments delays the instruments, not the daemon."""
    with venue_running(instruments=INSTRUMENTS, rate=90) as venues:
        venues.inject([{"fault": "rest_error", "status": 502}])
        with running(tmp_path, "".join(venues.feed(venue, **KEYS) for venue in VENUES), wait=False) as daemon:
            daemon.wait_status(lambda status: all("not known yet" in feed.detail for feed in status.feeds))
            unreached = [f"feed {venue} has not reached its venue yet" for venue in VENUES]
            daemon.wait_status(lambda status: [problem.partition(":")[0] for problem in status.problems] == unreached)
            venues.reset()
            daemon.wait_ready()
            with listening(daemon.address, INSTRUMENTS * len(VENUES)) as listener:
                story = Story(daemon, venues, listener)
                story.wait_whole()
                story.check_nothing_crashed()
                assert listener.gaps == []


def expected_gaps(story: Story, case: Case) -> Counter[tuple[str, GapReason]]:
    """Which gap rows there must be, at least once."""
    return Counter(
        (name, reason)
        for venue, reasons in case.gaps.items()
        for name in story.instruments[venue]
        for reason in reasons
        if not case.one or symbol_of(name) == STRUCK[venue]
    )


def keys_of(story: Story, already: int) -> list[tuple[str, GapReason]]:
    return [(gap.fqme, gap.reason) for gap in story.listener.gaps[already:]]


def check_times(gap: GapRow, since_ns: int) -> None:
    """A gap begins with the last that came before the fault, and ends before now."""
    assert since_ns - SLACK_S * SECOND_NS <= gap.from_ns <= gap.to_ns <= time.time_ns(), gap


def check_policy(attempts_ns: list[int], since_ns: int) -> None:
    """Hold attempts against the policy: the first at once, and none waits longer than its backoff can be."""
    policy = ReconnectPolicy()
    assert (attempts_ns[0] - since_ns) / SECOND_NS < SLACK_S
    for number, (earlier_ns, later_ns) in enumerate(itertools.pairwise(attempts_ns)):
        longest_s = min(policy.first_s * 2**number, policy.cap_s)
        assert (later_ns - earlier_ns) / SECOND_NS < longest_s + SLACK_S, f"attempt {number + 2}"

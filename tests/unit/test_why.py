"""Why an instrument is live, or is not: from facts to sentences, a test for each cause."""

from __future__ import annotations

import re
from typing import Any

import pytest

from marketd.gateway.why import history_facts
from marketd.observe import why
from marketd.observe.why import BarsFacts, Facts, HistoryFacts, RingFacts, VenueFacts, explain
from marketd.rpc import messages
from marketd.rpc.messages import CoverageSpan, HostClock, VenueClock, VenueStatus
from tests.conftest import PROJECT

SECOND_NS = 10**9
NOW_NS = 1_795_564_800 * SECOND_NS  # 2026-11-25 00:00:00 UTC
NAME = "btc/usdt.spot.binance"
WANTED = VenueFacts(listed_ns=1, listed=True, declared=True, carried=True, subscribed=True)
RING = RingFacts(NOW_NS - SECOND_NS, NOW_NS - SECOND_NS // 2, quality_ns=NOW_NS - 60 * SECOND_NS)


def feed(state: str = "live", detail: str = "", **extra: Any) -> messages.FeedStatus:
    extra = {"venue": VenueStatus(1, 1, connections=1), "clock": VenueClock(3.0, 9.0, "server_time", 5.0, 1.0)} | extra
    return messages.FeedStatus("binance", "binance", state, 1, 1, 1, 8, 0, {}, {}, 1, 1, detail, **extra)


def facts(**changes: Any) -> Facts:
    """An instrument that is live in every respect, but for the changes."""
    usual: dict[str, Any] = {
        "asked": NAME.upper(), "fqme": NAME, "feed": "binance", "now_ns": NOW_NS, "feeds": [feed()],
        "backends": ["binance", "kraken", "sim"], "venue": WANTED, "quality": "ok", "ring": RING, "calendar": "24/7",
        "market_open": True, "bars": BarsFacts("1s", "closed", NOW_NS - 2 * SECOND_NS),
        "history": HistoryFacts("1m", 1, NOW_NS, NOW_NS - 1),
    }  # fmt: skip
    return Facts(**usual | changes)


def unknown(asked: str, **changes: Any) -> Facts:
    """A name that nobody has."""
    return facts(asked=asked, fqme="", feed="", venue=None, ring=None, bars=None, history=None, **changes)


def with_venue(**changes: Any) -> Facts:
    usual = {"listed_ns": 1, "listed": True, "declared": True, "carried": True, "subscribed": True}
    return facts(venue=VenueFacts(**usual | changes))


def test_what_is_live_in_every_respect_is_live() -> None:
    found = explain(facts())
    assert (found.live, found.summary) == (True, f"{NAME} is live.")
    assert {reason.level for reason in found.reasons} == {"fine"}
    assert [reason.code for reason in found.reasons] == [
        *("feed_live", "subscribed", "quality_ok", "last_event", "bars", "history")
    ]
    assert found.reasons[2].text == "Its quality is ok since 2026-11-24 23:59:00 UTC."
    assert found.reasons[3].text == "Its newest event was 2026-11-24 23:59:59 UTC, and came 0.5 s ago."


PROBLEMS: dict[str, tuple[Facts, str]] = {
    "unknown_name": (unknown("btc/usd.spot.binance", close=[NAME]), "no feed has it, and no venue"),
    "unknown_backend": (unknown("btc/usd.spot.nowhere"), "its name ends in 'nowhere'"),
    "backend_not_configured": (unknown("xbt/usd.spot.kraken"), "no feed of this daemon runs the backend 'kraken'"),
    "list_unknown": (unknown(NAME, feeds=[feed("starting")]), "the feed binance does not know its venue's list"),
    "feed_unknown": (facts(feeds=[]), "its feed is not there any more"),
    "feed_not_live": (facts(feeds=[feed("down", "killed")]), "the feed binance is down: killed."),
    "feed_stopped": (facts(feeds=[feed("stopped")]), "the feed binance was stopped."),
    "feed_finished": (facts(feeds=[feed("finished")]), "the feed binance has come to the end"),
    "not_connected": (
        facts(feeds=[feed(venue=VenueStatus(1))], venue=VenueFacts(1, True, True, carried=True)),
        "the feed binance has no connection",
    ),
    "delisted": (with_venue(listed=False), "the venue does not list it any more"),
    "refused": (with_venue(refused="no such symbol"), "the venue refuses to give it: no such symbol."),
    "not_wanted": (with_venue(declared=False, carried=False), "the venue offers it, but"),
    "not_acked": (with_venue(pending=True, subscribed=False), "the venue has not acked"),
    "resubscribing": (with_venue(subscribed=False), "it is about to be subscribed to"),
    "outage": (
        with_venue(outage="stale", outage_from_ns=NOW_NS - 10 * SECOND_NS),
        "its data is missing since 2026-11-24 23:59:50 UTC: stale.",
    ),
    "market_closed": (
        facts(calendar="XNYS", market_open=False, opens_ns=NOW_NS + 3600 * SECOND_NS),
        "its market is closed by its calendar XNYS, and opens again 2026-11-25 01:00:00 UTC.",
    ),
    "quality_stale": (facts(quality="stale"), "its quality is stale since 2026-11-24 23:59:00 UTC: nothing has come"),
    "quality_gap": (facts(quality="gap"), "its quality is gap"),
    "quality_resyncing": (facts(quality="resyncing"), "its quality is resyncing"),
    "quality_closed": (facts(quality="closed"), "its quality is closed"),
}
NOTES: dict[str, tuple[Facts, str]] = {
    "feed_trouble": (facts(feeds=[feed(detail="1 of 2 instruments live")]), "The feed binance is live, but 1 of 2"),
    "throttled": (
        facts(feeds=[feed(venue=VenueStatus(1, 1, connections=1, resting_until_ns={"rest": NOW_NS + SECOND_NS}))]),
        "The venue wants no requests (rest) until 2026-11-25 00:00:01 UTC.",
    ),
    "quality_unknown": (facts(quality="unknown"), "Nothing is known of its quality yet"),
    "no_rows": (facts(ring=RingFacts(oldest_ns=NOW_NS)), "None of the rows that the ring holds, which go back to"),
    "last_event_old": (facts(ring=RingFacts(1, NOW_NS - 7200 * SECOND_NS)), "Its newest event was"),
    "last_gap": (
        facts(ring=RingFacts(NOW_NS, NOW_NS, 0, "disconnect", NOW_NS - 9 * SECOND_NS, NOW_NS - 8 * SECOND_NS)),
        "Its last gap was from 2026-11-24 23:59:51 UTC to 2026-11-24 23:59:52 UTC: disconnect.",
    ),
    "clock_skewed": (facts(host=HostClock(True, 900.0, "this machine's clock is wrong")), "This machine's clock is"),
    "venue_clock": (
        facts(feeds=[feed(clock=VenueClock(-900.0, 9.0, "server_time"))]),
        "Our clock is 0.900 s behind its venue's.",
    ),
    "sampler_down": (facts(others={"sampler": "down"}), "The sampler is down."),
    "history_down": (facts(others={"history": "failing"}), "The history is failing."),
    "bars_behind": (facts(bars=BarsFacts("1s", "closed", 1, 200_000)), "The sampler is 200,000 rows behind"),
    "bars_none": (facts(bars=BarsFacts("1s")), "It has no 1s bar yet"),
    "bars_missing": (facts(bars=BarsFacts("1s", "missing", NOW_NS)), "Its newest 1s bar, of 2026-11-25"),
    "history_none": (facts(history=HistoryFacts("1m", error="disk full")), "Nothing is stored of it: disk full."),
    "history_empty": (facts(history=HistoryFacts("1m")), "Nothing is known of its stored 1m bars yet."),
    "history_missing": (
        facts(history=HistoryFacts("1m", 0, NOW_NS, 5, [(0, SECOND_NS), (2 * SECOND_NS, 3 * SECOND_NS)])),
        "Of its 1m bars from 1970-01-01 00:00:00 UTC to 2026-11-25 00:00:00 UTC, 2 ranges are missing, the newest",
    ),
}


@pytest.mark.parametrize("code", PROBLEMS)
def test_each_problem_keeps_it_from_being_live_and_says_what_to_do(code: str) -> None:
    given, beginning = PROBLEMS[code]
    found = explain(given)
    reason = next(reason for reason in found.reasons if reason.code == code)
    assert not found.live
    assert reason.level == "problem"
    assert reason.text.startswith(beginning)
    assert reason.text.endswith(".")
    assert found.summary == f"{given.fqme or given.asked} is not live: {reason.text}"
    assert reason.todo or code.startswith("quality")


@pytest.mark.parametrize("code", NOTES)
def test_each_note_is_said_and_leaves_it_live(code: str) -> None:
    given, beginning = NOTES[code]
    found = explain(given)
    reason = next(reason for reason in found.reasons if reason.code == code)
    assert (found.live, reason.level) == (True, "note")
    assert reason.text.startswith(beginning)


def test_every_code_is_tested_and_documented() -> None:
    told = set(re.findall(r'_(?:problem|note|fine)\("(\w+)"', (PROJECT / "marketd/observe/why.py").read_text()))
    told |= {f"quality_{name}" for name in why._QUALITIES} | {"sampler_down", "history_down"}
    tested = {*PROBLEMS, *NOTES, "feed_live", "subscribed", "quality_ok", "last_event", "bars", "history"}
    assert told == tested
    page = (PROJECT / "docs/protocol.md").read_text()
    section = page[page.index("### why") : page.index("<!-- result: why -->")]
    assert set(re.findall(r"`(\w+)`", section[section.index("Codes:") :])) == told


def test_close_names_are_suggested_and_where_nothing_is_close_how_to_search() -> None:
    assert explain(PROBLEMS["unknown_name"][0]).reasons[0].todo == f"Close to it: {NAME}."
    assert "marketd search" in explain(unknown("btc")).reasons[0].todo


def test_recording_is_no_trouble_for_being_old_or_of_unknown_quality() -> None:
    old = RingFacts(1, 1, oldest_ns=1)
    found = explain(facts(recorded=True, quality="unknown", ring=old, venue=None, feeds=[feed(venue=None, clock=None)]))
    assert found.live
    assert {reason.level for reason in found.reasons} == {"fine"}


def test_what_was_let_go_a_moment_ago_counts_as_wanted() -> None:
    codes = [reason.code for reason in explain(with_venue(declared=False, lingering=True)).reasons]
    assert "not_wanted" not in codes


def test_coverage_becomes_what_is_complete_and_what_is_missing() -> None:
    spans = [
        CoverageSpan(10, 20, "complete", "backfilled"),
        CoverageSpan(30, 40, "empty", ""),
        CoverageSpan(40, 50, "unverified", "observed"),
    ]
    assert history_facts(spans) == HistoryFacts("1m", 10, 50, 20, [(20, 30), (40, 50)])
    assert history_facts([]) == HistoryFacts("1m")

"""Why an instrument is live, or is not: from gathered facts to sentences. Pure.

`marketd/gateway/why.py` gathers. Each cause has one function below, which gives a sentence, or several, or none; they
are asked in the order in which one would look for the trouble: the name, the feed, its venue, the subscription, the
data, the clocks, the bars, what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from marketd.clock import SECOND_NS
from marketd.rpc.messages import FeedStatus, HostClock, Reason, WhyResult

OLD_NS = 60 * SECOND_NS  # without a row for so long is worth a word
OFFSET_MS = 500.0


class VenueFacts(msgspec.Struct, frozen=True):
    """What a live feed knows of one instrument: the answer of its request ``explain``.

    Attributes:
        listed_ns: when the venue's list was fetched; 0: it is not known.
        listed: whether the instrument is in it.
        declared: whether the feed's configuration names it, in full or by a glob.
        owners: how many gateways want it for their clients; ``lingering``: one did until a moment ago.
        carried: whether it is to be subscribed to now.
        subscribed: on every address of the venue; ``pending``: asked for and not acked.
        refused: why the venue does not want to give it; empty: it does.
        outage: why data is missing now (a reason of gap rows), and since when; empty: none is.
    """

    listed_ns: int = 0
    listed: bool = False
    declared: bool = False
    owners: int = 0
    lingering: bool = False
    carried: bool = False
    subscribed: bool = False
    pending: bool = False
    refused: str = ""
    outage: str = ""
    outage_from_ns: int = 0


class RingFacts(msgspec.Struct, frozen=True):
    """What the rows that the ring still holds say of one instrument. 0: none is held."""

    event_ns: int = 0
    received_ns: int = 0
    quality_ns: int = 0  # of the last change of its quality
    gap_reason: str = ""
    gap_from_ns: int = 0
    gap_to_ns: int = 0
    oldest_ns: int = 0  # of the oldest row of any instrument


class BarsFacts(msgspec.Struct, frozen=True):
    """How its shortest bars are: the newest that is out, and how far the sampler is behind."""

    period: str
    state: str = ""  # empty: there is none yet
    open_ns: int = 0
    behind_rows: int = 0


class HistoryFacts(msgspec.Struct, frozen=True):
    """What is stored of its bars: ``error`` if that can't be said."""

    period: str = ""
    from_ns: int = 0
    to_ns: int = 0
    complete_ns: int = 0  # how much of it is complete, or known to be empty
    missing: list[tuple[int, int]] = []
    error: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known. ``fqme`` and ``feed`` are empty where nobody has the instrument.

    ``market_open`` and ``opens_ns``: by its calendar; None: not known. ``others``: the daemon's processes that are not
    live, with their states.
    """

    asked: str
    now_ns: int
    fqme: str = ""
    close: list[str] = []
    backends: list[str] = []
    feeds: list[FeedStatus] = []
    feed: str = ""
    recorded: bool = False
    venue: VenueFacts | None = None
    quality: str = "unknown"
    ring: RingFacts | None = None
    calendar: str = ""
    market_open: bool | None = None
    opens_ns: int | None = None
    host: HostClock = HostClock()
    others: dict[str, str] = {}
    bars: BarsFacts | None = None
    history: HistoryFacts | None = None


def explain(facts: Facts) -> WhyResult:
    """Say whether the instrument is live, and everything that bears on it."""
    reasons = [reason for part in _PARTS for reason in part(facts)]
    problems = [reason for reason in reasons if reason.level == "problem"]
    live = bool(facts.fqme and facts.feed) and not problems
    name = facts.fqme or facts.asked
    if live:
        summary = f"{name} is live."
    elif problems:
        summary = f"{name} is not live: {problems[0].text}"
    else:
        summary = f"{name} is not live."
    return WhyResult(facts.fqme, facts.feed, live, summary, reasons)


def _problem(code: str, text: str, todo: str = "") -> Reason:
    return Reason(code, "problem", text, todo)


def _note(code: str, text: str, todo: str = "") -> Reason:
    return Reason(code, "note", text, todo)


def _fine(code: str, text: str) -> Reason:
    return Reason(code, "fine", text)


def _name(facts: Facts) -> Iterator[Reason]:
    if facts.fqme:
        return
    backend = facts.asked.strip().lower().rpartition(".")[2]
    running = [feed for feed in facts.feeds if feed.backend == backend]
    if "." in facts.asked and backend not in facts.backends and not running and not facts.close:
        known = ", ".join(facts.backends)
        yield _problem("unknown_backend", f"its name ends in {backend!r}, and there is no such backend.",
                       f"A name is dst/src.venue.backend, and the backends are {known}.")  # fmt: skip
    elif "." in facts.asked and backend in facts.backends and not running:
        yield _problem("backend_not_configured", f"no feed of this daemon runs the backend {backend!r}.",
                       f'Add a table [feeds.{backend}] with backend = "{backend}" to the configuration.')  # fmt: skip
    else:
        unlisted = [feed.name for feed in running if feed.state != "live" or "list of instruments" in feed.detail]
        if unlisted:
            yield _problem("list_unknown", f"the feed {unlisted[0]} does not know its venue's list of instruments now, "
                           "so the name can't be looked up.", "See below how the feed is, and ask again.")  # fmt: skip
            yield from (reason for name in unlisted for reason in _feed_state(_feed_of(facts, name)))
        else:
            todo = f"Close to it: {', '.join(facts.close)}." if facts.close else "`marketd search WORDS` finds names."
            yield _problem("unknown_name", "no feed has it, and no venue that this daemon asks offers it.", todo)


def _feed_of(facts: Facts, name: str) -> FeedStatus | None:
    return next((feed for feed in facts.feeds if feed.name == name), None)


def _feed(facts: Facts) -> Iterator[Reason]:
    if facts.fqme:
        yield from _feed_state(_feed_of(facts, facts.feed))


def _feed_state(feed: FeedStatus | None) -> Iterator[Reason]:
    if feed is None:
        yield _problem("feed_unknown", "its feed is not there any more.", "See `marketd status`.")
        return
    detail = f": {feed.detail}" if feed.detail else ""
    if feed.state == "finished":
        yield _problem("feed_finished", f"the feed {feed.name} has come to the end of what it plays.", "Play it again.")
    elif feed.state == "stopped":
        yield _problem("feed_stopped", f"the feed {feed.name} was stopped{detail}.", "Start it again.")
    elif feed.state != "live":
        yield _problem("feed_not_live", f"the feed {feed.name} is {feed.state}{detail}.",
                       "It is started again by itself; the log says why it ended.")  # fmt: skip
    elif detail:
        yield _note("feed_trouble", f"The feed {feed.name} is live, but{detail[1:]}.")
    else:
        yield _fine("feed_live", f"The feed {feed.name} is live.")


def _venue(facts: Facts) -> Iterator[Reason]:
    feed = _feed_of(facts, facts.feed)
    if feed is None or feed.venue is None or feed.state != "live":
        return
    for bucket, until_ns in feed.venue.resting_until_ns.items():
        if until_ns > facts.now_ns:
            yield _note("throttled", f"The venue wants no requests ({bucket}) until {_time(until_ns)}.",
                        "What needs them waits; ask for less, or for fewer instruments.")  # fmt: skip
    # What the feed said of itself last may be older than what it says of the instrument now.
    subscribed = facts.venue is not None and facts.venue.subscribed
    if not feed.venue.connections and facts.venue is not None and facts.venue.carried and not subscribed:
        yield _problem("not_connected", f"the feed {feed.name} has no connection to its venue now.",
                       "It tries again by itself; the log (feed.disconnected) says why.")  # fmt: skip


def _subscription(facts: Facts) -> Iterator[Reason]:
    venue = facts.venue
    if venue is None or not facts.fqme:
        return
    if not venue.listed and venue.listed_ns:
        yield _problem("delisted", "the venue does not list it any more.", "Look for its successor: `marketd search`.")
    elif venue.refused:
        yield _problem("refused", f"the venue refuses to give it: {venue.refused}.", "It is asked again with its list.")
    elif not venue.declared and not venue.owners and not venue.lingering:
        yield _problem("not_wanted", "the venue offers it, but the configuration does not name it and no client has "
                       "subscribed to it.", f"Subscribe to it by its full name, or name it in [feeds.{facts.feed}] "
                       "instruments.")  # fmt: skip
    elif venue.pending:
        yield _problem("not_acked", "the venue has not acked its subscription yet.",
                       "It is asked for again by itself.")  # fmt: skip
    elif not venue.subscribed:
        yield _problem("resubscribing", "it is about to be subscribed to (again).", "This takes seconds; ask again.")
    else:
        who = "the configuration names it" if venue.declared else "clients have subscribed to it"
        yield _fine("subscribed", f"The venue has acked its subscription; {who}.")
    if venue.outage:
        yield _problem("outage", f"its data is missing since {_time(venue.outage_from_ns)}: {venue.outage}.",
                       "The gap is told, and filled if the venue has it, once data comes again.")  # fmt: skip


_QUALITIES = {
    "stale": "nothing has come of it for longer than it should",
    "gap": "data of it is missing",
    "resyncing": "what is known of it was wrong and is being made anew",
    "closed": "its market is closed, or in maintenance",
}


def _quality(facts: Facts) -> Iterator[Reason]:
    if not facts.fqme or facts.ring is None:
        return
    since = f" since {_time(facts.ring.quality_ns)}" if facts.ring.quality_ns else ""
    if facts.quality in _QUALITIES:
        yield _problem(f"quality_{facts.quality}", f"its quality is {facts.quality}{since}: "
                       f"{_QUALITIES[facts.quality]}.")  # fmt: skip
    elif facts.quality == "ok":
        yield _fine("quality_ok", f"Its quality is ok{since}.")
    elif not facts.recorded:
        yield _note("quality_unknown", "Nothing is known of its quality yet: no data of it has come.")


def _calendar(facts: Facts) -> Iterator[Reason]:
    if facts.market_open is False:
        opens = f"opens again {_time(facts.opens_ns)}" if facts.opens_ns is not None else "does not open again"
        yield _problem("market_closed", f"its market is closed by its calendar {facts.calendar}, and {opens}.",
                       "Nothing is expected before that.")  # fmt: skip


def _rows(facts: Facts) -> Iterator[Reason]:
    ring = facts.ring
    if not facts.fqme or ring is None:
        return
    if not ring.event_ns:
        since = f", which go back to {_time(ring.oldest_ns)}" if ring.oldest_ns else ""
        yield _note("no_rows", f"None of the rows that the ring holds{since}, is of it.")
    else:
        age = _age(facts.now_ns - ring.received_ns)
        text = f"Its newest event was {_time(ring.event_ns)}, and came {age} ago."
        old = facts.now_ns - ring.received_ns > OLD_NS and not facts.recorded
        yield _note("last_event_old", text) if old else _fine("last_event", text)
    if ring.gap_reason:
        yield _note("last_gap", f"Its last gap was from {_time(ring.gap_from_ns)} to {_time(ring.gap_to_ns)}: "
                    f"{ring.gap_reason}.")  # fmt: skip


def _clocks(facts: Facts) -> Iterator[Reason]:
    if facts.host.skewed:
        yield _note("clock_skewed", f"{facts.host.detail[:1].upper()}{facts.host.detail[1:]}.",
                    "Until then event times and ours do not fit, and bars may close too soon or late.")  # fmt: skip
        return
    feed = _feed_of(facts, facts.feed)
    offset_ms = feed.clock.offset_ms if feed is not None and feed.clock is not None else None
    if offset_ms is not None and abs(offset_ms) > OFFSET_MS:
        way = "ahead of" if offset_ms > 0 else "behind"
        yield _note("venue_clock", f"Our clock is {abs(offset_ms) / 1000:.3f} s {way} its venue's.",
                    "Compare with an NTP server: it may be either's fault.")  # fmt: skip


def _bars(facts: Facts) -> Iterator[Reason]:
    for name in ("sampler", "history"):
        if facts.fqme and name in facts.others:
            yield _note(f"{name}_down", f"The {name} is {facts.others[name]}.", "It is started again by itself.")
    bars = facts.bars
    if bars is None or not facts.fqme:
        return
    if bars.behind_rows > 100_000:
        yield _note("bars_behind", f"The sampler is {bars.behind_rows:,} rows behind, so bars are late.",
                    "The machine may be too busy.")  # fmt: skip
    if not bars.state:
        yield _note("bars_none", f"It has no {bars.period} bar yet: they begin with its first trade.")
    elif bars.state == "missing":
        yield _note("bars_missing", f"Its newest {bars.period} bar, of {_time(bars.open_ns)}, was not seen whole.",
                    "The venue is asked for it, if it has a history.")  # fmt: skip
    else:
        yield _fine("bars", f"Its newest {bars.period} bar that is out is of {_time(bars.open_ns)}, {bars.state}.")


def _history(facts: Facts) -> Iterator[Reason]:
    history = facts.history
    if history is None or not facts.fqme:
        return
    if history.error:
        yield _note("history_none", f"Nothing is stored of it: {history.error}.")
    elif not history.to_ns:
        yield _note("history_empty", f"Nothing is known of its stored {history.period} bars yet.")
    elif history.missing:
        from_ns, to_ns = history.missing[-1]
        yield _note("history_missing", f"Of its {history.period} bars from {_time(history.from_ns)} to "
                    f"{_time(history.to_ns)}, {len(history.missing)} ranges are missing, the newest from "
                    f"{_time(from_ns)} to {_time(to_ns)}.", "They are asked of the venue, the newest first; "
                    "`marketd coverage` shows all.")  # fmt: skip
    else:
        yield _fine("history", f"Its stored {history.period} bars are complete from {_time(history.from_ns)} to "
                    f"{_time(history.to_ns)}.")  # fmt: skip


_PARTS = (_name, _feed, _venue, _subscription, _calendar, _quality, _rows, _clocks, _bars, _history)


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / SECOND_NS, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _age(age_ns: int) -> str:
    seconds = max(0, age_ns) / SECOND_NS
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"

"""Pure: the metrics of feeds, their venues and the way of their rows; see `metrics.py`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from marketd.clock import SECOND_NS
from marketd.rpc.messages import FeedStatus, VenueClock, VenueStatus
from marketd.supervise.messages import Measures
from marketd.web.families import buckets, counter, gauge, histograms, labelled

_STATES = ("starting", "live", "down", "failing", "finished", "stopped")


def feed_metrics(feeds: list[FeedStatus]) -> Iterator[Metric]:
    """Yield what feeds count."""
    pairs = [([feed.name], feed) for feed in feeds]
    states = GaugeMetricFamily("marketd_feed_state", "1 for the state that the feed is in.", labels=["feed", "state"])
    for feed, state in itertools.product(feeds, _STATES):
        states.add_metric([feed.name, state], int(feed.state == state))
    yield states
    for name, text, label, counts_of in (
        ("marketd_feed_rows", "Rows written to the ring.", "kind", lambda feed: feed.rows_by_kind),
        ("marketd_feed_messages", "Messages of the venue, by type.", "type", lambda feed: feed.messages),
        ("marketd_bars", "What the sampler counts.", "what", lambda feed: feed.bars),
        ("marketd_feed_gaps_by_reason", "Gap rows, by reason.", "reason", lambda feed: feed.gaps_by_reason),
    ):
        yield labelled(CounterMetricFamily(name, text, labels=["feed", label]), feeds, counts_of)
    qualities = GaugeMetricFamily("marketd_feed_quality", "Instruments of each quality.", labels=["feed", "quality"])
    yield labelled(qualities, feeds, lambda feed: feed.qualities)
    yield gauge("marketd_feed_instruments", "Instruments in its table.", ["feed"], pairs, lambda f: f.instruments)
    yield gauge("marketd_feed_ring_rows", "Rows that its ring keeps.", ["feed"], pairs, lambda f: f.ring_rows)
    yield gauge("marketd_feed_ring_fill_ratio", "Which part of its ring has rows.", ["feed"], pairs,
                 lambda feed: min(1.0, feed.cursor / feed.ring_rows) if feed.ring_rows else 0.0)  # fmt: skip
    yield gauge("marketd_feed_cursor", "Its newest row, in this epoch.", ["feed"], pairs, lambda feed: feed.cursor)
    yield counter("marketd_feed_gaps", "Gap rows: what the venue sent and did not arrive.", ["feed"], pairs,
                   lambda feed: feed.gaps)  # fmt: skip
    yield gauge("marketd_feed_last_event_timestamp_seconds", "The venue's time of its newest event.", ["feed"], pairs,
                 lambda feed: feed.last_event_ns / SECOND_NS)  # fmt: skip
    yield gauge("marketd_feed_last_received_timestamp_seconds", "Our time of its newest message.", ["feed"], pairs,
                 lambda feed: feed.last_received_ns / SECOND_NS)  # fmt: skip


def venue_metrics(venues: Mapping[str, VenueStatus]) -> Iterator[Metric]:
    """Yield how live feeds stand with their venues, by feed."""
    pairs = [([name], venue) for name, venue in venues.items()]
    for name, text, value in (
        ("instruments_wanted", "Instruments that are to be subscribed to.", lambda venue: venue.wanted),
        ("instruments_live", "Instruments that are subscribed to.", lambda venue: venue.live),
        ("subscriptions_pending", "Subscriptions that the venue has not acked.", lambda venue: venue.pending),
        ("connections", "Open connections.", lambda venue: venue.connections),
    ):
        yield gauge(f"marketd_venue_{name}", text, ["feed"], pairs, value)
    for name, text, value in (
        ("connects", "Attempts to connect.", lambda venue: venue.connects),
        ("reconnects", "Connections and attempts that were lost.", lambda venue: venue.losses),
        ("handovers", "Connections that were replaced before their end.", lambda venue: venue.handovers),
        ("duplicates", "Rows that came twice and were dropped.", lambda venue: venue.duplicates),
    ):
        yield counter(f"marketd_venue_{name}", text, ["feed"], pairs, value)
    labels = ["feed", "bucket"]
    used = GaugeMetricFamily("marketd_venue_budget_used", "Weight of requests that counts now.", labels=labels)
    most = GaugeMetricFamily("marketd_venue_budget_capacity", "Weight that the venue allows.", labels=labels)
    bans = CounterMetricFamily("marketd_venue_bans", "How often the venue throttled or banned us.", labels=labels)
    until = GaugeMetricFamily(
        "marketd_venue_banned_until_timestamp_seconds", "Until when it does so now; 0: it does not.", labels=labels
    )
    for feed, venue in venues.items():
        for bucket, capacity in venue.capacity.items():
            used.add_metric([feed, bucket], venue.used.get(bucket, 0))
            most.add_metric([feed, bucket], capacity)
            bans.add_metric([feed, bucket], venue.rests.get(bucket, 0))
            until.add_metric([feed, bucket], venue.resting_until_ns.get(bucket, 0) / SECOND_NS)
    yield from (used, most, bans, until)


def clock_metrics(clocks: Mapping[str, VenueClock]) -> Iterator[Metric]:
    """Give what is known; what is not has no sample, and not a 0."""
    for name, text in (
        ("offset", "How much our clock is ahead of the venue's."),
        ("uncertainty", "How far that may be wrong."),
        ("jitter", "How much events' lag changes from one to the next."),
        ("lag_min", "The least lag of any event lately, by the two clocks."),
    ):
        family = GaugeMetricFamily(f"marketd_venue_clock_{name}_seconds", text, labels=["feed"])
        for feed, clock in clocks.items():
            value_ms: float | None = getattr(clock, f"{name}_ms")
            if value_ms is not None:
                family.add_metric([feed], value_ms / 1000)
        yield family


def delay_metrics(measures: Measures) -> Iterator[Metric]:
    """Yield how long rows take, from the venue to the clients."""
    yield histograms(
        "marketd_feed_event_lag_seconds",
        "From the venue's time of an event to ours; the offset of the two clocks is in it.",
        "feed",
        measures.event_lag,
    )
    yield histograms(
        "marketd_feed_publish_lag_seconds", "From a message's arrival until its rows can be read.", "feed",
        measures.publish_lag,
    )  # fmt: skip
    family = HistogramMetricFamily(
        "marketd_client_delivery_lag_seconds", "From a row's arrival until a client's socket had it."
    )
    family.add_metric([], *buckets(measures.delivery_lag))
    yield family
    lags = GaugeMetricFamily(
        "marketd_ring_reader_lag_rows", "How far a feed's ring is ahead of a reader.", labels=["feed", "reader"]
    )
    for reader, by_feed in measures.reader_lag_rows.items():
        for feed, rows in by_feed.items():
            lags.add_metric([feed, reader], rows)
    yield lags

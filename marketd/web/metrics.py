"""Pure: the daemon's status as Prometheus reads it. Names end in their units, counters in ``_total``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from marketd.clock import SECOND_NS
from marketd.rpc.messages import ActorStatus, FeedStatus, HistoryStatus, Served, StatusResult

CONTENT_TYPE = CONTENT_TYPE_LATEST
T = TypeVar("T")

_STATES = ("starting", "live", "down", "failing", "finished", "stopped")


def exposition(status: StatusResult) -> bytes:
    """Return all metrics in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Status(status))
    return generate_latest(registry)


class _Status(Collector):
    def __init__(self, status: StatusResult) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        info = GaugeMetricFamily("marketd_build_info", "Which version runs.", labels=["version", "instance"])
        info.add_metric([status.version, status.instance], 1)
        yield info
        yield GaugeMetricFamily("marketd_ready", "1 when every feed is live and no actor is down.", int(status.ready))
        yield GaugeMetricFamily("marketd_uptime_seconds", "Since the daemon's start.", status.uptime_s)
        yield from _actors(status.actors)
        yield from _feeds(status.feeds)
        yield GaugeMetricFamily("marketd_clients", "Clients that are connected.", len(status.clients))
        yield from _clients(status.served)
        if status.history is not None:
            yield from _history(status.history)


def _actors(actors: list[ActorStatus]) -> Iterator[Metric]:
    pairs = [([actor.name], actor) for actor in actors]
    yield _gauge("marketd_actor_up", "1 while the process lives and says so.", ["actor"], pairs,
                 lambda actor: int(actor.state in ("live", "finished")))  # fmt: skip
    yield _gauge("marketd_actor_uptime_seconds", "Of its present life.", ["actor"], pairs, lambda actor: actor.uptime_s)
    yield _gauge("marketd_actor_resident_memory_bytes", "Of the process.", ["actor"], pairs, lambda a: a.rss_bytes)
    yield _counter("marketd_actor_cpu_seconds", "User and system, of its present life.", ["actor"], pairs,
                   lambda actor: actor.cpu_s)  # fmt: skip
    yield _counter("marketd_actor_restarts", "How often it was replaced.", ["actor"], pairs, lambda a: a.restarts)


def _feeds(feeds: list[FeedStatus]) -> Iterator[Metric]:
    pairs = [([feed.name], feed) for feed in feeds]
    states = GaugeMetricFamily("marketd_feed_state", "1 for the state that the feed is in.", labels=["feed", "state"])
    rows = CounterMetricFamily("marketd_feed_rows", "Rows written to the ring.", labels=["feed", "kind"])
    told = CounterMetricFamily("marketd_feed_messages", "Messages of the venue, by type.", labels=["feed", "type"])
    bars = CounterMetricFamily("marketd_bars", "What the sampler counts.", labels=["feed", "what"])
    for feed in feeds:
        for state in _STATES:
            states.add_metric([feed.name, state], int(feed.state == state))
        for family, counts in ((rows, feed.rows_by_kind), (told, feed.messages), (bars, feed.bars)):
            for name, count in counts.items():
                family.add_metric([feed.name, name], count)
    yield from (states, rows, told, bars)
    yield _gauge("marketd_feed_instruments", "Instruments in its table.", ["feed"], pairs, lambda f: f.instruments)
    yield _gauge("marketd_feed_ring_rows", "Rows that its ring keeps.", ["feed"], pairs, lambda f: f.ring_rows)
    yield _gauge("marketd_feed_cursor", "Its newest row, in this epoch.", ["feed"], pairs, lambda feed: feed.cursor)
    yield _counter("marketd_feed_gaps", "Gap rows: what the venue sent and did not arrive.", ["feed"], pairs,
                   lambda feed: feed.gaps)  # fmt: skip
    yield _gauge("marketd_feed_last_event_timestamp_seconds", "The venue's time of its newest event.", ["feed"], pairs,
                 lambda feed: feed.last_event_ns / SECOND_NS)  # fmt: skip
    yield _gauge("marketd_feed_last_received_timestamp_seconds", "Our time of its newest message.", ["feed"], pairs,
                 lambda feed: feed.last_received_ns / SECOND_NS)  # fmt: skip


def _clients(served: Served) -> Iterator[Metric]:
    for name, text, value in (
        ("connections", "Connections that clients have made.", served.connections),
        ("rows_sent", "Rows sent to clients.", served.rows_sent),
        ("bytes_sent", "Bytes sent to clients.", served.bytes_sent),
        ("rows_lost", "Rows overwritten before a slow client took them; each was told as a gap.", served.rows_lost),
    ):
        yield CounterMetricFamily(f"marketd_client_{name}", text, value)


def _history(history: HistoryStatus) -> Iterator[Metric]:
    yield GaugeMetricFamily("marketd_history_series", "Series that are kept whole.", history.series)
    for name, text, value in (
        ("bars", "Bars written to disk.", history.bars),
        ("pages", "Pages asked of venues.", history.pages),
        ("pages_failed", "Pages that did not come.", history.pages_failed),
        ("bars_verified", "Stored bars that were compared with their venue's.", history.verified),
        ("bars_differing", "Of these, those that were not equal.", history.differing),
    ):
        yield CounterMetricFamily(f"marketd_history_{name}", text, value)
    trouble = GaugeMetricFamily(
        "marketd_history_trouble", "1 while pages of a feed do not come, or its ticks are not stored.", labels=["feed"]
    )
    for feed in history.trouble:
        trouble.add_metric([feed], 1)
    yield trouble


def _gauge(
    name: str, text: str, labels: list[str], pairs: Iterable[tuple[list[str], T]], value: Callable[[T], float]
) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), pairs, value)


def _counter(
    name: str, text: str, labels: list[str], pairs: Iterable[tuple[list[str], T]], value: Callable[[T], float]
) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), pairs, value)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily,
    pairs: Iterable[tuple[list[str], T]],
    value: Callable[[T], float],
) -> Metric:
    for label, item in pairs:
        family.add_metric(label, value(item))
    return family

"""Pure: what the daemon measures as Prometheus reads it. Names end in their units, counters in ``_total``.

`docs/http.md` lists them all; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from marketd.clock import SECOND_NS
from marketd.observe.vitals import Vitals
from marketd.rpc.messages import (
    ActorStatus,
    ClientStatus,
    HistoryStatus,
    HostClock,
    Served,
    StatusResult,
)
from marketd.supervise.messages import Measures
from marketd.web.families import counter, gauge, histograms
from marketd.web.feed_metrics import clock_metrics, delay_metrics, feed_metrics, venue_metrics

CONTENT_TYPE = CONTENT_TYPE_LATEST

CLIENT_NAMES_MAX = 50  # of those that are the furthest behind


def exposition(measures: Measures, certificate_expires_ns: int = 0) -> bytes:
    """Return all metrics in the text format.

    Args:
        measures: what the supervisor knows.
        certificate_expires_ns: what this gateway knows of its certificate; 0 for nothing.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Daemon(measures, certificate_expires_ns))
    return generate_latest(registry)


class _Daemon(Collector):
    def __init__(self, measures: Measures, certificate_expires_ns: int) -> None:
        self._measures = measures
        self._expires_ns = certificate_expires_ns

    def collect(self) -> Iterator[Metric]:
        measures, status = self._measures, self._measures.status
        yield from _whole(status)
        if self._expires_ns:
            yield GaugeMetricFamily("marketd_certificate_expires_timestamp_seconds", "When the one for TLS expires.",
                                    self._expires_ns / SECOND_NS)  # fmt: skip
        yield from _host_clock(status.clock)
        yield from _actors(status.actors)
        yield from _vitals(measures.vitals)
        yield from feed_metrics(status.feeds)
        yield from venue_metrics({feed.name: feed.venue for feed in status.feeds if feed.venue is not None})
        yield from clock_metrics({feed.name: feed.clock for feed in status.feeds if feed.clock is not None})
        yield from delay_metrics(measures)
        yield from _clients(status.clients)
        yield from _served(status.served)
        if status.history is not None:
            yield from _history(status.history)
            yield from _store(status.history)


def _whole(status: StatusResult) -> Iterator[Metric]:
    info = GaugeMetricFamily("marketd_build_info", "Which version runs.", labels=["version", "instance"])
    info.add_metric([status.version, status.instance], 1)
    yield info
    yield GaugeMetricFamily("marketd_ready", "1 when every feed is live and no actor is down.", int(status.ready))
    yield GaugeMetricFamily("marketd_uptime_seconds", "Since the daemon's start.", status.uptime_s)


def _host_clock(clock: HostClock) -> Iterator[Metric]:
    yield GaugeMetricFamily("marketd_clock_skewed", "1 while most venues contradict our clock.", int(clock.skewed))
    yield CounterMetricFamily("marketd_clock_jumps", "How often the clock was set while the daemon ran.", clock.jumps)


def _actors(actors: list[ActorStatus]) -> Iterator[Metric]:
    pairs = [([actor.name], actor) for actor in actors]
    yield gauge("marketd_actor_up", "1 while the process lives and says so.", ["actor"], pairs,
                 lambda actor: int(actor.state in ("live", "finished")))  # fmt: skip
    yield gauge("marketd_actor_uptime_seconds", "Of its present life.", ["actor"], pairs, lambda actor: actor.uptime_s)
    yield gauge("marketd_actor_resident_memory_bytes", "Of the process.", ["actor"], pairs, lambda a: a.rss_bytes)
    yield counter("marketd_actor_cpu_seconds", "User and system, of its present life.", ["actor"], pairs,
                   lambda actor: actor.cpu_s)  # fmt: skip
    yield gauge("marketd_actor_trouble", "1 while it can't do part of its work; the status says why.", ["actor"], pairs,
                lambda actor: int(bool(actor.trouble)))  # fmt: skip
    yield counter("marketd_actor_restarts", "How often it was replaced.", ["actor"], pairs, lambda a: a.restarts)


def _vitals(vitals: Mapping[str, Vitals]) -> Iterator[Metric]:
    pairs = [([name], each) for name, each in vitals.items()]
    yield gauge("marketd_actor_open_fds", "Open file descriptors.", ["actor"], pairs, lambda each: each.fds)
    yield gauge("marketd_actor_threads", "Threads of the process.", ["actor"], pairs, lambda each: each.threads)
    yield gauge("marketd_actor_tasks", "Tasks of its event loop.", ["actor"], pairs, lambda each: each.tasks)
    lags = {name: each.loop_lag for name, each in vitals.items()}
    yield histograms("marketd_actor_loop_lag_seconds", "How late the event loop's timers are.", "actor", lags)


def _clients(clients: list[ClientStatus]) -> Iterator[Metric]:
    yield GaugeMetricFamily("marketd_clients", "Clients that are connected.", len(clients))
    subscriptions = sum(client.subscriptions for client in clients)
    yield GaugeMetricFamily("marketd_client_subscriptions", "Subscriptions of all clients.", subscriptions)
    slow = sum(client.slow for client in clients)
    yield GaugeMetricFamily("marketd_clients_slow", "Clients that are about to lose rows.", slow)
    worst: dict[str, ClientStatus] = {}  # numbers of clients are no labels: there is no end to them
    for client in sorted(clients, key=lambda client: client.lag_rows)[-CLIENT_NAMES_MAX:]:
        worst[client.name] = client
    pairs = [([name], client) for name, client in sorted(worst.items())]
    yield gauge("marketd_client_lag_rows", "Rows that wait for the slowest client of this name.", ["name"], pairs,
                lambda client: client.lag_rows)  # fmt: skip
    yield gauge("marketd_client_lag_seconds", "How old the first of these is.", ["name"], pairs,
                lambda client: client.lag_s)  # fmt: skip


def _served(served: Served) -> Iterator[Metric]:
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
    pairs = [([feed], each) for feed, each in history.backfill.items()]
    yield gauge("marketd_backfill_missing_bars", "Bars still to be asked for.", ["feed"], pairs, lambda b: b.bars)
    yield gauge("marketd_backfill_missing_series", "Series that lack some.", ["feed"], pairs, lambda b: b.series)
    yield gauge("marketd_backfill_missing_from_timestamp_seconds", "Where the oldest of these begins; 0: none.",
                 ["feed"], pairs, lambda backfill: backfill.from_ns / SECOND_NS)  # fmt: skip


def _store(history: HistoryStatus) -> Iterator[Metric]:
    store = history.store
    if not store.measured_ns:
        return
    yield GaugeMetricFamily("marketd_store_size_bytes", "All files of the store.", store.bytes)
    yield GaugeMetricFamily("marketd_store_files", "How many there are.", store.files)
    yield GaugeMetricFamily("marketd_store_free_bytes", "What is free on their file system.", store.free_bytes)

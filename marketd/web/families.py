"""Metric families of Prometheus from what there is of each feed, actor or client. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from marketd.clock import SECOND_NS
from marketd.observe.histogram import BOUNDS_S, HistogramReport
from marketd.rpc.messages import FeedStatus

T = TypeVar("T")


def gauge(
    name: str, text: str, labels: list[str], pairs: Iterable[tuple[list[str], T]], value: Callable[[T], float]
) -> Metric:
    """Make a gauge with a value for each item."""
    return filled(GaugeMetricFamily(name, text, labels=labels), pairs, value)


def counter(
    name: str, text: str, labels: list[str], pairs: Iterable[tuple[list[str], T]], value: Callable[[T], float]
) -> Metric:
    """Make a counter with a value for each item."""
    return filled(CounterMetricFamily(name, text, labels=labels), pairs, value)


def filled(
    family: GaugeMetricFamily | CounterMetricFamily,
    pairs: Iterable[tuple[list[str], T]],
    value: Callable[[T], float],
) -> Metric:
    """Put a value for each item into a family."""
    for label, item in pairs:
        family.add_metric(label, value(item))
    return family


def labelled(
    family: GaugeMetricFamily | CounterMetricFamily,
    feeds: list[FeedStatus],
    counts_of: Callable[[FeedStatus], dict[str, int]],
) -> Metric:
    """Put counts of each feed that have names into a family."""
    for feed in feeds:
        for name, count in counts_of(feed).items():
            family.add_metric([feed.name, name], count)
    return family


def histograms(name: str, text: str, label: str, reports: Mapping[str, HistogramReport]) -> Metric:
    """Make a histogram for each value of a label."""
    family = HistogramMetricFamily(name, text, labels=[label])
    for value, report in reports.items():
        family.add_metric([value], *buckets(report))
    return family


def buckets(report: HistogramReport) -> tuple[list[tuple[str, float]], float]:
    """Return cumulative counts by upper bound, and the sum, as Prometheus wants them."""
    counts = report.counts or [0] * (len(BOUNDS_S) + 1)
    bounds = [*(format(bound_s, "g") for bound_s in BOUNDS_S), "+Inf"]
    return list(zip(bounds, itertools.accumulate(counts), strict=True)), report.sum_ns / SECOND_NS

"""What is measured cheaply: histograms, a process's figures, a feed's rows."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
import structlog.testing
import trio
from hypothesis import given
from hypothesis import strategies as st

from marketd.feed.meters import Meters
from marketd.model import Flag, GapReason, Kind
from marketd.observe.histogram import BOUNDS_NS, Histogram, HistogramReport, Sampled, merged
from marketd.observe.vitals import CALM_AFTER, FILES_EVERY, VitalsWatch
from marketd.ring import layout

DELAYS = st.lists(st.integers(-(10**12), 10**12), max_size=50)


@given(DELAYS, DELAYS)
def test_batches_count_as_single_delays_do_and_histograms_add_up(first: list[int], second: list[int]) -> None:
    one, other, both = Histogram(), Histogram(), Histogram()
    one.observe_many(np.array(first, np.int64))
    other.observe_many(np.array(second, np.int64))
    for delay_ns in [*first, *second]:
        both.observe(delay_ns)
    assert merged([one.report(), other.report()]) == both.report()
    assert merged([HistogramReport(), both.report()]) == both.report()
    assert both.report().total == len(first) + len(second)


@given(st.lists(st.integers(0, BOUNDS_NS[-1]), min_size=1), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_quantile_is_the_bound_above_the_true_one(delays_ns: list[int], part: float) -> None:
    histogram = Histogram()
    histogram.observe_many(np.array(delays_ns))
    exact_ns = int(np.quantile(delays_ns, part, method="inverted_cdf"))
    found_ms = histogram.report().quantile_ms(part)
    assert found_ms == next(bound_ns for bound_ns in BOUNDS_NS if bound_ns >= exact_ns) / 1e6


def test_nothing_has_no_quantile_and_what_is_too_long_has_twice_the_last() -> None:
    assert HistogramReport().quantile_ms(0.5) is None
    histogram = Histogram()
    histogram.observe(10 * BOUNDS_NS[-1])
    assert histogram.report().quantile_ms(0.5) == 2 * BOUNDS_NS[-1] / 1e6


def test_sampled_histogram_takes_so_many_between_two_reports() -> None:
    sampled = Sampled(between_reports=3)
    for _ in range(10):
        if sampled.left:
            sampled.observe(1)
    assert sampled.report().total == 3
    assert sampled.left == 3


async def test_figures_of_a_process_are_its_own() -> None:
    watch = VitalsWatch()
    await watch.sleep(0.001)
    before = watch.read()
    assert before.rss_bytes > 1 << 20
    assert before.cpu_s > 0
    assert before.threads >= 1
    assert before.tasks >= 1
    assert before.loop_lag.total == 1
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    try:
        later = [watch.read() for _ in range(FILES_EVERY)]
        assert later[0].fds == before.fds, "counted now and then only"
        assert later[-1].fds == before.fds + 5
    finally:
        for file in files:
            os.close(file)


def rows(**columns: list[int]) -> np.ndarray:
    made = np.zeros(len(next(iter(columns.values()))), layout.ROW)
    for name, values in columns.items():
        made[name] = values
    return made


def test_feed_measures_what_is_new_and_carries_a_time() -> None:
    now_ns = time.time_ns()
    data = rows(
        kind=[Kind.TRADE] * 4,
        flags=[Flag.LAST, Flag.SNAPSHOT, Flag.LAST, Flag.LAST],
        received_ns=[now_ns] * 4,
        event_ns=[now_ns - 20_000_000, now_ns - 10**12, now_ns, now_ns - 40_000_000],
    )
    meters = Meters()
    meters.note(data, data)
    assert meters.event_lag.report().total == 2
    assert meters.lag_ms() == 30
    assert (meters.clock().lag_min_ms, meters.clock().jitter_ms) == (20, 20)
    assert meters.rows_per_s() == 4 / 5
    recorded = Meters(recorded=True)
    recorded.note(data, data)
    recorded.note_published(now_ns)
    assert recorded.event_lag.report().total == recorded.publish_lag.report().total == 0
    assert recorded.lag_ms() is None


def test_feed_counts_gaps_by_their_reason() -> None:
    gaps = rows(kind=[Kind.GAP, Kind.TRADE, Kind.GAP, Kind.GAP])
    gaps.view(layout.GAP)["reason"] = [GapReason.STALE, 0, GapReason.RESTART, GapReason.STALE]
    meters = Meters()
    meters.note(gaps, gaps[1:2])
    assert meters.gaps_by_reason == {"stale": 2, "restart": 1}


@pytest.mark.parametrize("delay_ns", [0, -5, 10**15])
def test_publishing_is_measured_whatever_the_clock_does(delay_ns: int) -> None:
    meters = Meters()
    meters.note_published(time.time_ns() - delay_ns)
    assert meters.publish_lag.report().total == 1


def test_process_without_descriptors_tells_its_figures_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each actor looks at itself four times a second, and must not end by that."""

    async def main() -> None:
        watch = VitalsWatch()
        before = watch.read()

        def none_left(path: Path) -> str:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(Path, "read_text", none_left)
        after = watch.read()
        assert (after.rss_bytes, after.threads, after.fds) == (before.rss_bytes, before.threads, before.fds)
        assert after.cpu_s >= before.cpu_s
        assert watch.trouble.startswith("no file descriptor is left of ")
        watch.read()
        # Over only once there have been some for a while: where clients come and go it would be told without end.
        monkeypatch.undo()
        for _ in range(CALM_AFTER - 1):
            watch.read()
        assert watch.trouble
        watch.read()
        assert not watch.trouble

    with structlog.testing.capture_logs() as told:
        trio.run(main)
    assert [line["event"] for line in told] == ["descriptors.none_left", "descriptors.left_again"]

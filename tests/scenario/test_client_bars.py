"""Bars from a real daemon, by the client library."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import trio

from marketd.client import Bar, BarState, Frame, GapReason, IndexEvent, IndexState, Stream, connect, open_client
from tests.scenario.daemon import Daemon, running

CONFIG = """
[feeds.sim]
backend = "sim"
instruments = 3
rate_hz = 300
[bars]
periods = ["1s", "5s", "1m"]
lateness_ms = 100
[bars.activity]
"btc/*" = ["20t"]
"""
BTC = "btc/usdt.spot.sim"
SECOND_NS = 1_000_000_000
WAIT_S = 30.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("bars"), CONFIG) as found:
        yield found


def take_rows(stream: Stream, kind: str, count: int) -> list[Frame]:
    """Frames until there are so many rows of a kind."""
    end_s, frames = time.monotonic() + WAIT_S, []
    while sum(len(frame) for frame in frames if frame.kind == kind) < count:
        assert time.monotonic() < end_s, f"only {frames}"
        frame = stream.wait_next(0.2)
        if frame is not None:
            frames.append(frame)
    return frames


def assert_whole(frames: list[Frame]) -> None:
    """No gap is told, no cursor comes twice, and no instrument's bar is passed over in its series."""
    at: dict[str, int] = {}
    bars: dict[tuple[str, int], set[int]] = {}
    for frame in frames:
        if not frame.epoch or frame.forming:
            continue
        assert frame.kind != "gap"
        assert frame.cursor_first > at.get(frame.feed, 0)
        at[frame.feed] = frame.cursor_last
        if frame.kind.startswith("bar."):
            columns = frame.columns
            for instrument, number in zip(columns["instrument"].tolist(), columns["number"].tolist(), strict=True):
                bars.setdefault((frame.kind, instrument), set()).add(number)
    assert bars
    for numbers in bars.values():
        assert sorted(numbers) == list(range(min(numbers), max(numbers) + 1))


def test_bars_that_came_out_in_a_stream_are_those_that_are_held(daemon: Daemon) -> None:
    with connect(daemon.address) as md, md.subscribe(["*.sim"], kinds=["bar.1s"]) as stream:
        frames = take_rows(stream, "bar.1s", 12)
        newest = {}
        for frame in frames:
            assert frame.kind == "bar.1s"
            newest |= {(frame.fqme(bar["instrument"]), int(bar["open_ns"])): bar for bar in frame.rows}
        assert {fqme for fqme, _ in newest} == {BTC, "eth/usdt.spot.sim", "sol/usdt.spot.sim"}
        for (fqme, open_ns), bar in newest.items():
            series = md.series(fqme, "1s", open_ns, open_ns + SECOND_NS)
            [held] = series.rows
            for name in ("open", "high", "low", "close", "volume", "trade_count", "first_id", "last_id", "number"):
                assert held[name] == bar[name] or (np.isnan(held[name]) and np.isnan(bar[name])), name


def test_ticks_and_bars_in_one_stream_and_their_token_goes_on_with_both(daemon: Daemon) -> None:
    kinds = ["trade", "bar.1s", "index.1s"]
    with connect(daemon.address) as md:
        with md.subscribe(["*.sim"], kinds=kinds) as stream:
            before = take_rows(stream, "bar.1s", 3)
            token = stream.token
        assert set(stream.positions) == {"sim", "sim/bars"}
        time.sleep(1.5)
        with md.subscribe(["*.sim"], kinds=kinds, resume=token) as stream:
            after = take_rows(stream, "bar.1s", 3)
    assert {frame.kind for frame in before + after} == set(kinds)
    assert_whole(before + after)


def test_a_tick_that_is_in_a_bar_is_in_the_stream(daemon: Daemon) -> None:
    with connect(daemon.address) as md, md.subscribe([BTC], kinds=["trade", "bar.1s"]) as stream:
        frames = take_rows(stream, "bar.1s", 4)
    trades = np.concatenate([frame.rows for frame in frames if frame.kind == "trade"])
    bars = np.concatenate([frame.rows for frame in frames if frame.kind == "bar.1s"])
    for bar in bars[2:]:  # those of which all trades came after the stream began
        mine = trades[(trades["event_ns"] >= bar["open_ns"]) & (trades["event_ns"] < bar["open_ns"] + SECOND_NS)]
        assert len(mine) == bar["trade_count"]
        if len(mine):
            assert (mine["price"].max(), mine["price"].min()) == (bar["high"], bar["low"])
            assert mine["size"].sum() == pytest.approx(bar["volume"], rel=1e-12)


@pytest.mark.parametrize("form", ["rows", "columns"])
def test_forming_bars_come_as_often_as_asked_and_move_nothing(daemon: Daemon, form: str) -> None:
    with connect(daemon.address) as md:
        with md.subscribe([BTC], kinds=["bar.5s"], format=form, forming_hz=5) as stream:
            frames = take_rows(stream, "bar.5s", 10)
            position = stream.positions["sim/bars"]
        forming = [frame for frame in frames if frame.forming]
        made_ns = [int(frame.columns["made_ns"][0]) for frame in forming]
        assert made_ns[-1] - made_ns[0] > 0.8 * (len(forming) - 1) / 5 * SECOND_NS
        for frame in forming:
            assert frame.kind == "bar.5s"
            assert set(frame.columns["state"].tolist()) == {BarState.FORMING}
            assert set(frame.columns["cursor"].tolist()) == {0}
        with md.subscribe([BTC], kinds=["bar.5s"], format=form, resume={"sim/bars": position}) as stream:
            later = take_rows(stream, "bar.5s", 1)
        assert_whole(frames + later)


def test_columns_are_structs_and_index_events_tell_each_step(daemon: Daemon) -> None:
    with (
        connect(daemon.address) as md,
        md.subscribe(["*.sim"], kinds=["bar.1s", "index.1s"], format="columns") as stream,
    ):
        frames = take_rows(stream, "index.1s", 6)
    rows = [row for frame in frames for row in frame.rows]
    assert {type(row) for row in rows} == {Bar, IndexEvent}
    for state in (IndexState.OPENED, IndexState.ENDED):
        opens_ns = [row.open_ns for row in rows if isinstance(row, IndexEvent) and row.state == state]
        assert opens_ns == list(range(opens_ns[0], opens_ns[-1] + 1, SECOND_NS))


def test_bars_that_trades_end_have_as_many_as_they_say(daemon: Daemon) -> None:
    with connect(daemon.address) as md, md.subscribe([BTC], kinds=["bar.20t"]) as stream:
        frames = take_rows(stream, "bar.20t", 3)
        bars = np.concatenate([frame.rows for frame in frames])
        assert set(bars["trade_count"].tolist()) == {20}
        assert np.diff(bars["number"]).tolist() == [1] * (len(bars) - 1)
        series = md.series(BTC, "20t")
        assert (series.period_ns, series.missing, series.complete_until_ns) == (0, [], 0)
        assert set(series.rows["trade_count"][:-1].tolist()) == {20}


def test_the_newest_state_of_ticks_and_every_bar_in_one_stream(daemon: Daemon) -> None:
    with (
        connect(daemon.address) as md,
        md.subscribe(["*.sim"], kinds=["quote", "bar.1s"], contract="latest", rate_hz=5) as stream,
    ):
        frames = take_rows(stream, "bar.1s", 6)
    assert all(frame.merged is not None for frame in frames if frame.kind == "quote")
    assert_whole([frame for frame in frames if frame.feed == "sim/bars"])


def test_the_asynchronous_client_has_the_same_bars(daemon: Daemon) -> None:
    async def ask() -> None:
        with trio.fail_after(WAIT_S):
            async with open_client(daemon.address) as md:
                series = await md.series(BTC, "1s", limit=5)
                assert 0 < len(series) <= 5
                async with md.subscribe([BTC], kinds=["bar.1s"], forming_hz=2) as stream:
                    async for frame in stream:
                        if frame.kind == "bar.1s" and not frame.forming:
                            break
                    assert set(stream.positions) == {"sim/bars"}

    trio.run(ask)


def test_a_sampler_that_is_killed_leaves_no_hole_in_the_stream(tmp_path: Path) -> None:
    with running(tmp_path, CONFIG) as daemon, connect(daemon.address) as md:
        with md.subscribe(["*.sim"], kinds=["bar.1s"]) as stream:
            frames = take_rows(stream, "bar.1s", 3)
            psutil.Process(daemon.pids()["sampler"]).send_signal(signal.SIGKILL)
            frames += take_rows(stream, "bar.1s", 12)
        assert_whole(frames)


def test_another_daemon_is_another_epoch_of_bars_too(tmp_path: Path) -> None:
    frames, token = [], ""
    for _ in range(2):
        with (
            running(tmp_path, CONFIG) as daemon,
            connect(daemon.address) as md,
            md.subscribe(["*.sim"], kinds=["bar.1s"], resume=token) as stream,
        ):
            frames = take_rows(stream, "bar.1s", 1)
            token = stream.token
    [gap] = [frame for frame in frames if frame.kind == "gap"]
    assert (gap.feed, gap.rows["reason"][0]) == ("sim/bars", GapReason.EPOCH)

"""Streams that come back later than their ring holds rows, and after a restart: what was recorded comes first."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from marketd.client import Frame, Stream, connect
from marketd.model import GapReason
from marketd.rpc.messages import Position
from tests.scenario.daemon import Daemon, running, wait_for

CONFIG = """
[ring]
rows = 1024
[history]
periods = []
flush_s = 0.3
record_ticks = ["btc/*", "eth/*"]
[feeds.sim]
backend = "sim"
instruments = ["btc/usdt", "eth/usdt", "sol/usdt"]
rate_hz = 2000
"""
BTC, ETH, SOL = "btc/usdt.spot.sim", "eth/usdt.spot.sim", "sol/usdt.spot.sim"
KINDS = ("trade", "quote")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("resume"), CONFIG) as daemon:
        yield daemon


class Lost(NamedTuple):
    """A gap in a stream."""

    epoch: int
    first: int
    last: int
    reason: GapReason
    lost: int


def lost_of(frame: Frame) -> list[Lost]:
    columns = frame.columns
    return [
        Lost(frame.epoch, frame.cursor_first, frame.cursor_last, GapReason(reason), lost)
        for reason, lost in zip(columns["reason"].tolist(), columns["lost"].tolist(), strict=True)
    ]


class Told:
    """What a stream has told: rows by epoch and cursor, and gaps.

    Args:
        once: no row may come twice. By kind, where one stopped in the middle of a message all of it comes again.
    """

    def __init__(self, *, once: bool = True) -> None:
        self._once = once
        self.rows: set[tuple[int, int]] = set()
        self.gaps: list[Lost] = []

    def take(self, stream: Stream, until: int, epoch: int | None = None) -> Told:
        """Take frames until the stream has passed a cursor of its newest epoch, or the one that is given."""
        deadline = time.monotonic() + 30
        for frame in stream:
            assert time.monotonic() < deadline, (frame, until, epoch)
            if frame.kind == "gap":
                self.gaps += lost_of(frame)
            elif frame.kind in KINDS:
                for cursor in frame.columns["cursor"].tolist():
                    assert not self._once or (frame.epoch, cursor) not in self.rows
                    self.rows.add((frame.epoch, cursor))
            if frame.epoch == (epoch or frame.epoch) and frame.cursor_last >= until:
                return self
        raise AssertionError("the stream ended")


def stored(daemon: Daemon, instruments: list[str], first: int, last: int) -> set[int]:
    """Return the cursors that the ticks have of these instruments."""
    with connect(daemon.address) as md:
        found: set[int] = set()
        for kind in KINDS:
            for name in instruments:
                found |= set(md.tick_history(name, kind).to_polars()["cursor"].to_list())
    return {cursor for cursor in found if first <= cursor <= last}


def newest(daemon: Daemon) -> int:
    """Return the feed's newest cursor."""
    with connect(daemon.address) as md:
        return md.status().feeds[0].cursor


def wait_lapped(daemon: Daemon, cursor: int) -> int:
    """Wait until the ring does not have a cursor any more, by far; return its newest."""
    wait_for(lambda: newest(daemon) > cursor + 3000, 60, "the ring to go round")
    return newest(daemon)


@pytest.mark.parametrize("form", ["rows", "columns"])
@pytest.mark.parametrize("contract", ["lossless", "frames"])
def test_stream_that_comes_back_when_the_ring_went_round_has_lost_nothing(
    daemon: Daemon, contract: Literal["lossless", "frames"], form: Literal["rows", "columns"]
) -> None:
    told = Told(once=contract == "lossless")
    asked: dict[str, Any] = {"kinds": KINDS, "contract": contract, "format": form, "rate_hz": 50.0}
    with connect(daemon.address) as md, md.subscribe([BTC, ETH], **asked) as stream:
        told.take(stream, newest(daemon))
        token = stream.token
    begun = stream.positions["sim"].cursor
    until = wait_lapped(daemon, begun)
    with connect(daemon.address) as md, md.subscribe([BTC, ETH], **asked, resume=token) as stream:
        told.take(stream, until)
        # From here on it follows the ring, with the names that it needs.
        told.take(stream, newest(daemon) + 200)
        last = stream.positions["sim"].cursor
    assert told.gaps == []
    wait_for(lambda: max(stored(daemon, [BTC, ETH], 0, 1 << 60)) > last, 20, "the log to be as far")
    mine = {cursor for _, cursor in told.rows if cursor <= last}
    assert mine == stored(daemon, [BTC, ETH], min(mine), last)


def test_trade_safe_stream_has_every_trade_of_the_log(daemon: Daemon) -> None:
    begun = newest(daemon)
    until = wait_lapped(daemon, begun)
    epoch = epoch_of(daemon)
    told = Told()
    with connect(daemon.address) as md:
        resume = {"sim": Position(epoch, begun)}
        with md.subscribe([BTC], kinds=KINDS, contract="trade_safe", rate_hz=50.0, resume=resume) as stream:
            told.take(stream, until)
        trades = md.tick_history(BTC, "trade").to_polars()["cursor"].to_list()
    mine = {cursor for cursor in trades if begun < cursor <= until}
    assert mine <= {cursor for _, cursor in told.rows}
    assert told.gaps == []


def test_stream_from_a_time_that_the_ring_has_not(daemon: Daemon) -> None:
    with connect(daemon.address) as md:
        rows = md.tick_history(BTC, "trade").to_polars()
        from_ns = int(rows["received_ns"][20])
        first = rows.filter(rows["received_ns"] >= from_ns)["cursor"].min()
        until = wait_lapped(daemon, int(first))
        with md.subscribe([BTC], kinds=["trade"], start=from_ns) as stream:
            told = Told().take(stream, until)
            states = []
            for frame in stream:
                states.append(frame.state)
                if "replay_completed" in states or len(states) > 1000:
                    break
    assert told.gaps == []
    assert min(cursor for _, cursor in told.rows) == first
    assert {cursor for _, cursor in told.rows} >= {
        cursor for cursor in rows["cursor"].to_list() if cursor >= int(first)
    }


def test_time_before_everything_begins_with_a_gap_of_unknown_size(daemon: Daemon) -> None:
    with connect(daemon.address) as md, md.subscribe([BTC], kinds=["trade"], start=1) as stream:
        told = Told().take(stream, newest(daemon))
    first = told.gaps[0]
    assert first == Lost(epoch_of(daemon), 1, 0, GapReason.EPOCH, -1)
    rest = [gap for gap in told.gaps[1:] if gap.reason is GapReason.LAPPED]
    reached = rest[0].last if rest else 0  # what the ring had no more when the recorder began
    assert min(cursor for _, cursor in told.rows) in range(reached + 1, reached + 100)


def epoch_of(daemon: Daemon) -> int:
    with connect(daemon.address) as md:
        return md.status().feeds[0].epoch


@pytest.mark.parametrize("instruments", [[BTC, SOL], ["*.sim"]])
def test_what_is_not_recorded_is_a_gap_that_is_counted(daemon: Daemon, instruments: list[str]) -> None:
    """And the stream goes on with what the ring still has."""
    begun = newest(daemon)
    until = wait_lapped(daemon, begun)
    with connect(daemon.address) as md:
        resume = {"sim": Position(epoch_of(daemon), begun)}
        with md.subscribe(instruments, kinds=KINDS, resume=resume) as stream:
            told = Told().take(stream, until + 1500)
    gap = told.gaps[0]
    assert (gap.first, gap.reason) == (begun + 1, GapReason.LAPPED)
    assert gap.lost == gap.last - begun
    assert min(cursor for _, cursor in told.rows) > gap.last > begun + 1000


@pytest.mark.parametrize("killed", [False, True])
def test_stream_goes_on_over_a_restart_of_the_daemon(tmp_path: Path, killed: bool) -> None:
    """To the old epoch's last row and on with the new one's first. What a daemon that was killed had not recorded yet
    is a gap of unknown size."""
    asked: dict[str, Any] = {"kinds": KINDS, "instruments": [BTC, ETH]}
    config = CONFIG.replace("rate_hz = 2000", "rate_hz = 200")  # slow enough for the recorder to be there in time
    with running(tmp_path, config) as daemon:
        told = Told()
        with connect(daemon.address) as md, md.subscribe(**asked) as stream:
            told.take(stream, newest(daemon) + 50)
            old, token = stream.positions["sim"], stream.token
        wait_for(lambda: newest(daemon) > old.cursor + 500, 30, "more rows")
        if killed:
            os.kill(daemon.process.pid, signal.SIGKILL)
            daemon.process.wait()
        else:
            daemon.stop()
    with running(tmp_path, config, instance=daemon.instance) as again:
        epoch = epoch_of(again)
        assert epoch != old.epoch
        until = newest(again) + 1100  # once round its ring
        with connect(again.address) as md, md.subscribe(**asked, resume=token) as stream:
            told.take(stream, until, epoch)
        wait_for(lambda: max(stored(again, [BTC, ETH], 0, 1 << 60)) >= until, 20, "the log to be as far")
    ours = {number: {cursor for each, cursor in told.rows if each == number} for number in (old.epoch, epoch)}
    assert max(ours[old.epoch]) > old.cursor + 400
    assert min(ours[epoch]) < 50, "from the new epoch's first rows on"
    between = [gap for gap in told.gaps if gap.reason is GapReason.EPOCH]
    assert between == [Lost(epoch, 1, 0, GapReason.EPOCH, -1 if killed else 0)]
    assert not [gap for gap in told.gaps if gap.reason is GapReason.LAPPED]

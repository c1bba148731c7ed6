"""Stories of the sampler: a real daemon's bars, held against bars made of the very ticks in its ring."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from marketd.client import CannotConnect, RequestError, connect
from marketd.clock import SECOND_NS
from marketd.model import Kind
from marketd.periods import parse_period
from marketd.ring import layout
from marketd.ring.bars import BLOCK, SLOT, rows_of
from marketd.ring.reader import RingReader
from marketd.ring.steps import BarState, IndexState
from marketd.sample import bar, kernel
from marketd.sample.bars import BarSet, private_level
from tests.scenario.daemon import Daemon, compile_bars, running, wait_for

PERIODS = ("1s", "5s", "1m")
CONFIG = """
[ring]
rows = 262144
[bars]
periods = ["1s", "5s", "1m"]
[bars.activity]
"btc/*" = ["10t", "1v"]
[feeds.sim]
backend = "sim"
instruments = 3
rate_hz = 300
"""
INSTRUMENTS = 3


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, CONFIG) as daemon:
        yield daemon


def ticks(daemon: Daemon, feed: str = "sim") -> NDArray[np.void]:
    """All rows of a feed's ring, which must not have been overwritten yet."""
    ring = RingReader(daemon.paths.segment(feed, "ring"), cursor=0)
    rows = ring.read_range(1, ring.published)
    ring.close()
    return rows


def names(daemon: Daemon) -> list[str]:
    with connect(daemon.address) as md:
        return sorted(hit.fqme for hit in md.search("*.sim"))


def expected(rows: NDArray[np.void], until_ns: int) -> dict[tuple[int, int], NDArray[np.void]]:
    """Make bars of ticks; by level and instrument, dtype ``BAR``."""
    bars = BarSet([private_level(parse_period(period), 4000, INSTRUMENTS) for period in PERIODS])
    bars.live[:] = kernel.LIVE
    bars.take(rows)
    bars.advance(until_ns)
    bars.flush()
    found = {}
    for level, instrument in itertools.product(range(len(PERIODS)), range(1, INSTRUMENTS + 1)):
        block, lane = divmod(instrument - 1, BLOCK)
        words = bars.levels[level].words[block, :, lane]
        words = words[words[:, bar.NUMBER] > 0]
        slots = words[np.argsort(words[:, bar.NUMBER])].view(SLOT).reshape(-1)
        period_ns = parse_period(PERIODS[level]).period_ns
        found[level, instrument] = rows_of(slots, np.full(len(slots), instrument), 16 + level, period_ns, 0)
    return found


def check_against_ticks(daemon: Daemon, *, skip: int = 1, states: bool = True) -> int:
    """Hold every bar that is out against one made of the ring's ticks; return how many there were.

    Args:
        skip: bars at the beginning, of which nobody can say whether they are whole.
        states: whether closed and revised must be the same as well, and not only which bars are missing.
    """
    compared = 0
    with connect(daemon.address) as md:
        for period, fqme in itertools.product(PERIODS, names(daemon)):
            series = md.series(fqme, period=period)
            level, instrument = PERIODS.index(period), md.instrument(fqme).id
            truth = expected(ticks(daemon), series.complete_until_ns + SECOND_NS // 2)[level, instrument]
            by_time = {int(row["open_ns"]): row for row in truth}
            period_ns = parse_period(period).period_ns
            out = [row for row in series.rows if row["open_ns"] + period_ns <= series.complete_until_ns][skip:]
            assert all(b["open_ns"] - a["open_ns"] == period_ns for a, b in itertools.pairwise(out)), (
                "a bar is left out"
            )
            for row in out:
                other = by_time[int(row["open_ns"])]
                names_checked = ["open", "high", "low", "close", "volume", "trade_count", "first_id", "last_id"]
                for name in names_checked + (["state"] if states else []):
                    same = row[name] == other[name] or (row[name] != row[name] and other[name] != other[name])
                    assert same, f"{fqme} {period}: {name} of\n{row} is not that of\n{other}"
                missing = [bar["state"] == BarState.MISSING for bar in (row, other)]
                assert missing[0] == missing[1], f"{fqme} {period}: missing or not:\n{row}\n{other}"
                compared += 1
    return compared


def wait_for_bars(daemon: Daemon, count: int, *, period: str = "1s", after_ns: int = 0) -> None:
    """Wait until each instrument has so many bars that are out."""

    def there() -> bool:
        with connect(daemon.address) as md:
            found = [md.series(fqme, period=period, start=after_ns or None) for fqme in names(daemon)]
        return all((series.rows["state"] >= BarState.CLOSED).sum() >= count for series in found)

    wait_for(there, 40.0, f"{count} bars")


def test_live_bars_equal_those_made_of_the_ticks(daemon: Daemon) -> None:
    """R20, R28: live and offline are the same function, whatever the batches were."""
    wait_for_bars(daemon, 6)
    assert check_against_ticks(daemon) >= INSTRUMENTS * (5 + 0)


def test_there_is_one_sampler_and_each_step_is_told_once_however_many_listen(daemon: Daemon) -> None:
    """B6, R04, R15, R16: concurrent first users make no second one; a step is one event, whatever the instruments."""

    def listen(number: int) -> list[int]:
        with connect(daemon.address) as md, md.subscribe(["*"], kinds=["index.1s"]) as stream:
            opened: list[int] = []
            while len(opened) < 4:
                frame = stream.wait_next(20.0)
                assert frame is not None
                if frame.kind == "index.1s":
                    rows = frame.rows
                    opened += rows["open_ns"][rows["state"] == IndexState.OPENED].tolist()
            return opened[:4]

    with ThreadPoolExecutor(8) as pool:
        heard = list(pool.map(listen, range(8)))
    for opened in heard:
        assert [later - earlier for earlier, later in itertools.pairwise(opened)] == [SECOND_NS] * 3
        assert all(open_ns % SECOND_NS == 0 for open_ns in opened)
    with connect(daemon.address) as md:
        assert Counter(actor.name for actor in md.status().actors)["sampler"] == 1


def test_one_listener_that_dies_disturbs_no_other(daemon: Daemon) -> None:
    """B4, R12, R13, R32: abruptly, in the middle of a broadcast, and found dead by every feed that it followed."""
    with connect(daemon.address) as md, md.subscribe(["*"], kinds=["index.1s", "bar.1s"]) as stream:
        for _ in range(5):
            pid = os.fork()
            if pid == 0:  # another process, which is killed with all that it has not read
                with (
                    connect(daemon.address) as other,
                    other.subscribe(["*"], kinds=["index.1s", "bar.1s"], forming_hz=50),
                ):
                    time.sleep(60)
            time.sleep(0.3)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        opened: list[int] = []
        deadline_s = time.monotonic() + 30
        while len(opened) < 4 and time.monotonic() < deadline_s:
            frame = stream.wait_next(5.0)
            if frame is not None and frame.kind == "index.1s":
                opened += frame.rows["open_ns"][frame.rows["state"] == IndexState.OPENED].tolist()
        assert [later - earlier for earlier, later in itertools.pairwise(opened)] == [SECOND_NS] * (len(opened) - 1)
        assert len(opened) >= 4
        assert {actor.restarts for actor in md.status().actors} == {0}


def test_killed_sampler_comes_back_with_the_same_bars_and_clients_stay(daemon: Daemon) -> None:
    """What was ticked meanwhile is in the ring: nothing is missing, nothing is counted twice, no step is left out."""
    wait_for_bars(daemon, 3)
    with connect(daemon.address) as md, md.subscribe(["*"], kinds=["index.1s", "bar.1s"]) as stream:
        for _ in range(3):
            os.kill(daemon.pids()["sampler"], signal.SIGKILL)
            wait_for(lambda: _is_live(daemon, "sampler"), 40.0, "a new sampler")
            wait_for_bars(daemon, 2, after_ns=time.time_ns())
        opened: list[int] = []
        while (frame := stream.wait_next(0.0)) is not None:
            assert frame.kind in ("index.1s", "bar.1s", "status"), frame
            if frame.kind == "index.1s":
                opened += frame.rows["open_ns"][frame.rows["state"] == IndexState.OPENED].tolist()
    assert [later - earlier for earlier, later in itertools.pairwise(opened)] == [SECOND_NS] * (len(opened) - 1)
    assert check_against_ticks(daemon) > 20
    assert "Traceback" not in daemon.log


def test_stopped_sampler_makes_up_for_the_time_it_stood_still(daemon: Daemon) -> None:
    """As a suspended machine does, but shorter than what the supervisor takes for death."""
    wait_for_bars(daemon, 3)
    sampler = psutil.Process(daemon.pids()["sampler"])
    began_ns = time.time_ns()
    sampler.suspend()
    wait_for(lambda: time.time_ns() > began_ns + 3 * SECOND_NS, 10.0)
    sampler.resume()
    wait_for_bars(daemon, 4, after_ns=began_ns + 2 * SECOND_NS)
    assert check_against_ticks(daemon) > 20
    assert daemon.pids()["sampler"] == sampler.pid


def test_outage_gives_missing_bars_and_never_flat_ones(tmp_path: Path) -> None:
    """From the outage's first bar to its last; before and after all is whole."""
    config = CONFIG + "\noutages = [{ after_s = 3, for_s = 4 }]\n"
    with running(tmp_path, config) as daemon:
        wait_for_bars(daemon, 10)
        check_against_ticks(daemon, states=False)
        with connect(daemon.address) as md:
            series = md.series(names(daemon)[0], period="1s")
    missing = series.rows[series.rows["state"] == BarState.MISSING]
    assert np.isnan(missing["close"]).sum() >= 3
    assert (missing["trade_count"][np.isnan(missing["close"])] == 0).all()
    assert sum(to_ns - from_ns for from_ns, to_ns in series.missing) >= 4 * SECOND_NS


def test_bars_of_activity_hold_what_their_names_say(daemon: Daemon) -> None:
    """Ten trades each, or a volume of one and more; only of the instruments that ask for them."""
    with connect(daemon.address) as md:
        btc = next(name for name in names(daemon) if name.startswith("btc/"))

        def out(period: str) -> NDArray[np.void]:
            rows = md.series(btc, period=period).rows
            return rows[rows["state"] >= BarState.CLOSED]

        wait_for(lambda: len(out("10t")) >= 3, 40.0, "bars of ten trades")
        tens = out("10t")
        assert (tens["trade_count"] == 10).all()
        trades = ticks(daemon)
        mine = trades[(trades["kind"] == 1) & (trades["instrument"] == md.instrument(btc).id)]
        assert tens["open"].tolist() == mine["v0"][: len(tens) * 10 : 10].tolist()
        assert tens["number"].tolist() == list(range(1, len(tens) + 1))
        other = next(name for name in names(daemon) if not name.startswith("btc/"))
        assert len(md.series(other, period="10t").rows) == 0


def test_forming_bars_come_at_the_rate_that_was_asked_for_and_move_no_position(daemon: Daemon) -> None:
    """Each newer than the one before; the same bar when it is out has all that the last one had."""
    with connect(daemon.address) as md, md.subscribe(names(daemon)[:1], kinds=["bar.5s"], forming_hz=4) as stream:
        begun_s, forming = time.monotonic(), 0
        last: dict[int, int] = {}
        while time.monotonic() < begun_s + 6:
            frame = stream.wait_next(2.0)
            if frame is None or not frame.kind.startswith("bar."):
                continue
            for row in frame.rows:
                assert row["trade_count"] >= last.get(int(row["open_ns"]), 0)
                last[int(row["open_ns"])] = int(row["trade_count"])
                forming += row["state"] == BarState.FORMING
        assert 8 <= forming <= 2 * 4 * 7  # at a step two bars are forming
        positions = stream.positions
    assert positions["sim/bars"].cursor > 0


def test_clients_that_ask_for_what_is_not_made_are_told_what_is(daemon: Daemon) -> None:
    """Bad input: kinds, periods, names, ranges."""
    with connect(daemon.address) as md:
        for kinds in (["bar.7m"], ["index.10t"], ["bar.1s", "bar.2s"]):
            with pytest.raises(RequestError, match=r"bar\.1m") as refusal:
                md.subscribe(["*"], kinds=kinds)
            assert refusal.value.code == "invalid_params"
        with pytest.raises(RequestError, match="1s, 5s, 1m, 10t, 1v"):
            md.series(names(daemon)[0], period="3h")
        with pytest.raises(RequestError, match="end_ns is before start_ns"):
            md.series(names(daemon)[0], start=2, end=1)
        with pytest.raises(RequestError, match="no feed has"):
            md.series("no/such.spot.sim")
        assert len(md.series(names(daemon)[0], start=0, end=1).rows) == 0


def test_daemon_without_periods_has_no_sampler_and_says_so(tmp_path: Path) -> None:
    """B4, R14: a request for bars is an answer, too, where nobody makes any."""
    with (
        running(tmp_path, '[bars]\nperiods = []\n[feeds.sim]\nbackend = "sim"\n') as daemon,
        connect(daemon.address) as md,
    ):
        assert "sampler" not in {actor.name for actor in md.status().actors}
        with pytest.raises(RequestError, match="nothing"):
            md.series(names(daemon)[0])


def test_two_daemons_make_their_own_bars(tmp_path: Path) -> None:
    """R06: side by side, of the same names; the end of one leaves the other's in place."""
    with running(tmp_path, CONFIG, instance=f"left-{os.getpid()}") as left:
        with running(tmp_path, CONFIG, instance=f"right-{os.getpid()}") as right:
            wait_for_bars(right, 2)
            segments = set(right.paths.segments())
            assert segments.isdisjoint(left.paths.segments())
        wait_for_bars(left, 4)
        check_against_ticks(left)
        assert not right.paths.segments()


def _is_live(daemon: Daemon, name: str) -> bool:
    with connect(daemon.address) as md:
        return any(actor.name == name and actor.state == "live" and actor.pid for actor in md.status().actors)


@pytest.mark.parametrize("speed", ["2000", "max"])
def test_replay_has_the_same_bars_at_any_speed(tmp_path: Path, speed: str) -> None:
    """A recording brings its own clock: states too are those of any other run, and of bars made of its rows offline."""
    path = tmp_path / "hours.json"
    trades = [[f"{100 + n % 7}.5", "0.1", 1_700_000_000 + n * 1.7, "b", "l", "", n + 1] for n in range(2000)]
    path.write_text(json.dumps({"error": [], "result": {"SOLUSD": trades, "last": "0"}}))
    with replaying(path, speed) as address, connect(address) as md:
        wait_for(lambda: md.status().feeds[0].state == "finished", 30.0, "the recording's end")
        fqme = "sol/usd.spot.kraken"
        # The sampler hears of the end from the supervisor, perhaps after us; then the last bar but one is out.
        wait_for(lambda: md.series(fqme, period="1s").complete_until_ns >= 1_700_003_398 * SECOND_NS, 20.0, "the end")
        found = {period: md.series(fqme, period=period).rows for period in ("1s", "1m", "1h")}
    offline = BarSet([private_level(parse_period(period), 4000, 1) for period in ("1s", "1m", "1h")])
    offline.live[:] = kernel.LIVE
    offline.take(_rows_of(trades))
    offline.time.finish()
    offline.advance(offline.time.now_ns)
    offline.flush()
    for level, rows in enumerate(found.values()):
        words = offline.levels[level].words[0, :, 0]
        slots = words[np.argsort(words[:, bar.NUMBER])].view(SLOT).reshape(-1)[-len(rows) :]
        assert rows["open_ns"].tolist() == slots["open_ns"].tolist()
        for name in ("state", "trade_count", "first_id", "last_id"):
            assert rows[name].tolist() == slots[name].tolist(), name
        np.testing.assert_array_equal(rows["close"], slots["close"])
        assert set(rows["state"][1:-1].tolist()) <= {BarState.CLOSED}


def test_hours_without_a_trade_are_told_bar_by_bar_although_the_ring_holds_one_hour(tmp_path: Path) -> None:
    """As fast as a replay can: whatever passes in one go is told while it is there."""
    path = tmp_path / "quiet.json"
    hours_s = [0, 3 * 3600, 3 * 3600 + 2]
    trades = [["5.5", "0.1", 1_700_000_000 + at_s, "b", "l", "", n + 1] for n, at_s in enumerate(hours_s)]
    path.write_text(json.dumps({"error": [], "result": {"SOLUSD": trades, "last": "0"}}))
    with (
        replaying(path, "max", "--wait-client") as address,
        connect(address) as md,
        md.subscribe(["*"], kinds=["bar.1s", "index.1s"]) as stream,
    ):
        bars: list[int] = []
        steps: list[int] = []
        deadline_s = time.monotonic() + 60
        while (not bars or bars[-1] < (1_700_000_000 + 3 * 3600) * SECOND_NS) and time.monotonic() < deadline_s:
            frame = stream.wait_next(1.0)
            assert frame is None or frame.kind in ("bar.1s", "index.1s", "status"), frame
            if frame is not None and frame.kind == "bar.1s":
                bars += frame.rows["open_ns"].tolist()
            elif frame is not None and frame.kind == "index.1s":
                steps += frame.rows["open_ns"][frame.rows["state"] == IndexState.OPENED].tolist()
    for found in (bars, steps):
        assert len(found) >= 3 * 3600
        assert [later - earlier for earlier, later in itertools.pairwise(found)] == [SECOND_NS] * (len(found) - 1)


def test_trades_that_come_late_revise_the_middle_and_only_who_has_it_hears_of_it(tmp_path: Path) -> None:
    """R18, R19: the event names instrument, period and time; what is read again has the trades; the ends stay."""
    begin_s = 1_767_225_600
    lines = [f"wss://ws.kraken.com <-> {begin_s}"]
    for channel, pair in ((1, "XBT/USD"), (2, "ETH/XBT")):
        said = {"channelID": channel, "channelName": "trade", "event": "subscriptionStatus", "pair": pair}
        lines.append(f"{begin_s}.1: " + json.dumps(said | {"status": "subscribed", "subscription": {"name": "trade"}}))
    for received_s, event_s, channel, pair, price in [
        *((0.6, 0.5, channel, pair, "10.0") for channel, pair in ((1, "XBT/USD"), (2, "ETH/XBT"))),
        *((10.6, 10.5, channel, pair, "12.0") for channel, pair in ((1, "XBT/USD"), (2, "ETH/XBT"))),
        (12.5, 6.5, 1, "XBT/USD", "11.0"),  # six seconds late
        *((14.6, 14.5, channel, pair, "12.0") for channel, pair in ((1, "XBT/USD"), (2, "ETH/XBT"))),
    ]:
        trade = [price, "1.5", f"{begin_s + event_s:.6f}", "b", "l", ""]
        lines.append(f"{begin_s + received_s:.6f}: " + json.dumps([channel, [trade], "trade", pair]))
    path = tmp_path / "late.ws"
    path.write_text("\n".join(lines) + "\n")
    late, other = "xbt/usd.spot.kraken", "eth/xbt.spot.kraken"
    heard: dict[tuple[str, str], list[int]] = {}
    with replaying(path, "4", "--wait-client") as address, connect(address) as md:
        # Else it would take all in one go, and nobody would have heard of a bar before it was revised.
        wait_for(lambda: any(a.name == "sampler" and a.state == "live" for a in md.status().actors), 30.0, "a sampler")
        kinds = ["index.1s", "index.5s", "index.1m"]
        with md.subscribe(["xbt/*"], kinds=kinds) as mine, md.subscribe(["eth/*"], kinds=kinds) as others:
            wait_for(lambda: md.status().feeds[0].state == "finished", 30.0, "the recording's end")
            md.series(late, period="1s")  # is answered when the bars know everything
            for name, stream in ((late, mine), (other, others)):
                while (frame := stream.wait_next(0.5)) is not None:
                    if frame.kind.startswith("index."):
                        revised = frame.rows[frame.rows["state"] == IndexState.REVISED]
                        assert {frame.fqme(number) for number in revised["instrument"]} <= {late}
                        heard.setdefault((name, frame.kind), []).extend(revised["open_ns"].tolist())
        rows = md.series(late, period="1s").rows
    at = [begin_s + n for n in range(6, 10)]
    assert [open_ns // SECOND_NS for open_ns in heard[late, "index.1s"]] == at, (
        "its bar, and the flat ones that follow it"
    )
    assert [open_ns // SECOND_NS for open_ns in heard[late, "index.5s"]] == [begin_s + 5]
    assert not heard[late, "index.1m"], "a bar that is still forming needs no revision"
    assert not any(times for (name, _), times in heard.items() if name == other)
    values = {int(row["open_ns"]) // SECOND_NS - begin_s: (row["close"], row["trade_count"]) for row in rows}
    assert values[5] == (10.0, 0)
    assert values[6] == (11.0, 1)
    assert [values[n] for n in (7, 8, 9)] == [(11.0, 0)] * 3
    assert (values[0], values[10]) == ((10.0, 1), (12.0, 1))


def _rows_of(trades: list[list[object]]) -> NDArray[np.void]:
    rows = np.zeros(len(trades), layout.TRADE)
    rows["event_ns"] = rows["received_ns"] = [int(Decimal(str(trade[2])) * SECOND_NS) for trade in trades]
    rows["price"], rows["size"] = [float(str(trade[0])) for trade in trades], 0.1
    rows["sequence"] = [int(str(trade[6])) for trade in trades]
    rows["instrument"], rows["kind"] = 1, Kind.TRADE
    return rows.view(layout.ROW)


@contextlib.contextmanager
def replaying(path: Path, speed: str, *options: str) -> Iterator[str]:
    """Run `marketd replay` until the end of the block; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    compile_bars()
    command = [sys.executable, "-m", "marketd", "replay", str(path), "--speed", speed, "-a", address, *options]
    command += ["--instance", f"r{os.getpid()}-{path.stem}-{speed}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _answers(address), 30.0, "the replay to listen")
        yield address
    finally:
        process.terminate()
        process.wait(10)


def _answers(address: str) -> bool:
    with contextlib.suppress(CannotConnect), connect(address):
        return True
    return False

"""Stories of the history manager: what a venue has of a month, and what came live, is in the store, each bar once."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest

from marketd.client import BarsMissing, Client, RequestError, connect
from marketd.clock import SECOND_NS
from marketd.model import Flag
from marketd.ring.steps import BarState
from marketd.rpc.framing import frame
from marketd.testvenue.candles import Period
from storage.client import open_storage_client
from storage.coverage import State, ranges
from storage.layout import Series
from tests.scenario.daemon import Daemon, running, wait_for
from tests.scenario.venue import VenueProcess, venue_running

MINUTE_NS = 60 * SECOND_NS
DAYS = 30
KILLS = 10


def config(venue: VenueProcess, *, days: float = DAYS) -> str:
    return f"""
[bars]
periods = ["1s", "1m"]
[history]
flush_s = 0.5
depth_days = {days}
{venue.feed("binance", instruments=["*"])}
"""


def truth(venue: VenueProcess, symbol: str, start_ns: int, end_ns: int, period_ns: int = MINUTE_NS) -> pl.DataFrame:
    """Return the venue's own candles as bars."""
    binance = venue.engine.venues["binance"]
    instruments = binance.market.instruments
    index = [instrument.symbol for instrument in instruments].index(symbol)
    digits = instruments[index]
    candles = binance.candles.candles(index, Period(period_ns), start_ns, end_ns, end_ns + period_ns)
    columns: dict[str, list[float]] = {"open_ns": [candle.open_ns for candle in candles]}
    for name in ("open", "high", "low", "close"):
        columns[name] = [float(getattr(candle, name) * digits.price_tick) for candle in candles]
    columns["volume"] = [float(candle.volume * digits.size_tick) for candle in candles]
    columns["trade_count"] = [candle.trades for candle in candles]
    return pl.DataFrame(columns)


def stored(daemon: Daemon, symbol: str) -> pl.DataFrame:
    with open_storage_client(daemon.paths.store) as store:
        return store.read(series_of(symbol))


def series_of(symbol: str) -> Series:
    return Series(f"{symbol.lower()}.spot.binance", "1m")


def missing(daemon: Daemon, symbols: list[str], start_ns: int, end_ns: int) -> int:
    """Return how many bars of the range are not known to be whole."""
    found = 0
    with open_storage_client(daemon.paths.store) as store:
        for symbol in symbols:
            known = ranges(store.coverage(series_of(symbol)), State.COMPLETE, State.EMPTY)
            inside = sum(max(0, min(end, end_ns) - max(start, start_ns)) for start, end in known)
            found += (end_ns - start_ns - inside) // MINUTE_NS
    return found


def kill(daemon: Daemon) -> None:
    """Kill the whole tree at once."""
    for process in daemon.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    daemon.process.wait(10)
    wait_for(lambda: not _actors(daemon), 10, "the actors to be gone")


def _actors(daemon: Daemon) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process.pid for process in psutil.Process(daemon.process.pid).children(recursive=True)]
    return []


def marketd(*arguments: str) -> str:
    command = [sys.executable, "-m", "marketd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.timeout(400)  # ten lives of a daemon, on a machine that may be busy with other tests
def test_month_of_three_instruments_is_whole_after_ten_kills_two_outages_a_ban_and_damage(tmp_path: Path) -> None:
    """R53, R55, R56, R57, R64, R69: every bar once, and equal to the venue's; ledger and files agree; no gap."""
    dice = random.Random(4)
    with venue_running(instruments=3, rate=6, history_days=DAYS + 1) as venue:
        symbols = [instrument.symbol for instrument in venue.engine.venues["binance"].market.instruments]
        begin_ns = (time.time_ns() - DAYS * 86_400 * SECOND_NS) // MINUTE_NS * MINUTE_NS + 10 * MINUTE_NS
        for number in range(KILLS):
            with running(tmp_path, config(venue), instance="month", wait=False) as daemon:
                if number in (3, 6):
                    venue.inject([{"venue": "binance", "fault": "maintenance", "for_s": 1.5}])
                if number == 4:
                    venue.inject([{"venue": "binance", "fault": "ban", "for_s": 3.0}])
                if number % 3:  # in the middle of the loading; else at any moment of its life, its start included
                    wait_until_loading(daemon, symbols, begin_ns)
                time.sleep(dice.uniform(0.0, 0.3) if number % 3 else dice.uniform(0.5, 3.5))
                kill(daemon)
            if number == 7:
                damage(daemon)
        with running(tmp_path, config(venue), instance="month") as daemon:
            until_ns = time.time_ns() // MINUTE_NS * MINUTE_NS
            whole = lambda: missing(daemon, symbols, begin_ns, until_ns) == 0  # noqa: E731
            wait_for(whole, 120, "every bar to be known", every_s=0.1)
            gaps = [marketd("store", "gaps", series_of(symbol).fqme, "--period", "1m", "--kind", "real",
                            "--store", str(daemon.paths.store), "--json") for symbol in symbols]  # fmt: skip
            assert gaps == ["", "", ""]
        assert marketd("store", "check", "--store", str(daemon.paths.store), "--json") == ""
        assert list((daemon.paths.store / "quarantine").rglob("*.parquet*")), "nothing was damaged after all"
        for symbol in symbols:
            rows = stored(daemon, symbol)
            assert rows["open_ns"].is_unique().all()
            assert rows["open_ns"].is_sorted()
            assert set(rows["state"].unique()) <= {BarState.CLOSED, BarState.REVISED}
            expected = truth(venue, symbol, begin_ns, until_ns)
            within = rows.filter(pl.col("open_ns").is_between(begin_ns, until_ns, closed="left"))
            for name in expected.columns:
                np.testing.assert_array_equal(within[name].to_numpy(), expected[name].to_numpy(), err_msg=name)


def wait_until_loading(daemon: Daemon, symbols: list[str], begin_ns: int) -> None:
    """Wait until a page was stored, if any is missing."""
    end_ns = time.time_ns() // MINUTE_NS * MINUTE_NS
    before = missing(daemon, symbols, begin_ns, end_ns)
    there = lambda: before == 0 or missing(daemon, symbols, begin_ns, end_ns) < before  # noqa: E731
    wait_for(there, 60, "a page", every_s=0.1)


def damage(daemon: Daemon) -> None:
    """Flip a byte in the middle of the largest file."""
    path = max(daemon.paths.store.rglob("*.parquet"), key=lambda each: each.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.fixture(scope="module")
def venue() -> Iterator[VenueProcess]:
    with venue_running(instruments=3) as venue:
        yield venue


@pytest.fixture(scope="module")
def daemon(venue: VenueProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("history"), config(venue, days=0.5)) as daemon:
        yield daemon


def whole(daemon: Daemon, fqme: str, minutes: int) -> bool:
    """Whether the last so many minutes are there."""
    with connect(daemon.address) as md:
        found = md.history(fqme, start=time.time_ns() - minutes * MINUTE_NS)
    return len(found) >= minutes - 1 and not found.missing


def test_history_is_served_without_a_seam_and_longer_periods_are_made_of_it(daemon: Daemon, venue: VenueProcess):
    """C2, C16, R60: what a client reads at any moment equals the venue's candles; the newest bar is still forming."""
    fqme = "btc/usdt.spot.binance"
    wait_for(lambda: whole(daemon, fqme, 700), 30, "half a day of bars")
    with connect(daemon.address) as md:
        found = md.history(fqme)
        rows = found.to_polars()
        until_ns = found.series[0].complete_until_ns
        closed = rows.filter(pl.col("open_ns") < until_ns)
        expected = truth(venue, "BTC/USDT", int(rows["open_ns"][0]), until_ns)
        for name in expected.columns:
            np.testing.assert_array_equal(closed[name].to_numpy(), expected[name].to_numpy(), err_msg=name)
        assert rows["state"][-1] == BarState.FORMING
        one = md.series(fqme, start=int(rows["open_ns"][0]), limit=700, order="oldest")
        assert one.rows["close"].tolist() == rows["close"][:700].to_list()
        assert one.limited
        for minutes in (5, 30):
            longer = md.history(fqme, f"{minutes}m").to_polars().filter(pl.col("state") == BarState.CLOSED)
            assert len(longer) >= 600 // minutes
            for bar in longer.iter_rows(named=True):
                end_ns = bar["open_ns"] + minutes * MINUTE_NS
                part = closed.filter(pl.col("open_ns").is_between(bar["open_ns"], end_ns, closed="left"))
                assert len(part) == minutes
                assert (bar["open"], bar["close"]) == (part["open"][0], part["close"][-1])
                assert (bar["high"], bar["low"]) == (part["high"].max(), part["low"].min())
                assert bar["trade_count"] == part["trade_count"].sum()
        many = md.history(["eth/*", fqme], limit=10, columns=["open_ns", "close"]).to_polars()
        assert many.columns == ["instrument", "open_ns", "close"]
        counts = many.group_by("instrument").len().sort("instrument")
        assert counts["len"].to_list() == [10, 10, 10]
        assert_tables_are_one(md, fqme)


def assert_tables_are_one(md: Client, fqme: str) -> None:
    """Whoever's tables: the same bars; and what a table lacks is warned of."""
    end_ns = time.time_ns() // MINUTE_NS * MINUTE_NS - 10 * MINUTE_NS
    bars = md.bars([fqme, "eth/*"], start=end_ns - 20 * MINUTE_NS, end=end_ns)
    assert (type(bars), bars.columns[:2], len(bars)) == (pl.DataFrame, ["instrument", "open_ns"], 60)
    for to, closes in (
        ("pyarrow", lambda table: table["close"].to_pylist()),
        ("pandas", lambda table: table["close"].tolist()),
        ("numpy", lambda table: table["close"].tolist()),
    ):
        other = md.bars([fqme, "eth/*"], start=end_ns - 20 * MINUTE_NS, end=end_ns, to=to)
        assert closes(other) == bars["close"].to_list()
    with pytest.warns(BarsMissing, match=f"{fqme} 1m: no whole bars from 1999-01-01 00:00:00"):
        md.bars(fqme, start="1999-01-01", limit=1)
    with pytest.raises(ValueError, match="to='excel'"):
        md.bars(fqme, limit=1, to="excel")


def test_range_that_is_asked_for_comes_and_progress_is_told(daemon: Daemon):
    fqme = "eth/usdt.spot.binance"
    wait_for(lambda: whole(daemon, fqme, 700), 30, "half a day of bars")
    start_ns = time.time_ns() - 3 * 86_400 * SECOND_NS
    told = []
    with connect(daemon.address) as md:
        result = md.backfill(fqme, start=start_ns, on_progress=told.append, timeout_s=60)
        assert (result.missing, result.detail) == (0, "")
        assert 3 * 1440 - 3 <= result.bars <= 3 * 1440
        assert told
        assert all(a.missing >= b.missing for a, b in itertools.pairwise(told))
        # A minute that is over since then is missing until its bar has come.
        wait_for(lambda: {span.state for span in md.coverage(fqme).spans} == {"complete"}, 10, "the last bar")
        wait_for(lambda: md.gaps(fqme).gaps == [], 10, "the last bar")
        assert len(md.history(fqme)) >= 3 * 1440 - 3
    said = marketd("coverage", fqme, "--address", daemon.address, "--json").splitlines()
    assert json.loads(said[0])["state"] == "complete"
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 2 * 86_400))
    text = marketd("backfill", fqme, "--from", day, "--address", daemon.address)
    assert text.startswith("all ")
    assert "3 series, " in marketd("status", "--address", daemon.address)
    assert len(marketd("bars", fqme, "--last", "2000", "--json", "--address", daemon.address).splitlines()) == 2000


def test_history_manager_that_is_killed_comes_back_and_who_asks_meanwhile_is_told(daemon: Daemon):
    """C3: bars in memory need no store."""
    fqme = "eth/btc.spot.binance"
    wait_for(lambda: whole(daemon, fqme, 700), 30, "half a day of bars")
    before = daemon.pids()
    psutil.Process(before["history"]).kill()
    with connect(daemon.address) as md:
        with contextlib.suppress(RequestError):  # it may be back already
            md.history(fqme)
        assert len(md.series(fqme).rows) > 0, "what is in memory needs no history manager"
    wait_for(lambda: daemon.pids().get("history", 0) not in (0, before["history"]), 20, "another one")
    wait_for(lambda: _served(daemon, fqme), 20, "it to answer")
    wait_for(lambda: whole(daemon, fqme, 700), 30, "half a day of bars again")
    after = daemon.pids()
    assert {name: pid for name, pid in after.items() if name != "history"} == {
        name: pid for name, pid in before.items() if name != "history"
    }


def test_garbage_on_the_history_managers_socket_disturbs_nobody(daemon: Daemon):
    """Nor does a question that it can't work out."""
    before = daemon.pids()["history"]
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", frame(b"\xc1garbage"), b"\xff" * 100, frame(b"\x80")):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(daemon.paths.history_socket))
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
    fqme = "eth/btc.spot.binance"
    with connect(daemon.address) as md:
        with pytest.raises(RequestError) as refusal:
            md.gaps(fqme, start=2**63 + 1, end=2**64 - 1)
        assert refusal.value.code == "internal"
        assert len(md.history(fqme)) > 0
    assert daemon.pids()["history"] == before


def _served(daemon: Daemon, fqme: str) -> bool:
    with contextlib.suppress(RequestError), connect(daemon.address) as md:
        return len(md.history(fqme)) > 0
    return False


def test_questions_that_make_no_sense_get_a_clear_answer(daemon: Daemon, venue: VenueProcess, tmp_path: Path):
    """Bad input: names, periods, columns, ranges; and a daemon that stores nothing."""
    fqme = "btc/usdt.spot.binance"
    wait_for(lambda: whole(daemon, fqme, 100), 30, "bars")
    with connect(daemon.address) as md:
        for code, text, ask in [
            ("unknown_instrument", "nothing is held", lambda: md.history("no/such.spot.binance")),
            ("invalid_params", "is no period", lambda: md.history(fqme, "7x")),
            ("invalid_params", "no column 'price'", lambda: md.history(fqme, columns=["price"])),
            ("invalid_params", "end_ns is before start_ns", lambda: md.history(fqme, start=2, end=1)),
            ("invalid_params", "nothing is held", lambda: md.history(fqme, "7s", start=0)),
            ("invalid_params", "history.periods has 1m", lambda: md.backfill(fqme, "1s")),
            ("unknown_instrument", "no feed has", lambda: md.backfill("no/such.spot.binance")),
            ("unknown_instrument", "nothing is stored", lambda: md.gaps("no/such.spot.binance")),
        ]:
            with pytest.raises(RequestError, match=text) as refusal:
                ask()
            assert refusal.value.code == code
        assert md.coverage("no/such.spot.binance").spans == []
    without = config(venue).replace("flush_s = 0.5", "periods = []")
    with running(tmp_path, without) as other, connect(other.address) as md:
        assert "history" not in other.pids()
        with pytest.raises(RequestError, match="stores nothing") as refusal:
            md.history(fqme)
        assert refusal.value.code == "unavailable"


def test_outage_is_filled_by_the_venue_and_who_listens_hears_of_it(venue: VenueProcess, tmp_path: Path) -> None:
    """B5, R18: the bars of the outage, and the longer ones of that time, come again as the venue has them."""
    text = config(venue, days=0.001).replace("flush_s", 'periods = ["1s"]\nflush_s').replace("1m", "5s")
    fqme = "btc/usdt.spot.binance"
    filled: dict[tuple[str, int], np.void] = {}
    missing: set[tuple[str, int]] = set()
    told: list[list[str]] = []
    with (
        running(tmp_path, text) as daemon,
        connect(daemon.address) as md,
        md.subscribe([fqme], kinds=["bar.1s", "bar.5s"]) as stream,
    ):
        wait_for(lambda: stream.wait_next(1.0), 20, "bars")
        venue.inject([{"venue": "binance", "fault": "refuse", "for_s": 2.0}, {"venue": "binance", "fault": "cut"}])
        deadline_s = time.monotonic() + 40
        while time.monotonic() < deadline_s and not {"bar.1s", "bar.5s"} <= {kind for kind, _ in filled}:
            frame = stream.wait_next(1.0)
            if frame is not None and frame.state == "gap_filled":
                told.append(frame.detail.split())
            for row in frame.rows if frame is not None and frame.kind.startswith("bar.") else ():
                key = (frame.kind, int(row["open_ns"]))
                if row["state"] == BarState.MISSING:
                    missing.add(key)
                elif row["flags"] & Flag.BACKFILLED and key in missing:
                    filled[key] = row.copy()
        assert {kind for kind, _ in filled} == {"bar.1s", "bar.5s"}
        for (kind, open_ns), row in filled.items():
            assert row["state"] == BarState.REVISED
            [expected] = truth(venue, "BTC/USDT", open_ns, open_ns + 1, SECOND_NS * int(kind[4])).iter_rows(named=True)
            assert {name: row[name] for name in expected} == expected
        assert {name for name, *_ in told} == {fqme}
        assert {kind for _, kind, *_ in told} >= {"bar.1s"}
        for kind, open_ns in filled:
            if kind == "bar.1s":  # those that are stored
                assert any(int(start) <= open_ns < int(end) for _, each, start, end, _ in told if each == kind)
        opens_ns = [open_ns for kind, open_ns in missing if kind == "bar.1s"]
        wait_for(lambda: not md.history(fqme, "1s", start=min(opens_ns), end=max(opens_ns)).missing, 20, "no gap")

"""Bars from a real daemon, by the commands."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars
import pytest

from marketd.client import connect
from marketd.client.bars import COLUMNS
from tests.conftest import PROJECT
from tests.scenario.daemon import Daemon, running, wait_for

CONFIG = """
[feeds.sim]
backend = "sim"
instruments = 3
rate_hz = 300
[bars]
periods = ["1s", "5s", "1m"]
lateness_ms = 100
"""
BTC = "btc/usdt.spot.sim"
SECOND_NS = 1_000_000_000


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("bars"), CONFIG) as found:
        with connect(found.address) as md:

            def closed() -> bool:
                return md.series(BTC, "1s").columns["state"].tolist().count("closed") >= 4

            wait_for(closed, 30, "some closed bars")
        yield found


def _run(daemon: Daemon, *arguments: str, code: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "marketd", *arguments, "--address", daemon.address],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={**os.environ, "NO_COLOR": "1"},
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def _lines(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


def test_bars_are_whole_seconds_in_order_and_only_the_newest_are_forming(daemon: Daemon) -> None:
    output, _ = _run(daemon, "bars", BTC, "--period", "1s", "--json")
    bars = _lines(output)
    opens_ns = [bar["open_ns"] for bar in bars]
    assert opens_ns == list(range(opens_ns[0], opens_ns[-1] + 1, SECOND_NS))
    states = [bar["state"] for bar in bars]
    assert "forming" not in states[:-2]
    assert states.count("closed") >= 4
    for bar in bars:
        if bar["open"] is not None:
            assert bar["low"] <= min(bar["open"], bar["close"]) <= max(bar["open"], bar["close"]) <= bar["high"]


def test_first_and_last_and_a_range_are_parts_of_all(daemon: Daemon) -> None:
    now_ns = max(int(bar["open_ns"]) for bar in _lines(_run(daemon, "bars", BTC, "-p", "1s", "--json")[0]))
    until = ("--to", str(now_ns - SECOND_NS), "--json")
    every = _lines(_run(daemon, "bars", BTC, "-p", "1s", *until)[0])
    assert len(every) >= 4
    assert _lines(_run(daemon, "bars", BTC, "-p", "1s", "--first", "2", *until)[0]) == every[:2]
    assert _lines(_run(daemon, "bars", BTC, "-p", "1s", "--last", "2", *until)[0]) == every[-2:]
    start = ("--from", str(every[1]["open_ns"]))
    assert _lines(_run(daemon, "bars", BTC.upper().replace("/", ""), "-p", "1s", *start, *until)[0]) == every[1:]


def test_a_file_and_the_table_have_the_same_bars(daemon: Daemon, tmp_path: Path) -> None:
    end_ns = int(_lines(_run(daemon, "bars", BTC, "-p", "1s", "--json")[0])[-3]["open_ns"])
    wanted = ("bars", BTC, "-p", "1s", "--to", str(end_ns))
    for name in ("x.csv", "x.parquet"):
        assert _run(daemon, *wanted, "-o", str(tmp_path / name))[0] == ""
    with (tmp_path / "x.csv").open() as file:
        rows = list(csv.DictReader(file))
    frame = polars.read_parquet(tmp_path / "x.parquet")
    assert frame.columns == list(COLUMNS) == list(rows[0])
    assert frame["open_ns"].to_list() == [int(row["open_ns"]) for row in rows]
    assert frame["close"].to_list() == [float(row["close"]) if row["close"] else None for row in rows]
    table, _ = _run(daemon, *wanted)
    assert len(table.splitlines()) == len(rows) + 2
    with connect(daemon.address) as md:
        digits = md.instrument(BTC).market.price_digits
    assert f" {float(rows[-1]['close']):.{digits}f} " in table.splitlines()[-2]


def test_a_range_before_the_daemon_began_is_missing(daemon: Daemon) -> None:
    begun_ns = int(_lines(_run(daemon, "bars", BTC, "-p", "5s", "--first", "1", "--json")[0])[0]["open_ns"])
    start_ns = begun_ns - 50 * SECOND_NS
    output, errors = _run(daemon, "bars", BTC, "-p", "5s", "--from", str(start_ns), "--to", str(begun_ns), "--json")
    assert output == ""
    assert "there are no 5s bars" in errors
    assert "(10 bars)" in errors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("no/such.spot.sim",), "unknown_instrument"),
        ((BTC, "--period", "7m"), "there are bars of: 1s, 5s, 1m"),
        ((BTC, "--period", "soon"), "there are bars of: 1s, 5s, 1m"),
    ],
)
def test_what_is_not_there_is_one_sentence_that_says_what_is(
    daemon: Daemon, arguments: tuple[str, ...], sentence: str
) -> None:
    output, errors = _run(daemon, "bars", *arguments, code=1)
    assert output == ""
    assert sentence in errors
    assert len(errors.splitlines()) == 1


def test_watch_prints_each_bar_as_it_comes_out(daemon: Daemon) -> None:
    arguments = ("watch", "*.sim", "--kinds", "bar.1s,index.1s", "--json", "--count", "30")
    rows = _lines(_run(daemon, *arguments)[0])
    assert {row["kind"] for row in rows} == {"bar.1s", "index.1s"}
    assert {row["feed"] for row in rows} == {"sim/bars"}
    out = [(row["fqme"], row["open_ns"]) for row in rows if row["kind"] == "bar.1s" and row["state"] == "closed"]
    assert len(out) == len(set(out)) >= 9, "each bar comes out once"
    opened = [row["open_ns"] for row in rows if row["kind"] == "index.1s" and row["state"] == "opened"]
    assert opened == list(range(opened[0], opened[-1] + 1, SECOND_NS))


def test_watch_without_a_terminal_prints_bars_as_text(daemon: Daemon) -> None:
    output, _ = _run(daemon, "watch", "btc/*", "--kinds", "bar.1s", "--count", "2")
    assert all("bar.1s" in line and "trades, " in line for line in output.splitlines())


def test_watch_of_a_period_that_is_not_made_exits_with_1(daemon: Daemon) -> None:
    _, errors = _run(daemon, "watch", "*.sim", "--kinds", "bar.7m", "--count", "1", code=1)
    assert "bar.7m" in errors

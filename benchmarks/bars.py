"""Bars out of ticks, on one core: what the sampler does, without its process.

    python -m benchmarks.bars [--json] [--no-nautilus] [--python PYTHON]

`ticks`: trades of 500 instruments in random order, in batches of 4,096 rows of a tick ring, into a `BarSet`. A bar
costs more than a trade, so it matters how many trades each has: once there are 40 of each instrument in a second of
event time, once 400. The baselines get the same trades, in turns with ours: NautilusTrader's `TimeBarAggregator`, from
trade objects that were made beforehand, with its clock advanced at each whole second; and polars, all in one go.
Nautilus lives in an environment of its own, which is made when there is none yet. Its 1 s bars of a few instruments
are held against ours.

`step`: a second of event time of 5,000 instruments with the nine usual periods, all of which have traded: a trade of
each, closing and opening bars, the rows of the step ring and the index events.

All in processor time, medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.environment import python_with
from benchmarks.report import Figure, report
from marketd.clock import MILLISECOND_NS, SECOND_NS
from marketd.model import Kind
from marketd.periods import DEFAULT_PERIODS, parse_period
from marketd.ring import layout
from marketd.ring.bars import BLOCK, SLOT, BarsWriter, create_bars
from marketd.ring.steps import BAR_KIND_FIRST, BarState
from marketd.sample.bar import volume_of
from marketd.sample.bars import BarSet, Level
from marketd.sample.index_events import IndexEvents
from marketd.sample.kernel import LIVE
from marketd.sample.warm_up import warm_up

NAUTILUS = "nautilus_trader==1.231.0"
NAUTILUS_SIDE = Path(__file__).with_name("nautilus_side.py")
INSTRUMENTS = 500
DENSITIES = (40, 400)  # ticks of an instrument in a second of event time
TICKS = 600_000
BATCH_ROWS = 4096
LEAD_ROWS = 5 * BATCH_ROWS
ROUNDS = 7
CHECKED = (1, 100, 500)  # instruments
STEP_INSTRUMENTS = 5000
STEP_SECONDS = 60
LEAD_SECONDS = 5
BAR_ROWS = {"1s": 3600, "5s": 960, "15s": 960, "1m": 10080, "5m": 2016, "15m": 672, "1h": 720, "4h": 366, "1d": 366}
BEGIN_NS = 1_699_999_980 * SECOND_NS  # a whole minute
PERIODS = {"1s": ("1s",), "1s_1m": ("1s", "1m"), "all": DEFAULT_PERIODS}
BASELINES = {"nautilus": "NautilusTrader 1.231", "polars": "polars, CPU", "wall": "polars, wall"}
THEIR_PERIODS = {"1s": "1-SECOND", "1s_1m": "1-SECOND 1-MINUTE"}

Ask = Callable[[str], str]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--no-nautilus", action="store_true", help="without NautilusTrader")
    parser.add_argument("--python", default=">=3.12", help="for its environment: a file, or what uv may find")
    options = parser.parse_args()
    python = None if options.no_nautilus else python_with(NAUTILUS, "nautilus_trader", options.python)
    warm_up()
    figures = [*measure_ticks(python), *measure_steps()]
    report(figures, json=options.json)
    print(f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)


def make_ticks(count: int, instruments: int, density: float) -> np.ndarray:
    """Make trades of instruments in random order, evenly in time; each instrument's first comes early."""
    rng = np.random.default_rng(1)
    rows = np.zeros(count, layout.TRADE)
    step_ns = SECOND_NS / (instruments * density)
    rows["event_ns"] = BEGIN_NS + (np.arange(count) * step_ns).astype(np.int64)
    rows["received_ns"] = rows["event_ns"] + 5 * MILLISECOND_NS
    rows["sequence"] = np.arange(count)
    rows["instrument"] = rng.integers(1, instruments + 1, count)
    rows["instrument"][:instruments] = np.arange(1, instruments + 1)
    rows["kind"] = Kind.TRADE
    rows["price"] = np.round(100 + rng.normal(0, 0.01, count).cumsum(), 2)
    rows["size"] = rng.integers(1, 10**7, count) / 1e5
    return rows


@contextlib.contextmanager
def bar_set(periods: Sequence[str], instruments: int) -> Iterator[BarSet]:
    """Make the bars of a feed whose instruments are all live, in bar segments as long as the daemon's."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        levels = []
        for name in periods:
            period = parse_period(name)
            create_bars(folder / name, rows=BAR_ROWS[name], instruments=instruments, period_ns=period.period_ns)
            # Without memory of its own for all: only what is touched is had, and nobody else wants the rest.
            writer = BarsWriter(folder / name)
            stack.callback(writer.close)
            levels.append(Level(period, writer.words))
        bars = BarSet(levels)
        stack.callback(bars.close)
        del levels
        bars.live[:] = LIVE
        bars.admit(instruments)
        for instrument in range(1, instruments + 1):
            bars.cover(instrument, BEGIN_NS)
        yield bars


# --- ticks --------------------------------------------------------------------------------------------------------


def measure_ticks(python: Path | None) -> list[Figure]:
    """Run all in turns; return ticks a second."""
    streams = [make_ticks(TICKS, INSTRUMENTS, density) for density in DENSITIES]
    rates: dict[tuple[int, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        ask = stack.enter_context(nautilus(python, streams)) if python else None
        for _ in range(ROUNDS):
            for number, stream in enumerate(streams):
                for name, cpu_s in run_round(number, stream, ask).items():
                    rates.setdefault((number, name), []).append(TICKS / cpu_s)
        if ask is not None:
            print(compare(streams[0], ask), file=sys.stderr)
    medians = {key: statistics.median(values) for key, values in rates.items()}
    return [figure for number in range(len(DENSITIES)) for figure in ticks_figures(number, medians)]


def ticks_figures(number: int, medians: dict[tuple[int, str], float]) -> list[Figure]:
    """Put ours beside each that makes bars of the same periods."""
    figures = []
    for name in PERIODS:
        title, value = f"bars.{name}.{DENSITIES[number]}_a_second", medians[number, name]
        beside = [
            Figure(title, value, "ticks/s", medians[number, f"{prefix}.{name}"], label)
            for prefix, label in BASELINES.items()
            if (number, f"{prefix}.{name}") in medians
        ]
        figures += beside or [Figure(title, value, "ticks/s")]
    return figures


def run_round(number: int, stream: np.ndarray, ask: Ask | None) -> dict[str, float]:
    """Let everybody take the ticks once; return the seconds."""
    took_s = {}
    for name, periods in PERIODS.items():
        took_s[name] = run_ours(stream, periods)
        if ask is not None and name in THEIR_PERIODS:
            took_s[f"nautilus.{name}"] = float(ask(f"{number} {THEIR_PERIODS[name]}"))
    took_s["polars.1s"], took_s["wall.1s"] = run_polars(stream)
    return took_s


def run_ours(stream: np.ndarray, periods: Sequence[str]) -> float:
    """Take all ticks; return the processor seconds, as if the first few, for which all memory is new, were as fast."""
    rows = stream.view(layout.ROW)
    with bar_set(periods, INSTRUMENTS) as bars:
        for start in range(0, LEAD_ROWS, BATCH_ROWS):
            bars.take(rows[start : start + BATCH_ROWS])
        bars.flush()
        began_s = time.process_time()
        for start in range(LEAD_ROWS, len(rows), BATCH_ROWS):
            bars.take(rows[start : start + BATCH_ROWS])
        bars.flush()
        return (time.process_time() - began_s) * len(rows) / (len(rows) - LEAD_ROWS)


def run_polars(stream: np.ndarray) -> tuple[float, float]:
    """Make 1 s bars of all instruments at once; return processor and wall seconds."""
    columns = {name: np.ascontiguousarray(stream[name]) for name in ("instrument", "event_ns", "price", "size")}
    frame = pl.DataFrame(columns).with_columns(time=pl.col("event_ns").cast(pl.Datetime("ns"))).set_sorted("time")
    began_s, began_wall_s = time.process_time(), time.perf_counter()
    frame.group_by_dynamic("time", every="1s", group_by="instrument").agg(
        open=pl.col("price").first(),
        high=pl.col("price").max(),
        low=pl.col("price").min(),
        close=pl.col("price").last(),
        volume=pl.col("size").sum(),
        trade_count=pl.len(),
    )
    return time.process_time() - began_s, time.perf_counter() - began_wall_s


# --- NautilusTrader -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nautilus(python: Path, streams: Sequence[np.ndarray]) -> Iterator[Ask]:
    """Run NautilusTrader's process; give what asks it something and returns the answer."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.npy" for number in range(len(streams))]
        for path, stream in zip(paths, streams, strict=True):
            np.save(path, stream)
        with subprocess.Popen(
            [python, NAUTILUS_SIDE, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def ask(question: str) -> str:
                print(question, file=process.stdin, flush=True)
                return process.stdout.readline()

            try:
                yield ask
            finally:
                process.stdin.close()


def compare(stream: np.ndarray, ask: Ask) -> str:
    """Hold Nautilus' 1 s bars against ours, in order: it stamps the first one of each instrument a second early."""
    equal = total = 0
    with bar_set(["1s"], INSTRUMENTS) as bars:
        bars.take(stream.view(layout.ROW))
        for instrument in CHECKED:
            for slot, theirs in zip(bars_of(bars, instrument), json.loads(ask(f"0 bars {instrument}")), strict=False):
                ours = [float(slot[name]) for name in ("open", "high", "low", "close")]
                ours.append(volume_of(int(slot["volume_whole"]), int(slot["volume_frac"])))
                total += 1
                equal += theirs == ours
    return f"{equal} of {total} 1 s bars of {len(CHECKED)} instruments are the same as NautilusTrader's"


def bars_of(bars: BarSet, instrument: int) -> np.ndarray:
    """Copy the 1 s bars of an instrument that are out and have trades."""
    block, lane = divmod(instrument - 1, BLOCK)
    slots = np.ascontiguousarray(bars.levels[0].words[block, :, lane]).view(SLOT).reshape(-1)
    return slots[(slots["trade_count"] > 0) & (slots["state"] == BarState.CLOSED)]


# --- steps --------------------------------------------------------------------------------------------------------


def measure_steps() -> list[Figure]:
    """Return the processor milliseconds of a second of event time."""
    kinds = range(BAR_KIND_FIRST, BAR_KIND_FIRST + len(DEFAULT_PERIODS))
    stream = make_ticks(STEP_INSTRUMENTS * STEP_SECONDS, STEP_INSTRUMENTS, 1).view(layout.ROW)
    costs_ms = []
    with bar_set(DEFAULT_PERIODS, STEP_INSTRUMENTS) as bars:
        events = IndexEvents(bars, kinds)
        for second in range(STEP_SECONDS):
            rows = stream[second * STEP_INSTRUMENTS : (second + 1) * STEP_INSTRUMENTS]
            began_s = time.process_time()
            for start in range(0, len(rows), BATCH_ROWS):
                bars.take(rows[start : start + BATCH_ROWS])
            now_ns = BEGIN_NS + (second + 1) * SECOND_NS
            bars.advance(now_ns)
            events.take(bars.changes(now_ns, kinds), now_ns)
            costs_ms.append((time.process_time() - began_s) * 1000)
    return [
        Figure("bars.second_of_5000_instruments", statistics.median(costs_ms[LEAD_SECONDS:]), "ms"),
        Figure("bars.slowest_of_them", max(costs_ms[LEAD_SECONDS:]), "ms"),
    ]


if __name__ == "__main__":
    main()

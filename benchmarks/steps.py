"""How soon after the second a client has its index event, and how soon a bar that is out.

A daemon with one simulated feed of 200 instruments at 2,000 rows a second, and clients that follow `index.1s` and
`bar.1s`, each a process of its own. Latencies are from the whole second (of bars: from the moment at which the sampler
made them) to the moment at which the client has the row in its hands. The baseline is a bare trio program that sleeps
until each whole second: what the machine's timers and scheduler cost alone.

    python -m benchmarks.steps [--seconds 60] [--clients 10] [--json]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import trio

from benchmarks.report import Figure, report
from marketd.clock import SECOND_NS, SystemClock
from tests.scenario.daemon import running

CONFIG = """
[bars]
[feeds.sim]
backend = "sim"
instruments = 200
rate_hz = 2000
"""
CLIENT = """
import sys, time
from marketd.client import connect
from marketd.ring.steps import IndexState
address, seconds = sys.argv[1], float(sys.argv[2])
with connect(address) as md, md.subscribe(["*"], kinds=["index.1s", "bar.1s"]) as stream:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        frame = stream.wait_next(1.0)
        if frame is None or not len(frame):
            continue
        now_ns = time.time_ns()
        if frame.kind == "index.1s":
            for open_ns in frame.rows["open_ns"][frame.rows["state"] == IndexState.OPENED].tolist():
                print("index", now_ns - open_ns)
        elif frame.kind == "bar.1s":
            print("bar", now_ns - int(frame.rows["made_ns"][-1]))
"""
WARM_UP_S = 3.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--clients", type=int, default=10, help="how many follow (10)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    timer_us = trio.run(_measure_timer, arguments.seconds)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), CONFIG) as daemon:
        time.sleep(WARM_UP_S)
        command = [sys.executable, "-c", CLIENT, daemon.address, str(arguments.seconds)]
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(arguments.clients)]
        lines = [line.split() for client in clients for line in client.communicate()[0].splitlines()]
    figures = []
    for what in ("index", "bar"):
        found_us = np.array([int(text) for name, text in lines if name == what]) / 1000
        for share in (50, 99):
            base_us = float(np.percentile(timer_us, share))
            value_us = float(np.percentile(found_us, share))
            figures.append(Figure(f"steps.{what}.p{share}", value_us, "us", base_us, "a bare timer"))
        figures.append(Figure(f"steps.{what}.events", float(len(found_us)), "events"))
    report(figures, json=arguments.json)


async def _measure_timer(seconds: float) -> list[float]:
    clock, late_us = SystemClock(), []
    for _ in range(max(1, int(seconds) // 4)):
        due_ns = (clock.now_ns() // SECOND_NS + 1) * SECOND_NS
        await clock.sleep_until(due_ns)
        late_us.append((clock.now_ns() - due_ns) / 1000)
    return late_us


if __name__ == "__main__":
    main()

"""What a daemon costs that has next to nothing to do: memory and CPU of each of its processes.

One feed, one row a second, ten seconds. The baseline is a Python that has imported trio, msgspec and numpy, and sleeps.

    python -m benchmarks.idle [--json]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.report import Figure, report
from marketd.client import connect
from tests.scenario.daemon import running

CONFIG = """
[feeds.sim]
backend = "sim"
instruments = 1
rate_hz = 1
"""
SECONDS = 10.0
BARE = "import trio, msgspec, numpy; print('ready', flush=True); trio.run(trio.sleep_forever)"
MIB = 1 << 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), CONFIG) as daemon:
        bare = subprocess.Popen([sys.executable, "-W", "ignore", "-c", BARE], stdout=subprocess.PIPE)
        try:
            assert bare.stdout is not None
            bare.stdout.readline()
            with connect(daemon.address) as md:
                pids = {actor.name: actor.pid for actor in md.status().actors if actor.pid}
            processes = {name: psutil.Process(pid) for name, pid in pids.items()}
            before = {name: _cpu_s(process) for name, process in processes.items()}
            bare_before = _cpu_s(psutil.Process(bare.pid))
            time.sleep(SECONDS)
            bare_memory = psutil.Process(bare.pid).memory_full_info()
            bare_cpu = (_cpu_s(psutil.Process(bare.pid)) - bare_before) / SECONDS * 100
            for name, process in processes.items():
                memory = process.memory_full_info()
                cpu = (_cpu_s(process) - before[name]) / SECONDS * 100
                figures += [
                    Figure(f"idle.{name}.rss", memory.rss / MIB, "MiB", bare_memory.rss / MIB, "bare trio process"),
                    Figure(f"idle.{name}.uss", memory.uss / MIB, "MiB", bare_memory.uss / MIB, "bare trio process"),
                    Figure(f"idle.{name}.cpu", cpu, "% of a core", bare_cpu or None, "bare trio process"),
                ]
        finally:
            bare.kill()
            bare.wait()
    report(figures, json=arguments.json)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main()

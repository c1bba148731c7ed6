"""Rings under stress: real processes, real memory, and writers that are killed."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from marketd.ring.doorbell import create_bells
from marketd.ring.reader import RingReader
from marketd.ring.writer import create_ring
from tests.conftest import PROJECT
from tests.scenario.ring_processes import check, read_or_lapped

DEADLINE_S = 100
ROWS = 2048


@contextlib.contextmanager
def process(role: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a role of `ring_processes` and kill it if it is still there at the end."""
    command = [sys.executable, "-m", "tests.scenario.ring_processes", role, *map(str, arguments)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def result(child: subprocess.Popen[str]) -> dict[str, int]:
    """Return what a process says at its end."""
    output, _ = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 0
    return json.loads(output.splitlines()[-1])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_ring(tmp_path / "ring", ROWS)
    create_bells(tmp_path / "bells")
    return tmp_path / "ring"


def test_every_row_is_received_whole_and_in_order_or_reported_lost(path: Path):
    """R21: under a stress of concurrent writer and readers no read after a publication returns length 0."""
    rows_total = 3_000_000
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(process("read", path, rows_total)) for _ in range(3)]
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
        writer = stack.enter_context(process("write", path, rows_total, 7))
        assert writer.wait(DEADLINE_S) == 0
        for reader in readers:
            counts = result(reader)
            assert counts["received"] + counts["lost"] == rows_total
            # Otherwise this proved nothing.
            assert counts["received"] > ROWS
            assert counts["laps"] > 10


def test_killed_writers_are_succeeded_without_a_torn_row_or_a_lost_cursor(path: Path):
    rng = random.Random(1)
    reader = RingReader(path, cursor=0)
    received = lost = 0
    deadline = time.monotonic() + DEADLINE_S
    for salt in range(1, 13):
        published = reader.published
        with process("write", path, 10**12, salt) as writer:
            target = published + rng.randint(1, 50_000)
            while reader.published < target or reader.cursor < target:
                assert time.monotonic() < deadline
                rows, lost_now = read_or_lapped(reader, 500)
                received += len(rows)
                lost += lost_now
            assert reader.writer_pid == writer.pid
    assert received + lost == reader.cursor
    # Whatever the last one left half-written stays out of sight.
    rows = reader.read_range(max(reader.oldest, reader.published - ROWS // 4), reader.published)
    check(rows, int(rows["cursor"][0]))


@pytest.mark.parametrize("rounds", [30_000, pytest.param(100_000, marks=pytest.mark.soak)])  # of two wake-ups each
def test_no_wake_up_is_lost(tmp_path: Path, rounds: int):
    for name in ("ping", "pong"):
        create_ring(tmp_path / name, 64)
        create_bells(tmp_path / f"{name}.bells")
    ping, pong = tmp_path / "ping", tmp_path / "pong"
    with (
        process("answer", ping, pong, rounds, "begins") as one,
        process("answer", pong, ping, rounds, "follows") as other,
    ):
        assert result(other)["received"] == rounds
        counts = result(one)
    assert counts["received"] == rounds
    assert counts["sleeps"] > rounds // 100

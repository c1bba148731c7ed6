"""The processes of the ring's stress tests: ``python -m tests.scenario.ring_processes ROLE ARGUMENT...``.

Every row's fields follow from its cursor and its writer's salt, so that a row put together from two is recognised.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from pathlib import Path

import numpy as np
import trio

from marketd.errors import Lapped
from marketd.ring import layout
from marketd.ring.doorbell import Bell, Bells
from marketd.ring.reader import RingReader
from marketd.ring.writer import RingWriter


def row(cursor: int, salt: int) -> layout.Row:
    """Return the row that belongs at this cursor."""
    event_ns = cursor * 1000 + salt
    return (event_ns, -event_ns, salt, cursor & 0xFFFF, 1, 0, salt, cursor + salt, cursor - salt, -cursor, 2.0 * cursor)


def block(cursor_first: int, count: int, salt: int) -> np.ndarray:
    """Return the rows that belong at these cursors."""
    cursors = np.arange(cursor_first, cursor_first + count)
    rows = np.zeros(count, layout.ROW)
    rows["event_ns"] = cursors * 1000 + salt
    rows["received_ns"] = -rows["event_ns"]
    rows["sequence"] = rows["flags"] = salt
    rows["instrument"] = cursors & 0xFFFF
    rows["kind"] = 1
    rows["v0"], rows["v1"], rows["v2"], rows["v3"] = cursors + salt, cursors - salt, -cursors, 2 * cursors
    return rows


def check(rows: np.ndarray, cursor_first: int) -> None:
    """Make sure that these are rows ``cursor_first`` and on without a hole, each of one piece."""
    cursors = np.arange(cursor_first, cursor_first + len(rows))
    salts = rows["sequence"]
    assert (rows["cursor"] == cursors).all(), "a hole, or rows out of order"
    assert (rows["event_ns"] == cursors * 1000 + salts).all(), "a torn row"
    assert (rows["received_ns"] == -rows["event_ns"]).all(), "a torn row"
    assert (rows["flags"] == salts).all(), "a torn row"
    assert (rows["instrument"] == cursors & 0xFFFF).all(), "a torn row"
    assert (rows["v0"] == cursors + salts).all(), "a torn row"
    assert (rows["v1"] == cursors - salts).all(), "a torn row"
    assert (rows["v2"] == -cursors).all(), "a torn row"
    assert (rows["v3"] == 2 * cursors).all(), "a torn row"


def read_or_lapped(reader: RingReader, rows_max: int) -> tuple[np.ndarray, int]:
    """Read once; return rows that are as they should be, or how many were lost just where the last read ended."""
    cursor_first = reader.cursor + 1
    rows, first_lost, lost = np.empty(0, layout.ROW), cursor_first, 0
    try:
        rows = reader.read_nowait(rows_max)
    except Lapped as lapped:
        first_lost, lost = lapped.cursor_first, lapped.lost
    assert first_lost == cursor_first, "a range that was lost and not reported"
    check(rows, cursor_first)
    return rows, lost


def write(path: Path, rows_total: int, salt: int) -> None:
    """Write until the ring has had ``rows_total`` rows, in single rows and in blocks up to twice the ring."""
    writer = RingWriter(path, Bells(path.with_name("bells")))
    rng = random.Random(salt)
    while writer.cursor < rows_total:
        if rng.random() < 0.5:
            for _ in range(min(rng.randint(1, 500), rows_total - writer.cursor)):
                writer.append(row(writer.cursor + 1, salt))
        else:
            count = min(rng.choice([1, 10, 100, writer.rows // 4, 2 * writer.rows]), rows_total - writer.cursor)
            writer.append_block(block(writer.cursor + 1, count, salt))
        if rng.random() < 0.7:
            writer.publish()
    writer.close()


async def read(path: Path, rows_total: int) -> None:
    """Read until ``rows_total`` rows are received or reported lost; print how many were which."""
    reader, bell = RingReader(path, cursor=0), Bell(path.with_name("bells"))
    received = lost = laps = 0
    print("ready", flush=True)
    while reader.cursor < rows_total:
        await reader.wait_available(bell)
        rows, lost_now = read_or_lapped(reader, 1000)
        assert len(rows) or lost_now, "published rows that can't be read"
        received += len(rows)
        lost += lost_now
        laps += lost_now > 0
    print(json.dumps({"received": received, "lost": lost, "laps": laps}), flush=True)


async def answer(here: Path, there: Path, rounds: int, begins: bool) -> None:
    """Write one row here for each row that comes from there, after a pause of any length from none to some 20 us."""
    writer = RingWriter(here, Bells(here.with_suffix(".bells")))
    # There is no second look: a wake-up that is lost stops both sides.
    reader, bell = RingReader(there, cursor=0), Bell(there.with_suffix(".bells"), second_look=False)
    rng = random.Random(begins)
    received = 0
    while received < rounds:
        if begins or received:
            writer.append(row(writer.cursor + 1, 0))
            writer.publish()
        await reader.wait_available(bell)
        received += len(reader.read_nowait())
        for _ in range(rng.randrange(0, 300, 50)):
            pass
    if not begins:
        writer.append(row(writer.cursor + 1, 0))
        writer.publish()
    print(json.dumps({"received": received, "sleeps": bell.sleeps}), flush=True)


def main(role: str, *arguments: str) -> None:
    """Play a role."""
    if role == "write":
        write(Path(arguments[0]), int(arguments[1]), int(arguments[2]))
    elif role == "read":
        trio.run(read, Path(arguments[0]), int(arguments[1]))
    elif role == "answer":
        trio.run(answer, Path(arguments[0]), Path(arguments[1]), int(arguments[2]), arguments[3] == "begins")
    else:
        raise SystemExit(f"there is no role {role}")


if __name__ == "__main__":
    signal.alarm(120)  # whatever becomes of the test
    main(*sys.argv[1:])

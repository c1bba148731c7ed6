"""Where every task and thread of a process is right now; also of a process whose event loop does not run any more.

An actor that is well tells it itself. One that hangs has prepared for that: on SIGUSR1 the interpreter writes the
stacks of its threads to a file in memory, which others find among its open files in /proc. That needs no help from the
event loop, nor that any Python code can run.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import trio

SIGNAL = signal.SIGUSR1
TASKS_MAX = 5_000
FRAMES_MAX = 40
STACKS_S = 1.0  # for a process to write its stacks
_FILE = "marketd-stacks"


@functools.cache
def prepare() -> None:
    """Let the stacks of this process's threads be written when it gets :data:`SIGNAL`. Once is enough."""
    faulthandler.register(SIGNAL, os.memfd_create(_FILE), all_threads=True, chain=False)


def own_stacks() -> str:
    """Return this process's tree of tasks, each with its stack, and its threads. To be called in its event loop."""
    return "\n".join([*_tree(), "", *_threads()]) + "\n"


def _tree() -> Iterator[str]:
    root = trio.lowlevel.current_root_task()
    if root is None:
        return
    stack: list[tuple[int, trio.lowlevel.Task]] = [(0, root)]
    count = 0
    while stack:
        depth, task = stack.pop()
        count += 1
        if count > TASKS_MAX:
            yield f"and {len(stack) + 1} tasks more, with those below them"
            return
        indent = "  " * depth
        yield f"{indent}task {task.name}"
        frames = list(task.iter_await_frames())[-FRAMES_MAX:]
        for entry in traceback.StackSummary.extract(iter(frames), lookup_lines=True):
            yield f"{indent}  {entry.filename}:{entry.lineno} in {entry.name}: {entry.line}"
        children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        stack += [(depth + 1, child) for child in sorted(children, key=lambda child: child.name, reverse=True)]


def _threads() -> Iterator[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        yield f"thread {names.get(ident, ident)}"
        for entry in traceback.extract_stack(frame)[-FRAMES_MAX:]:
            yield f"  {entry.filename}:{entry.lineno} in {entry.name}: {entry.line}"


def stacks_of(pid: int) -> str:
    """Return the stacks of another process's threads, as it writes them on a signal, and its state. Blocks a second.

    Raises:
        OSError: there is no such process, or it is another user's.
    """
    state = _state(pid)
    found = _find_file(pid)
    if found is None:
        return f"{state}\nit has not prepared for telling its stacks\n"
    before = found.stat().st_size
    os.kill(pid, SIGNAL)
    size, deadline_s = before, time.monotonic() + STACKS_S
    while time.monotonic() < deadline_s:
        time.sleep(0.05)
        now = found.stat().st_size
        if now > before and now == size:
            break
        size = now
    written = found.read_bytes()[before:].decode(errors="replace")
    return f"{state}\n{written or 'it did not write its stacks: it is stopped, or stuck in the kernel'}\n"


def _find_file(pid: int) -> Path | None:
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if _FILE in os.readlink(path):  # noqa: PTH115 - it is no path
                return path
        except OSError:  # closed meanwhile
            continue
    return None


def _state(pid: int) -> str:
    wanted = ("Name", "State", "Threads", "VmRSS", "SigQ", "SigBlk", "voluntary_ctxt_switches")
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return "\n".join(line for line in lines if line.split(":")[0] in wanted)

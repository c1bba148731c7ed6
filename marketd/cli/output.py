"""Where output goes: a console for people, lines of JSON for programs."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import NoReturn

import msgspec
from rich.console import Console

FILE_WIDTH = 200  # of tables that go to a file or a pipe; rich would squeeze them into 80 columns


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Let `common.exits` end the command: rich would exit with code 1."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output for people: no colours when it is no terminal, and names in brackets are no markup."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else FILE_WIDTH
    return _Console(markup=False, highlight=False, emoji=False, width=width)


def print_json(value: object) -> None:
    """Print one line of JSON and flush it, so that a pipe's other end has it at once."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def bytes_text(count: float) -> str:
    """``12.3 MiB``"""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def time_text(time_ns: int) -> str:
    """``2026-11-25 12:30:00``, in UTC; with milliseconds if it is no whole second."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{rest_ns // 1_000_000:03}" if rest_ns else text


def duration_text(seconds: float) -> str:
    """``0.25 s``, ``12 s``, ``3 min``, ``5 h``, ``2 d``: enough to judge by."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.2f} s"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"

"""What a daemon runs on: versions, limits, memory, and what is in shared memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from marketd import __version__
from marketd.errors import SegmentError
from marketd.ring.layout import TICKS
from marketd.ring.reader import RingReader
from marketd.ring.steps import STEPS

_LAYOUTS = {".ring": TICKS, ".steps": STEPS}


def versions() -> dict[str, str]:
    """Return those of the program, of Python, of the system, and of every package that the program asks for."""
    found = {"marketd": __version__, "python": sys.version, "platform": platform.platform()}
    for requirement in importlib.metadata.requires("marketd") or []:
        name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def limits(pids: dict[str, int], folders: Iterable[Path]) -> str:
    """Return the machine's memory and load, what is free in some folders, and the limits of some processes."""
    parts = [_read("/proc/loadavg"), "\n".join(_read("/proc/meminfo").splitlines()[:5])]
    for folder in folders:
        try:
            usage = shutil.disk_usage(folder)
        except OSError as error:
            parts.append(f"{folder}: {error}")
        else:
            parts.append(f"{folder}: {usage.free:,} bytes free of {usage.total:,}")
    parts.append(f"clock: {_read('/sys/devices/system/clocksource/clocksource0/current_clocksource')}")
    parts += [f"--- {name}, process {pid}\n{_read(f'/proc/{pid}/limits')}" for name, pid in pids.items()]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def segments(paths: Iterable[Path]) -> dict[str, dict[str, object]]:
    """Return the size of each segment in shared memory, and of rings what their headers say."""
    found: dict[str, dict[str, object]] = {}
    for path in paths:
        try:
            found[path.name] = {"bytes": path.stat().st_size, "uid": path.stat().st_uid, **_header(path)}
        except (OSError, SegmentError) as error:
            found[path.name] = {"error": str(error)}
    return found


def _header(path: Path) -> dict[str, object]:
    layout = _LAYOUTS.get(path.suffix)
    if layout is None:
        return {}
    reader = RingReader(path, of=layout)
    try:
        return {
            "rows": reader.rows,
            "epoch": reader.epoch,
            "published": reader.published,
            "oldest": reader.oldest,
            "writer_pid": reader.writer_pid,
            "writer_heartbeat_ns": reader.writer_heartbeat_ns,
            "writer_lives": os.path.exists(f"/proc/{reader.writer_pid}"),  # noqa: PTH110
        }
    finally:
        reader.close()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        return f"{path}: {error.strerror}"

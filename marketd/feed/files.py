"""Small files that are replaced as a whole: a reader, or a successor, never finds half of one."""

from __future__ import annotations

import os
from pathlib import Path

import trio


async def replace_file(path: Path, data: bytes) -> None:
    """Write a file anew, durably, in a thread; of two writers of one file the later wins.

    Raises:
        OSError: it can't be written; the file is as it was.
    """
    await trio.to_thread.run_sync(_replace, path, data)


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

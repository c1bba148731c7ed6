"""A small disk of a test's own, which can be full, or read-only. Needs the right to mount."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

FILLER = "filler"
BUSY_S = 20.0


def fill(folder: Path) -> Path:
    """Fill the file system of a folder to its last byte; return the file that did it."""
    path = folder / FILLER
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"\1" * size) == size:
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017 - nothing else is meant to happen
    return path


class Disk:
    """A tmpfs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """See :func:`fill`."""
        fill(self.folder)

    def leave(self, free_bytes: int) -> None:
        """Let so much of it be free, when it is full."""
        os.truncate(self.folder / FILLER, (self.folder / FILLER).stat().st_size - free_bytes)

    def free(self) -> None:
        """Make room again."""
        (self.folder / FILLER).unlink()

    def set_read_only(self, on: bool) -> None:
        """Let nobody write to it any more, or again. While somebody has a file open for writing that can't be."""
        deadline_s = time.monotonic() + BUSY_S
        while not _mount("-o", f"remount,{'ro' if on else 'rw'}", str(self.folder)):
            assert time.monotonic() < deadline_s, "somebody has a file open for writing"


@contextlib.contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[Disk]:
    """Mount a tmpfs for as long as the block lasts."""
    folder.mkdir(parents=True)
    if not _mount("-t", "tmpfs", "-o", f"size={size_mib}m,mode=700", "tmpfs", str(folder)):
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0

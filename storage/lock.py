"""One writer for each series, over all processes."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from marketd.errors import SeriesBusy, StorageError

NAME = ".lock"


class SeriesLock:
    """Held from its making until :meth:`release`; the kernel lets go of it when the process ends, however that is."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if need be, and take its lock.

        Raises:
            SeriesBusy: another writer has it, in this process or another.
            StorageError: the folder can't be made or written to.
        """
        self._descriptor = -1
        while not self.held:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._descriptor = _take(folder / NAME)
            except FileNotFoundError:
                continue  # the series was deleted between the two
            except BlockingIOError as error:
                raise SeriesBusy(f"another writer has {folder}") from error
            except OSError as error:
                raise StorageError(f"{folder} can't be written to: {error.strerror}") from error

    @property
    def held(self) -> bool:
        """Whether it has not been released."""
        return self._descriptor >= 0

    def release(self) -> None:
        """Let go. Twice is fine."""
        if self.held:
            os.close(self._descriptor)
            self._descriptor = -1


def _take(path: Path) -> int:
    """Return a descriptor with the lock, or -1 if the file was deleted with its series while we took it.

    Raises:
        OSError: BlockingIOError if it is taken.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return -1

"""Files that appear whole: written beside, brought to the disk, and renamed into their places."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from marketd.errors import StorageError

TEMPORARY = ".tmp"


class Stage:
    """Files that are written beside and take their places together, see :func:`staged`."""

    def __init__(self) -> None:
        self._beside: dict[Path, Path] = {}

    @contextlib.contextmanager
    def file(self, path: Path) -> Iterator[IO[bytes]]:
        """Give a file to write to; when the block has ended its bytes are on the disk, and not yet under its name."""
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
        self._beside[path] = beside
        try:
            with beside.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"{path} can't be written: {error.strerror or error}") from error
        except BaseException:
            beside.unlink(missing_ok=True)
            del self._beside[path]
            raise

    def commit(self) -> None:
        """Give all files their names, and wait until those are on the disk."""
        for path, beside in self._beside.items():
            beside.replace(path)
        for folder in {path.parent for path in self._beside}:
            sync_folder(folder)
        self._beside.clear()

    def discard(self) -> None:
        """Remove what has not taken its place."""
        for beside in self._beside.values():
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    """Give a stage for files, which take their places when the block ends well; nobody ever sees a part of one.

    Then they and their names are on the disk. A process that is killed before leaves at most files beside them, which
    :func:`sweep` removes. Only one that is killed among the last renames leaves some of them in their places.

    Raises:
        StorageError: the disk is full, or a folder can't be written to; all is as it was.
    """
    stage = Stage()
    try:
        yield stage
        stage.commit()
    except OSError as error:
        raise StorageError(f"{error.filename} can't be written: {error.strerror}") from error
    finally:
        stage.discard()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write to, which becomes ``path`` when the block ends well. See :func:`staged`."""
    with staged() as stage, stage.file(path) as file:
        yield file


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left. Only who has the folder's lock may."""
    for left in folder.glob(f".*{TEMPORARY}"):
        left.unlink(missing_ok=True)

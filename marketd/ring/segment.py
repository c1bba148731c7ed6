"""The life of a shared-memory segment: a private file, usually in ``/dev/shm``, that several processes map.

Plain files and not ``multiprocessing.shared_memory``: its resource tracker unlinks a segment as soon as *any* process
that attached to it exits (https://github.com/python/cpython/issues/82300). Here only the supervisor creates and
unlinks; everybody else attaches.

Every segment with one writer keeps that writer's pid at ``layout.WRITER_OFFSET``.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import struct
from pathlib import Path

from marketd.errors import SegmentError
from marketd.ring import layout

# struct flock of fcntl(2) where off_t has 64 bits: type, whence, start, length, pid (0 for locks of this family).
_FLOCK = struct.Struct("hhqqi4x")
_PID = struct.Struct("<Q")


def create(path: Path, size_bytes: int) -> None:
    """Make a segment of zeros that only this user can open.

    Raises:
        SegmentError: there is such a file already, or not enough memory. All of it is allocated here, because a page
            that can't be had later would kill whoever touches it with SIGBUS.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SegmentError(f"segment {path} can't be created: {error.strerror}") from error
    try:
        os.posix_fallocate(fd, 0, size_bytes)
    except OSError as error:
        path.unlink()
        raise SegmentError(f"segment {path} of {size_bytes:,} bytes can't be allocated: {error.strerror}") from error
    finally:
        os.close(fd)


def free_bytes(folder: Path) -> float:
    """How much room segments have there; infinite where nothing limits it.

    Raises:
        SegmentError: there is no such folder.
    """
    try:
        found = os.statvfs(folder)
    except OSError as error:
        raise SegmentError(f"there can be no segments in {folder}: {error.strerror}") from error
    return found.f_bavail * found.f_frsize if found.f_blocks else math.inf


def attach(path: Path, *, writable: bool) -> mmap.mmap:
    """Map a segment that exists.

    Raises:
        SegmentError: it is missing, is another user's, or is smaller than any header; or no descriptor is left.
    """
    fd = _open(path, writable=writable)
    try:
        return _map(path, fd, writable=writable)
    finally:
        os.close(fd)


def attach_writer(path: Path) -> mmap.mmap:
    """Map a segment as its only writer until the map is closed or the process is gone, however it goes.

    Raises:
        SegmentError: as :func:`attach`, or somebody else is writing; the text names its pid.
    """
    fd = _open(path, writable=True)
    try:
        # The lock belongs to the open file and so to every duplicate of this descriptor. The map keeps a duplicate.
        if not try_lock(fd, 0, 1):
            (pid,) = _PID.unpack(os.pread(fd, _PID.size, layout.WRITER_OFFSET))
            raise SegmentError(f"segment {path} already has a writer, process {pid}")
        memory = _map(path, fd, writable=True)
    finally:
        os.close(fd)
    _PID.pack_into(memory, layout.WRITER_OFFSET, os.getpid())
    return memory


def unlink(path: Path) -> None:
    """Remove a segment's name; a missing one is fine. Who has it mapped keeps it."""
    path.unlink(missing_ok=True)


def try_lock(fd: int, start: int, length: int) -> bool:
    """Lock bytes of an open file for writing; False when another open file holds them.

    An "open file description" lock (fcntl(2)): the kernel frees it when its last descriptor goes, also at SIGKILL.
    A classic POSIX lock would be lost as soon as the process closed *any* descriptor of that file, such as a reader's.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _open(path: Path, *, writable: bool) -> int:
    try:
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW)
    except OSError as error:
        raise SegmentError(f"segment {path} can't be opened: {error.strerror}") from error
    # Anyone may make files in /dev/shm: a foreign one could hold made-up prices, or shrink under our map.
    if os.fstat(fd).st_uid != os.geteuid():
        os.close(fd)
        raise SegmentError(f"segment {path} belongs to another user")
    return fd


def _map(path: Path, fd: int, *, writable: bool) -> mmap.mmap:
    size_bytes = os.fstat(fd).st_size
    if size_bytes < layout.HEADER_BYTES:
        raise SegmentError(f"segment {path} has {size_bytes} bytes: less than a header")
    try:
        return mmap.mmap(fd, size_bytes, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
    except OSError as error:  # the map keeps a descriptor of its own
        raise SegmentError(f"segment {path} can't be mapped: {error.strerror}") from error

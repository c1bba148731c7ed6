"""A full memory barrier, for the two places where a ring needs one (see `layout.py`) and for the doorbell."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Callable

# linux/membarrier.h. In the calling thread the kernel does smp_mb() on the way in and on the way out; it interrupts
# only processes that registered for it, and ours don't.
_MEMBARRIER_CMD_GLOBAL_EXPEDITED = 1 << 1
_MEMBARRIER_NUMBERS = {"aarch64": 283, "riscv64": 283, "x86_64": 324}


def _lock_fence() -> Callable[[], None]:
    """Make a barrier from a lock that nobody else holds.

    In CPython 3.11 and 3.12 a lock is a POSIX semaphore. Taking a free one is sem_trywait, in glibc a ``lock cmpxchg``,
    and on x86-64 every locked instruction is a full barrier (Intel SDM vol. 3A, 9.2.3.9). About 80 ns.
    """
    lock = threading.Lock()
    acquire, release = lock.acquire, lock.release

    def fence() -> None:
        acquire()
        release()

    return fence


def _membarrier_fence(machine: str) -> Callable[[], None]:
    """Make a barrier from the system call membarrier(2).

    Raises:
        RuntimeError: the machine is not known here, or its kernel does not have the call (Linux before 4.16).
    """
    number = _MEMBARRIER_NUMBERS.get(machine)
    if number is None:
        raise RuntimeError(f"marketd has no memory barrier for {machine} machines: its rings work on x86_64, aarch64")
    syscall = ctypes.CDLL(None, use_errno=True).syscall

    def fence() -> None:
        if syscall(number, _MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) != 0:
            error = os.strerror(ctypes.get_errno())
            raise RuntimeError(f"the kernel refuses membarrier(2), which the rings need: {error}")

    fence()
    return fence


# Lets no load or store move across the line of a call: a full memory barrier in the calling thread. On x86-64 it is
# taking and releasing a free lock, elsewhere membarrier(2).
fence = _lock_fence() if platform.machine() == "x86_64" else _membarrier_fence(platform.machine())

"""The entry of every actor process: ``python -m marketd.supervise.child PARENT_PID NAME IDENTIFIER PARENT_PORT``.

First of all comes what keeps a child from outliving its parent, and signals from reaching it: Ctrl-C goes to every
process of the terminal, but it is the root that ends the tree, in its order.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

ORPHAN_STATUS = 113


def watch_parent(parent_pid: int) -> None:
    """End this process as soon as its parent has ended, also while the loop is blocked.

    Not ``PR_SET_PDEATHSIG``: that tells of the end of the parent's *thread* that started us, and trio starts processes
    in worker threads, which end after ten idle seconds.
    """
    try:
        parent = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        os._exit(ORPHAN_STATUS)
    if os.getppid() != parent_pid:  # it died before we looked, and the number may be another's by now
        os._exit(ORPHAN_STATUS)
    threading.Thread(target=_exit_with, args=(parent,), daemon=True, name="parent-watch").start()


def _exit_with(process: int) -> None:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.poll()
    os._exit(ORPHAN_STATUS)


def main(arguments: list[str]) -> None:
    """Be the actor that the arguments name."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    parent_pid, name, identifier, parent_port = arguments
    watch_parent(int(parent_pid))
    # structlog imports it for pretty tracebacks, which `marketd.logs` turns off: a quarter of the time of a start.
    sys.modules["rich"] = None  # type: ignore[assignment]  # the documented way to make an import fail

    from marketd.supervise.actor import run_child  # after the watch has begun: this takes a while

    run_child(name, identifier, int(parent_port))


if __name__ == "__main__":
    main(sys.argv[1:])

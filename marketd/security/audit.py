"""The audit log: who did what, and what came of it. A line of JSON each, in a file that is only ever appended to.

The file is opened for each line, so that it can be moved away at any time, and each line is one write, so that several
processes can share it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from marketd.clock import SECOND_NS, SystemClock

TEXT_CHARACTERS_MAX = 200
DETAIL_BYTES_MAX = 2000

log = structlog.get_logger("marketd.audit")


class Entry(msgspec.Struct, frozen=True):
    """One action.

    Attributes:
        time: RFC 3339, UTC.
        action: the method, or the command.
        token: the name of the token; empty where none was needed.
        peer: from where.
        result: ``done``, or the code of the error.
        detail: the request's parameters.
    """

    time: str
    action: str
    token: str
    peer: str
    result: str
    detail: Any = None


class AuditLog:
    """Appends to the file, and tells the daemon's log the same as ``audit.<action>``.

    Args:
        path: of the file; None for none, as where nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, action: str, *, token: str, peer: str, result: str, detail: object = None) -> None:
        """Note an action. A file that can't be written to is told in the log, and does not undo what was done."""
        entry = entry_of(action, token=token, peer=peer, result=result, detail=detail)
        log.info(f"audit.{entry.action}", token=token, peer=peer, result=result, detail=entry.detail)
        if self._path is not None:
            try:
                append(self._path, entry)
            except OSError as error:
                log.error("audit.failed", file=str(self._path), error=error.strerror, action=entry.action)  # noqa: TRY400


def entry_of(action: str, *, token: str, peer: str, result: str, detail: object = None) -> Entry:
    """Make an entry of what has just been done."""
    now_ns = SystemClock().now_ns()
    time = datetime.fromtimestamp(now_ns // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    plain = msgspec.to_builtins(detail)
    if len(msgspec.json.encode(plain)) > DETAIL_BYTES_MAX:
        plain = "too long to be kept"
    return Entry(time, action[:TEXT_CHARACTERS_MAX], token, peer, result, plain)


def append(path: Path, entry: Entry) -> None:
    """Write one line at the end of a file that only its owner can read: who owns the folder. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.geteuid() == 0:
            owner = path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.write(descriptor, msgspec.json.encode(entry) + b"\n")
    finally:
        os.close(descriptor)

"""The request `debug`: one archive with all that helps to understand a daemon in trouble."""

from __future__ import annotations

import io
import tarfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import trio

from marketd.clock import SECOND_NS, SystemClock
from marketd.gateway.routed import daemon_debug, daemon_measures
from marketd.rpc import messages

if TYPE_CHECKING:
    from marketd.gateway.session import Session


async def debug(session: Session, _params: messages.EmptyParams, _request: messages.Request) -> messages.DebugResult:
    """Ask the supervisor for everything, and pack it."""
    from marketd.web.metrics import exposition  # here: who has no HTTP need not wait for its library

    link, now_ns = session.gateway.link, SystemClock().now_ns()
    parts = await daemon_debug(link)
    measures = await daemon_measures(link)
    files = dict(parts.files)
    files["status.json"] = msgspec.json.format(msgspec.json.encode(measures.status)).decode() + "\n"
    files["metrics.txt"] = exposition(measures).decode()
    files["missing.txt"] = "".join(f"{name}: {why}\n" for name, why in sorted(parts.missing.items()))
    moment = datetime.fromtimestamp(now_ns / SECOND_NS, UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"marketd-{session.gateway.instance}-{moment}"
    archive = await trio.to_thread.run_sync(pack, name, files, now_ns // SECOND_NS)
    return messages.DebugResult(f"{name}.tar.gz", sorted(files), parts.missing, archive)


def pack(folder: str, files: dict[str, str], at_s: int) -> bytes:
    """Make a tar archive, compressed, with these files in a folder. Readable by its owner alone."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in sorted(files.items()):
            data = text.encode()
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), at_s, 0o600
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()

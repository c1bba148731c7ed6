"""Everything that helps to understand a daemon in trouble, as files by name. Nobody that hangs can hang this."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog
import trio

from marketd import logs
from marketd.errors import ActorError
from marketd.observe import machine
from marketd.observe.redact import hide, is_secret, scrub, secrets_in, shown_environment
from marketd.observe.stacks import own_stacks, stacks_of
from marketd.paths import Paths
from marketd.supervise.messages import DebugParts, DebugReport
from marketd.supervise.parent import Child

ANSWER_S = 2.0
PROCESS_S = 3.0

log = structlog.get_logger("marketd.supervise")


async def collect(config: msgspec.Struct, paths: Paths, actors: Mapping[str, Child | None]) -> DebugParts:
    """Ask all actors at once for their logs and stacks, and gather the rest meanwhile. No secret is in the result."""
    table = msgspec.to_builtins(config)
    parts = DebugParts({"log/supervisor.log": _lines(logs.recent()), "stacks/supervisor.txt": own_stacks()}, {})
    async with trio.open_nursery() as nursery:
        for name, child in actors.items():
            nursery.start_soon(_ask, name, child, parts)
        nursery.start_soon(_gather, table, paths, actors, parts)
    secrets = [*secrets_in(table), *(value for name, value in os.environ.items() if is_secret(name))]
    return DebugParts({name: scrub(text, secrets) for name, text in sorted(parts.files.items())}, parts.missing)


async def _ask(name: str, child: Child | None, parts: DebugParts) -> None:
    """Get one actor's part; of one that does not answer, what its process tells without it."""
    if child is None:
        parts.missing[name] = "it does not run"
        return
    try:
        report = await child.link.request("actor.debug", result=DebugReport, timeout_s=ANSWER_S)
    except ActorError as error:
        log.warning("debug.mute", actor=name, error=str(error))
        parts.missing[name] = str(error)
        parts.files[f"stacks/{name}.txt"] = await _stacks_from_outside(child.pid)
    else:
        parts.files[f"log/{name}.log"] = _lines(report.log)
        parts.files[f"stacks/{name}.txt"] = report.stacks


async def _stacks_from_outside(pid: int) -> str:
    with trio.move_on_after(PROCESS_S):
        try:
            return await trio.to_thread.run_sync(stacks_of, pid, cancellable=True)
        except OSError as error:
            return f"process {pid}: {error.strerror}\n"
    return f"process {pid} can't be looked at within {PROCESS_S:g} s\n"


async def _gather(table: object, paths: Paths, actors: Mapping[str, Child | None], parts: DebugParts) -> None:
    """Add what concerns the whole daemon. In threads: a disk may hang."""
    pids = {"supervisor": os.getpid()} | {name: child.pid for name, child in actors.items() if child is not None}
    texts = {
        "config.json": lambda: _json(hide(table)),
        "environment.json": lambda: _json(shown_environment(os.environ)),
        "versions.json": lambda: _json(machine.versions()),
        "segments.json": lambda: _json(machine.segments(paths.segments())),
        "limits.txt": lambda: machine.limits(pids, (paths.shm, paths.state, paths.runtime)),
        "files.txt": lambda: _files(paths),
    }
    for name, make in texts.items():
        with trio.move_on_after(PROCESS_S) as scope:
            parts.files[name] = await trio.to_thread.run_sync(make, cancellable=True)
        if scope.cancelled_caught:
            parts.missing[name] = f"it could not be read within {PROCESS_S:g} s"


def _files(paths: Paths) -> str:
    """List the instance's folders, without what is in them."""
    lines = []
    for folder in (paths.state, paths.runtime, paths.cache):
        for path in sorted(Path(folder).glob("*")):
            found = path.lstat()
            lines.append(f"{found.st_mode:o} {found.st_uid} {found.st_size:>12} {path}")
    return _lines(lines)


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode() + "\n"

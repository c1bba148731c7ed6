"""Structured logs on standard error: an event and its facts, for people on a terminal, as JSON lines for machines.

    log = structlog.get_logger("marketd.feed.sim")
    log.info("feed.started", instruments=200)

Every process of the daemon calls :func:`configure` first thing; the supervisor hands its level down.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections import deque
from typing import Literal, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

LEVELS = ("debug", "info", "warning", "error", "critical")
RECENT_LINES = 1000
LINE_MAX = 4096

_recent: deque[str] = deque(maxlen=RECENT_LINES)  # for who asks what was said, wherever standard error goes
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_SECRET_KEYS = frozenset({"token", "secret", "password", "authorization", "api_key"})


def configure(level: str, format: str, actor: str) -> None:
    """Set up logging for this process; calling it again replaces what was.

    Args:
        level: one of :data:`LEVELS`. Calls below it cost next to nothing.
        format: ``console``, ``json``, or ``auto``.
        actor: this process's name in the tree; it is part of every line.
    """
    level_number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_logger_name,
            structlog.processors.add_log_level,
            _add_actor(actor),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _hide_secrets,
            *_renderers(resolve_format(format)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level_number),
        logger_factory=_NamedOutput,
        # Not cached: a cached logger would keep its first level for ever, and uncached calls cost about a microsecond.
        cache_logger_on_first_use=False,
    )
    _route_standard_library(max(level_number, logging.WARNING))


def recent() -> list[str]:
    """Return the last lines that this process has logged, oldest first, without colours."""
    return [_COLORS.sub("", line) for line in _recent]


def resolve_format(format: str) -> Literal["console", "json"]:
    """``auto`` means: for people when standard error is a terminal, for machines (journal, file, pipe) when not."""
    if format == "auto":
        return "console" if sys.stderr.isatty() else "json"
    return cast(Literal["console", "json"], format)


class _NamedOutput:
    """What structlog writes to: knows the logger's name, and writes each line in one call so that lines stay whole."""

    def __init__(self, name: str = "marketd") -> None:
        self.name = name

    def _write(self, line: str) -> None:
        _recent.append(line[:LINE_MAX])
        # Whoever read our standard error may be gone; that must not end an actor that is otherwise well.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = exception = msg = log = _write


class _ToStructlog(logging.Handler):
    """Passes what libraries log on to structlog, under their own names."""

    def emit(self, record: logging.LogRecord) -> None:
        logger: FilteringBoundLogger = structlog.get_logger(record.name)
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)  # a library may invent levels
        try:
            logger.log(level, record.getMessage(), exc_info=record.exc_info)
        except Exception:  # noqa: BLE001 - a library's malformed call must not reach its caller: logging's own rule
            self.handleError(record)


def _route_standard_library(level: int) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _ToStructlog)]:
        root.removeHandler(handler)
    root.addHandler(_ToStructlog())
    root.setLevel(level)
    # It tells ten times a second that no descriptor is left to accept with, which each actor says of itself, once.
    logging.getLogger("trio.serve_listeners").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)


def _add_actor(actor: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("actor", actor)
        return event

    return add


def _hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key in _SECRET_KEYS.intersection(event):
        event[key] = "***"
    return event


def _renderers(format: Literal["console", "json"]) -> list[Processor]:
    if format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    # The default formatter prints every local variable beside a traceback, and secrets with them.
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]

"""Pure: what becomes of a running daemon when its configuration file has changed.

Each key is applied in one of these ways. What is not named here needs a restart of the daemon: what it was holds on.

    log                                     all actors are told
    gateway.limits                          the gateways are told; each client that is connected included
    bars.lateness_ms, lateness_ms_by_feed   the sampler is restarted, which goes on where it was
    history                                 the history manager is restarted, likewise
    feeds                                   see :func:`_change_feed`
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from backends import backend as backends
from marketd.config import Config
from marketd.rpc.messages import Change

FeedChange = Literal["added", "removed", "replaced", "restarted", "applied"]
Part = Literal["log", "limits", "sampler", "history"]

_PARTS: dict[str, Part] = {
    "log.level": "log",
    "log.format": "log",
    "gateway.limits": "limits",
    "bars.lateness_ms": "sampler",
    "bars.lateness_ms_by_feed": "sampler",
    "history.periods": "history",
    "history.depth_days": "history",
    "history.flush_s": "history",
    "history.verify_every_s": "history",
    "history.record_ticks": "history",
    "history.file_ticks_s": "history",
    "history.replay_mib": "history",
    "history.store": "history",
}
_RESTARTED = ("sampler", "history")


class ReloadPlan(msgspec.Struct, frozen=True):
    """What is to be done.

    Attributes:
        config: what holds from now on: the new one, but for what needs a restart.
        feeds: what is to be done with feeds of these names.
        parts: what else has changed.
        changes: the same for the operator: each key, and what becomes of it.
        needs_restart: keys whose new values do not hold yet.
    """

    config: Config
    feeds: dict[str, FeedChange]
    parts: frozenset[Part]
    changes: list[Change]
    needs_restart: list[str]


def plan(old: Config, new: Config) -> ReloadPlan:
    """Decide; ``new`` is a whole and right configuration."""
    changes: list[Change] = []
    needs_restart: list[str] = []
    parts: set[Part] = set()
    sections: dict[str, Any] = {}
    for name, was, now in _differing(old, new):
        if name == "feeds":
            continue
        if not isinstance(now, msgspec.Struct):
            sections[name] = was
            needs_restart.append(name)
            continue
        kept: dict[str, Any] = {}
        for field, before, after in _differing(was, now):
            key = f"{name}.{field}"
            part = _PARTS.get(key)
            # Bars of a period that is not made yet can't be stored.
            if part is None or (key == "history.periods" and not set(after) <= {*old.bars.periods, *before}):
                kept[field] = before
                needs_restart.append(key)
                continue
            parts.add(part)
            action: FeedChange = "restarted" if part in _RESTARTED else "applied"
            keys = [f"{key}.{inner}" for inner in _inner(before, after)] or [key]
            changes += [Change(each, action) for each in keys]
        sections[name] = msgspec.structs.replace(now, **kept)
    feeds = _feed_changes(old.feeds, new.feeds)
    changes += [Change(f"feeds.{name}", action) for name, action in feeds.items()]
    return ReloadPlan(msgspec.structs.replace(new, **sections), feeds, frozenset(parts), changes, sorted(needs_restart))


def _differing(old: msgspec.Struct, new: msgspec.Struct) -> Iterator[tuple[str, Any, Any]]:
    for field in msgspec.structs.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before != after:
            yield field.name, before, after


def _inner(before: object, after: object) -> list[str]:
    """Name the keys of a table in a table that differ."""
    if not isinstance(before, msgspec.Struct) or not isinstance(after, msgspec.Struct):
        return []
    return [name for name, _, _ in _differing(before, after)]


def _feed_changes(old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]) -> dict[str, FeedChange]:
    found: dict[str, FeedChange] = {}
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new:
            found[name] = "removed"
        elif name not in old:
            found[name] = "added"
        elif old[name] != new[name]:
            found[name] = _change_feed(old[name], new[name])
    return found


def _change_feed(old: dict[str, Any], new: dict[str, Any]) -> FeedChange:
    """Say what a feed's change takes.

    A live feed is told other instruments as they are (``applied``). Anything else takes another actor, for the same
    ring (``restarted``). What is another venue, or another recording, is another feed: its ring, with its epoch, is not
    the old one's (``replaced``).
    """
    backend = backends.load(new["backend"])
    if old["backend"] != new["backend"] or backend.recorded:
        return "replaced"
    differing = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    return "applied" if differing == {"instruments"} and backend.open_venues is not None else "restarted"

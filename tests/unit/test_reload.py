"""What becomes of a running daemon's configuration: decided without a daemon."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from marketd.config import Config, decode
from marketd.rpc.messages import Change
from marketd.supervise.levels import LogLevels
from marketd.supervise.messages import LimitsSpec, LogSpec
from marketd.supervise.reload import ReloadPlan, plan

SIM = {"backend": "sim", "instruments": 3}
LIVE = {"backend": "kraken", "instruments": ["xbt/usd.spot.kraken"]}


def config(**tables: Any) -> Config:
    return decode({"feeds": {"sim": SIM, "kraken": LIVE}} | tables, "test")


def planned(**tables: Any) -> ReloadPlan:
    return plan(config(), config(**tables))


def test_nothing_new_changes_nothing() -> None:
    found = planned()
    assert (found.feeds, found.parts, found.changes, found.needs_restart) == ({}, frozenset(), [], [])
    assert found.config == config()


@pytest.mark.parametrize(
    ("feeds", "expected"),
    [
        ({"sim": SIM, "kraken": LIVE, "two": SIM}, {"two": "added"}),
        ({"kraken": LIVE}, {"sim": "removed"}),
        ({}, {"sim": "removed", "kraken": "removed"}),
        ({"sim": SIM | {"instruments": 4}, "kraken": LIVE}, {"sim": "restarted"}),
        ({"sim": SIM, "kraken": LIVE | {"instruments": ["*.kraken"]}}, {"kraken": "applied"}),
        ({"sim": SIM, "kraken": {"backend": "kraken"}}, {"kraken": "applied"}),
        ({"sim": SIM, "kraken": LIVE | {"kinds": ["trade"]}}, {"kraken": "restarted"}),
        ({"sim": SIM, "kraken": LIVE | {"kinds": ["trade"], "instruments": []}}, {"kraken": "restarted"}),
        ({"sim": LIVE, "kraken": LIVE}, {"sim": "replaced"}),
    ],
)
def test_feeds_come_and_go_and_change(feeds: dict[str, Any], expected: dict[str, str]) -> None:
    found = planned(feeds=feeds)
    assert found.feeds == expected
    assert found.changes == [Change(f"feeds.{name}", action) for name, action in expected.items()]
    assert found.config.feeds == feeds
    assert found.needs_restart == []


def test_recording_that_is_another_one_is_another_feed() -> None:
    old, new = ({"backend": "replay", "files": [name]} for name in ("a.ws", "b.ws"))
    assert plan(Config(feeds={"r": old}), Config(feeds={"r": new})).feeds == {"r": "replaced"}


@pytest.mark.parametrize(
    ("tables", "part", "change"),
    [
        ({"log": {"level": "debug"}}, "log", Change("log.level", "applied")),
        ({"log": {"format": "json"}}, "log", Change("log.format", "applied")),
        (
            {"gateway": {"limits": {"clients_max": 5}}},
            "limits",
            Change("gateway.limits.clients_max", "applied"),
        ),
        ({"bars": {"lateness_ms": 5.0}}, "sampler", Change("bars.lateness_ms", "restarted")),
        ({"bars": {"lateness_ms_by_feed": {"sim": 5.0}}}, "sampler", Change("bars.lateness_ms_by_feed", "restarted")),
        ({"history": {"depth_days": 3.0}}, "history", Change("history.depth_days", "restarted")),
        ({"history": {"record_ticks": ["*"]}}, "history", Change("history.record_ticks", "restarted")),
        ({"history": {"periods": ["1m", "1h"]}}, "history", Change("history.periods", "restarted")),
    ],
)
def test_key_that_can_be_applied_is(tables: dict[str, Any], part: str, change: Change) -> None:
    found = planned(**tables)
    assert found.parts == {part}
    assert found.changes == [change]
    assert found.needs_restart == []
    assert found.config == config(**tables)


@pytest.mark.parametrize(
    ("tables", "keys"),
    [
        ({"instance": "other"}, ["instance"]),
        ({"ring": {"rows": 2048, "instruments": 8}}, ["ring.instruments", "ring.rows"]),
        ({"bars": {"periods": ["1s", "1m"]}}, ["bars.periods"]),
        ({"bars": {"step_rows": 1024}}, ["bars.step_rows"]),
        ({"bars": {"rows": {"1s": 9}}}, ["bars.rows"]),
        ({"bars": {"activity": {"*": ["100t"]}}}, ["bars.activity"]),
        ({"gateway": {"listen": ["127.0.0.1:0"]}}, ["gateway.listen"]),
        ({"gateway": {"unix": False, "processes": 2}}, ["gateway.processes", "gateway.unix"]),
        ({"gateway": {"http": [], "hosts": ["x.example"]}}, ["gateway.hosts", "gateway.http"]),
        ({"bars": {"periods": ["1m", "2m"]}, "history": {"periods": ["2m"]}}, ["bars.periods", "history.periods"]),
    ],
)
def test_key_that_can_not_be_applied_is_named_and_what_it_was_holds(tables: dict[str, Any], keys: list[str]) -> None:
    found = planned(**tables)
    assert found.needs_restart == keys
    assert (found.parts, found.changes) == (frozenset(), [])
    assert found.config == config()


def test_what_can_be_applied_is_though_something_beside_it_can_not() -> None:
    found = planned(gateway={"listen": ["127.0.0.1:0"], "limits": {"clients_max": 5}}, log={"level": "error"})
    assert found.needs_restart == ["gateway.listen"]
    assert found.config.gateway.limits == LimitsSpec(clients_max=5)
    assert found.config.gateway.listen == config().gateway.listen
    assert found.parts == {"limits", "log"}
    # The next reload of the same file finds only what it could not apply.
    again = plan(
        found.config, config(gateway={"listen": ["127.0.0.1:0"], "limits": {"clients_max": 5}}, log={"level": "error"})
    )
    assert (again.changes, again.needs_restart) == ([], ["gateway.listen"])


def test_every_key_of_the_configuration_is_either_applied_or_named() -> None:
    """A key that somebody adds is never left out in silence."""
    old = config()
    for table in msgspec.structs.fields(Config):
        if table.name == "feeds":
            continue
        value = getattr(old, table.name)
        for name in (
            (field.name for field in msgspec.structs.fields(value)) if isinstance(value, msgspec.Struct) else [""]
        ):
            other = msgspec.structs.replace(value, **{name: _other(getattr(value, name))}) if name else "other"
            found = plan(old, msgspec.structs.replace(old, **{table.name: other}))
            key = f"{table.name}.{name}".rstrip(".")
            named = [*found.needs_restart, *(change.key for change in found.changes)]
            assert any(each.startswith(key) for each in named), key


def _other(value: object) -> object:
    match value:
        case msgspec.Struct():
            first = msgspec.structs.fields(value)[0].name
            return msgspec.structs.replace(value, **{first: _other(getattr(value, first))})
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case list():
            return [*value, "x"]
        case dict():
            return value | {"x": 1}
    raise TypeError(value)


def test_levels_hold_for_single_actors_until_all_are_told() -> None:
    levels = LogLevels(LogSpec("info", "json"))
    levels.set("debug", "feed.sim")
    assert levels.of("feed.sim") == LogSpec("debug", "json")
    assert levels.of("gateway") == LogSpec("info", "json")
    levels.set("error")
    assert levels.of("feed.sim") == levels.of("gateway") == LogSpec("error", "json")

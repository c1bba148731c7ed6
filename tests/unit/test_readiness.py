"""When a daemon is ready, and what keeps it from that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from marketd.supervise.messages import FeedInfo, SeriesInfo
from marketd.supervise.readiness import problems


@dataclass
class FakeService:
    """As far as readiness looks at one."""

    name: str
    state: str = "live"
    detail: str = ""
    wanted: bool = True
    trouble: str = ""


def feed(name: str, state: Any = "live", epoch: int = 7) -> FeedInfo:
    return FeedInfo(name, "sim", "", "", "", state, epoch=epoch, series=[SeriesInfo("1m", 1, 60, "")])


def found(
    feeds: list[FeedInfo],
    services: list[FakeService],
    gateways: dict[str, dict[str, int]] | None = None,
    sampled: dict[str, object] | None = None,
    unreached: dict[str, str] | None = None,
) -> list[str]:
    read = {"gateway": {each.name: each.epoch for each in feeds}} if gateways is None else gateways
    return problems(feeds, services, read, sampled, unreached or {})  # type: ignore[arg-type]


def test_daemon_is_ready_when_all_feeds_are_live_and_read() -> None:
    services = [FakeService("feed.a"), FakeService("feed.b"), FakeService("gateway")]
    assert found([feed("a"), feed("b", "finished")], services, sampled={"a": 1, "b": 1}) == []


@pytest.mark.parametrize("state", ["starting", "down", "failing"])
def test_what_is_not_live_is_named_with_its_reason(state: str) -> None:
    services = [FakeService("feed.a", state, "killed"), FakeService("history", state)]
    assert found([feed("a", state)], services) == [f"feed a is {state}: killed", f"history is {state}"]


def test_trouble_is_a_reason_where_it_keeps_clients_out() -> None:
    services = [FakeService("history", trouble="the disk is full"), FakeService("gateway", trouble="no descriptors")]
    assert found([], services, {"gateway": {}}) == ["gateway: no descriptors"]


def test_what_was_stopped_on_purpose_is_no_reason() -> None:
    services = [FakeService("feed.a", "stopped", wanted=False), FakeService("sampler", "stopped", wanted=False)]
    assert found([feed("a", "stopped")], services, {"gateway": {}}) == []


def test_ring_that_somebody_does_not_read_is_named() -> None:
    gateways = {"gateway": {"a": 7}, "gateway.2": {"a": 6}}
    assert found([feed("a")], [], gateways, {}) == [
        "gateway.2 does not read the ring of feed a yet",
        "the sampler does not read the ring of feed a yet",
    ]
    assert found([feed("a")], [], {}, {"a": 1}) == []  # a gateway that is not live is named as such


def test_venue_that_was_never_reached_is_named() -> None:
    assert found([feed("a")], [], unreached={"a": "no list"}) == ["feed a has not reached its venue yet: no list"]

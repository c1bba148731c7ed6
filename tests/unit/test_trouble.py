"""What goes wrong for a while is said once, and why a connection can't be had."""

from __future__ import annotations

import errno

import pytest
import structlog
import structlog.testing
import trio

from marketd.errors import ConfigError, SegmentError, reason_of
from marketd.trouble import Unreadable, lacks_descriptors


def test_feed_that_can_not_be_read_is_told_once_and_again_when_it_can() -> None:
    with structlog.testing.capture_logs() as told:
        unreadable = Unreadable(structlog.get_logger(), "feed.unreadable", "feed.readable")
        for _ in range(3):
            unreadable.note("a", SegmentError("no descriptors"))
        unreadable.note("b", SegmentError("no room"))
        assert unreadable.texts() == ["feed a can't be read: no descriptors", "feed b can't be read: no room"]
        unreadable.keep(["a", "c"])
        assert unreadable.texts() == ["feed a can't be read: no descriptors"]
        unreadable.forget("a")
        unreadable.forget("c")
        assert unreadable.texts() == []
    assert [(line["event"], line["feed"]) for line in told] == [
        ("feed.unreadable", "a"),
        ("feed.unreadable", "b"),
        ("feed.readable", "a"),
    ]


@pytest.mark.parametrize(("number", "lacks"), [(errno.EMFILE, True), (errno.ENFILE, True), (errno.ENOSPC, False)])
def test_want_of_descriptors_is_known_from_the_error(number: int, lacks: bool) -> None:
    assert lacks_descriptors(OSError(number, "text")) is lacks
    assert not lacks_descriptors(ConfigError("something else"))


async def test_reason_of_a_failed_connection_is_that_of_its_attempts_each_once() -> None:
    with pytest.raises(OSError, match="all attempts") as raised:
        await trio.open_tcp_stream("127.0.0.1", 9)
    assert reason_of(raised.value).endswith("Connection refused")
    both = OSError("all attempts failed")
    both.__cause__ = ExceptionGroup("two", [OSError(24, "Too many"), OSError(24, "Too many"), OSError(13, "no")])
    assert reason_of(both) == "[Errno 24] Too many; [Errno 13] no"
    assert reason_of(OSError(24, "Too many")) == "[Errno 24] Too many"

"""One stream of the client: what it takes while its reader is behind, and what it asks for after that."""

from __future__ import annotations

from typing import Any

import pytest

from marketd.client.subscription import State, Subscription
from marketd.ring import layout
from marketd.rpc import messages
from marketd.rpc.messages import Position

EPOCH = 5
NAMES = {"trade": layout.TRADE.names or (), "quote": layout.QUOTE.names or ()}


def opened(*feeds: str, buffer_bytes: int = 1, **params: Any) -> Subscription:
    """A stream that is full after one message, just opened."""
    asked = messages.SubscribeParams(["*"], **params)
    stream = Subscription(asked, buffer_bytes)
    stream.opened(answer(asked, *feeds))
    return stream


def answer(asked: messages.SubscribeParams, *feeds: str, cursor: int = 0) -> messages.SubscribeResult:
    found = [messages.SubscribedFeed(feed, EPOCH, cursor, {1: f"btc/usd.{feed}"}) for feed in feeds]
    return messages.SubscribeResult(1, asked.contract, asked.format, list(asked.kinds), asked.rate_hz, found, [])


def states(feed: str, first: int, last: int, kind: str = "trade") -> messages.Columns:
    """One row, the last of the range."""
    return messages.Columns(1, feed, EPOCH, first, last, kind, {name: [max(1, last)] for name in NAMES[kind]}, [1])


def snapshot(feed: str, cursor: int) -> messages.Snapshot:
    columns = {name: [1] for name in NAMES["trade"]}
    return messages.Snapshot(1, feed, EPOCH, cursor, kinds=[messages.KindColumns("trade", columns)])


def test_first_states_are_taken_whole_however_many_they_are() -> None:
    """Else a stream whose states are more than its buffer holds would be opened for ever, and never have the rest."""
    stream = opened("a", "b", contract="latest", format="columns")
    assert stream.receive(states("a", 1, 0))
    assert stream.receive(states("a", 1, 9, "quote"))
    assert stream.receive(states("b", 1, 0))
    assert not stream.receive(states("a", 10, 12))
    assert stream.receive(states("b", 1, 4, "quote"))
    assert not stream.receive(states("b", 5, 6))


@pytest.mark.parametrize("message", [states("a", 1, 9), messages.Columns(1, "a", EPOCH, 1, 7, "trade", {}, [])])
def test_first_states_may_be_one_message_with_rows_or_without(message: messages.Columns) -> None:
    stream = opened("a", contract="latest", format="columns")
    stream.buffered_bytes = 2
    assert stream.receive(message)
    stream.buffered_bytes = 2
    assert not stream.receive(states("a", message.cursor_last + 1, 12))


def test_first_state_in_rows_is_one_message() -> None:
    stream = opened("a", contract="latest", format="rows")
    stream.buffered_bytes = 2
    assert stream.receive(messages.Rows(1, "a", EPOCH, 1, 0, bytes(72), [1]))
    assert not stream.receive(messages.Rows(1, "a", EPOCH, 1, 2, bytes(72), [1]))


def test_idle_feed_does_not_let_the_others_fill_the_memory() -> None:
    stream = opened("a", "idle", contract="latest", format="columns")
    assert stream.receive(states("a", 1, 9))
    assert not stream.receive(states("a", 10, 12))


def test_lossless_rows_beyond_the_buffer_are_not_taken() -> None:
    stream = opened("a", format="columns")
    assert stream.receive(states("a", 1, 9))
    assert not stream.receive(states("a", 10, 12))


def test_snapshots_are_taken_whole_however_large_they_are() -> None:
    """The stream would be opened again from where it stood, and so without one."""
    stream = opened("a", "b", format="columns", snapshot=True)
    assert stream.receive(snapshot("a", 7))
    assert stream.receive(snapshot("b", 3))
    assert not stream.receive(states("a", 8, 9))


def test_feed_whose_snapshot_never_came_is_begun_anew() -> None:
    stream = opened("a", "b", "c", format="columns", snapshot=True, resume={"c": Position(EPOCH, 2)})
    assert stream.receive(snapshot("a", 7))
    stream.lost("cut", asked=False)
    assert stream.state is State.LOST
    assert sorted(stream.resume_params().resume) == ["a", "c"]
    stream.opened(answer(stream.params, "a", "b", "c", cursor=20))
    assert stream.resume_params().resume["b"] == Position(EPOCH, 20)
    while stream.next_nowait() is not None:
        pass
    assert stream.positions["b"] == Position(EPOCH, 20)


def test_after_its_snapshot_a_feed_goes_on_where_it_stood() -> None:
    stream = opened("a", format="columns", snapshot=True, buffer_bytes=1 << 20)
    assert stream.receive(snapshot("a", 0))
    assert stream.receive(states("a", 1, 4))
    stream.lost("cut", asked=False)
    assert stream.resume_params().resume == {"a": Position(EPOCH, 4)}


def test_feed_that_only_a_token_has_named_begins_where_an_update_brings_it_in() -> None:
    """It was not selected when the stream was opened, so nobody has promised what came after the token's position."""
    stream = opened("a", format="columns", buffer_bytes=1 << 20, resume={"b": Position(EPOCH, 3)})
    assert stream.resume_params().resume["b"] == Position(EPOCH, 3)
    stream.updated(messages.UpdateParams(1, add=["*.b"]), answer(stream.params, "a", "b", cursor=20))
    assert stream.resume_params().resume["b"] == Position(EPOCH, 20)
    assert stream.receive(states("b", 21, 24))
    assert [(frame.kind, frame.cursor_first) for frame in iter(stream.next_nowait, None)] == [("trade", 21)]


def test_feed_that_came_back_goes_on_where_a_token_has_it() -> None:
    """It was away when the stream was opened; the server sends all of it, and what was had before is left out."""
    stream = opened("a", format="columns", buffer_bytes=1 << 20, resume={"b": Position(EPOCH, 3)})
    assert stream.receive(messages.Instruments(1, "b", EPOCH, {1: "btc/usd.b"}))
    assert stream.receive(states("b", 1, 5))
    assert [(frame.kind, frame.cursor_first) for frame in iter(stream.next_nowait, None)] == [("trade", 4)]


def test_feed_that_has_gone_without_an_instrument_is_not_taken_for_one_that_was_left() -> None:
    stream = opened("a", "b", format="columns")
    stream.updated(messages.UpdateParams(1, add=["*.b"]), answer(stream.params, "a", "b"))
    assert stream.receive(messages.Instruments(1, "b", EPOCH + 2, {}))
    assert stream.receive(messages.Status(1, "b", "stopped"))
    stream.updated(messages.UpdateParams(1, remove=["*"]), answer(stream.params, "a"))
    assert stream.resume_params().resume["b"] == Position(EPOCH, 0)
    stream.updated(messages.UpdateParams(1, remove=["*.b"]), answer(stream.params))
    assert stream.resume_params().resume == {}


def test_feed_that_had_no_instrument_yet_and_is_not_read_any_more_was_left() -> None:
    stream = opened("a", format="columns")
    stream.updated(messages.UpdateParams(1, add=["x*"]), answer(stream.params, "a"))
    stream.receive(messages.Instruments(1, "b", EPOCH, {}))
    stream.receive(states("b", 1, 4))
    stream.updated(messages.UpdateParams(1, remove=["x*"]), answer(stream.params, "a"))
    assert sorted(stream.resume_params().resume) == ["a"]

"""Whatever a stream is changed to, and wherever its reader is: in the end its token says what was received."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from marketd.client.subscription import Subscription
from marketd.ring import layout
from marketd.rpc import messages

FEEDS = {"one": "*.one", "two": "*.two"}
EPOCH = 5
STEPS = st.one_of(
    st.tuples(st.just("add"), st.sets(st.sampled_from(sorted(FEEDS)), min_size=1)),
    st.tuples(st.just("remove"), st.sets(st.sampled_from(sorted(FEEDS)), min_size=1)),
    st.tuples(st.just("message"), st.sampled_from(sorted(FEEDS))),
    st.tuples(st.just("read"), st.none()),
)


class Stream:
    """A stream, and a server whose feeds get on by three rows at each step."""

    def __init__(self) -> None:
        self.stream = Subscription(messages.SubscribeParams([*FEEDS.values()]))
        self.cursor = 0
        self.stream.opened(self.answer(set(FEEDS)))

    @property
    def feeds(self) -> set[str]:
        return {feed for feed, glob in FEEDS.items() if glob in self.stream.params.instruments}

    def answer(self, feeds: set[str]) -> messages.SubscribeResult:
        found = [messages.SubscribedFeed(feed, EPOCH, self.cursor, {1: f"btc/usd.{feed}"}) for feed in sorted(feeds)]
        return messages.SubscribeResult(1, "lossless", "columns", ["trade"], 10.0, found, [])

    def add(self, feeds: set[str]) -> None:
        self.stream.tell("slow")
        change = messages.UpdateParams(1, add=[FEEDS[feed] for feed in sorted(feeds - self.feeds)])
        self.stream.updated(change, self.answer(self.feeds | feeds))

    def remove(self, feeds: set[str]) -> None:
        self.stream.tell("slow")
        change = messages.UpdateParams(1, remove=[FEEDS[feed] for feed in sorted(feeds & self.feeds)])
        self.stream.updated(change, self.answer(self.feeds - feeds))

    def message(self, feed: str) -> None:
        if feed in self.feeds:
            first = self.stream.resume_params().resume[feed].cursor + 1
            columns = {name: [first] for name in layout.TRADE.names or ()}
            message = messages.Columns(1, feed, EPOCH, first, self.cursor, "trade", columns, [1])
            assert first > self.cursor or self.stream.receive(message)

    def read(self, _none: None) -> bool:
        return self.stream.next_nowait() is not None


@settings(max_examples=500)
@given(st.lists(STEPS, max_size=14))
def test_token_of_a_stream_that_was_read_to_its_end_says_what_was_received(steps: list[tuple[str, object]]) -> None:
    world = Stream()
    for what, how in steps:
        world.cursor += 3
        getattr(world, what)(how)
    while world.read(None):
        pass
    assert world.stream.positions == world.stream.resume_params().resume

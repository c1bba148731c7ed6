"""Whatever happens to a ring and to a subscription, every cursor is told of exactly once: by a message or by a gap."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import numpy as np
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.gateway.feed import Feed
from marketd.gateway.selection import Choice, Selections
from marketd.gateway.subscription import Batch, Subscription, take_news
from marketd.model import Kind
from marketd.ring import layout
from marketd.rpc import messages
from marketd.rpc.framing import Deframer
from tests.gateway_harness import FakeFeed

RING_ROWS = 64
GLOBS = ["*", "a*", "*1/usd.sim", "*2/usd.sim", "nothing*"]
KINDS: list[messages.KindName] = ["trade", "quote"]
ALL_KINDS: list[messages.KindName] = [*KINDS, "level"]

# Of one instrument and kind, so many rows: long enough now and then for whole messages to hold nothing that is wanted.
RUNS = st.tuples(st.integers(0, 5), st.sampled_from([1, 2, 3, 4]), st.integers(1, 30))
STEPS = st.one_of(
    st.tuples(st.just("flow"), st.lists(RUNS, min_size=1, max_size=4)),
    st.tuples(st.just("flow"), st.lists(RUNS, min_size=1, max_size=4)),
    st.tuples(st.just("write"), st.lists(RUNS, min_size=1, max_size=4)),
    st.tuples(st.just("advance"), st.none()),
    st.tuples(st.just("take"), st.integers(1, 4)),
    st.tuples(st.just("tick"), st.none()),
    st.tuples(st.just("add"), st.sampled_from("ab")),
    st.tuples(st.just("change"), st.sets(st.sampled_from(GLOBS), min_size=1)),
    st.tuples(st.just("pause"), st.booleans()),
    st.tuples(st.just("resume"), st.none()),
)


class World:
    """A feed with a small ring, one subscription to it, and what its client has been told."""

    def __init__(
        self,
        folder: Path,
        form: messages.Format,
        kinds: list[messages.KindName],
        contract: messages.Contract = "lossless",
    ) -> None:
        self.fake = FakeFeed(folder, "sim", rows=RING_ROWS)
        self.feed = Feed(self.fake.info, lambda _feed: None)
        self.selections = Selections()
        self.form = form
        self.kinds = kinds
        self.contract: messages.Contract = contract
        self.now_s = 0.0
        self.history: list[tuple[int, int]] = []  # instrument and kind of each cursor
        self.names: dict[int, str] = {}  # as the client knows them
        self.next = 1
        self.lost = 0

    async def begin(self) -> None:
        await self.feed.advance()
        selection = self.selections.intern([], ["*"], [layout.KINDS_BY_NAME[kind] for kind in self.kinds])
        params = messages.SubscribeParams(["*"], tuple(self.kinds), self.contract, self.form)
        self.subscription = Subscription(1, selection, {"sim": await self.feed.choose(selection)}, params)
        self.subscription.join(self.feed)
        (feed,) = self.subscription.describe([]).feeds
        self.names |= feed.instruments

    async def step(self, what: str, how: object) -> None:
        await getattr(self, f"_{what}")(how)

    async def _write(self, runs: list[tuple[int, int, int]]) -> None:
        for instrument, kind in [(instrument, kind) for instrument, kind, count in runs for _ in range(count)]:
            if kind == Kind.GAP:
                self.fake.writer.append_integers((0, 0, 0, instrument, kind, 0, 0, 1, 2, 3, -1))
            elif instrument:
                self.fake.writer.append((0, 0, 0, instrument, kind, 0, 0, 1.5, 2.5, 3.5, 4.5))
            else:
                continue
            self.history.append((instrument, kind))
        self.fake.writer.publish()

    async def _flow(self, runs: list[tuple[int, int, int]]) -> None:
        await self._write(runs)
        await self._advance(None)
        await self._take(8)

    async def _add(self, letter: str) -> None:
        if self.fake.table.count < 5:
            self.fake.add(f"{letter}{self.fake.table.count + 1}")

    async def _advance(self, _how: object) -> None:
        # A feed adds an instrument before it writes a row of it; rows of ids without a name would be a bug of its own.
        for _ in range(5 - self.fake.table.count):
            if any(instrument > self.fake.table.count for instrument, _ in self.history):
                self.fake.add(f"b{self.fake.table.count + 1}")
        await self.feed.advance()

    async def _take(self, count: int) -> None:
        for number in range(count):
            if self.subscription.paused:
                return
            batch = Batch()
            self.now_s += 0.03  # of ten frames a second, each comes with the fourth
            for follow in self.subscription.follows.values():
                # The way that a client takes which keeps up, if it is open.
                key = self.subscription.plain(follow) if number % 2 == 0 else None
                if key is not None and (news := take_news(follow, key)):
                    batch.add(news[1])
                else:
                    self.subscription.take(follow, batch, self.now_s)
            self.check(batch)

    async def _tick(self, _how: object) -> None:
        for follow in self.subscription.follows.values():
            follow.silent = follow.sent < follow.cursor

    async def _change(self, globs: set[str]) -> None:
        selection = self.selections.intern([], globs, [layout.KINDS_BY_NAME[kind] for kind in self.kinds])
        if selection is self.subscription.selection:
            return
        choice = await self.feed.choose(selection)
        if not self.feed.concerns(choice):
            return
        self.subscription.change(selection, {"sim": choice})
        (feed,) = self.subscription.describe([]).feeds
        self.names |= feed.instruments
        assert feed.cursor == self.next - 1

    async def _pause(self, paused: bool) -> None:
        self.subscription.pause(paused=paused)

    async def _resume(self, _how: object) -> None:
        """Close the subscription and open another one that goes on where it stood."""
        position = self.subscription.positions()["sim"]
        assert position.cursor >= self.next - 1
        self.next = position.cursor + 1
        old = self.subscription
        params = messages.SubscribeParams(["*"], tuple(self.kinds), self.contract, self.form)
        self.subscription = Subscription(1, old.selection, old.choices, params)
        self.subscription.join(self.feed)
        self.subscription.resume(self.subscription.follows["sim"], position)
        (feed,) = self.subscription.describe([]).feeds
        self.names = feed.instruments
        assert feed.cursor == position.cursor

    # --- the client ---

    def check(self, batch: Batch) -> None:
        data = b"".join(map(bytes, batch.buffers))
        assert len(data) == batch.size_bytes
        for payload in Deframer(1 << 24).receive_data(data):
            answer = msgspec.msgpack.decode(payload, type=messages.Answer)
            self.receive(msgspec.msgpack.decode(answer.params, type=messages.NOTIFICATIONS[answer.method]))

    def receive(self, message: messages.Result) -> None:
        if isinstance(message, messages.Instruments):
            assert not self.names.keys() & message.instruments.keys()
            self.names |= message.instruments
            return
        if isinstance(message, messages.ReplayCompleted):
            assert message.cursor == self.next - 1
            return
        assert isinstance(message, messages.Rows | messages.Columns | messages.TickFrame | messages.Gap), message
        assert message.cursor_first == self.next
        assert message.cursor_last >= message.cursor_first
        assert message.epoch == self.feed.epoch
        self.next = message.cursor_last + 1
        if isinstance(message, messages.Gap):
            assert message.reason == "lapped"
            assert message.lost == message.cursor_last - message.cursor_first + 1
            assert message.cursor_last < self.feed.ring.oldest
            self.lost += message.lost
            return
        cursors = self.cursors_of(message)
        assert cursors == self.shaped(self.expected(message.cursor_first, message.cursor_last), message)
        for cursor in cursors:
            instrument = self.history[cursor - 1][0]
            assert instrument == 0 or instrument in self.names

    def shaped(self, cursors: list[int], message: messages.Rows | messages.Columns | messages.TickFrame) -> list[int]:
        """Return which of these rows the contract tells, in which order; look at what they stand for too."""
        if self.contract == "lossless":
            return cursors
        if self.contract == "trade_safe":
            stands_for: dict[tuple[int, int, int], list[int]] = {}
            for cursor in cursors:
                instrument, kind = self.history[cursor - 1]
                stands_for.setdefault((instrument, kind, 0 if kind == Kind.QUOTE else cursor), []).append(cursor)
            groups = sorted(stands_for.values(), key=lambda group: (self.history[group[-1] - 1][1], group[-1]))
            if isinstance(message, messages.TickFrame):
                merged = [count for part in message.kinds for count in part.merged or ()]
            else:
                assert isinstance(message, messages.Rows)
                merged = message.merged or []
            assert merged == [len(group) for group in groups]
            return [group[-1] for group in groups]
        return sorted(cursors, key=lambda cursor: (self.history[cursor - 1][1], cursor))

    def cursors_of(self, message: messages.Rows | messages.Columns | messages.TickFrame) -> list[int]:
        if isinstance(message, messages.TickFrame):
            assert (self.form, self.contract != "lossless") == ("columns", True)
            kinds = [part.kind for part in message.kinds]
            assert len(set(kinds)) == len(kinds), "a kind's rows are in one place"
            return [int(cursor) for part in message.kinds for cursor in part.columns["cursor"]]
        if isinstance(message, messages.Columns):
            assert self.form == "columns"
            cursors = [int(cursor) for cursor in message.columns.get("cursor", [])]
            assert {layout.KIND_NAMES[self.history[cursor - 1][1]] for cursor in cursors} <= {message.kind}
            return cursors
        assert self.form == "rows"
        rows = np.frombuffer(message.data, layout.ROW) if message.data else np.empty(0, layout.ROW)
        found: list[int] = rows["cursor"].tolist()
        pairs = list(zip(rows["instrument"].tolist(), rows["kind"].tolist(), strict=True))
        assert pairs == [self.history[cursor - 1] for cursor in found]
        return found

    def expected(self, first: int, last: int) -> list[int]:
        selection = self.subscription.selection
        wanted = {layout.KINDS_BY_NAME[kind] for kind in self.kinds}
        found = []
        for cursor in range(first, last + 1):
            instrument, kind = self.history[cursor - 1]
            mine = instrument == 0 or selection.selects(self.feed.names[instrument - 1])
            if mine and (kind in wanted or kind in (Kind.GAP, Kind.STATUS)):
                found.append(cursor)
        return found

    async def finish(self) -> None:
        """Take all that is left: then everything has been told of, whatever came before."""
        self.subscription.pause(paused=False)
        await self._advance(None)
        for _ in range(400):
            await self._tick(None)
            await self._take(1)
        assert self.next == self.feed.head + 1 == len(self.history) + 1
        self.feed.close()
        self.fake.close()


@settings(max_examples=150)
@given(
    steps=st.lists(STEPS, max_size=60),
    form=st.sampled_from(["rows", "columns"]),
    kinds=st.lists(st.sampled_from(ALL_KINDS), min_size=1, max_size=3, unique=True),
    contract=st.sampled_from(["lossless", "frames", "trade_safe"]),
)
def test_ranges_and_gaps_partition_the_history(
    steps: list[tuple[str, object]],
    form: messages.Format,
    kinds: list[messages.KindName],
    contract: messages.Contract,
) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder), form, kinds, contract)
            await world.begin()
            for what, how in steps:
                await world.step(what, how)
            await world.finish()

    trio.run(main)


def test_slow_reader_of_a_fast_writer_is_lapped_again_and_again_and_can_add_it_all_up() -> None:
    """The property above, in a case that is sure to lap."""

    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder), "rows", KINDS)
            world.fake.add("a1")
            await world.begin()
            for _ in range(50):
                await world.step("write", [(1, 1, 100)])
                await world.step("advance", None)
                await world.step("take", 2)
            await world.finish()
            assert 50 * 100 * 0.3 < world.lost < 50 * 100

    trio.run(main)


def test_choice_of_a_selection_is_shared_and_forgotten_with_its_last_user() -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder), "rows", KINDS)
            await world.begin()
            choice: Choice = world.subscription.choices["sim"]
            assert await world.feed.choose(world.subscription.selection) is choice
            del choice, world.subscription
            assert len(world.feed._choices) == 0

    trio.run(main)

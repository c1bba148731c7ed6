"""Whatever happens between a daemon and a client: each row is delivered once, in order, or told of as part of a gap."""

from __future__ import annotations

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.client.frames import Frame
from marketd.client.protocol import ClientProtocol
from marketd.client.subscription import State, Subscription
from marketd.model import GapReason, Kind
from marketd.ring import layout
from marketd.ring.steps import BarState
from marketd.rpc.messages import Format, HelloParams, KindName, Position, SubscribeParams
from marketd.rpc.positions import parse_token
from tests.fake_server import FakeFeed, FakeProtocol, FakeSteps, World

ROW_KINDS = [Kind.TRADE, Kind.QUOTE, Kind.LEVEL, Kind.GAP, Kind.STATUS]
STEP_KINDS = ["bar.1m", "bar.1s", "index.1m"]
FORMING = len(ROW_KINDS) + len(STEP_KINDS)
TICKS_BEGIN, STEPS_BEGIN = 4242, 5151


class Conversation:
    """A client and a fake daemon, with the bytes between them in a test's hands."""

    def __init__(self, kinds: tuple[KindName, ...], form: Format, buffer_bytes: int) -> None:
        self.feed, self.steps = FakeFeed(epoch=TICKS_BEGIN), FakeSteps(epoch=STEPS_BEGIN)
        self.by_epoch: dict[int, FakeFeed] = {TICKS_BEGIN: self.feed, STEPS_BEGIN: self.steps}
        self.world = World({"fake": self.feed, "fake/bars": self.steps})
        self.frames: list[Frame] = []
        self.buffer_bytes = buffer_bytes
        self.params = SubscribeParams(["btc*.fake", "eth*.fake"], kinds, "lossless", form, forming_hz=4)
        self.server: FakeProtocol | None = None
        self.begin({})

    def begin(self, resume: dict[str, Position]) -> None:
        """Start a new client, which goes on from a position."""
        self.client = ClientProtocol(HelloParams(), buffer_bytes=self.buffer_bytes)
        params = msgspec.structs.replace(self.params, resume=resume)
        call = self.client.subscribe(params)
        assert call.subscription is not None
        self.stream: Subscription = call.subscription
        self.server = None
        self.on_the_way = b""

    def connect(self) -> None:
        if self.server is None:
            self.client.connection_made()
            self.server = FakeProtocol(self.world)
            self.on_the_way = b""

    def serve(self, messages: int) -> None:
        self.connect()
        assert self.server is not None
        self.on_the_way += self.server.receive(self.client.data_to_send())
        for _ in range(messages):
            self.on_the_way += self.server.stream()

    def deliver(self, count: int) -> None:
        if self.server is not None:
            data, self.on_the_way = self.on_the_way[:count], self.on_the_way[count:]
            self.client.receive_data(data)

    def cut(self) -> None:
        if self.server is not None:
            self.server = None
            self.client.connection_lost("cut")

    def interrupt(self) -> None:
        self.client.rewind()
        self.cut()

    def read(self, count: int) -> None:
        while count:
            frame = self.stream.next_nowait()
            if frame is None:
                self.client.reopen()
                return
            self.frames.append(frame)
            count -= 1

    def restart_client(self) -> None:
        if self.stream.positions:
            self.begin(parse_token(self.stream.token))

    def work(self, kinds: list[int], messages: int, count: int, reads: int) -> None:
        self.write(kinds)
        self.serve(messages)
        self.deliver(count)
        self.read(reads)

    def write(self, kinds: list[int]) -> None:
        for n, kind in enumerate(kinds):
            if kind == FORMING:
                self.steps.forming = [self.steps.row(0, "bar.1m", 1 + n % 2, BarState.FORMING)]
            elif kind >= len(ROW_KINDS):
                name = STEP_KINDS[kind - len(ROW_KINDS)]
                self.steps.append_step(name, 0 if name == "index.1m" else 1 + n % 3, 2)
            else:
                values = (1, 2, 2, 0) if ROW_KINDS[kind] is Kind.GAP else ()
                self.feed.append(ROW_KINDS[kind], (n * 7) % 4 if kind >= 3 else 1 + n % 3, *values)

    def lap(self, share: float) -> None:
        for feed in (self.feed, self.steps):
            feed.oldest = max(feed.oldest, int(share * feed.published) + 1)

    def restart_server(self) -> None:
        self.cut()
        self.feed, self.steps = FakeFeed(epoch=self.feed.epoch + 1), FakeSteps(epoch=self.steps.epoch + 1)
        for feed in (self.feed, self.steps):
            self.by_epoch[feed.epoch] = self.world.feeds[feed.name] = feed

    @property
    def feeds(self) -> list[FakeFeed]:
        """Those that the stream reads."""
        return [feed for feed in (self.feed, self.steps) if set(self.params.kinds) & set(feed.kinds.values())]

    def finish(self) -> None:
        """Let everything arrive; the last rows show what a server has kept to itself."""
        for turn in range(1000):
            if turn == 20:
                self.write([0, 1, 5, 6, 7, FORMING])
            self.serve(3)
            self.deliver(1 << 30)
            self.read(1 << 30)
            ends = {feed.name: Position(feed.epoch, feed.published) for feed in self.feeds}
            if turn > 20 and self.stream.state is State.LIVE and self.stream.positions == ends:
                break
        else:
            raise AssertionError(f"it does not arrive: {self.stream.positions}, {self.stream.state}")

    def check(self, begun: Position) -> None:
        """Every cursor from the beginning on is accounted for exactly once; ticks begin at a position, bars at 0."""
        for feed in self.feeds:
            self.check_feed(feed, begun if feed is self.feed else Position(STEPS_BEGIN, 0))

    def check_feed(self, feed: FakeFeed, begun: Position) -> None:
        epoch, next_cursor = begun.epoch, begun.cursor + 1
        for frame in self.frames:
            if frame.feed != feed.name or not frame.epoch:
                continue
            if frame.forming:
                assert frame.cursor_last == frame.cursor_first - 1
                assert frame.kind == "bar.1m"
                assert set(frame.columns["cursor"].tolist()) == {0}
                continue
            reported = frame.kind == "gap" and frame.detail != ""
            if frame.epoch != epoch:
                assert reported
                assert frame.columns["reason"][0] == GapReason.EPOCH
                assert frame.cursor_first == 1
                epoch, next_cursor = frame.epoch, 1
            assert frame.cursor_first >= next_cursor
            assert not len(self.wanted(epoch, next_cursor, frame.cursor_first - 1)), "rows were passed over"
            next_cursor = frame.cursor_last + 1
            if reported:
                continue
            wanted = self.wanted(epoch, frame.cursor_first, frame.cursor_last)
            assert {frame.kind} == {self.name(feed, kind) for kind in wanted["kind"].tolist()}
            columns = frame.columns
            assert columns["cursor"].tolist() == wanted["cursor"].tolist()
            assert columns["instrument"].tolist() == wanted["instrument"].tolist()
            if frame.kind == "trade":
                assert columns["price"].tolist() == wanted["v0"].tolist()
            if frame.kind == "bar.1m":
                assert columns["close"].tolist() == wanted["close"].tolist()
        if feed.published:
            assert epoch == feed.epoch
            assert not len(self.wanted(epoch, next_cursor, feed.published))

    def name(self, feed: FakeFeed, kind: int) -> str:
        return (layout.KIND_NAMES | feed.kinds)[kind]

    def wanted(self, epoch: int, cursor_first: int, cursor_last: int) -> np.ndarray:
        """The rows that a lossless stream must hold of these cursors."""
        feed = self.by_epoch[epoch]
        rows = feed.array(cursor_first, cursor_last)
        kinds = [self.name(feed, int(row["kind"])) in (*self.params.kinds, "gap", "status") for row in rows]
        return rows[np.isin(rows["instrument"], (0, 1, 2)) & np.array(kinds, bool)]


ACTIONS = st.one_of(
    st.tuples(
        st.just("work"),
        st.lists(st.integers(0, FORMING), max_size=12),
        st.integers(0, 4),
        st.one_of(st.integers(0, 40), st.integers(0, 3000)),
        st.integers(0, 6),
    ),
    st.tuples(st.sampled_from(["cut", "interrupt", "restart_client", "restart_server"])),
    st.tuples(st.just("lap"), st.floats(0, 1)),
)


@settings(max_examples=400)
@given(
    actions=st.lists(ACTIONS, max_size=60),
    kinds=st.sampled_from([("trade", "quote"), ("trade",), ("quote",), ("trade", "bar.1m"), ("bar.1m", "index.1m")]),
    form=st.sampled_from(["rows", "columns"]),
    rows_max=st.integers(1, 9),
    buffer_bytes=st.sampled_from([600, 3000, 1 << 20]),
    before=st.integers(0, 5),
    ignore_resume=st.booleans(),
    overlap=st.integers(0, 9),
)
def test_each_row_is_delivered_once_or_told_of_as_a_gap(
    actions: list[tuple[str, object]],
    kinds: tuple[KindName, ...],
    form: Format,
    rows_max: int,
    buffer_bytes: int,
    before: int,
    ignore_resume: bool,
    overlap: int,
) -> None:
    # A server that breaks the rules is found out at its next row, which must not be the one that parks the stream.
    talk = Conversation(kinds, form, 1 << 20 if ignore_resume else buffer_bytes)
    talk.world.rows_max = rows_max
    talk.world.ignore_resume = ignore_resume
    talk.world.overlap = overlap
    talk.write([0] * before)
    # The stream begins where the first answer says, so that one has to arrive before anything can go wrong.
    talk.serve(0)
    talk.deliver(1 << 20)
    talk.serve(0)
    talk.deliver(1 << 20)
    begun = {"fake": Position(TICKS_BEGIN, before), "fake/bars": Position(STEPS_BEGIN, 0)}
    assert talk.stream.positions == {feed.name: begun[feed.name] for feed in talk.feeds}
    for name, *arguments in actions:
        getattr(talk, name)(*arguments)
    talk.finish()
    talk.check(begun["fake"])


@given(cuts=st.lists(st.integers(1, 5000), max_size=8), pieces=st.integers(1, 700))
def test_a_reconnect_at_any_byte_loses_and_doubles_nothing(cuts: list[int], pieces: int) -> None:
    talk = Conversation(("trade", "quote", "bar.1m"), "rows", 1 << 20)
    talk.world.rows_max = 7
    talk.serve(0)
    talk.deliver(1 << 20)
    talk.serve(0)
    talk.deliver(1 << 20)
    talk.world.overlap = 3
    for cut in cuts:
        talk.write([0, 1, 5, 1, 3, FORMING, 0, 6, 0, 1, 7, 2, 4, 5, 1])
        talk.serve(4)
        for start in range(0, cut, pieces):
            talk.deliver(min(pieces, cut - start))
        talk.cut()
    talk.finish()
    talk.check(Position(TICKS_BEGIN, 0))
    assert not [frame for frame in talk.frames if frame.kind == "gap" and frame.detail]

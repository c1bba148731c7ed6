"""Whatever happens between a daemon and a client: each row is delivered once, in order, or told of as part of a gap."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.client.frames import Frame
from marketd.client.positions import parse_token
from marketd.client.protocol import ClientProtocol
from marketd.client.subscription import State, Subscription
from marketd.model import GapReason, Kind
from marketd.rpc.messages import Format, HelloParams, KindName, Position, SubscribeParams
from tests.fake_server import FakeFeed, FakeProtocol, World

ROW_KINDS = [Kind.TRADE, Kind.QUOTE, Kind.LEVEL, Kind.GAP, Kind.STATUS]


class Conversation:
    """A client and a fake daemon, with the bytes between them in a test's hands."""

    def __init__(self, kinds: tuple[KindName, ...], form: Format, buffer_bytes: int) -> None:
        self.feed = FakeFeed()
        self.by_epoch = {self.feed.epoch: self.feed}
        self.world = World({"fake": self.feed})
        self.frames: list[Frame] = []
        self.buffer_bytes = buffer_bytes
        self.params = SubscribeParams(["btc*.fake", "eth*.fake"], kinds, "lossless", form)
        self.server: FakeProtocol | None = None
        self.begin({})

    def begin(self, resume: dict[str, Position]) -> None:
        """Start a new client, which goes on from a position."""
        self.client = ClientProtocol(HelloParams(), buffer_bytes=self.buffer_bytes)
        params = SubscribeParams(
            self.params.instruments, self.params.kinds, "lossless", self.params.format, resume=resume
        )
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
            values = (1, 2, 2, 0) if kind == Kind.GAP else ()
            self.feed.append(ROW_KINDS[kind], (n * 7) % 4 if kind >= 3 else 1 + n % 3, *values)

    def lap(self, share: float) -> None:
        self.feed.oldest = max(self.feed.oldest, int(share * self.feed.published) + 1)

    def restart_server(self) -> None:
        self.cut()
        self.feed = FakeFeed(epoch=self.feed.epoch + 1)
        self.by_epoch[self.feed.epoch] = self.feed
        self.world.feeds["fake"] = self.feed

    def finish(self) -> None:
        """Let everything arrive; the last rows show what a server has kept to itself."""
        for turn in range(1000):
            if turn == 20:
                self.write([0, 1])
            self.serve(3)
            self.deliver(1 << 30)
            self.read(1 << 30)
            at = self.stream.positions.get("fake")
            if turn > 20 and self.stream.state is State.LIVE and at == Position(self.feed.epoch, self.feed.published):
                break
        else:
            raise AssertionError(f"it does not arrive: {self.stream.positions}, {self.stream.state}")

    def check(self, begun: Position) -> None:
        """Every cursor from the beginning on is accounted for exactly once."""
        epoch, next_cursor = begun.epoch, begun.cursor + 1
        for frame in self.frames:
            if not frame.epoch:
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
            assert {Kind[frame.kind.upper()]} == set(wanted["kind"].tolist())
            columns = frame.columns
            assert columns["cursor"].tolist() == wanted["cursor"].tolist()
            assert columns["instrument"].tolist() == wanted["instrument"].tolist()
            if frame.kind == "trade":
                assert columns["price"].tolist() == wanted["v0"].tolist()
        if self.feed.published:
            assert epoch == self.feed.epoch
            assert not len(self.wanted(epoch, next_cursor, self.feed.published))

    def wanted(self, epoch: int, cursor_first: int, cursor_last: int) -> np.ndarray:
        """The rows that a lossless stream must hold of these cursors."""
        kinds = [int(kind) for kind in Kind if kind.name.lower() in (*self.params.kinds, "gap", "status")]
        rows = self.by_epoch[epoch].array(cursor_first, cursor_last)
        return rows[[row["kind"] in kinds and row["instrument"] in (0, 1, 2) for row in rows]]


ACTIONS = st.one_of(
    st.tuples(
        st.just("work"),
        st.lists(st.integers(0, 4), max_size=12),
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
    kinds=st.sampled_from([("trade", "quote"), ("trade",), ("quote",)]),
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
    assert talk.stream.positions == {"fake": Position(4242, before)}
    for name, *arguments in actions:
        getattr(talk, name)(*arguments)
    talk.finish()
    talk.check(Position(4242, before))


@given(cuts=st.lists(st.integers(1, 5000), max_size=8), pieces=st.integers(1, 700))
def test_a_reconnect_at_any_byte_loses_and_doubles_nothing(cuts: list[int], pieces: int) -> None:
    talk = Conversation(("trade", "quote"), "rows", 1 << 20)
    talk.world.rows_max = 7
    talk.serve(0)
    talk.deliver(1 << 20)
    talk.serve(0)
    talk.deliver(1 << 20)
    talk.world.overlap = 3
    for cut in cuts:
        talk.write([0, 1, 1, 3, 0, 0, 1, 2, 4, 1])
        talk.serve(4)
        for start in range(0, cut, pieces):
            talk.deliver(min(pieces, cut - start))
        talk.cut()
    talk.finish()
    talk.check(Position(4242, 0))
    assert not [frame for frame in talk.frames if frame.kind == "gap" and frame.detail]

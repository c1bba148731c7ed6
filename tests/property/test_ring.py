from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from marketd.errors import Lapped
from marketd.ring import layout
from marketd.ring.reader import RingReader
from marketd.ring.writer import RESERVED_ROWS_MAX, RingWriter, create_ring


class RingMachine(RuleBasedStateMachine):
    """Any interleaving of writing, publishing, dying and reading, against a list that holds every row ever appended.

    A row's ``event_ns`` is a number that no other row has, also not one that a dead writer left unpublished.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ring"
        self.appended: list[int] = []  # index i is cursor i + 1
        self.numbers = 0
        self.received = 0
        self.lost = 0

    @initialize(rows=st.sampled_from([8, 16, 64, 4096]))
    def make(self, rows: int) -> None:
        self.rows = rows
        self.epoch = create_ring(self.path, rows)
        self.writer = RingWriter(self.path)
        self.reader = RingReader(self.path)

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    @rule(count=st.integers(0, 40))
    def append(self, count: int) -> None:
        for _ in range(count):
            self.appended.append(self.number())
            self.writer.append((self.appended[-1], 0, 0, 1, 1, 0, 0, 1.0, 2.0, 3.0, 4.0))

    @rule()
    def append_integers(self) -> None:
        self.appended.append(self.number())
        self.writer.append_integers((self.appended[-1], 0, 0, 1, 4, 0, 0, 1, 2, 3, 4))

    @rule(count=st.integers(0, 200))
    def append_block(self, count: int) -> None:
        rows = np.zeros(count, layout.ROW)
        rows["event_ns"] = [self.number() for _ in range(count)]
        self.appended.extend(rows["event_ns"].tolist())
        self.writer.append_block(rows)

    @rule()
    def publish(self) -> None:
        self.writer.publish()
        assert self.reader.published == len(self.appended)

    @rule()
    def die_and_be_succeeded(self) -> None:
        self.writer._words.release()
        self.writer._memory.close()
        self.writer = RingWriter(self.path)
        assert self.writer.cursor == self.reader.published
        assert self.writer.epoch == self.epoch
        del self.appended[self.writer.cursor :]

    @rule(rows_max=st.sampled_from([1, 7, 65536]))
    def read(self, rows_max: int) -> None:
        next_cursor = self.received + self.lost + 1
        published = self.reader.published
        rows, lapped = outcome(lambda: self.reader.read_nowait(rows_max))
        if lapped:
            assert lapped.cursor_first == next_cursor
            assert lapped.cursor_last <= published
            self.check_not_needlessly_lost(lapped.cursor_last)
            self.lost += lapped.lost
        else:
            self.check_rows(rows, next_cursor)
            assert len(rows) == min(rows_max, published - next_cursor + 1)
            self.received += len(rows)
        assert self.reader.cursor == self.received + self.lost

    @rule(data=st.data())
    def read_range(self, data: st.DataObject) -> None:
        published = self.reader.published
        first = data.draw(st.integers(1, published + 1))
        last = data.draw(st.integers(first - 1, published))
        rows, lapped = outcome(lambda: self.reader.read_range(first, last))
        if lapped:
            assert first == lapped.cursor_first <= lapped.cursor_last <= last
            self.check_not_needlessly_lost(lapped.cursor_last)
        else:
            self.check_rows(rows, first)
            assert len(rows) == last - first + 1

    @invariant()
    def everything_is_accounted_for(self) -> None:
        if not hasattr(self, "reader"):
            return
        reader = RingReader(self.path, cursor=0)
        received = lost = 0
        while reader.cursor < reader.published:
            rows, lapped = outcome(lambda: reader.read_nowait(100))
            received += len(rows)
            lost += lapped.lost if lapped else 0
        reader.close()
        assert received + lost == self.writer.published

    def teardown(self) -> None:
        if hasattr(self, "reader"):
            self.reader.close()
            self.writer.close()
        self.folder.cleanup()

    def check_rows(self, rows: np.ndarray, cursor_first: int) -> None:
        assert rows["cursor"].tolist() == list(range(cursor_first, cursor_first + len(rows)))
        assert rows["event_ns"].tolist() == self.appended[cursor_first - 1 : cursor_first - 1 + len(rows)]

    def check_not_needlessly_lost(self, cursor_last: int) -> None:
        """A row may be lost only if its slot was, or was about to be, written again."""
        # A dead writer's appended rows count: they took slots, at most a quarter of the ring and what was reserved.
        reserved_rows = min(RESERVED_ROWS_MAX, self.rows // 4)
        assert cursor_last <= len(self.appended) + self.rows // 4 + 2 * reserved_rows - self.rows


def outcome(read: Callable[[], np.ndarray]) -> tuple[np.ndarray, Lapped | None]:
    """Return what a read returns, or what it raises."""
    try:
        return read(), None
    except Lapped as lapped:
        return np.empty(0, layout.ROW), lapped


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)

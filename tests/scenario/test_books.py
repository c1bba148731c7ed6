"""A daemon that keeps Kraken's books, at a venue whose checksum is wrong once: one instrument pays for it, once."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from marketd.client import Client, ConnectionLost, connect
from marketd.model import GapReason
from tests.rebuilt_book import BookSides, RebuiltBook, venue_book
from tests.scenario.daemon import Daemon, running, wait_for
from tests.scenario.test_faults import symbol_of
from tests.scenario.venue import VenueProcess, venue_running

INSTRUMENTS = 3
DEPTH = 10
KINDS = ["trade", "quote", "book"]
STRUCK = "xbt/usd.spot.kraken"
DEADLINE_S = 25.0
RECENT = 200  # of the books that an instrument had, how many are held against the venue's


@dataclass
class Reader:
    """A client that keeps the books, and what else came.

    Attributes:
        books: of each instrument.
        had: every book there was, with the venue's time of it.
        order: of each instrument, what came: `gap` with its reason, `begin`, `level`, `trade`, `quote`.
        trades: numbers, as they came.
    """

    books: dict[str, RebuiltBook] = field(default_factory=dict)
    had: dict[str, list[tuple[int, BookSides]]] = field(default_factory=dict)
    order: dict[str, list[str]] = field(default_factory=dict)
    trades: dict[str, list[int]] = field(default_factory=dict)
    _stopping: bool = False

    def read(self, client: Client) -> None:
        """Keep books until stopped."""
        with (
            contextlib.suppress(ConnectionLost),
            client.subscribe(["*"], kinds=["trade", "quote", "level"]) as stream,
        ):
            for frame in stream:
                for row in frame.rows if frame.kind != "status" else ():
                    name = frame.fqme(row["instrument"])
                    self._take(frame.kind, name, row)
                if self._stopping:
                    return

    def stop(self) -> None:
        """End with the next row."""
        self._stopping = True

    def since(self, name: str, marks: dict[str, int]) -> list[str]:
        """What came of an instrument since then."""
        return self.order[name][marks[name] :]

    def _take(self, kind: str, name: str, row) -> None:
        said = kind
        if kind == "gap":
            said = f"gap {GapReason(int(row['reason'])).name}"
        elif kind == "trade":
            self.trades.setdefault(name, []).append(int(row["sequence"]))
        elif kind == "level":
            said = "level" if row["side"] else "begin"
            book = self.books.setdefault(name, RebuiltBook())
            if book.begun or not row["side"]:
                book.take(int(row["side"]), int(row["flags"]), float(row["price"]), float(row["size"]))
                if book.whole:
                    self.had.setdefault(name, []).append((int(row["event_ns"]), book.sides()))
        self.order.setdefault(name, []).append(said)


@dataclass
class Story:
    """One daemon's life."""

    daemon: Daemon
    venues: VenueProcess
    reader: Reader

    def wait_books(self) -> None:
        """Wait until every instrument is well, and has a book that moves."""

        def well() -> bool:
            with connect(self.daemon.address) as md:
                return all(md.instrument(name).quality == "ok" for name in self.reader.books)

        wait_for(lambda: len(self.reader.had) == INSTRUMENTS, DEADLINE_S, "the books of all instruments")
        wait_for(well, DEADLINE_S, "all instruments to be well")
        marks = {name: len(had) for name, had in self.reader.had.items()}
        for name, mark in marks.items():
            wait_for(lambda n=name, m=mark: len(self.reader.had[n]) > m + 20, DEADLINE_S, f"changes of {name}")

    def marks(self) -> dict[str, int]:
        """How much came of each instrument by now."""
        return {name: len(said) for name, said in self.reader.order.items()}

    def strike(self, fault: str, *, count: int) -> None:
        """Do something to the book of one instrument."""
        told = {"venue": "kraken", "fault": fault, "stream": "book", "instrument": symbol_of(STRUCK)}
        self.venues.inject([told | {"count": count}])

    def wait_over(self) -> None:
        """Wait until no fault is on."""
        wait_for(lambda: not self.venues.state()["faults"]["active"], DEADLINE_S, "the fault to be over")

    def check_others_have_no_gap(self, marks: dict[str, int]) -> None:
        """Only the struck instrument has one."""
        for name in marks.keys() - {STRUCK}:
            assert not any(what.startswith("gap") for what in self.reader.since(name, marks)), name

    def check_books(self) -> None:
        """Hold the newest books of each instrument against the venue's own of those times."""
        market = self.venues.engine.venues["kraken"].market
        symbols = [instrument.symbol for instrument in market.instruments]
        for name, had in self.reader.had.items():
            instrument = symbols.index(symbol_of(name))
            for event_ns, sides in had[-RECENT:]:
                number = market.quotes_before(instrument, event_ns + 1_000)  # it says its times in microseconds
                assert sides == venue_book(market, instrument, number, DEPTH), (name, event_ns)

    def check_nothing_else_happened(self, attempts: int) -> None:
        """No connection was lost or made, nothing crashed, no trade is missing but those of the struck instrument."""
        assert len(self.venues.venue("kraken")["attempts"]) == attempts
        with connect(self.daemon.address) as md:
            status = md.status()
        assert {actor.name: actor.restarts for actor in status.actors if actor.restarts} == {}
        assert "Traceback" not in self.daemon.log
        for name, trades in self.reader.trades.items():
            assert all(earlier < later for earlier, later in itertools.pairwise(trades))
            if name != STRUCK:
                assert trades == list(range(trades[0], trades[-1] + 1))


@contextlib.contextmanager
def reading(address: str) -> Iterator[Reader]:
    """Read in a thread."""
    reader = Reader()
    with connect(address, reconnect=False) as client:
        thread = threading.Thread(target=reader.read, args=(client,), daemon=True)
        thread.start()
        try:
            yield reader
        finally:
            reader.stop()
            thread.join(DEADLINE_S)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    with venue_running(instruments=INSTRUMENTS, rate=150) as venues:
        feed = venues.feed("kraken", instruments=["*"], kinds=KINDS)
        with running(tmp_path_factory.mktemp("books"), feed) as daemon, reading(daemon.address) as reader:
            yield Story(daemon, venues, reader)


def test_late_reader_has_all_books_soon_and_they_are_the_venues_own(story: Story) -> None:
    """It came after the snapshots; the whole of each book is told again before long."""
    story.wait_books()
    story.check_books()
    story.check_nothing_else_happened(attempts=1)


def test_wrong_checksum_costs_its_instrument_one_gap_and_nobody_else_notices(story: Story) -> None:
    """Issue, faults: a bad checksum. The book begins anew, on the same connection."""
    story.wait_books()
    marks = story.marks()
    resyncs = story.daemon.log.count("feed.resync")

    story.strike("bad_checksum", count=1)
    wait_for(lambda: "gap CHECKSUM" in story.reader.since(STRUCK, marks), DEADLINE_S, "the gap row")
    story.wait_books()

    said = story.reader.since(STRUCK, marks)
    assert [what for what in said if what.startswith("gap")] == ["gap CHECKSUM"]
    after = said[said.index("gap CHECKSUM") :]
    assert next(what for what in after if what in ("begin", "level")) == "begin"
    assert story.daemon.log.count("feed.resync") == resyncs + 1
    story.check_others_have_no_gap(marks)
    story.check_books()
    story.check_nothing_else_happened(attempts=1)


@pytest.mark.parametrize("fault", ["drop", "duplicate", "reorder", "malformed_message"])
def test_whatever_happens_to_its_messages_a_book_is_the_venues_own(story: Story, fault: str) -> None:
    """Mostly the next checksum tells; where later messages have set right what was lost, there is nothing to tell."""
    story.wait_books()
    marks = story.marks()
    story.strike(fault, count=4)
    story.wait_over()
    story.wait_books()
    story.check_others_have_no_gap(marks)
    story.check_books()
    story.check_nothing_else_happened(attempts=1)

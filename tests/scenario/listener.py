"""A client that has subscribed to everything, losslessly, and writes down what comes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from marketd.client import Client, ConnectionLost, connect
from marketd.model import GapReason
from tests.scenario.daemon import wait_for

JOIN_TIMEOUT_S = 10.0


class GapRow(NamedTuple):
    """A gap, as it came; the name ``*`` means all instruments of the feed."""

    feed: str
    fqme: str
    reason: GapReason
    from_ns: int
    to_ns: int
    lost: int


@dataclass
class Listener:
    """What came so far; it is only ever added to.

    Attributes:
        trades: numbers of the trades of each instrument, as they came.
        quotes: how many quotes of each instrument.
        gaps: of all instruments.
        trouble: what must not come at all.
    """

    trades: dict[str, list[int]] = field(default_factory=dict)
    quotes: dict[str, int] = field(default_factory=dict)
    gaps: list[GapRow] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    _stopping: bool = False

    def hear(self, client: Client) -> None:
        """Write down everything until stopped."""
        with contextlib.suppress(ConnectionLost), client.subscribe(["*"], kinds=["trade", "quote"]) as stream:
            for frame in stream:
                if frame.kind == "status":
                    continue
                for row in frame.rows:
                    fqme = frame.fqme(row["instrument"])
                    if frame.kind == "trade":
                        self.trades.setdefault(fqme, []).append(int(row["sequence"]))
                    elif frame.kind == "quote":
                        self.quotes[fqme] = self.quotes.get(fqme, 0) + 1
                    else:
                        reason = GapReason(int(row["reason"]))
                        numbers = (int(row[name]) for name in ("from_ns", "to_ns", "lost"))
                        self.gaps.append(GapRow(frame.feed, fqme, reason, *numbers))
                if self._stopping:
                    return
        self.trouble.append("the stream has ended")

    def stop(self) -> None:
        """End with the next row."""
        self._stopping = True


@contextlib.contextmanager
def listening(address: str, instruments: int) -> Iterator[Listener]:
    """Listen in a thread, from the first trades of so many instruments on."""
    listener = Listener()
    with connect(address, reconnect=False) as client:
        thread = threading.Thread(target=listener.hear, args=(client,), daemon=True)
        thread.start()
        wait_for(lambda: len(listener.trades) >= instruments, 20, "the first trades of all instruments")
        try:
            yield listener
        finally:
            listener.stop()
            thread.join(JOIN_TIMEOUT_S)

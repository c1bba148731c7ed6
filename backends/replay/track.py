"""What a replay plays: tracks, one a file, that say what happened when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from backends.backend import MessageCounts
from backends.replay.gate import Gate


class Moment(NamedTuple):
    """Something that happened at a recorded time.

    Attributes:
        message: what the venue said, for those who record the feed; None when it said nothing, or to nobody of ours.
        take: makes the rows of it, and counts it. To be called once, in the order in which the track gave its moments.
    """

    time_ns: int
    message: bytes | None
    take: Callable[[], None]


class Track(Protocol):
    """One file of a replay, opened: it has been found to be of a venue that is known."""

    @property
    def url(self) -> str:
        """The address that its messages came from, by which a recording finds its protocol; nothing if it has none."""
        ...

    @property
    def begin_ns(self) -> int:
        """When it begins."""
        ...

    def open(self, gate: Gate) -> None:
        """Register the instruments that are known now, and write through this gate from now on."""
        ...

    def moments(self) -> Iterator[Moment]:
        """Go through the file from its beginning, in order of time."""
        ...

    def counts(self) -> MessageCounts:
        """What has become of its messages so far."""
        ...

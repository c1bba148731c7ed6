"""A recording as a track of a replay: its messages go through the venue's own protocol."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from backends import recording
from backends.backend import NAMES, Backend, MessageCounts, VenueProtocol, load
from backends.recording import Entry, RecordingReader
from backends.replay.gate import Gate
from backends.replay.track import Moment
from marketd.errors import RecordingError
from marketd.model import GapReason


class RecordedTrack:
    """See :class:`backends.replay.track.Track`.

    Raises:
        RecordingError: the file is no recording, or of a venue that no backend knows.
    """

    def __init__(self, path: Path) -> None:
        self._reader = RecordingReader(path)
        self._backend = find_backend(self._reader.url, path)
        self._metadata = recording.read_companions(path)
        self._protocol: VenueProtocol | None = None
        self._past_counts: list[MessageCounts] = []
        self._gate: Gate | None = None
        self._reached_ns = 0  # time of the newest entry

    @property
    def url(self) -> str:
        """See :class:`backends.replay.track.Track`."""
        return self._reader.url

    @property
    def begin_ns(self) -> int:
        """See :class:`backends.replay.track.Track`: when the first connection was opened."""
        return self._reader.begin_ns

    def open(self, gate: Gate) -> None:
        """See :class:`backends.replay.track.Track`."""
        self._gate = gate
        self._connect(self._reader.url)

    def moments(self) -> Iterator[Moment]:
        """See :class:`backends.replay.track.Track`."""
        for entry in self._reader:
            message = entry.payload if entry.what == recording.RECEIVED else None
            yield Moment(entry.time_ns, message, partial(self._take, entry))

    def counts(self) -> MessageCounts:
        """See :class:`backends.replay.track.Track`; ``unused.truncated`` counts a cut last line."""
        total = MessageCounts()
        for counts in (*self._past_counts, self._protocol.counts if self._protocol else MessageCounts()):
            total.add(counts)
        if self._reader.truncated:
            total.unused["truncated"] = self._reader.truncated
        return total

    def _connect(self, url: str) -> None:
        """Make the protocol of a connection that was opened."""
        assert self._backend.open_protocol is not None
        assert self._gate is not None
        self._protocol = self._backend.open_protocol(url, self._metadata, self._gate)

    def _take(self, entry: Entry) -> None:
        """Give one entry to the protocol; a new connection gets a new one, after a gap row."""
        assert self._protocol is not None
        assert self._gate is not None
        if entry.what == recording.RECEIVED:
            self._protocol.receive(entry.payload, entry.time_ns)
        elif entry.what == recording.OPENED and self._reached_ns:
            self._gate.gap(0, GapReason.DISCONNECT, self._reached_ns, entry.time_ns)
            self._past_counts.append(self._protocol.counts)
            self._connect(entry.payload.decode(errors="replace"))
        self._reached_ns = entry.time_ns


def find_backend(url: str, path: Path) -> Backend:
    """Find the backend that speaks the protocol of an address.

    Raises:
        RecordingError: none does; the text names the addresses that are known.
    """
    known = [backend for backend in map(load, NAMES) if backend.open_protocol is not None]
    for backend in known:
        if url.startswith(backend.url_prefixes):
            return backend
    prefixes = ", ".join(prefix for backend in known for prefix in backend.url_prefixes)
    raise RecordingError(f"{path}:1: no backend knows the protocol of {url[:100]!r}; known are {prefixes}")
